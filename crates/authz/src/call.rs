//! A call, as Envoy describes it in a `CheckRequest` (`envoy.service.auth.v3.AttributeContext`).

use std::borrow::Cow;
use std::net::IpAddr;

use envoy_types::pb::envoy::config::core::v3::address::Address;
use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer};
use weft_model::SpiffeId;
use weft_model::intent::Paths;
use weft_policy::path::{self, PathError};
use weft_policy::{CallRequest, host};

/// What a check says of the call.
pub(crate) struct Call<'a> {
    /// URI SAN of the caller's certificate, if it is a SPIFFE ID.
    pub(crate) caller: Option<SpiffeId>,
    pub(crate) method: &'a str,
    pub(crate) host: Cow<'a, str>,
    pub(crate) request_id: &'a str,
    pub(crate) is_grpc: bool,
    /// The normalised path with its query, or why it is refused.
    target: Result<Cow<'a, str>, PathError>,
    protocol: &'a str,
    source_ip: Option<IpAddr>,
}

impl<'a> Call<'a> {
    /// `paths` is how the [`callee`] reads them.
    pub(crate) fn read(check: &'a CheckRequest, paths: Paths) -> Self {
        let attributes = check.attributes.as_ref();
        let source = attributes.and_then(|attributes| attributes.source.as_ref());
        let http = attributes.and_then(|attributes| attributes.request.as_ref()?.http.as_ref());
        Self {
            caller: source.and_then(principal),
            source_ip: source.and_then(ip),
            method: http.map_or("", |http| &http.method),
            host: http.map_or(Cow::Borrowed(""), |http| host::normalize(&http.host)),
            request_id: http.and_then(|http| header(http, "x-request-id")).unwrap_or("-"),
            is_grpc: http.and_then(|http| header(http, "content-type")).is_some_and(is_grpc),
            // Envoy has normalised it already; another client of this service may not have. And where Envoy keeps encoded slashes,
            // it refuses nothing that could be meant by them (`..%2F`), nor a backslash (`%5C`).
            target: http.map_or(Ok(Cow::Borrowed("")), |http| path::normalize(&http.path, paths)),
            protocol: http.map_or("TCP", |http| &http.protocol),
        }
    }

    /// The path, or nothing when it is refused.
    pub(crate) fn path_without_query(&self) -> &str {
        self.target.as_deref().map_or("", |target| path::split(target).0)
    }

    /// Path and query, if normalising changed them.
    pub(crate) fn respelled(&self) -> Option<&str> {
        match &self.target {
            Ok(Cow::Owned(target)) => Some(target),
            _ => None,
        }
    }

    /// For the engine.
    pub(crate) fn request(&self) -> Result<CallRequest<'_>, PathError> {
        let target = self.target.as_deref().map_err(|error| *error)?;
        Ok(CallRequest {
            principal: self.caller.as_ref(),
            method: self.method,
            path: path::split(target).0,
            host: &self.host,
            protocol: self.protocol,
            source_ip: self.source_ip,
        })
    }
}

/// Who is called: the URI SAN of the asking sidecar's own certificate, if it is a SPIFFE ID.
pub(crate) fn callee(check: &CheckRequest) -> Option<SpiffeId> {
    principal(check.attributes.as_ref()?.destination.as_ref()?)
}

/// Envoy gives the first URI SAN of a verified certificate, else a DNS name or the subject: those are no identity here.
fn principal(peer: &Peer) -> Option<SpiffeId> {
    peer.principal.parse().ok()
}

fn ip(peer: &Peer) -> Option<IpAddr> {
    match peer.address.as_ref()?.address.as_ref()? {
        Address::SocketAddress(socket) => socket.address.parse().ok(),
        _ => None,
    }
}

/// By a lower-case name. Envoy fills `header_map` instead of `headers` when `encode_raw_headers` is set.
fn header<'a>(http: &'a HttpRequest, name: &str) -> Option<&'a str> {
    let raw = || {
        let entry = http.header_map.as_ref()?.headers.iter().find(|entry| entry.key == name)?;
        if entry.raw_value.is_empty() { Some(&*entry.value) } else { std::str::from_utf8(&entry.raw_value).ok() }
    };
    http.headers.get(name).map(String::as_str).or_else(raw)
}

/// `application/grpc`, `application/grpc+proto`, .. but not `application/grpc-web`, as Envoy has it.
fn is_grpc(content_type: &str) -> bool {
    let rest = content_type.strip_prefix("application/grpc");
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('+') || rest.starts_with(';'))
}
