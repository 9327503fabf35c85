//! What a decision is about.

use std::net::IpAddr;

use weft_model::SpiffeId;

/// One call, as the callee's sidecar sees it.
#[derive(Clone, Copy, Debug)]
pub struct CallRequest<'a> {
    /// The caller's identity from its certificate.
    pub principal: Option<&'a SpiffeId>,
    /// The method as sent (methods are case-sensitive); empty for TCP.
    pub method: &'a str,
    /// Normalised by [`crate::path::normalize`], without the query; empty for TCP.
    pub path: &'a str,
    /// `Host` or `:authority`, normalised by [`crate::host::normalize`]; empty for TCP.
    pub host: &'a str,
    /// Like `HTTP/1.1`, `HTTP/2` or `TCP`.
    pub protocol: &'a str,
    /// Where the connection comes from.
    pub source_ip: Option<IpAddr>,
}
