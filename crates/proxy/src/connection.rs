//! What is known of a client connection, and so of every request on it.

use std::net::SocketAddr;
use std::sync::Arc;

use aws_lc_rs::digest;
use http::HeaderValue;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use weft_identity::tls::peer_spiffe_id;
use weft_model::SpiffeId;
use weft_policy::Principal;
use weft_proxy_config::{Config, Listener, ListenerKind};

use crate::worker::Worker;

/// What is known of a client connection.
pub(crate) struct Connection {
    /// As it was when the connection began.
    first: Arc<Listener>,
    pub(crate) own_id: Arc<str>,
    pub(crate) peer: Option<SpiffeId>,
    pub(crate) peer_id: Option<Arc<str>>,
    pub(crate) is_tls: bool,
    pub(crate) local_address: Option<SocketAddr>,
    pub(crate) remote_address: Option<SocketAddr>,
    pub(crate) server_name: Option<Arc<str>>,
    /// The `x-forwarded-client-cert` that this peer's requests get.
    pub(crate) xfcc: Option<HeaderValue>,
}

/// A socket of both families has IPv4 addresses as IPv6 ones (`::ffff:10.0.0.1`).
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl Connection {
    pub(crate) fn new(worker: &Worker, listener: Arc<Listener>, tcp: &TcpStream) -> Self {
        let own_id = worker.shared.identity.id().map_or_else(|| "unknown".into(), |id| Arc::from(id.as_str()));
        Self {
            first: listener,
            own_id,
            peer: None,
            peer_id: None,
            is_tls: false,
            local_address: tcp.local_addr().ok().map(canonical),
            remote_address: tcp.peer_addr().ok().map(canonical),
            server_name: None,
            xfcc: None,
        }
    }

    /// Who calls, to the policies.
    pub(crate) fn principal(&self) -> Principal<'_> {
        match &self.peer {
            Some(id) => Principal::Id(id),
            None if self.is_tls => Principal::Unknown,
            None => Principal::PlainText,
        }
    }

    /// The listener as it is configured now; a connection outlives changes, and the removal, of its listener.
    pub(crate) fn listener(&self, config: &Config) -> Arc<Listener> {
        let same = |listener: &&Arc<Listener>| {
            listener.name == self.first.name && matches!(listener.kind, ListenerKind::Http(_))
        };
        config.listeners.iter().find(same).unwrap_or(&self.first).clone()
    }

    /// The peer has shown who it is.
    pub(crate) fn authenticated(
        mut self,
        certificates: &[CertificateDer<'_>],
        server_name: Option<&str>,
    ) -> Result<Self, String> {
        let id = peer_spiffe_id(certificates).map_err(|error| error.to_string())?;
        self.xfcc = xfcc(&self.own_id, &id, &certificates[0]);
        self.peer_id = Some(id.as_str().into());
        self.peer = Some(id);
        self.is_tls = true;
        self.server_name = server_name.map(Into::into);
        Ok(self)
    }
}

/// `x-forwarded-client-cert` as Envoy writes it: our URI, the SHA-256 of the peer's certificate, the peer's URI.
fn xfcc(own: &str, peer: &SpiffeId, certificate: &CertificateDer<'_>) -> Option<HeaderValue> {
    let hash = digest::digest(&digest::SHA256, certificate);
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::from_str(&format!("By={own};Hash={hex};URI={peer}")).ok()
}
