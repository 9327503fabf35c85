//! A call that somebody only asks about: `weft explain`, a `Test`, a list of who can call.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use weft_model::SpiffeId;
use weft_model::grpc::is_grpc;

use crate::decision::{Decision, PolicyRef};
use crate::engine::Engine;
use crate::host;
use crate::path::{self, PathError};
use crate::request::{CallRequest, Headers, Principal, TlsFacts, User};

/// Who calls, as somebody says who asks about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Whoever has this identity.
    Id(SpiffeId),
    /// Whoever calls in plain text.
    PlainText,
}

impl Who {
    /// As a decision takes it.
    pub fn principal(&self) -> Principal<'_> {
        match self {
            Self::Id(id) => Principal::Id(id),
            Self::PlainText => Principal::PlainText,
        }
    }
}

/// A call with all that it brings.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Who calls.
    pub caller: Who,
    /// Empty for TCP.
    pub method: Arc<str>,
    /// Path and query as sent; empty for TCP.
    pub target: Arc<str>,
    /// Host as sent; empty for TCP.
    pub host: String,
    /// Header fields, by lower-case name.
    pub headers: BTreeMap<Arc<str>, Arc<str>>,
    /// Where it comes from.
    pub source: Option<IpAddr>,
    /// For whom.
    pub user: Option<User>,
    /// When.
    pub at: SystemTime,
    /// Like `HTTP/2`. Where it is not said, what a sidecar speaks with another, HTTP/2, and HTTP/1.1 in plain text.
    pub protocol: Option<Arc<str>>,
    /// What the handshake named. Where it is not said, what a sidecar names that goes to no subset.
    pub server_name: Option<Arc<str>>,
}

impl Headers for BTreeMap<Arc<str>, Arc<str>> {
    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        self.get(name).map(|value| Cow::Borrowed(&**value))
    }
}

impl Probe {
    /// What `engine`'s service would decide, as its sidecar does: over mutual TLS, or in plain text.
    ///
    /// # Errors
    /// The path is refused before any policy is asked.
    pub fn decide(&self, engine: &Engine) -> Result<Decision, PathError> {
        self.ask(engine, |call| engine.decide(call))
    }

    /// Every permit that may apply to it, whatever it says beside method, host and path.
    ///
    /// # Errors
    /// The path is refused before any policy is asked.
    pub fn permits_in_reach(&self, engine: &Engine) -> Result<Vec<PolicyRef>, PathError> {
        self.ask(engine, |call| engine.permits_in_reach(call))
    }

    fn ask<T>(&self, engine: &Engine, question: impl FnOnce(&CallRequest<'_>) -> T) -> Result<T, PathError> {
        let (is_tcp, is_tls) = (self.method.is_empty(), self.caller != Who::PlainText);
        let target = if is_tcp { Cow::Borrowed("") } else { path::normalize(&self.target, engine.paths())? };
        let (path, query) = path::split(&target);
        let usual = || engine.service().server_name(engine.port(), None);
        let server_name = self.server_name.as_deref().map_or_else(|| usual().into(), Cow::Borrowed);
        Ok(question(&CallRequest {
            principal: self.caller.principal(),
            method: &self.method,
            path,
            query,
            host: &host::normalize(&self.host),
            protocol: match (is_tcp, &self.protocol, is_tls) {
                (true, ..) => "TCP",
                (false, Some(said), _) => said,
                (false, None, true) => "HTTP/2",
                (false, None, false) => "HTTP/1.1",
            },
            source_ip: self.source,
            headers: &self.headers,
            grpc: self.headers.header("content-type").is_some_and(|kind| is_grpc(kind.as_bytes())),
            tls: is_tls.then_some(TlsFacts { server_name: Some(&server_name) }),
            user: self.user.as_ref(),
            now: self.at,
        }))
    }
}
