//! Documents of others, fetched over HTTP: the bundles of other trust domains, the keys of other issuers. Who answers is judged by what was
//! configured, and by nothing else, also where a redirect leads. All of it is bounded.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use weft_identity::{document, tls};
use weft_model::intent::{EndpointUrl, WebUrl};

/// From connecting to the last byte, with all redirects.
const BOUND: Duration = Duration::from_secs(10);
/// Redirects that are followed, one after the other.
const MOST_REDIRECTS: usize = 5;

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
    /// Neither 200 nor a redirect.
    #[error("the answer is {0}, and only 200 has what is wanted")]
    Status(StatusCode),
    /// Of `https_web`.
    #[error(
        "the endpoint is refused: its certificate is of no CA that is known here; if it is the right one, name its CA with --federation-ca, and if \
         that certificate is an X.509-SVID, the profile is https_spiffe"
    )]
    UnknownCa,
    /// One that leads nowhere that a bundle may come from (SPIFFE Federation s.5.2.1.4, s.5.2.2.4).
    #[error("the answer is a redirect that is not followed: {0}")]
    Redirect(String),
    /// What went wrong after one.
    #[error("{1} (at {0}, where a redirect leads)")]
    Redirected(EndpointUrl, Box<Self>),
}

/// By what the endpoint has to prove who it is.
#[derive(Clone, Debug)]
pub enum By {
    /// `https_web`: a certificate of one of the [`WebRoots`], for the host of the URL.
    Web(Arc<ClientConfig>),
    /// `https_spiffe`: an X.509-SVID of one identity.
    Spiffe(Arc<ClientConfig>),
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

    /// For the endpoint of a bundle.
    pub fn judge(&self) -> By {
        By::Web(self.config())
    }
}

/// The bundle document that the endpoint gives, or whoever it redirects to for now, within 10 s and [`document::MAX_BYTES`]. Nothing of a
/// redirect is remembered: the next fetch begins at `url` again.
///
/// # Errors
/// See [`FetchError`].
pub async fn fetch(url: &EndpointUrl, by: &By) -> Result<Bytes, FetchError> {
    tokio::time::timeout(BOUND, follow(url, by)).await.unwrap_or(Err(FetchError::Late))
}

/// What is at a URL, within 10 s and this many bytes; a redirect is refused. `config` judges the server of one with TLS.
///
/// # Errors
/// See [`FetchError`].
pub async fn get(url: &WebUrl, config: Arc<ClientConfig>, most: usize) -> Result<Bytes, FetchError> {
    let got = tokio::time::timeout(BOUND, connect(url, config, most, true)).await.unwrap_or(Err(FetchError::Late));
    match got {
        Ok(Answer::Document(document)) => Ok(document),
        Ok(Answer::Moved(status, _)) => Err(FetchError::Status(status)),
        Err(FetchError::UnknownCa) => Err(FetchError::Tls("its certificate is of no CA that is known here".to_owned())),
        Err(error) => Err(error),
    }
}

async fn follow(url: &EndpointUrl, by: &By) -> Result<Bytes, FetchError> {
    let (config, of_web) = match by {
        By::Web(config) => (config, true),
        By::Spiffe(config) => (config, false),
    };
    let mut at = url.clone();
    for redirects in 0..=MOST_REDIRECTS {
        let EndpointUrl { host, port, path } = at.clone();
        let got = connect(&WebUrl { tls: true, host, port, path }, config.clone(), document::MAX_BYTES, of_web).await;
        let told =
            |error: FetchError| if redirects == 0 { error } else { FetchError::Redirected(at.clone(), error.into()) };
        match got.map_err(told)? {
            Answer::Document(document) => return Ok(document),
            Answer::Moved(_, to) => {
                let to = to.ok_or_else(|| FetchError::Redirect("it does not say where to".to_owned()))?;
                at = moved(&at, &to).map_err(FetchError::Redirect)?;
            }
        }
    }
    Err(FetchError::Redirect(format!("it is the {}th in a row", MOST_REDIRECTS + 1)))
}

enum Answer {
    Document(Bytes),
    /// With what `Location` says.
    Moved(StatusCode, Option<String>),
}

/// `of_web`: it is a matter of CAs that are known, and an unknown one is told as such.
async fn connect(url: &WebUrl, config: Arc<ClientConfig>, most: usize, of_web: bool) -> Result<Answer, FetchError> {
    let stream = TcpStream::connect((&*url.host, url.port)).await;
    let stream = stream.map_err(|error| FetchError::Connect(error.to_string()))?;
    if !url.tls {
        return ask(url, stream, most).await;
    }
    let name = ServerName::try_from(url.host.to_string()).map_err(|error| FetchError::Connect(error.to_string()))?;
    let stream = TlsConnector::from(config).connect(name, stream).await;
    let stream = stream.map_err(|error| match of_web && is_of_unknown_ca(&error) {
        true => FetchError::UnknownCa,
        false => FetchError::Tls(tls::explain(&error)),
    })?;
    ask(url, stream, most).await
}

async fn ask<S>(url: &WebUrl, stream: S, most: usize) -> Result<Answer, FetchError>
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
    match answer.status() {
        StatusCode::OK => {
            let body = Limited::new(answer.into_body(), most).collect().await;
            let body = body.map_err(|error| FetchError::Http(error.to_string()))?;
            Ok(Answer::Document(body.to_bytes()))
        }
        status @ (StatusCode::MOVED_PERMANENTLY
        | StatusCode::FOUND
        | StatusCode::SEE_OTHER
        | StatusCode::TEMPORARY_REDIRECT
        | StatusCode::PERMANENT_REDIRECT) => {
            let location = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            Ok(Answer::Moved(status, location.map(str::to_owned)))
        }
        other => Err(FetchError::Status(other)),
    }
}

fn is_of_unknown_ca(error: &std::io::Error) -> bool {
    let error = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(error, Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)))
}

/// Where a `Location` leads (RFC 9110 s.10.2.2). It may have a query, and must keep the other rules of an endpoint's URL.
fn moved(from: &EndpointUrl, location: &str) -> Result<EndpointUrl, String> {
    let refuse = |why: &str| format!("{location}: {why}");
    let location = location.split('#').next().unwrap_or_default();
    let (place, query) = match location.split_once('?') {
        Some((place, query)) => (place, format!("?{query}")),
        None => (location, String::new()),
    };
    if !location.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(refuse("it has a character that no URL has"));
    }
    let to = if place.starts_with("//") {
        EndpointUrl::read(&format!("https:{place}"))
    } else if place.starts_with('/') {
        Ok(EndpointUrl { path: place.into(), ..from.clone() })
    } else if place.contains("://") {
        EndpointUrl::read(place)
    } else {
        let folder =
            from.path.split('?').next().and_then(|path| path.rsplit_once('/')).map_or("", |(folder, _)| folder);
        Ok(EndpointUrl { path: format!("{folder}/{place}").into(), ..from.clone() })
    };
    let to = to.map_err(|(why, _)| refuse(why))?;
    Ok(EndpointUrl { path: (to.path.to_string() + &query).into(), ..to })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_leads_to_https_and_nowhere_else() {
        let from = EndpointUrl::read("https://west.test:8443/a/b").expect("legal");
        let to = |location: &str| moved(&from, location).map(|to| to.to_string());
        for (location, url) in [
            ("https://east.test/x?y=1#z", "https://east.test:443/x?y=1"),
            ("https://east.test", "https://east.test:443/"),
            ("//east.test:1/", "https://east.test:1/"),
            ("/c?d", "https://west.test:8443/c?d"),
            ("c", "https://west.test:8443/a/c"),
        ] {
            assert_eq!(to(location).as_deref(), Ok(url), "{location}");
        }
        for (location, why) in [
            ("http://west.test/", "scheme"),
            ("ftp://west.test/", "scheme"),
            ("https://u:p@west.test/", "user information"),
            ("https:///x", "no host"),
            ("/a b", "character"),
        ] {
            assert!(to(location).expect_err(location).contains(why), "{location}");
        }
    }
}
