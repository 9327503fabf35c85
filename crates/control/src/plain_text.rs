//! Who still calls permissive services in plain text: told by their sidecars, and by the authorization server of this process.
//!
//! Pure: times are given, in seconds since the Unix epoch.

use std::collections::BTreeMap;
use std::net::IpAddr;

use weft_decision_log::PlainCall;
use weft_decision_log::plain_text::{CALLERS_MAX, Caller, Callers, printable};
use weft_identity::proto::{PlainTextCaller, PlainTextReport};
use weft_model::intent::Intent;
use weft_model::{Mtls, ServiceName};

use crate::status::{PlainTextCallerStatus, PlainTextStatus};

/// The permissive services of the mesh in force.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    services: BTreeMap<ServiceName, Watch>,
}

#[derive(Debug)]
struct Watch {
    /// Since when this control plane has seen that it is permissive.
    since: u64,
    callers: Callers,
}

impl Watched {
    /// The mesh is `intent` now. Of a service that is strict nothing is remembered.
    pub(crate) fn follow(&mut self, intent: &Intent, now: u64) {
        let permissive =
            |name: &ServiceName| intent.services.get(name).is_some_and(|service| service.mtls == Mtls::Permissive);
        self.services.retain(|name, _| permissive(name));
        for name in intent.services.keys().filter(|name| permissive(name)) {
            let new = || Watch { since: now, callers: Callers::default() };
            self.services.entry(name.clone()).or_insert_with(new);
        }
    }

    /// Takes in who called a service; of one that is not permissive nothing.
    pub(crate) fn take(&mut self, service: &ServiceName, callers: Callers) {
        if let Some(watch) = self.services.get_mut(service) {
            watch.callers.merge(callers);
        }
    }

    /// Takes in a call that was decided here.
    pub(crate) fn note(&mut self, call: PlainCall) {
        if let Some(watch) = self.services.get_mut(&call.service) {
            watch.callers.add(call.address, call.caller);
        }
    }

    /// What is told of a service; `None` if it is not permissive. Who called last comes first.
    pub(crate) fn status(&self, service: &ServiceName, now: u64) -> Option<PlainTextStatus> {
        let Watch { since, callers } = self.services.get(service)?;
        let last = callers.last_seen().map_or(*since, |last| last.max(*since));
        let status = |(address, caller): (&IpAddr, &Caller)| PlainTextCallerStatus {
            address: address.to_string(),
            first_seen: caller.first_seen,
            last_seen: caller.last_seen,
            allowed: caller.allowed,
            denied: caller.denied,
            user_agent: caller.user_agent.clone(),
            asked: caller.asked.clone(),
        };
        let mut list: Vec<PlainTextCallerStatus> = callers.iter().map(status).collect();
        list.sort_by_key(|caller| std::cmp::Reverse(caller.last_seen));
        Some(PlainTextStatus {
            since: *since,
            quiet_seconds: now.saturating_sub(last),
            callers: list,
            forgotten: callers.forgotten,
            missed: callers.missed,
        })
    }
}

/// What a sidecar reports, made harmless: no more callers than a table holds, no times to come, no text that is more than text.
pub(crate) fn read(report: PlainTextReport, now: u64) -> Callers {
    let mut callers = Callers::unknown(report.forgotten, report.missed);
    for PlainTextCaller { address, first_seen, last_seen, allowed, denied, user_agent, asked } in
        report.callers.into_iter().take(CALLERS_MAX)
    {
        let Ok(address) = address.parse::<IpAddr>() else { continue };
        let last_seen = last_seen.min(now);
        let (user_agent, asked) = (printable(&user_agent), printable(&asked));
        let first_seen = first_seen.min(last_seen);
        callers.add(address.to_canonical(), Caller { first_seen, last_seen, allowed, denied, user_agent, asked });
    }
    callers
}

#[cfg(test)]
mod tests {
    use weft_compile::testing::{MESH, intent, name, service};

    use super::*;

    fn mesh(mtls: &str) -> Intent {
        intent(&(MESH.to_owned() + &service("prod/board", &format!("mtls: {mtls}\n")) + &service("prod/web", "")))
    }

    fn report(address: &str, last_seen: u64) -> PlainTextReport {
        let caller = PlainTextCaller {
            address: address.to_owned(),
            first_seen: last_seen + 5,
            last_seen,
            allowed: 2,
            denied: 1,
            user_agent: "curl\u{1b}[2J".to_owned(),
            asked: "GET /".to_owned() + &"x".repeat(500),
        };
        PlainTextReport { callers: vec![caller], forgotten: 1, missed: 2 }
    }

    #[test]
    fn who_calls_a_permissive_service_is_told_and_since_when_nobody_does() {
        let (board, web) = (name("prod/board"), name("prod/web"));
        let mut watched = Watched::default();
        watched.follow(&mesh("permissive"), 100);
        assert!(watched.status(&web, 130).is_none(), "it is strict");
        let quiet = watched.status(&board, 130).expect("it is permissive");
        assert_eq!((quiet.since, quiet.quiet_seconds, quiet.callers.len()), (100, 30, 0));

        watched.take(&board, read(report("10.0.0.7", 140), 150));
        watched.take(&board, read(report("::ffff:10.0.0.7", 160), 170));
        watched.take(&board, read(report("10.0.0.8", 165), 170));
        watched.take(&web, read(report("10.0.0.9", 165), 170));
        watched.follow(&mesh("permissive"), 180);
        let status = watched.status(&board, 180).expect("it is permissive");
        let told: Vec<_> =
            status.callers.iter().map(|it| (&*it.address, it.last_seen, it.allowed, it.denied)).collect();
        assert_eq!(told, [("10.0.0.8", 165, 2, 1), ("10.0.0.7", 160, 4, 2)]);
        assert_eq!((status.since, status.quiet_seconds, status.forgotten, status.missed), (100, 15, 3, 6));

        watched.follow(&mesh("strict"), 190);
        assert!(watched.status(&board, 190).is_none());
        watched.follow(&mesh("permissive"), 200);
        assert_eq!(watched.status(&board, 200).expect("again").callers.len(), 0, "it begins anew");
    }

    #[test]
    fn a_report_is_made_harmless() {
        let callers = read(report("10.0.0.7", 1_000), 150);
        let (_, caller) = callers.iter().next().expect("a caller");
        assert_eq!((caller.first_seen, caller.last_seen), (150, 150), "no time to come");
        assert_eq!((&*caller.user_agent, caller.asked.len()), ("curl?[2J", 120));
        assert!(read(report("nowhere", 100), 150).is_empty());
        let many =
            (0..CALLERS_MAX as u32 + 9).flat_map(|n| report(&std::net::Ipv4Addr::from(n).to_string(), 1).callers);
        let many = PlainTextReport { callers: many.collect(), forgotten: 0, missed: 0 };
        assert_eq!((read(many.clone(), 5).iter().count(), read(many, 5).forgotten), (CALLERS_MAX, 0));
    }
}
