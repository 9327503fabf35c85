//! Incremental xDS, rule by rule.

use super::*;
use crate::session::{DeltaSession, Event};
use crate::type_url::{CLUSTER, ENDPOINT, LISTENER, ROUTE};

fn next(session: &mut DeltaSession) -> Option<(String, pb::DeltaDiscoveryResponse)> {
    session.next_response().map(|response| (show(&response), response))
}

/// The next response, acknowledged.
fn accepted(session: &mut DeltaSession) -> Option<String> {
    let (text, response) = next(session)?;
    let event = session.on_request(ack(&response)).expect("legal");
    assert!(matches!(event, Some(Event::Ack { .. })), "{event:?}");
    Some(text)
}

fn session(resources: &[(&'static str, &str, &str)]) -> DeltaSession {
    DeltaSession::new(snapshot("1", resources))
}

#[test]
fn a_first_request_without_names_follows_clusters_and_listeners_as_a_whole() {
    let mut session = session(&[(CLUSTER, "a", "1"), (CLUSTER, "b", "1"), (LISTENER, "l", "1")]);
    session.on_request(subscribe(CLUSTER, &[])).expect("legal");
    assert_eq!(accepted(&mut session).as_deref(), Some("CDS +a=1 +b=1"));
    session.on_request(subscribe(LISTENER, &[])).expect("legal");
    assert_eq!(accepted(&mut session).as_deref(), Some("LDS +l=1"));
    assert_eq!(accepted(&mut session), None);
}

#[test]
fn a_first_request_without_names_follows_no_endpoint_and_no_route() {
    let mut session = session(&[(ENDPOINT, "a", "1"), (ROUTE, "r", "1")]);
    session.on_request(subscribe(ENDPOINT, &[])).expect("legal");
    session.on_request(subscribe(ROUTE, &[])).expect("legal");
    assert_eq!(accepted(&mut session), None);
    session.on_request(subscribe(ENDPOINT, &["*"])).expect("legal");
    assert_eq!(accepted(&mut session).as_deref(), Some("EDS +a=1"));
}

#[test]
fn whoever_follows_everything_is_told_when_there_is_nothing() {
    let mut session = session(&[]);
    session.on_request(subscribe(CLUSTER, &["*"])).expect("legal");
    assert_eq!(accepted(&mut session).as_deref(), Some("CDS"));
    assert_eq!(accepted(&mut session), None);
}

#[test]
fn while_the_state_is_partial_nothing_is_reported_missing() {
    let mut partial = Snapshot::new("0");
    partial.set_partial(CLUSTER, true);
    let mut session = DeltaSession::new(Arc::new(partial.clone()));
    session.on_request(subscribe(CLUSTER, &["*", "x"])).expect("legal");
    assert_eq!(accepted(&mut session), None);
    partial.set_partial(CLUSTER, false);
    session.on_snapshot(Arc::new(partial));
    assert_eq!(accepted(&mut session).as_deref(), Some("CDS -x"));
}

#[test]
fn only_what_changed_is_sent() {
    let mut session = session(&[(CLUSTER, "a", "1"), (CLUSTER, "b", "1")]);
    session.on_request(subscribe(CLUSTER, &["*"])).expect("legal");
    session.stop_holding();
    accepted(&mut session);
    session.on_snapshot(snapshot("2", &[(CLUSTER, "a", "1"), (CLUSTER, "b", "2"), (CLUSTER, "c", "1")]));
    assert_eq!(accepted(&mut session).as_deref(), Some("CDS +b=2 +c=1"));
    session.on_snapshot(snapshot("3", &[(CLUSTER, "a", "1"), (CLUSTER, "c", "1")]));
    assert_eq!(accepted(&mut session).as_deref(), Some("CDS -b"));
    session.on_snapshot(snapshot("4", &[(CLUSTER, "a", "1"), (CLUSTER, "c", "1")]));
    assert_eq!(accepted(&mut session), None);
}

#[test]
fn one_response_of_a_type_is_unanswered_at_a_time_and_the_newest_snapshot_wins() {
    let mut session = session(&[(CLUSTER, "a", "1")]);
    session.on_request(subscribe(CLUSTER, &["*"])).expect("legal");
    let (_, first) = next(&mut session).expect("clusters");
    session.on_snapshot(snapshot("2", &[(CLUSTER, "a", "2")]));
    session.on_snapshot(snapshot("3", &[(CLUSTER, "a", "3")]));
    assert_eq!(next(&mut session), None);
    session.on_request(ack(&first)).expect("legal");
    assert_eq!(accepted(&mut session).as_deref(), Some("CDS +a=3"));
}

#[test]
fn an_unknown_or_old_nonce_answers_nothing_but_its_subscriptions_count() {
    let mut session = session(&[(ENDPOINT, "a", "1"), (ENDPOINT, "b", "1")]);
    session.on_request(subscribe(ENDPOINT, &["a"])).expect("legal");
    let (_, first) = next(&mut session).expect("endpoints");
    for nonce in ["", "7", "0"] {
        let request = pb::DeltaDiscoveryRequest { response_nonce: nonce.into(), ..subscribe(ENDPOINT, &["b"]) };
        assert_eq!(session.on_request(request).expect("legal"), None);
        assert_eq!(next(&mut session), None, "one response is outstanding");
    }
    assert!(matches!(session.on_request(ack(&first)), Ok(Some(Event::Ack { .. }))));
    assert_eq!(session.on_request(ack(&first)).expect("legal"), None, "a second answer to the same response");
    assert_eq!(accepted(&mut session).as_deref(), Some("EDS +b=1"));
}

#[test]
fn a_refusal_keeps_its_reason_and_the_same_version_is_not_sent_again() {
    let mut session = session(&[(CLUSTER, "a", "1"), (CLUSTER, "b", "1")]);
    session.on_request(subscribe(CLUSTER, &["*"])).expect("legal");
    let (_, response) = next(&mut session).expect("clusters");
    let event = session.on_request(nack(&response, "a: lb_policy: unknown")).expect("legal");
    let Some(Event::Nack(nack)) = event else { panic!("{event:?}") };
    assert_eq!((nack.type_url, &*nack.revision, nack.reason.as_str()), (CLUSTER, "1", "a: lb_policy: unknown"));
    assert_eq!(nack.resources, ["a", "b"].map(Arc::from));
    assert_eq!(next(&mut session), None);
    session.on_snapshot(snapshot("2", &[(CLUSTER, "a", "2"), (CLUSTER, "b", "1")]));
    assert_eq!(accepted(&mut session).as_deref(), Some("CDS +a=2"));
}

#[test]
fn a_name_that_does_not_exist_is_reported_at_once_and_sent_when_it_appears() {
    let mut session = session(&[(ENDPOINT, "a", "1")]);
    session.on_request(subscribe(ENDPOINT, &["a", "x"])).expect("legal");
    assert_eq!(accepted(&mut session).as_deref(), Some("EDS +a=1 -x"));
    assert_eq!(accepted(&mut session), None);
    session.on_snapshot(snapshot("2", &[(ENDPOINT, "a", "1"), (ENDPOINT, "x", "1")]));
    assert_eq!(accepted(&mut session).as_deref(), Some("EDS +x=1"));
}

#[test]
fn a_name_subscribed_again_is_answered_for_again() {
    let mut session = session(&[(ENDPOINT, "a", "1")]);
    session.on_request(subscribe(ENDPOINT, &["a", "x"])).expect("legal");
    accepted(&mut session);
    session.on_request(subscribe(ENDPOINT, &["a", "x"])).expect("legal");
    assert_eq!(accepted(&mut session).as_deref(), Some("EDS +a=1 -x"));
    session.on_request(unsubscribe(ENDPOINT, &["a"])).expect("legal");
    assert_eq!(accepted(&mut session), None);
    session.on_snapshot(snapshot("2", &[(ENDPOINT, "a", "2")]));
    assert_eq!(accepted(&mut session), None, "nobody follows it");
    session.on_request(subscribe(ENDPOINT, &["a"])).expect("legal");
    assert_eq!(accepted(&mut session).as_deref(), Some("EDS +a=2"));
}

#[test]
fn unsubscribing_what_was_never_subscribed_does_nothing() {
    let mut session = session(&[(ENDPOINT, "a", "1")]);
    session.on_request(unsubscribe(ENDPOINT, &["a", "*", "zzz"])).expect("legal");
    assert_eq!(accepted(&mut session), None);
}

#[test]
fn unsubscribing_a_name_under_a_wildcard_tells_whether_the_wildcard_holds_it() {
    let mut session = session(&[(CLUSTER, "a", "1")]);
    session.on_request(subscribe(CLUSTER, &["*", "a", "x"])).expect("legal");
    assert_eq!(accepted(&mut session).as_deref(), Some("CDS +a=1 -x"));
    session.on_request(unsubscribe(CLUSTER, &["a", "x"])).expect("legal");
    assert_eq!(accepted(&mut session).as_deref(), Some("CDS +a=1 -x"));
    assert_eq!(accepted(&mut session), None);
}

#[test]
fn unsubscribing_the_wildcard_leaves_the_names() {
    let mut session = session(&[(CLUSTER, "a", "1"), (CLUSTER, "b", "1")]);
    session.on_request(subscribe(CLUSTER, &[])).expect("legal");
    accepted(&mut session);
    session.on_request(subscribe(CLUSTER, &["a"])).expect("legal");
    assert_eq!(accepted(&mut session).as_deref(), Some("CDS +a=1"));
    session.on_request(unsubscribe(CLUSTER, &["*"])).expect("legal");
    session.on_snapshot(snapshot("2", &[(CLUSTER, "a", "2"), (CLUSTER, "b", "2")]));
    assert_eq!(accepted(&mut session).as_deref(), Some("CDS +a=2"));
    session.on_request(unsubscribe(CLUSTER, &["a"])).expect("legal");
    session.on_snapshot(snapshot("3", &[(CLUSTER, "a", "3"), (CLUSTER, "b", "3")]));
    assert_eq!(accepted(&mut session), None, "an empty subscription is not the legacy wildcard any more");
}

#[test]
fn a_reconnecting_client_gets_only_what_changed_meanwhile() {
    let old = snapshot("1", &[(CLUSTER, "same", "1"), (CLUSTER, "changed", "1"), (CLUSTER, "gone", "1")]);
    let versions = old.get(CLUSTER).values().map(|resource| (resource.name.to_string(), resource.version.to_string()));
    let initial_resource_versions = versions.collect();
    let new = snapshot("2", &[(CLUSTER, "same", "1"), (CLUSTER, "changed", "2"), (CLUSTER, "new", "1")]);
    let mut session = DeltaSession::new(new);
    session
        .on_request(pb::DeltaDiscoveryRequest { initial_resource_versions, ..subscribe(CLUSTER, &[]) })
        .expect("legal");
    session.stop_holding();
    assert_eq!(accepted(&mut session).as_deref(), Some("CDS +changed=2 +new=1 -gone"));
    assert_eq!(accepted(&mut session), None);
}

#[test]
fn a_reconnecting_client_that_is_up_to_date_gets_nothing() {
    let state = snapshot("1", &[(ENDPOINT, "a", "1"), (ENDPOINT, "b", "1")]);
    let versions =
        state.get(ENDPOINT).values().map(|resource| (resource.name.to_string(), resource.version.to_string()));
    let initial_resource_versions = versions.collect();
    let mut session = DeltaSession::new(state);
    session
        .on_request(pb::DeltaDiscoveryRequest { initial_resource_versions, ..subscribe(ENDPOINT, &["a"]) })
        .expect("legal");
    assert_eq!(accepted(&mut session), None);
    session.on_request(subscribe(ENDPOINT, &["b"])).expect("legal");
    assert_eq!(
        accepted(&mut session).as_deref(),
        Some("EDS +b=1"),
        "a version of a name that is not followed counts for nothing"
    );
}

#[test]
fn a_large_state_goes_out_in_several_responses() {
    let mut large = Snapshot::new("1");
    for name in ["a", "b", "c"] {
        large.insert(Resource::from_bytes(CLUSTER, name, vec![b'x'; 3 << 19]));
    }
    let mut session = DeltaSession::new(Arc::new(large));
    session.on_request(subscribe(CLUSTER, &["*"])).expect("legal");
    for name in ["a", "b", "c"] {
        let (_, response) = next(&mut session).expect("a part");
        assert_eq!(response.resources.iter().map(|resource| resource.name.as_str()).collect::<Vec<_>>(), [name]);
        assert!(session.settled().is_none());
        session.on_request(ack(&response)).expect("legal");
    }
    assert_eq!(next(&mut session), None);
}

#[test]
fn malformed_requests_end_the_stream_with_a_clear_status() {
    let mut session = session(&[]);
    let status = session.on_request(subscribe("", &[])).expect_err("no type");
    assert_eq!((status.code(), status.message()), (tonic::Code::InvalidArgument, "the request has no type_url"));
    let status = session.on_request(subscribe(ENDPOINT, &[&"x".repeat(5000)])).expect_err("a long name");
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    let many: Vec<String> = (0..70_000).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(
        session.on_request(subscribe(ENDPOINT, &many)).expect_err("too many").code(),
        tonic::Code::ResourceExhausted
    );
    let locator = pb::ResourceLocator { name: "x".into(), ..Default::default() };
    let request = pb::DeltaDiscoveryRequest { resource_locators_subscribe: vec![locator], ..subscribe(ENDPOINT, &[]) };
    assert_eq!(session.on_request(request).expect_err("locators").code(), tonic::Code::InvalidArgument);
}

#[test]
fn an_unknown_type_is_passed_over() {
    let mut session = session(&[]);
    let event = session.on_request(subscribe("type.googleapis.com/x.Y", &["a"])).expect("legal");
    assert_eq!(event, Some(Event::UnknownType("type.googleapis.com/x.Y".into())));
    assert_eq!(next(&mut session), None);
}

#[test]
fn a_long_reason_is_cut_at_a_character() {
    let mut session = session(&[(CLUSTER, "a", "1")]);
    session.on_request(subscribe(CLUSTER, &[])).expect("legal");
    let (_, response) = next(&mut session).expect("clusters");
    let Some(Event::Nack(nack)) = session.on_request(nack(&response, &"ä".repeat(5000))).expect("legal") else {
        panic!()
    };
    assert_eq!(nack.reason, "ä".repeat(2048));
}
