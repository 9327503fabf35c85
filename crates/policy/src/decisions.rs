//! A bounded memory of decisions: a repeated call costs a look-up instead of an evaluation.
//!
//! A key holds the engine's number, the principal, and exactly those attributes that the engine's policies about it can read. What was
//! decided under one bundle is therefore never found under another, and calls that differ in nothing that matters share an entry.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::context;
use crate::decision::Decision;
use crate::engine::Engine;
use crate::request::CallRequest;

/// Decisions that are remembered, at most; one more forgets them all.
const REMEMBERED_MAX: usize = 4096;
/// Calls with longer keys, in bytes, are decided each time.
const KEY_MAX: usize = 1024;

/// A decision, and what it cost.
#[derive(Clone, Debug)]
pub struct Decided {
    /// What was decided.
    pub decision: Decision,
    /// How long the policies took; `None` if it was remembered.
    pub evaluated: Option<Duration>,
}

/// Remembers what engines decided. Not shared: each worker of a proxy has its own, a server puts one behind a lock.
#[derive(Debug, Default)]
pub struct Decisions {
    known: HashMap<Box<[u8]>, Decision>,
    /// Reused from call to call.
    key: Vec<u8>,
}

impl Decisions {
    /// What `engine` decides on `request`, remembered or fresh: the decision is the same.
    pub fn decide(&mut self, engine: &Engine, request: &CallRequest<'_>) -> Decided {
        write_key(&mut self.key, engine, request);
        if let Some(decision) = self.known.get(&self.key[..]) {
            return Decided { decision: decision.clone(), evaluated: None };
        }
        let began = Instant::now();
        let decision = engine.decide(request);
        let evaluated = Some(began.elapsed());
        if self.key.len() <= KEY_MAX {
            if self.known.len() >= REMEMBERED_MAX {
                self.known.clear();
            }
            self.known.insert(self.key.as_slice().into(), decision.clone());
        }
        Decided { decision, evaluated }
    }
}

/// The principal's text ends with a byte that no UTF-8 holds; the number has its length.
fn write_key(key: &mut Vec<u8>, engine: &Engine, request: &CallRequest<'_>) {
    key.clear();
    key.extend_from_slice(&engine.number().to_ne_bytes());
    key.extend_from_slice(request.principal.as_str().as_bytes());
    key.push(0xff);
    let is_broken = engine.is_glass_broken(request.now);
    for reads in engine.reads(request.principal) {
        context::write_key(key, reads, request, is_broken);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weft_model::intent::{Allow, Caller};

    use super::*;
    use crate::request::Principal;
    use crate::testing;

    fn board(policies: &str) -> Engine {
        let mut intent = testing::intent(&["prod/web", "prod/board"]);
        let get = Allow { method: Some("GET".into()), path: "/api/**".into() };
        testing::allow(&mut intent, "prod/board", Caller::Service(testing::name("prod/web")), vec![get]);
        testing::policies(&mut intent, policies);
        testing::engine(&intent, "prod/board")
    }

    /// The sentence of a denial by default is made anew by each evaluation.
    fn same(a: &Decision, b: &Decision) -> bool {
        Arc::ptr_eq(&a.reason, &b.reason)
    }

    #[test]
    fn a_call_that_differs_in_nothing_that_is_read_is_not_evaluated_again() {
        let (engine, id) = (board(""), testing::id("prod/web"));
        let mut decisions = Decisions::default();
        let request = CallRequest { method: "PUT", path: "/api/x", ..testing::request(&id) };
        let first = decisions.decide(&engine, &request).decision;
        assert!(!first.allowed);
        let elsewhere =
            CallRequest { host: "other", protocol: "HTTP/1.1", source_ip: "10.1.2.3".parse().ok(), ..request };
        assert!(same(&first, &decisions.decide(&engine, &elsewhere).decision), "no policy reads these");
        for other in [
            CallRequest { path: "/api/y", ..request },
            CallRequest { method: "POST", ..request },
            CallRequest { principal: Principal::Unknown, ..request },
            CallRequest { principal: Principal::PlainText, ..request },
        ] {
            assert!(!same(&first, &decisions.decide(&engine, &other).decision), "{other:?}");
        }
        assert!(decisions.decide(&engine, &CallRequest { method: "GET", ..request }).decision.allowed);
        assert!(same(&first, &decisions.decide(&engine, &request).decision));
    }

    #[test]
    fn all_that_a_policy_reads_tells_calls_apart() {
        let reads_all =
            "forbid(principal, action, resource) when { context.host == \"evil\" || context.protocol == \"TCP\"
            || (context has sourceIp && context.sourceIp == ip(\"10.1.2.3\")) };";
        let (engine, id) = (board(reads_all), testing::id("prod/web"));
        let mut decisions = Decisions::default();
        let request = CallRequest { path: "/api/x", ..testing::request(&id) };
        assert!(decisions.decide(&engine, &request).decision.allowed);
        for other in [
            CallRequest { host: "evil", ..request },
            CallRequest { protocol: "TCP", ..request },
            CallRequest { source_ip: "10.1.2.3".parse().ok(), ..request },
        ] {
            assert!(!decisions.decide(&engine, &other).decision.allowed, "{other:?}");
        }
        assert!(
            decisions.decide(&engine, &CallRequest { source_ip: "::a01:203".parse().ok(), ..request }).decision.allowed
        );
        assert_eq!(decisions.known.len(), 5);
    }

    #[test]
    fn nothing_is_known_of_another_bundle() {
        let id = testing::id("prod/web");
        let mut decisions = Decisions::default();
        let request = CallRequest { path: "/api/x", ..testing::request(&id) };
        let (old, new) = (board(""), board("forbid(principal, action, resource);"));
        assert!(decisions.decide(&old, &request).decision.allowed);
        assert!(!decisions.decide(&new, &request).decision.allowed);
        assert!(
            decisions.decide(&old, &request).decision.allowed,
            "a request ends on the configuration that it began with"
        );
    }

    #[test]
    fn the_memory_is_bounded() {
        let (engine, id) = (board(""), testing::id("prod/web"));
        let mut decisions = Decisions::default();
        for n in 0..=REMEMBERED_MAX {
            let path = format!("/api/{n}");
            decisions.decide(&engine, &CallRequest { path: &path, ..testing::request(&id) });
            assert!(decisions.known.len() <= REMEMBERED_MAX);
        }
        assert_eq!(decisions.known.len(), 1);
        let long = format!("/api/{}", "x".repeat(KEY_MAX));
        assert!(decisions.decide(&engine, &CallRequest { path: &long, ..testing::request(&id) }).decision.allowed);
        assert_eq!(decisions.known.len(), 1);
    }
}
