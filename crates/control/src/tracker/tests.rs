//! The tracker by itself, with a clock that the tests move.

use super::history::HISTORY;
use super::*;
use crate::status::ChangeState;

fn facts() -> ProxyFacts {
    ProxyFacts {
        service: "prod/web".parse().expect("legal"),
        identity: "spiffe://acme/ns/prod/sa/web".parse().expect("legal"),
        data_plane: "weft".into(),
        labels: BTreeMap::new(),
        ingress: None,
        ready: true,
        certificate_expires: None,
    }
}

fn refusal(reason: &str) -> Refusal {
    Refusal { kind: "Cluster".into(), resources: vec!["c".into()], reason: reason.into(), at: 0 }
}

fn at(start: Now, millis: u64) -> Now {
    Now { instant: start.instant + Duration::from_millis(millis), wall: start.wall + Duration::from_millis(millis) }
}

fn two_proxies_and_a_commit(start: Now) -> (Tracker, Arc<str>, Arc<str>) {
    let (mut tracker, a, b) = (Tracker::default(), Arc::from("prod/web~a"), Arc::from("prod/web~b"));
    tracker.opened(&a, 1, facts(), start);
    tracker.opened(&b, 2, facts(), start);
    tracker.commit("c1".into(), "first".into(), 1, Duration::ZERO, vec![], start);
    tracker.published(&a, 1, 1);
    tracker.published(&b, 2, 1);
    (tracker, a, b)
}

#[test]
fn a_commit_is_done_when_the_last_proxy_has_settled() {
    let start = Now::read();
    let (mut tracker, a, b) = two_proxies_and_a_commit(start);
    assert_eq!(tracker.history()[0].state, ChangeState::Rolling);
    let settled = tracker.settled(&a, 1, 1, "c1", at(start, 5));
    assert_eq!(settled, Settled { took: Some(Duration::from_millis(5)), converged: vec![] });
    assert_eq!(tracker.waiting_for(1, ""), std::slice::from_ref(&b));
    let settled = tracker.settled(&b, 2, 1, "c1", at(start, 9));
    assert_eq!(settled.converged, [("c1".into(), Duration::from_millis(9))]);
    let change = &tracker.history()[0];
    assert_eq!((change.state, change.converged_ms), (ChangeState::Done, Some(9.0)));
    assert_eq!(tracker.counts(), ProxyCounts { connected: 2, acknowledged: 2, ..ProxyCounts::default() });
}

#[test]
fn a_refusal_shows_until_what_was_refused_is_accepted() {
    let start = Now::read();
    let (mut tracker, a, b) = two_proxies_and_a_commit(start);
    tracker.nacked(&a, 1, "cds", refusal("clusters[0].lb_policy: RING_HASH"), &["c".into()]);
    tracker.settled(&a, 1, 1, "c1", start);
    tracker.settled(&b, 2, 1, "c1", start);
    assert_eq!(tracker.history()[0].state, ChangeState::Degraded);
    assert_eq!(tracker.history()[0].refused, ["prod/web~a"]);
    assert_eq!(tracker.proxies()[0].refusals[0].reason, "clusters[0].lb_policy: RING_HASH");
    // What is accepted beside it does not mend it.
    tracker.acked(&a, 1, "cds", &["c".into()]);
    assert_eq!(tracker.history()[0].state, ChangeState::Degraded);
    let another = Refusal { resources: vec!["d".into()], ..refusal("worse") };
    tracker.nacked(&a, 1, "cds", another, &["d".into(), "e".into()]);
    assert_eq!(tracker.proxies()[0].refusals[0].resources, ["d", "c"]);
    tracker.acked(&a, 1, "cds", &["c".into(), "e".into()]);
    assert_eq!(tracker.proxies()[0].refusals[0].resources, ["c"]);
    tracker.acked(&a, 1, "cds", &["e".into()]);
    assert_eq!(tracker.history()[0].state, ChangeState::Done);
    assert_eq!(tracker.counts().refused, 0);
}

#[test]
fn a_lost_proxy_is_not_waited_for_and_is_forgotten() {
    let start = Now::read();
    let (mut tracker, a, b) = two_proxies_and_a_commit(start);
    tracker.settled(&a, 1, 1, "c1", start);
    assert!(tracker.closed(&b, 2, at(start, 3)));
    assert_eq!(tracker.history()[0].state, ChangeState::Done);
    assert_eq!(tracker.counts(), ProxyCounts { connected: 1, acknowledged: 1, lost: 1, ..ProxyCounts::default() });
    tracker.forget(start.instant + Duration::from_secs(31), Duration::from_secs(30));
    assert_eq!(tracker.counts().lost, 0);
}

#[test]
fn a_proxy_that_said_goodbye_is_not_lost() {
    let start = Now::read();
    let (mut tracker, a, b) = two_proxies_and_a_commit(start);
    for node in [&a, &b] {
        tracker.leaving(node);
    }
    tracker.facts(&b, 2, facts()); // it is ready again
    assert!(tracker.closed(&a, 1, start) && tracker.closed(&b, 2, start));
    assert_eq!(tracker.proxies().iter().map(|proxy| &*proxy.node).collect::<Vec<_>>(), [&*b]);
    assert_eq!(tracker.next_forgotten(Duration::from_secs(30)), Some(start.instant + Duration::from_secs(30)));
}

#[test]
fn a_silent_proxy_is_named_with_what_it_owes_and_since_when() {
    let start = Now::read();
    let (mut tracker, a, b) = two_proxies_and_a_commit(start);
    let (cds, lds) = (weft_xds::type_url::CLUSTER, weft_xds::type_url::LISTENER);
    tracker.sent(&a, 1, cds, 1, 10, at(start, 5_000));
    tracker.acked(&a, 1, cds, &[]);
    tracker.sent(&a, 1, lds, 1, 10, at(start, 7_000));
    tracker.sent(&a, 1, cds, 1, 10, at(start, 9_000));
    let begun = unix_seconds(start.wall);
    let owes = |kind: &str, since| Unanswered { kind: kind.to_owned(), since: begun + since };
    let waiting = tracker.history()[0].waiting.clone();
    assert_eq!(
        waiting,
        [
            // To whom nothing could be sent, since the commit.
            Waiting { node: b.to_string(), since: begun, unanswered: vec![] },
            Waiting { node: a.to_string(), since: begun + 7, unanswered: vec![owes("CDS", 9), owes("LDS", 7)] },
        ]
    );
    assert_eq!(tracker.proxies()[0].unanswered, waiting[1].unanswered);

    // A refusal is an answer; the end of the stream ends the waiting.
    tracker.nacked(&a, 1, lds, refusal("no"), &["c".into()]);
    assert_eq!(tracker.history()[0].waiting[1].unanswered, [owes("CDS", 9)]);
    tracker.closed(&a, 1, at(start, 10_000));
    assert_eq!(tracker.proxies()[0].unanswered, []);
    assert_eq!(tracker.history()[0].waiting.len(), 1);
}

#[test]
fn what_an_earlier_stream_answered_does_not_count() {
    let start = Now::read();
    let (mut tracker, a, b) = two_proxies_and_a_commit(start);
    tracker.settled(&a, 1, 1, "c1", start);
    tracker.settled(&b, 2, 1, "c1", start);
    // The proxy is restarted, and its new self refuses what the old one ran on.
    tracker.closed(&a, 1, start);
    tracker.opened(&a, 3, facts(), start);
    tracker.published(&a, 3, 1);
    assert_eq!((tracker.counts().pending, tracker.history()[0].pending.clone()), (1, vec![a.to_string()]));
    tracker.nacked(&a, 3, "lds", refusal("this version of me cannot"), &["c".into()]);
    tracker.settled(&a, 3, 1, "c1", start);
    assert_eq!(tracker.counts().refused, 1);
    assert_eq!(tracker.history()[0].refused, [a.to_string()]);
    assert_eq!(tracker.history()[0].state, ChangeState::Degraded);
}

#[test]
fn an_old_stream_does_not_speak_for_a_reconnected_proxy() {
    let start = Now::read();
    let (mut tracker, a, _) = two_proxies_and_a_commit(start);
    tracker.opened(&a, 3, facts(), start);
    assert!(!tracker.closed(&a, 1, start));
    assert_eq!(tracker.settled(&a, 1, 1, "c1", start), Settled::default());
    assert!(tracker.proxies()[0].connected);
}

#[test]
fn a_refused_commit_leaves_the_serving_one_in_place() {
    let start = Now::read();
    let (mut tracker, a, b) = two_proxies_and_a_commit(start);
    tracker.settled(&a, 1, 1, "c1", start);
    tracker.settled(&b, 2, 1, "c1", start);
    for n in 0..HISTORY * 2 {
        tracker.refuse(format!("bad{n}").into(), "bad".into(), vec![], Duration::ZERO, start);
    }
    let history = tracker.history();
    assert_eq!(history[0].state, ChangeState::Refused);
    let serving = history.iter().find(|change| change.state != ChangeState::Refused).expect("still there");
    assert_eq!((&*serving.commit, serving.state), ("c1", ChangeState::Done));
}

#[test]
fn a_newer_commit_supersedes() {
    let start = Now::read();
    let (mut tracker, a, b) = two_proxies_and_a_commit(start);
    tracker.commit("c2".into(), "second".into(), 2, Duration::ZERO, vec![], start);
    tracker.published(&a, 1, 2);
    tracker.published(&b, 2, 2);
    tracker.settled(&a, 1, 1, "c1", start); // answers the older one only
    assert_eq!(tracker.waiting_for(2, ""), [a.clone(), b.clone()]);
    tracker.settled(&a, 1, 2, "c2", start);
    tracker.settled(&b, 2, 2, "c2", start);
    let states: Vec<_> = tracker.history().iter().map(|change| change.state).collect();
    assert_eq!(states, [ChangeState::Done, ChangeState::Superseded]);
}
