//! One call of the HTTP API of a Vault.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use weft_identity::tls;

use super::{VaultConfig, VaultUrl};
use crate::error::UpstreamError;
use crate::pem::{certificates, private_key};

/// From connecting to the last byte. A server that shares its store has to say in between that it lives.
const BOUND: Duration = Duration::from_secs(5);
/// No answer that is meant is longer.
const MAX_BYTES: usize = 1 << 20;

/// Calls one Vault.
pub(super) struct Caller {
    url: VaultUrl,
    namespace: Option<String>,
    tls: Arc<ClientConfig>,
}

impl Caller {
    /// `own` is a certificate and its key by which this end proves itself.
    pub(super) fn new(config: &VaultConfig, own: Option<(&Path, &Path)>) -> Result<Self, UpstreamError> {
        let mut roots = RootCertStore::empty();
        match &config.ca {
            Some(file) => {
                for certificate in certificates(file)? {
                    roots.add(certificate).map_err(|error| UpstreamError::file(file, error))?;
                }
            }
            None if config.url.tls => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
            None => {}
        }
        let builder = ClientConfig::builder_with_provider(tls::provider().clone())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .expect("aws-lc has suites and groups of both")
            .with_root_certificates(roots);
        let tls = match own {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder
                .with_client_auth_cert(certificates(chain)?, private_key(key)?)
                .map_err(|error| UpstreamError::file(key, error))?,
        };
        Ok(Self { url: config.url.clone(), namespace: config.namespace.clone(), tls: Arc::new(tls) })
    }

    /// The answer to a POST, JSON. `what` is said if it is refused.
    pub(super) async fn post(
        &self,
        path: &str,
        token: Option<&str>,
        body: &Value,
        what: &'static str,
    ) -> Result<Value, UpstreamError> {
        let (status, answer) = self.call(Method::POST, path, token, Bytes::from(body.to_string())).await?;
        match status {
            StatusCode::OK | StatusCode::NO_CONTENT => Ok(serde_json::from_slice(&answer).unwrap_or_default()),
            // Sealed, a standby without a leader, overloaded, or something broke there.
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(self.away(format!("{status}: {}", errors(&answer))))
            }
            status => Err(self.refused(what, &format!("{status}: {}", errors(&answer)))),
        }
    }

    /// The answer to a GET that needs no token.
    pub(super) async fn get(&self, path: &str) -> Result<Vec<u8>, UpstreamError> {
        match self.call(Method::GET, path, None, Bytes::new()).await? {
            (StatusCode::OK, body) => Ok(body.to_vec()),
            (status, body) => Err(self.refused("show its chain", &format!("{status}: {}", errors(&body)))),
        }
    }

    pub(super) fn refused(&self, what: &'static str, why: &str) -> UpstreamError {
        UpstreamError::Refused { url: self.url.to_string(), what, why: why.to_owned() }
    }

    fn away(&self, why: impl ToString) -> UpstreamError {
        UpstreamError::Away { url: self.url.to_string(), why: why.to_string() }
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), UpstreamError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/v1/{path}"))
            .header(header::HOST, self.url.authority())
            .header(header::CONTENT_TYPE, "application/json")
            .header("x-vault-request", "true");
        if let Some(token) = token {
            let mut token: header::HeaderValue =
                token.parse().map_err(|_| self.refused("take a token", "it has characters that no token has"))?;
            token.set_sensitive(true);
            request = request.header("x-vault-token", token);
        }
        if let Some(namespace) = &self.namespace {
            request = request.header("x-vault-namespace", namespace);
        }
        let request =
            request.body(Full::new(body)).map_err(|error| self.refused("take a request", &error.to_string()))?;
        match tokio::time::timeout(BOUND, self.send(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.away("no answer within 5 s")),
        }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), UpstreamError> {
        let stream = TcpStream::connect((&*self.url.host, self.url.port)).await.map_err(|error| self.away(error))?;
        if !self.url.tls {
            return self.exchange(stream, request).await;
        }
        let name = ServerName::try_from(self.url.host.clone()).map_err(|error| self.away(error))?;
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await;
        self.exchange(stream.map_err(|error| self.away(tls::explain(&error)))?, request).await
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), UpstreamError> {
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.away(error))?;
        tokio::spawn(connection); // its error reaches the request that it fails
        let answer = sender.send_request(request).await.map_err(|error| self.away(error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await.map_err(|error| self.away(error))?;
        Ok((status, body.to_bytes()))
    }
}

/// The errors of an answer, as it has them.
fn errors(answer: &[u8]) -> String {
    let parsed: Value = serde_json::from_slice(answer).unwrap_or_default();
    let errors: Vec<&str> = parsed["errors"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if errors.is_empty() {
        "it does not say why".to_owned()
    } else {
        errors.join("; ").split_whitespace().collect::<Vec<_>>().join(" ")
    }
}
