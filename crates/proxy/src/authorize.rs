//! The phase that asks the policy: deny unless a policy of the delivered bundle permits.
//!
//! Decisions are remembered per worker by exactly those attributes that the bundle's policies can read, so that a repeated
//! call costs a look-up. A new bundle forgets them all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use weft_policy::{CallRequest, Engine};
use weft_telemetry::trace;

use crate::exchange::{Exchange, Verdict};
use crate::stop::Stop;
use weft_telemetry::Failure;

/// Decisions that a worker remembers, at most.
const REMEMBERED_MAX: usize = 4096;
/// Longer keys are decided each time.
const KEY_MAX: usize = 1024;

#[derive(Clone)]
struct Remembered {
    allowed: bool,
    policy: Arc<str>,
    reason: Arc<str>,
}

/// A worker's memory of decisions under one bundle.
#[derive(Default)]
pub(crate) struct Decisions {
    engine: Option<Arc<Engine>>,
    known: HashMap<Box<[u8]>, Remembered>,
    key: Vec<u8>,
}

impl Decisions {
    fn decide(&mut self, engine: &Arc<Engine>, request: &CallRequest<'_>) -> Remembered {
        if !self.engine.as_ref().is_some_and(|known| Arc::ptr_eq(known, engine)) {
            self.engine = Some(engine.clone());
            self.known.clear();
        }
        self.write_key(engine, request);
        if let Some(remembered) = self.known.get(&self.key[..]) {
            return remembered.clone();
        }
        let decision = engine.decide(request);
        // A default deny has no determining policy; its reason says where a rule is missing.
        let policy = match decision.policies.first() {
            Some(_) => decision.places().into(),
            None => decision.reason.clone(),
        };
        let fresh = Remembered { allowed: decision.allowed, policy, reason: decision.reason };
        if self.key.len() <= KEY_MAX {
            if self.known.len() >= REMEMBERED_MAX {
                self.known.clear();
            }
            self.known.insert(self.key.as_slice().into(), fresh.clone());
        }
        fresh
    }

    /// Each part ends with a byte that none of them can hold.
    fn write_key(&mut self, engine: &Engine, request: &CallRequest<'_>) {
        let reads = engine.reads();
        let part = |key: &mut Vec<u8>, text: &str| {
            key.extend_from_slice(text.as_bytes());
            key.push(0xff);
        };
        self.key.clear();
        part(&mut self.key, request.principal.map_or("", |id| id.as_str()));
        if reads.method {
            part(&mut self.key, request.method);
        }
        if reads.path {
            part(&mut self.key, request.path);
        }
        if reads.host {
            part(&mut self.key, request.host);
        }
        if reads.protocol {
            part(&mut self.key, request.protocol);
        }
        if reads.source_ip {
            match request.source_ip {
                Some(IpAddr::V4(ip)) => self.key.extend_from_slice(&ip.octets()),
                Some(IpAddr::V6(ip)) => self.key.extend_from_slice(&ip.octets()),
                None => {}
            }
        }
    }
}

/// Decides about a request whose path is normalised and whose identity headers are gone.
pub(crate) fn authorize(exchange: &mut Exchange, path: &str, host: &str, protocol: &str) -> Result<(), Stop> {
    let worker = exchange.worker.clone();
    let id = worker.with_rng(trace::decision_id);
    let Some(engine) = exchange.config.policy.clone() else {
        let reason: Arc<str> = "no policy bundle has been delivered to this sidecar yet".into();
        exchange.verdict = Some(Verdict { allowed: false, id, policy: reason.clone() });
        return Err(Stop::denied(Failure::NoPolicy, &reason, id));
    };
    let connection = exchange.connection.clone();
    let request = CallRequest {
        principal: connection.peer.as_ref(),
        method: exchange.method(),
        path,
        host,
        protocol,
        source_ip: connection.remote_address.map(|address| address.ip()),
    };
    let decided = worker.decisions.borrow_mut().decide(&engine, &request);
    exchange.verdict = Some(Verdict { allowed: decided.allowed, id, policy: decided.policy });
    if decided.allowed { Ok(()) } else { Err(Stop::denied(Failure::Denied, &decided.reason, id)) }
}
