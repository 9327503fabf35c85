//! A call, as Envoy describes it in a `CheckRequest` (`envoy.service.auth.v3.AttributeContext`).

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::SystemTime;

use envoy_types::pb::envoy::config::core::v3::address::Address;
use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer};
use weft_model::SpiffeId;
use weft_model::grpc::is_grpc;
use weft_model::intent::Paths;
use weft_policy::path::{self, PathError};
use weft_policy::{CallRequest, Headers, Principal, TlsFacts, Who, host};
use weft_telemetry::trace::TraceContext;

/// What a check says of the call.
pub(crate) struct Call<'a> {
    /// By the URI SAN of its certificate; `None` if that is no SPIFFE ID.
    caller: Option<Who>,
    pub(crate) method: &'a str,
    pub(crate) host: Cow<'a, str>,
    pub(crate) request_id: String,
    pub(crate) is_grpc: bool,
    /// The normalised path with its query, or why it is refused.
    target: Result<Cow<'a, str>, PathError>,
    protocol: &'a str,
    source_ip: Option<IpAddr>,
    headers: Sent<'a>,
    tls: Option<TlsFacts<'a>>,
}

/// The fields of a head, as policies read them. Envoy gives each name once, with the values of its lines joined by `,`, or line by line when it
/// encodes them raw.
#[derive(Debug)]
struct Sent<'a>(Option<&'a HttpRequest>);

impl<'a> Sent<'a> {
    fn names(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let raw = self.0.and_then(|http| http.header_map.as_ref()).into_iter().flat_map(|map| &map.headers);
        let raw = raw.map(|entry| &*entry.key);
        self.0.into_iter().flat_map(|http| http.headers.keys()).map(|name| &**name).chain(raw)
    }
}

impl Headers for Sent<'_> {
    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        let http = self.0?;
        if let Some(joined) = http.headers.get(name) {
            return Some(Cow::Borrowed(joined));
        }
        let lines = http.header_map.as_ref()?.headers.iter().filter(|entry| entry.key == name).map(|entry| {
            if entry.raw_value.is_empty() {
                Cow::Borrowed(&*entry.value)
            } else {
                String::from_utf8_lossy(&entry.raw_value)
            }
        });
        lines.reduce(|joined, line| Cow::Owned(joined.into_owned() + "," + &line))
    }
}

impl<'a> Call<'a> {
    /// `paths` is how the [`callee`] reads them.
    pub(crate) fn read(check: &'a CheckRequest, paths: Paths) -> Self {
        let attributes = check.attributes.as_ref();
        let source = attributes.and_then(|attributes| attributes.source.as_ref());
        let http = attributes.and_then(|attributes| attributes.request.as_ref()?.http.as_ref());
        let tls = attributes.and_then(|attributes| attributes.tls_session.as_ref());
        let destination = attributes.and_then(|attributes| attributes.destination.as_ref());
        // A connection of TLS has shown a certificate of ours. Envoy says `tls_session` of others too, without a name.
        let is_tls =
            destination.is_some_and(|own| !own.principal.is_empty()) || tls.is_some_and(|tls| !tls.sni.is_empty());
        let caller = source.and_then(|source| caller(source, is_tls));
        let tls = tls.filter(|_| caller != Some(Who::PlainText));
        let headers = Sent(http);
        let is_grpc = headers.header("content-type").is_some_and(|kind| is_grpc(kind.as_bytes()));
        Self {
            caller,
            source_ip: source.and_then(ip),
            method: http.map_or("", |http| &http.method),
            host: http.map_or(Cow::Borrowed(""), |http| host::normalize(&http.host)),
            request_id: headers.header("x-request-id").unwrap_or(Cow::Borrowed("-")).into_owned(),
            is_grpc,
            // Envoy has normalised it already; another client of this service may not have. And where Envoy keeps encoded slashes,
            // it refuses nothing that could be meant by them (`..%2F`), nor a backslash (`%5C`).
            target: http.map_or(Ok(Cow::Borrowed("")), |http| path::normalize(&http.path, paths)),
            protocol: http.map_or("TCP", |http| &http.protocol),
            headers,
            tls: tls.map(|tls| TlsFacts { server_name: (!tls.sni.is_empty()).then_some(&*tls.sni) }),
        }
    }

    /// Names of fields that are there and look to some apps (CGI, WSGI) like one of `names`: with underscores for dashes.
    pub(crate) fn look_alikes<'b>(&'b self, names: &'b [&str]) -> impl Iterator<Item = &'b str> {
        let looks_like = |given: &&str| given.contains('_') && names.contains(&&*given.replace('_', "-"));
        self.headers.names().filter(looks_like)
    }

    /// Path and query, if normalising changed them.
    pub(crate) fn respelled(&self) -> Option<&str> {
        match &self.target {
            Ok(Cow::Owned(target)) => Some(target),
            _ => None,
        }
    }

    /// 32 hexadecimal digits, from `traceparent`.
    pub(crate) fn trace_id(&self) -> Option<String> {
        let trace = TraceContext::read(self.headers.header("traceparent")?.as_bytes())?;
        String::from_utf8(trace.trace_id_hex().to_vec()).ok()
    }

    /// For the engine.
    pub(crate) fn request(&self, now: SystemTime) -> Result<CallRequest<'_>, PathError> {
        let target = self.target.as_deref().map_err(|error| *error)?;
        let (path, query) = path::split(target);
        Ok(CallRequest {
            principal: self.caller.as_ref().map_or(Principal::Unknown, Who::principal),
            method: self.method,
            path,
            query,
            host: &self.host,
            protocol: self.protocol,
            source_ip: self.source_ip,
            headers: &self.headers,
            grpc: self.is_grpc,
            tls: self.tls,
            user: None,
            now,
        })
    }
}

/// Who is called: the URI SAN of the asking sidecar's own certificate, if it is a SPIFFE ID. A check that says nothing of it is about calls
/// to `peer`, who asks: nobody may ask about others.
pub(crate) fn callee(check: &CheckRequest, peer: Option<&SpiffeId>) -> Option<SpiffeId> {
    match check.attributes.as_ref().and_then(|attributes| attributes.destination.as_ref()) {
        Some(destination) if !destination.principal.is_empty() => principal(destination),
        _ => peer.cloned(),
    }
}

/// Envoy gives the first URI SAN of a verified certificate, else a DNS name or the subject: those are no identity here.
fn principal(peer: &Peer) -> Option<SpiffeId> {
    peer.principal.parse().ok()
}

/// By its certificate; who has none over a connection that is not of TLS calls in plain text.
fn caller(peer: &Peer, is_tls: bool) -> Option<Who> {
    if peer.principal.is_empty() && !is_tls { Some(Who::PlainText) } else { principal(peer).map(Who::Id) }
}

fn ip(peer: &Peer) -> Option<IpAddr> {
    match peer.address.as_ref()?.address.as_ref()? {
        Address::SocketAddress(socket) => socket.address.parse().ok(),
        _ => None,
    }
}
