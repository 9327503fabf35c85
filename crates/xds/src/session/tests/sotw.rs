//! State-of-the-world xDS, rule by rule.

use super::*;
use crate::session::{Event, SotwSession};
use crate::type_url::{CLUSTER, ENDPOINT, LISTENER, ROUTE};

/// A client that keeps what a real one does for one type: its names, the last nonce and the last accepted version.
#[derive(Default)]
struct Client {
    nonce: String,
    version: String,
}

impl Client {
    fn request(&self, type_url: &str, names: &[&str]) -> pb::DiscoveryRequest {
        pb::DiscoveryRequest {
            type_url: type_url.into(),
            resource_names: strings(names),
            response_nonce: self.nonce.clone(),
            version_info: self.version.clone(),
            ..Default::default()
        }
    }

    /// The next response as `CDS a=1 b=1`, acknowledged.
    fn accepted(&mut self, session: &mut SotwSession, names: &[&str]) -> Option<String> {
        let response = session.next_response()?;
        self.nonce = response.nonce.clone();
        self.version = response.version_info.clone();
        let event = session.on_request(self.request(&response.type_url, names)).expect("legal");
        assert!(matches!(event, Some(Event::Ack { .. })), "{event:?}");
        Some(text(&response))
    }
}

fn text(response: &pb::DiscoveryResponse) -> String {
    let bodies: Vec<_> = response.resources.iter().map(|any| String::from_utf8_lossy(&any.value)).collect();
    format!("{} {}", type_url::short(&response.type_url), bodies.join(" "))
}

fn session(resources: &[(&'static str, &str, &str)]) -> SotwSession {
    SotwSession::new(snapshot("1", resources))
}

#[test]
fn clusters_are_always_sent_as_a_whole_and_only_on_change() {
    let mut session = session(&[(CLUSTER, "a", "a1"), (CLUSTER, "b", "b1")]);
    let mut client = Client::default();
    session.on_request(client.request(CLUSTER, &[])).expect("legal");
    session.stop_holding();
    assert_eq!(client.accepted(&mut session, &[]).as_deref(), Some("CDS a1 b1"));
    assert_eq!(client.accepted(&mut session, &[]), None);
    session.on_snapshot(snapshot("2", &[(CLUSTER, "a", "a1"), (CLUSTER, "b", "b2")]));
    assert_eq!(client.accepted(&mut session, &[]).as_deref(), Some("CDS a1 b2"));
    session.on_snapshot(snapshot("3", &[(CLUSTER, "b", "b2")]));
    assert_eq!(client.accepted(&mut session, &[]).as_deref(), Some("CDS b2"));
    session.on_snapshot(snapshot("4", &[]));
    assert_eq!(client.accepted(&mut session, &[]).as_deref(), Some("CDS "));
    assert_eq!(client.accepted(&mut session, &[]), None);
}

#[test]
fn of_endpoints_only_the_changed_ones_are_sent_and_missing_ones_not_mentioned() {
    let mut session = session(&[(ENDPOINT, "a", "a1"), (ENDPOINT, "b", "b1")]);
    let mut client = Client::default();
    session.on_request(client.request(ENDPOINT, &["a", "b", "x"])).expect("legal");
    assert_eq!(client.accepted(&mut session, &["a", "b", "x"]).as_deref(), Some("EDS a1 b1"));
    session.on_snapshot(snapshot("2", &[(ENDPOINT, "a", "a1"), (ENDPOINT, "b", "b2")]));
    assert_eq!(client.accepted(&mut session, &["a", "b", "x"]).as_deref(), Some("EDS b2"));
    session.on_snapshot(snapshot("3", &[(ENDPOINT, "a", "a1"), (ENDPOINT, "x", "x1")]));
    assert_eq!(client.accepted(&mut session, &["a", "b", "x"]).as_deref(), Some("EDS x1"));
    assert_eq!(client.accepted(&mut session, &[]), None);
}

#[test]
fn names_added_are_sent_and_names_dropped_are_not_followed() {
    let mut session = session(&[(ENDPOINT, "a", "a1"), (ENDPOINT, "b", "b1")]);
    let mut client = Client::default();
    session.on_request(client.request(ENDPOINT, &["a"])).expect("legal");
    assert_eq!(client.accepted(&mut session, &["a"]).as_deref(), Some("EDS a1"));
    session.on_request(client.request(ENDPOINT, &["a", "b"])).expect("legal");
    assert_eq!(client.accepted(&mut session, &["a", "b"]).as_deref(), Some("EDS b1"));
    session.on_request(client.request(ENDPOINT, &["b"])).expect("legal");
    session.on_snapshot(snapshot("2", &[(ENDPOINT, "a", "a2"), (ENDPOINT, "b", "b1")]));
    assert_eq!(client.accepted(&mut session, &["b"]), None);
    session.on_request(client.request(ENDPOINT, &["a", "b"])).expect("legal");
    assert_eq!(client.accepted(&mut session, &["a", "b"]).as_deref(), Some("EDS a2"));
    session.on_request(client.request(ENDPOINT, &[])).expect("legal");
    session.on_snapshot(snapshot("3", &[(ENDPOINT, "a", "a3")]));
    assert_eq!(client.accepted(&mut session, &[]), None);
}

#[test]
fn named_listeners_of_a_proxyless_client() {
    let mut session = session(&[(LISTENER, "a", "a1"), (LISTENER, "b", "b1")]);
    let mut client = Client::default();
    session.on_request(client.request(LISTENER, &["a"])).expect("legal");
    assert_eq!(client.accepted(&mut session, &["a"]).as_deref(), Some("LDS a1"));
    session.on_request(client.request(LISTENER, &["a", "x"])).expect("legal");
    assert_eq!(client.accepted(&mut session, &["a", "x"]).as_deref(), Some("LDS a1"), "all that exists, and so not x");
    session.on_snapshot(snapshot("2", &[(LISTENER, "b", "b2"), (LISTENER, "x", "x1")]));
    assert_eq!(client.accepted(&mut session, &["a", "x"]).as_deref(), Some("LDS x1"));
}

#[test]
fn the_legacy_wildcard_ends_with_the_first_name() {
    let mut session = session(&[(CLUSTER, "a", "a1"), (CLUSTER, "b", "b1")]);
    let mut client = Client::default();
    session.on_request(client.request(CLUSTER, &[])).expect("legal");
    assert_eq!(client.accepted(&mut session, &[]).as_deref(), Some("CDS a1 b1"));
    session.on_request(client.request(CLUSTER, &["*", "a"])).expect("legal");
    assert_eq!(client.accepted(&mut session, &["*", "a"]).as_deref(), Some("CDS a1 b1"), "a is newly asked for");
    session.on_request(client.request(CLUSTER, &["a"])).expect("legal");
    session.on_snapshot(snapshot("2", &[(CLUSTER, "a", "a1"), (CLUSTER, "b", "b2")]));
    assert_eq!(client.accepted(&mut session, &["a"]), None);
    session.on_request(client.request(CLUSTER, &[])).expect("legal");
    session.on_snapshot(snapshot("3", &[(CLUSTER, "a", "a3"), (CLUSTER, "b", "b3")]));
    assert_eq!(client.accepted(&mut session, &[]), None, "no names mean none now");
}

#[test]
fn an_empty_state_is_said_to_whoever_follows_everything() {
    let mut session = session(&[]);
    let mut client = Client::default();
    session.on_request(client.request(LISTENER, &[])).expect("legal");
    assert_eq!(client.accepted(&mut session, &[]).as_deref(), Some("LDS "));
}

#[test]
fn a_stale_nonce_is_no_answer() {
    let mut session = session(&[(ENDPOINT, "a", "a1"), (ENDPOINT, "b", "b1")]);
    let mut client = Client::default();
    session.on_request(client.request(ENDPOINT, &["a"])).expect("legal");
    assert_eq!(client.accepted(&mut session, &["a"]).as_deref(), Some("EDS a1"));
    session.on_snapshot(snapshot("2", &[(ENDPOINT, "a", "a2"), (ENDPOINT, "b", "b1")]));
    let response = session.next_response().expect("the new version");
    assert_eq!(session.on_request(client.request(ENDPOINT, &["a", "b"])).expect("legal"), None, "it has the old nonce");
    assert!(session.next_response().is_none(), "the response is still unanswered");
    client.nonce = response.nonce;
    assert!(matches!(session.on_request(client.request(ENDPOINT, &["a", "b"])), Ok(Some(Event::Ack { .. }))));
    assert_eq!(client.accepted(&mut session, &["a", "b"]).as_deref(), Some("EDS b1"));
}

#[test]
fn a_refusal_is_known_by_its_error_and_stops_that_version() {
    let mut session = session(&[(ROUTE, "r", "r1")]);
    let mut client = Client::default();
    session.on_request(client.request(ROUTE, &["r"])).expect("legal");
    client.nonce = session.next_response().expect("the route").nonce;
    let request = pb::DiscoveryRequest { error_detail: refusal("no such cluster"), ..client.request(ROUTE, &["r"]) };
    let Some(Event::Nack(nack)) = session.on_request(request).expect("legal") else { panic!() };
    assert_eq!((nack.reason.as_str(), nack.resources), ("no such cluster", vec!["r".into()]));
    assert_eq!(client.accepted(&mut session, &["r"]), None);
    session.on_snapshot(snapshot("2", &[(ROUTE, "r", "r2")]));
    assert_eq!(client.accepted(&mut session, &["r"]).as_deref(), Some("RDS r2"));
}

#[test]
fn a_reconnecting_client_with_the_current_version_gets_nothing_until_a_change() {
    let resources = [(CLUSTER, "a", "a1"), (ENDPOINT, "a", "e1")];
    let (mut clusters, mut endpoints) = (Client::default(), Client::default());
    let mut first = session(&resources);
    first.on_request(clusters.request(CLUSTER, &[])).expect("legal");
    clusters.accepted(&mut first, &[]);
    first.on_request(endpoints.request(ENDPOINT, &["a"])).expect("legal");
    endpoints.accepted(&mut first, &["a"]);
    (clusters.nonce, endpoints.nonce) = Default::default();

    let mut second = session(&resources);
    second.on_request(clusters.request(CLUSTER, &[])).expect("legal");
    second.on_request(endpoints.request(ENDPOINT, &["a"])).expect("legal");
    assert_eq!(second.next_response(), None);
    second.on_snapshot(snapshot("2", &[(CLUSTER, "a", "a1"), (ENDPOINT, "a", "e2")]));
    assert_eq!(endpoints.accepted(&mut second, &["a"]).as_deref(), Some("EDS e2"));

    endpoints.nonce.clear();
    let mut third = session(&resources);
    third.on_request(endpoints.request(ENDPOINT, &["a"])).expect("legal");
    assert_eq!(endpoints.accepted(&mut third, &["a"]).as_deref(), Some("EDS e1"), "another version");
}

#[test]
fn a_cluster_stays_in_the_full_state_until_no_route_can_need_it() {
    let (mut cds, mut rds) = (Client::default(), Client::default());
    let mut session = session(&[(CLUSTER, "a", "a1"), (ROUTE, "r", "to a")]);
    session.on_request(cds.request(CLUSTER, &[])).expect("legal");
    cds.accepted(&mut session, &[]);
    session.on_request(rds.request(ROUTE, &["r"])).expect("legal");
    session.stop_holding();
    rds.accepted(&mut session, &["r"]);
    session.on_snapshot(snapshot("2", &[(CLUSTER, "b", "b1"), (ROUTE, "r", "to b")]));
    assert_eq!(cds.accepted(&mut session, &[]).as_deref(), Some("CDS a1 b1"));
    assert_eq!(rds.accepted(&mut session, &["r"]).as_deref(), Some("RDS to b"));
    assert_eq!(cds.accepted(&mut session, &[]).as_deref(), Some("CDS b1"));
    assert_eq!(session.settled().map(|snapshot| snapshot.revision.to_string()).as_deref(), Some("2"));
}
