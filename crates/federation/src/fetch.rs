//! Fetches one document, such as a bundle. Who answers is judged by what was configured, and by nothing else.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use weft_identity::{document, tls};
use weft_model::intent::{EndpointUrl, WebUrl};

/// From connecting to the last byte.
const BOUND: Duration = Duration::from_secs(10);

/// Why there is no document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// It took too long.
    #[error("no answer within 10 s")]
    Late,
    /// Nobody listens there.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// Whoever answers is not the one that was meant.
    #[error("the endpoint is refused: {0}")]
    Tls(String),
    /// It broke off, or is no HTTP.
    #[error("the answer cannot be read: {0}")]
    Http(String),
    /// Not 200. Redirects are not followed.
    #[error("the answer is {0}, and only 200 has what is wanted")]
    Status(StatusCode),
}

/// The CAs by which an `https_web` endpoint is judged.
#[derive(Clone, Debug)]
pub struct WebRoots(Arc<ClientConfig>);

impl WebRoots {
    /// The system's.
    pub fn system() -> Self {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "some CAs of the system cannot be read");
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        Self::of(roots)
    }

    /// Those of a PEM file, and no others.
    ///
    /// # Errors
    /// In words: it cannot be read, or has none.
    pub fn file(path: &Path) -> Result<Self, String> {
        Self::pem(&std::fs::read(path).map_err(|error| error.to_string())?)
    }

    /// The same of PEM text.
    ///
    /// # Errors
    /// In words: it cannot be read, or has none.
    pub fn pem(text: &[u8]) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(text) {
            let certificate = certificate.map_err(|error| error.to_string())?;
            roots.add(certificate).map_err(|error| error.to_string())?;
        }
        if roots.is_empty() { Err("there is no certificate in it".to_owned()) } else { Ok(Self::of(roots)) }
    }

    fn of(roots: RootCertStore) -> Self {
        let config = ClientConfig::builder_with_provider(tls::provider().clone())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .expect("aws-lc has suites and groups of both")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self(Arc::new(config))
    }

    /// For a connection.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.0.clone()
    }
}

/// The document that the endpoint gives, within 10 s and [`document::MAX_BYTES`].
///
/// # Errors
/// See [`FetchError`].
pub async fn fetch(url: &EndpointUrl, config: Arc<ClientConfig>) -> Result<Bytes, FetchError> {
    let EndpointUrl { host, port, path } = url.clone();
    get(&WebUrl { tls: true, host, port, path }, config, document::MAX_BYTES).await
}

/// What is at a URL, within 10 s and this many bytes. `config` judges the server of one with TLS.
///
/// # Errors
/// See [`FetchError`].
pub async fn get(url: &WebUrl, config: Arc<ClientConfig>, most: usize) -> Result<Bytes, FetchError> {
    tokio::time::timeout(BOUND, get_unbounded(url, config, most)).await.unwrap_or(Err(FetchError::Late))
}

async fn get_unbounded(url: &WebUrl, config: Arc<ClientConfig>, most: usize) -> Result<Bytes, FetchError> {
    let stream = TcpStream::connect((&*url.host, url.port)).await;
    let stream = stream.map_err(|error| FetchError::Connect(error.to_string()))?;
    if !url.tls {
        return ask(url, stream, most).await;
    }
    let name = ServerName::try_from(url.host.to_string()).map_err(|error| FetchError::Connect(error.to_string()))?;
    let stream = TlsConnector::from(config).connect(name, stream).await;
    ask(url, stream.map_err(|error| FetchError::Tls(tls::explain(&error)))?, most).await
}

async fn ask<S>(url: &WebUrl, stream: S, most: usize) -> Result<Bytes, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let http = |error: &dyn std::error::Error| FetchError::Http(error.to_string());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| http(&error))?;
    tokio::spawn(connection); // its error reaches the request that it fails
    let host = if url.host.contains(':') {
        format!("[{}]:{}", url.host, url.port)
    } else {
        format!("{}:{}", url.host, url.port)
    };
    let request = Request::get(&*url.path)
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|error| http(&error))?;
    let answer = sender.send_request(request).await.map_err(|error| http(&error))?;
    if answer.status() != StatusCode::OK {
        return Err(FetchError::Status(answer.status()));
    }
    let body = Limited::new(answer.into_body(), most).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|error| FetchError::Http(error.to_string()))
}
