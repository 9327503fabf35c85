//! One call, as the callee's sidecar sees it: all that a decision can depend on.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use weft_model::{PLAIN_TEXT, SpiffeId};

/// Who calls, as far as the connection proves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Principal<'a> {
    /// Whoever has this identity, by the certificate that was shown.
    Id(&'a SpiffeId),
    /// Whoever calls in plain text: `Service::"plain-text"` to the policies of a permissive service, and nobody to those of others.
    PlainText,
    /// Nobody that policies know: a certificate without a SPIFFE ID.
    Unknown,
}

impl<'a> Principal<'a> {
    /// The SPIFFE ID, `plain-text`, or nothing: no two principals agree in it.
    pub fn as_str(self) -> &'a str {
        match self {
            Self::Id(id) => id.as_str(),
            Self::PlainText => PLAIN_TEXT,
            Self::Unknown => "",
        }
    }
}

/// One call. What is not HTTP has no method, path, host, query, headers and gRPC.
#[derive(Clone, Copy, Debug)]
pub struct CallRequest<'a> {
    /// Who calls.
    pub principal: Principal<'a>,
    /// The method as sent (methods are case-sensitive); empty for TCP.
    pub method: &'a str,
    /// Normalised by [`crate::path::normalize`], without the query; empty for TCP.
    pub path: &'a str,
    /// What follows the path's `?`, as sent.
    pub query: Option<&'a str>,
    /// `Host` or `:authority`, normalised by [`crate::host::normalize`]; empty for TCP.
    pub host: &'a str,
    /// Like `HTTP/1.1`, `HTTP/2` or `TCP`.
    pub protocol: &'a str,
    /// Where the connection comes from.
    pub source_ip: Option<IpAddr>,
    /// The fields of the request's head.
    pub headers: &'a dyn Headers,
    /// It is a call of gRPC ([`weft_model::grpc::is_grpc`]).
    pub grpc: bool,
    /// What the connection's handshake said; `None` in clear.
    pub tls: Option<TlsFacts<'a>>,
    /// For whom the caller calls, if a token says so that was validated.
    pub user: Option<&'a User>,
    /// When it came. Policies see the minute.
    pub now: SystemTime,
}

impl CallRequest<'_> {
    /// Where the connection comes from, as policies are told: an IPv4 address as such, also where a socket of both families took it
    /// (`::ffff:10.0.0.1`, RFC 4291 s.2.5.5.2).
    pub fn source(&self) -> Option<IpAddr> {
        self.source_ip.map(|address| address.to_canonical())
    }
}

/// The fields of a head, by name.
pub trait Headers: fmt::Debug {
    /// The value of the field of this lower-case name; of several lines their values, joined by `,` (RFC 9110 s.5.3). What is not UTF-8 in it
    /// is replaced by U+FFFD.
    fn header(&self, name: &str) -> Option<Cow<'_, str>>;
}

/// A head without fields.
#[derive(Clone, Copy, Debug)]
pub struct NoHeaders;

impl Headers for NoHeaders {
    fn header(&self, _: &str) -> Option<Cow<'_, str>> {
        None
    }
}

/// What a TLS handshake says beside who the caller is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsFacts<'a> {
    /// Server name indication (RFC 6066 s.3).
    pub server_name: Option<&'a str>,
}

/// A user, from a token whose signature, issuer, audience and times were checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// `sub`.
    pub subject: String,
    /// `iss`.
    pub issuer: String,
    /// Of `scope` or `scp`.
    pub scopes: Vec<String>,
    /// Of `groups`.
    pub groups: Vec<String>,
    /// Those of `Mesh.policy.claims` that the token has and that are text.
    pub claims: BTreeMap<Arc<str>, String>,
}

/// Service and method of a call of gRPC, from its path.
pub(crate) fn grpc_method(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    (!service.is_empty() && !method.is_empty() && !method.contains('/')).then_some((service, method))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_of_grpc_names_its_service_and_method() {
        assert_eq!(grpc_method("/acme.Board/Get"), Some(("acme.Board", "Get")));
        for path in ["/acme.Board", "/acme.Board/", "//Get", "/a/b/c", "*", ""] {
            assert_eq!(grpc_method(path), None, "{path}");
        }
    }
}
