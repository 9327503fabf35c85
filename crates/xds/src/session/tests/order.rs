//! Make before break across types, and when a revision counts as settled.

use super::*;
use crate::session::DeltaSession;
use crate::type_url::{CLUSTER, ENDPOINT, LISTENER, POLICY_BUNDLE, REVISION, ROUTE};

const FIRST: [(&str, &str, &str); 6] = [
    (CLUSTER, "a", "1"),
    (ENDPOINT, "a", "1"),
    (LISTENER, "l", "1"),
    (ROUTE, "r", "to a"),
    (POLICY_BUNDLE, "p", "1"),
    (REVISION, "mesh", "1"),
];

/// A client that follows everything and has `FIRST`.
fn settled_session() -> DeltaSession {
    let mut session = DeltaSession::new(snapshot("1", &FIRST));
    for type_url in [CLUSTER, LISTENER, POLICY_BUNDLE, REVISION] {
        session.on_request(subscribe(type_url, &["*"])).expect("legal");
    }
    session.on_request(subscribe(ENDPOINT, &["a", "b"])).expect("legal");
    session.on_request(subscribe(ROUTE, &["r"])).expect("legal");
    let sent = run(&mut session);
    assert_eq!(sent, ["policy +p=1", "CDS +a=1", "EDS +a=1 -b", "LDS +l=1", "RDS +r=to a", "revision +mesh=1"]);
    assert_eq!(session.settled().expect("settled").revision.as_ref(), "1");
    assert!(session.settled().is_none(), "it is said once");
    session
}

/// Acknowledges, one by one, all that comes.
fn run(session: &mut DeltaSession) -> Vec<String> {
    let mut sent = Vec::new();
    while let Some(response) = session.next_response() {
        sent.push(show(&response));
        session.on_request(ack(&response)).expect("legal");
        assert!(sent.len() < 100, "{sent:?}");
    }
    sent
}

fn moved_to_b() -> Arc<Snapshot> {
    let resources = [
        (CLUSTER, "b", "1"),
        (ENDPOINT, "b", "1"),
        (LISTENER, "l", "2"),
        (ROUTE, "r", "to b"),
        (POLICY_BUNDLE, "p", "1"),
        (REVISION, "mesh", "2"),
    ];
    snapshot("2", &resources)
}

/// The next response, which must be this; unanswered.
#[track_caller]
fn expect(session: &mut DeltaSession, text: &str) -> pb::DeltaDiscoveryResponse {
    let response = session.next_response().unwrap_or_else(|| panic!("nothing, where {text} was expected"));
    assert_eq!(show(&response), text);
    response
}

#[track_caller]
fn expect_nothing(session: &mut DeltaSession) {
    assert_eq!(session.next_response().map(|response| show(&response)), None);
}

#[test]
fn a_change_goes_out_step_by_step_and_what_it_replaces_goes_last() {
    let mut session = settled_session();
    session.on_snapshot(moved_to_b());
    // Endpoints follow their clusters at once, because Envoy acknowledges a cluster when it has its endpoints.
    let cluster = expect(&mut session, "CDS +b=1");
    let endpoints = expect(&mut session, "EDS +b=1");
    expect_nothing(&mut session);
    session.on_request(ack(&endpoints)).expect("legal");
    expect_nothing(&mut session);
    session.on_request(ack(&cluster)).expect("legal");
    for step in ["LDS +l=2", "RDS +r=to b", "CDS -a", "EDS -a", "revision +mesh=2"] {
        let response = expect(&mut session, step);
        expect_nothing(&mut session);
        assert!(session.settled().is_none(), "after {step}");
        session.on_request(ack(&response)).expect("legal");
    }
    expect_nothing(&mut session);
    assert_eq!(session.settled().expect("settled").revision.as_ref(), "2");
}

#[test]
fn types_that_do_not_refer_to_each_other_do_not_wait() {
    let mut session = settled_session();
    let mut next = (*moved_to_b()).clone();
    next.insert(Resource::from_bytes(POLICY_BUNDLE, "p", b"2".to_vec()));
    session.on_snapshot(Arc::new(next));
    expect(&mut session, "policy +p=2");
    expect(&mut session, "CDS +b=1");
    expect(&mut session, "EDS +b=1");
    expect_nothing(&mut session);
}

/// A move to `b` of which all but the route is accepted; and the route, which has been sent.
fn route_sent() -> (DeltaSession, pb::DeltaDiscoveryResponse) {
    let mut session = settled_session();
    session.on_snapshot(moved_to_b());
    for step in ["CDS +b=1", "EDS +b=1", "LDS +l=2"] {
        let response = expect(&mut session, step);
        session.on_request(ack(&response)).expect("legal");
    }
    let route = expect(&mut session, "RDS +r=to b");
    (session, route)
}

#[test]
fn a_refused_step_counts_as_settled_but_nothing_is_taken_away() {
    let (mut session, route) = route_sent();
    session.on_request(nack(&route, "bad")).expect("legal");
    let revision = expect(&mut session, "revision +mesh=2");
    session.on_request(ack(&revision)).expect("legal");
    assert_eq!(session.settled().expect("settled").revision.as_ref(), "2");
    // The client still runs on the route to a. It loses the cluster only after it has accepted one without.
    let mut fixed = (*moved_to_b()).clone().at("3");
    fixed.insert(Resource::from_bytes(ROUTE, "r", b"to b, fixed".to_vec()));
    session.on_snapshot(Arc::new(fixed));
    assert_eq!(run(&mut session), ["RDS +r=to b, fixed", "CDS -a", "EDS -a"]);
    assert_eq!(session.settled().expect("settled").revision.as_ref(), "3");
}

#[test]
fn what_was_refused_keeps_its_clusters_though_other_routes_are_accepted() {
    let with_routes = |revision: &str, routes: [(&str, &str); 2]| {
        let mut snapshot = (*if revision == "1" { snapshot("1", &FIRST) } else { moved_to_b() }).clone().at(revision);
        for (name, target) in routes {
            snapshot.insert(Resource::from_bytes(ROUTE, name, target.as_bytes().to_vec()));
        }
        Arc::new(snapshot)
    };
    let mut session = settled_session();
    session.on_request(subscribe(ROUTE, &["s"])).expect("legal");
    session.on_snapshot(with_routes("1", [("r", "to a"), ("s", "to a")]));
    run(&mut session);
    session.on_snapshot(with_routes("2", [("r", "to b"), ("s", "to b")]));
    for step in ["CDS +b=1", "EDS +b=1", "LDS +l=2"] {
        let response = expect(&mut session, step);
        session.on_request(ack(&response)).expect("legal");
    }
    let routes = expect(&mut session, "RDS +r=to b +s=to b");
    session.on_request(nack(&routes, "bad")).expect("legal");
    // The client accepts a new `s`, and still runs on the `r` that leads to a.
    session.on_snapshot(with_routes("3", [("r", "to b"), ("s", "to b, fixed")]));
    let sent = run(&mut session);
    assert!(sent.contains(&"RDS +s=to b, fixed".to_owned()), "{sent:?}");
    assert!(!sent.iter().any(|response| response.contains("-a")), "{sent:?}");
    session.on_snapshot(with_routes("4", [("r", "to b, fixed"), ("s", "to b, fixed")]));
    let sent = run(&mut session);
    assert!(sent.contains(&"CDS -a".to_owned()), "{sent:?}");
}

#[test]
fn a_route_that_is_still_unanswered_keeps_its_clusters_through_newer_snapshots() {
    let (mut session, route) = route_sent();
    let mut third = (*moved_to_b()).clone().at("3");
    third.remove(CLUSTER, "b");
    third.remove(ENDPOINT, "b");
    third.insert(Resource::from_bytes(CLUSTER, "c", b"1".to_vec()));
    third.insert(Resource::from_bytes(ROUTE, "r", b"to c".to_vec()));
    session.on_snapshot(Arc::new(third));
    let cluster = expect(&mut session, "CDS +c=1");
    session.on_request(ack(&cluster)).expect("legal");
    expect_nothing(&mut session);
    session.on_request(ack(&route)).expect("legal");
    let route = expect(&mut session, "RDS +r=to c");
    expect_nothing(&mut session);
    session.on_request(ack(&route)).expect("legal");
    assert_eq!(run(&mut session), ["CDS -a -b", "EDS -a -b", "revision +mesh=2"]);
}

#[test]
fn a_snapshot_without_a_change_is_settled_at_once() {
    let mut session = settled_session();
    session.on_snapshot(snapshot("2", &FIRST));
    expect_nothing(&mut session);
    assert_eq!(session.settled().expect("settled").revision.as_ref(), "2");
}

#[test]
fn endpoints_follow_a_changed_cluster_even_if_they_are_the_same() {
    let mut session = settled_session();
    let mut next = (*snapshot("2", &FIRST)).clone();
    next.insert(Resource::from_bytes(CLUSTER, "a", b"2".to_vec()));
    session.on_snapshot(Arc::new(next));
    assert_eq!(run(&mut session), ["CDS +a=2", "EDS +a=1"]);
}

#[test]
fn a_route_to_a_new_cluster_waits_until_its_endpoints_are_asked_for() {
    let mut session = settled_session();
    let next = |route: &str| {
        let mut next = (*snapshot("2", &FIRST)).clone();
        next.insert(Resource::from_bytes(CLUSTER, "c", b"1".to_vec()));
        next.insert(Resource::from_bytes(ENDPOINT, "c", b"1".to_vec()));
        next.insert(Resource::from_bytes(ROUTE, "r", route.as_bytes().to_vec()));
        Arc::new(next)
    };
    session.on_snapshot(next("to c"));
    let cluster = expect(&mut session, "CDS +c=1");
    session.on_request(ack(&cluster)).expect("legal");
    expect_nothing(&mut session);
    session.stop_holding();
    let mut patient = settled_session();
    patient.on_snapshot(next("to c"));
    let cluster = expect(&mut patient, "CDS +c=1");
    patient.on_request(ack(&cluster)).expect("legal");
    assert!(patient.holding());
    patient.on_request(subscribe(ENDPOINT, &["c"])).expect("legal");
    assert_eq!(run(&mut patient), ["EDS +c=1", "RDS +r=to c"]);
    // One that never asks is not waited for forever.
    assert_eq!(run(&mut session), ["RDS +r=to c"]);
}

#[test]
fn nothing_is_taken_away_before_the_first_requests_are_complete() {
    let mut session = DeltaSession::new(moved_to_b());
    let held = |type_url: &'static str, names: &[&str], versions: &[&str]| pb::DeltaDiscoveryRequest {
        initial_resource_versions: versions.iter().map(|name| ((*name).to_owned(), "old".to_owned())).collect(),
        ..subscribe(type_url, names)
    };
    session.on_request(held(CLUSTER, &[], &["a"])).expect("legal");
    assert_eq!(run(&mut session), ["CDS +b=1"], "but not -a: the client may have a route to it");
    session.on_request(held(LISTENER, &[], &["l"])).expect("legal");
    session.stop_holding();
    // The order here is not that of a change, but there was nothing to wait for when the clusters came.
    session.on_request(held(ROUTE, &["r"], &["r"])).expect("legal");
    assert_eq!(run(&mut session), ["LDS +l=2", "RDS +r=to b", "CDS -a"]);
}

#[test]
fn a_client_of_clusters_only_gets_removals_after_the_hold() {
    let mut session = DeltaSession::new(snapshot("1", &[]));
    let initial_resource_versions = [("a".to_owned(), "old".to_owned())].into();
    session
        .on_request(pb::DeltaDiscoveryRequest { initial_resource_versions, ..subscribe(CLUSTER, &[]) })
        .expect("legal");
    expect_nothing(&mut session);
    assert!(session.holding() && session.settled().is_none());
    session.stop_holding();
    assert!(!session.holding());
    assert_eq!(run(&mut session), ["CDS -a"]);
    assert!(session.settled().is_some());
}
