//! The members of an etcd: a call goes to the one that answered last, and to the next when it does not answer. Every call is bounded in time.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

use super::address::{EtcdAddress, EtcdFiles};
use crate::StoreError;

/// Bounds TCP and TLS together.
const CONNECT: Duration = Duration::from_secs(1);
/// How long one member may take. An election of etcd's leader takes one to two seconds.
pub(super) const ATTEMPT: Duration = Duration::from_secs(3);
/// How long a call may take with all attempts: less than a sidecar waits for its certificate.
const CALL: Duration = Duration::from_secs(9);
/// Between two rounds over all members.
const PAUSE: Duration = Duration::from_millis(100);
/// With [`PING_TIMEOUT`], a member that vanished is noticed within 13 s. etcd cuts off whoever pings more often than every 5 s.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(3);

struct Member {
    address: String,
    channel: Channel,
}

/// See the module.
pub(super) struct Cluster {
    members: Vec<Member>,
    /// The one to ask.
    present: AtomicUsize,
}

/// What a call came to.
pub(super) struct Answer<T> {
    pub(super) value: T,
    /// An attempt before this one was not answered: etcd may have done what was asked twice.
    pub(super) repeated: bool,
}

impl Cluster {
    pub(super) fn new(address: &EtcdAddress, files: &EtcdFiles) -> Result<Self, StoreError> {
        let tls = if address.tls { Some(TlsConnector::from(Arc::new(tls(files)?))) } else { None };
        let member = |address: &String| {
            let endpoint = Endpoint::from_shared(format!("http://{address}")) // TLS is made by the connector
                .map_err(|error| StoreError::Etcd { tried: address.clone(), why: error.to_string() })?
                .connect_timeout(CONNECT)
                .http2_keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_TIMEOUT)
                .keep_alive_while_idle(true);
            let tls = tls.clone();
            let channel = endpoint.connect_with_connector_lazy(tower::service_fn(move |uri| dial(uri, tls.clone())));
            Ok(Member { address: address.clone(), channel })
        };
        let members = address.members.iter().map(member).collect::<Result<_, StoreError>>()?;
        Ok(Self { members, present: AtomicUsize::new(0) })
    }

    /// The member to ask now, for a stream; its number is for [`Cluster::leave`].
    pub(super) fn present(&self) -> (usize, Channel) {
        let number = self.present.load(Ordering::Relaxed);
        (number, self.members[number].channel.clone())
    }

    /// That member does not answer: the next one is asked from now on, unless somebody else has said so already.
    pub(super) fn leave(&self, number: usize) {
        let next = (number + 1) % self.members.len();
        let _ = self.present.compare_exchange(number, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn address(&self, number: usize) -> &str {
        &self.members[number].address
    }

    /// Asks one member after the other, for as long as a call may take.
    pub(super) async fn call<Q, T, F>(
        &self,
        question: Q,
        ask: impl Fn(Channel, Q) -> F,
    ) -> Result<Answer<T>, StoreError>
    where
        Q: Clone,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let end = Instant::now() + CALL;
        let mut attempts = 0;
        let mut failed: Vec<Option<String>> = vec![None; self.members.len()];
        loop {
            let (number, channel) = self.present();
            let patience = ATTEMPT.min(end.saturating_duration_since(Instant::now()));
            let status = match timeout(patience, ask(channel, question.clone())).await {
                Ok(Ok(answer)) => return Ok(Answer { value: answer.into_inner(), repeated: attempts > 0 }),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded(format!("no answer within {} ms", patience.as_millis())),
            };
            attempts += 1;
            let why = explain(&status);
            if !is_passing(&status) {
                return Err(StoreError::EtcdRefused { member: self.address(number).to_owned(), why });
            }
            tracing::debug!(member = self.address(number), why, "an etcd member did not answer");
            failed[number] = Some(why);
            self.leave(number);
            if attempts % self.members.len() == 0 {
                tokio::time::sleep(PAUSE).await;
            }
            if Instant::now() >= end {
                return Err(self.gone(&failed));
            }
        }
    }

    fn gone(&self, failed: &[Option<String>]) -> StoreError {
        let tried = self.members.iter().map(|member| &*member.address).collect::<Vec<_>>().join(", ");
        let why = self.members.iter().zip(failed);
        let why = why.filter_map(|(member, why)| Some(format!("{}: {}", member.address, why.as_ref()?)));
        StoreError::Etcd { tried, why: why.collect::<Vec<_>>().join("; ") }
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.members.iter().map(|member| &member.address)).finish()
    }
}

/// Whether another member, or the same one a moment later, may answer.
fn is_passing(status: &Status) -> bool {
    use Code::{Aborted, Cancelled, DeadlineExceeded, Internal, Unavailable, Unknown};
    matches!(status.code(), Unavailable | DeadlineExceeded | Cancelled | Unknown | Internal | Aborted)
}

/// The innermost cause, as a sentence: etcd's own words, or why there was no connection.
pub(super) fn explain(status: &Status) -> String {
    let Some(mut innermost) = status.source() else { return status.message().to_owned() };
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

async fn dial(uri: Uri, tls: Option<TlsConnector>) -> io::Result<TokioIo<Box<dyn Bytes>>> {
    let (Some(host), Some(port)) = (uri.host(), uri.port_u16()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a member of etcd is HOST:PORT"));
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let Some(tls) = tls else { return Ok(TokioIo::new(Box::new(stream))) };
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    Ok(TokioIo::new(Box::new(tls.connect(name, stream).await?)))
}

fn tls(files: &EtcdFiles) -> Result<ClientConfig, StoreError> {
    let ca = files.ca.as_deref().ok_or(StoreError::NoEtcdAuthority)?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(|error| bad_file(ca, error))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| bad_file(ca, error))?.with_root_certificates(roots);
    let mut config = match (files.certificate.as_deref(), files.key.as_deref()) {
        (None, None) => config.with_no_client_auth(),
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate)?;
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| bad_file(key, error))?;
            config.with_client_auth_cert(chain, private).map_err(|error| bad_file(certificate, error))?
        }
        _ => return Err(StoreError::HalfEtcdCertificate),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, StoreError> {
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| bad_file(path, error))?;
    let certificates = certificates.collect::<Result<Vec<_>, _>>().map_err(|error| bad_file(path, error))?;
    if certificates.is_empty() { Err(bad_file(path, "it has no certificate in PEM")) } else { Ok(certificates) }
}

fn bad_file(path: &Path, why: impl ToString) -> StoreError {
    StoreError::EtcdFile { path: path.to_owned(), why: why.to_string() }
}
