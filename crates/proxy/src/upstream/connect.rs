//! One new connection to an endpoint: TCP, and TLS where the cluster says so, within the cluster's connect timeout.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use weft_identity::{LiveIdentity, PeerError};
use weft_proxy_config::Cluster;
use weft_proxy_http::{AttemptError, Sent, Severed, Stream, TLS_READ_AHEAD};
use weft_telemetry::Failure;

use crate::identity;

/// Connects, or says which layer failed.
pub(crate) async fn connect(
    cluster: &Cluster,
    address: SocketAddr,
    tls: Option<&Arc<ClientConfig>>,
    own: &LiveIdentity,
) -> Result<Stream, AttemptError> {
    let failed = |failure, reason: String| AttemptError::new(failure, Sent::NoConnection, reason);
    let unreachable = if cluster.tls.is_some() { Failure::ConnectFailed } else { Failure::AppUnreachable };
    let attempt = async {
        let tcp =
            TcpStream::connect(address).await.map_err(|error| failed(unreachable, format!("{address}: {error}")))?;
        let _ = tcp.set_nodelay(true);
        let (Some(config), Some(tls)) = (tls, &cluster.tls) else { return Ok(Stream::Clear(tcp)) };
        let name = server_name(tls.sni.as_deref(), address);
        let stream = TlsConnector::from(config.clone())
            .connect(name, BufReader::with_capacity(TLS_READ_AHEAD, tcp))
            .await
            .map_err(|error| {
                let (peer, why) = (&tls.expected_id, weft_identity::tls::explain(&error));
                failed(identity::handshake(&error), format!("{address} ({peer}): {why}"))
            })?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let cut_off = shown.ok_or(PeerError::NoCertificate).and_then(|leaf| own.watch(leaf)).map_err(|error| {
            failed(Failure::PeerIdentityBanned, format!("{address} ({}): {error}", tls.expected_id)) // since the handshake
        })?;
        Ok(Stream::Tls(Box::new(Severed::new(stream, cut_off))))
    };
    match tokio::time::timeout(cluster.connect_timeout, attempt).await {
        Ok(result) => result,
        Err(_) => Err(failed(
            Failure::ConnectTimeout,
            format!("{address}: no connection within {:?}", cluster.connect_timeout),
        )),
    }
}

/// The SNI is a hint for the other side; who answers is judged by SPIFFE ID.
fn server_name(sni: Option<&str>, address: SocketAddr) -> ServerName<'static> {
    sni.and_then(|name| ServerName::try_from(name.to_owned()).ok())
        .unwrap_or(ServerName::IpAddress(address.ip().into()))
}
