//! The bundle endpoint: anybody may fetch the bundle of this trust domain, over HTTPS and by GET (SPIFFE Federation s.5.2).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use weft_identity::{LiveIdentity, TrustBundle, document, tls};

/// Connections at once; more wait in the listener's backlog.
const CONNECTIONS: usize = 256;
/// From the first byte to the last of an answer, handshake included: a bundle is some kilobytes.
const BOUND: Duration = Duration::from_secs(30);
/// After `accept` failed: out of file descriptors, for one.
const PAUSE: Duration = Duration::from_millis(50);

/// By what the endpoint proves who it is.
#[derive(Clone, Debug)]
pub enum Certificate {
    /// `https_spiffe`: this process's own X.509-SVID of the moment.
    Spiffe(Arc<LiveIdentity>),
    /// `https_web`: PEM files of certificate chain and key, read again when they change.
    Web {
        /// Leaf first.
        chain: PathBuf,
        /// PKCS#8, PKCS#1 or SEC1.
        key: PathBuf,
    },
}

/// What is served.
pub struct Endpoint {
    /// The bundle of the moment.
    pub bundle: Box<dyn Fn() -> Arc<TrustBundle> + Send + Sync>,
    /// `spiffe_refresh_hint`: when clients are to look again.
    pub refresh_hint: Duration,
}

impl Endpoint {
    /// Serves until the task is aborted.
    ///
    /// # Errors
    /// The files of a certificate cannot be used.
    pub fn serve(self, listener: TcpListener, certificate: Certificate) -> io::Result<tokio::task::JoinHandle<()>> {
        let config = match certificate {
            Certificate::Spiffe(identity) => tls::public_server_config(identity),
            Certificate::Web { chain, key } => web(FileCertificate::open(chain, key)?),
        };
        Ok(tokio::spawn(accept(listener, TlsAcceptor::from(config), Arc::new(self))))
    }

    /// The answer to one request: the document by GET and HEAD on `/`, whatever the request says beside it.
    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let refuse = |status: StatusCode, text: &'static str| {
            let mut response = Response::new(Full::from(text));
            *response.status_mut() = status;
            response
        };
        if request.uri().path() != "/" {
            return refuse(StatusCode::NOT_FOUND, "the trust bundle is at /\n");
        }
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let mut response = refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let document = document::write(&(self.bundle)(), Some(self.refresh_hint));
        let mut response = Response::new(Full::from(document)); // hyper leaves the body of an answer to HEAD out
        let json = header::HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        response
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, endpoint: Arc<Endpoint>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the bundle endpoint cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (acceptor, endpoint) = (acceptor.clone(), endpoint.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(BOUND, connection(acceptor, stream, &endpoint)).await {
                Ok(Ok(())) => tracing::debug!(%from, "the trust bundle was fetched"),
                Ok(Err(why)) => tracing::debug!(%from, why, "a connection to the bundle endpoint failed"),
                Err(_) => tracing::debug!(%from, "a connection to the bundle endpoint took longer than 30 s"),
            }
            drop(permit);
        });
    }
}

async fn connection(acceptor: TlsAcceptor, stream: TcpStream, endpoint: &Arc<Endpoint>) -> Result<(), String> {
    let stream = acceptor.accept(stream).await.map_err(|error| error.to_string())?;
    let endpoint = endpoint.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = endpoint.answer(&request);
        async move { Ok::<_, std::convert::Infallible>(answer) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).max_buf_size(16 << 10).keep_alive(false);
    http.serve_connection(TokioIo::new(stream), service).await.map_err(|error| error.to_string())
}

fn web(certificate: FileCertificate) -> Arc<ServerConfig> {
    let config = ServerConfig::builder_with_provider(tls::provider().clone())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("aws-lc has suites and groups of both")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificate));
    Arc::new(tls::without_resumption(config))
}

/// A certificate of files, read again when one of them is another.
#[derive(Debug)]
struct FileCertificate {
    chain: PathBuf,
    key: PathBuf,
    present: Mutex<(Changed, Arc<CertifiedKey>)>,
}

/// When the files were written.
type Changed = [Option<SystemTime>; 2];

impl FileCertificate {
    fn open(chain: PathBuf, key: PathBuf) -> io::Result<Self> {
        let changed = Self::changed(&chain, &key);
        let present = Mutex::new((changed, read(&chain, &key)?));
        Ok(Self { chain, key, present })
    }

    fn changed(chain: &Path, key: &Path) -> Changed {
        [chain, key].map(|path| std::fs::metadata(path).and_then(|file| file.modified()).ok())
    }

    fn present(&self) -> Arc<CertifiedKey> {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = Self::changed(&self.chain, &self.key);
        if changed != present.0 {
            present.0 = changed;
            match read(&self.chain, &self.key) {
                Ok(certificate) => present.1 = certificate,
                // One of the two may just be written: the next change is looked at again.
                Err(error) => tracing::warn!(%error, "the bundle endpoint goes on with the certificate of before"),
            }
        }
        present.1.clone()
    }
}

impl ResolvesServerCert for FileCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.present())
    }
}

fn read(chain: &Path, key: &Path) -> io::Result<Arc<CertifiedKey>> {
    let bad =
        |path: &Path, why: String| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", path.display()));
    let certificates = CertificateDer::pem_file_iter(chain).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = certificates.map_err(|error| bad(chain, error.to_string()))?;
    if certificates.is_empty() {
        return Err(bad(chain, "there is no certificate in it".into()));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key, error.to_string()))?;
    let certified = CertifiedKey::from_der(certificates, private, tls::provider());
    certified.map(Arc::new).map_err(|error| bad(key, format!("it does not fit the certificate: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Endpoint {
        let bundle = TrustBundle::new("west.test".parse().expect("legal"), Vec::new()).expect("an empty bundle");
        let bundle = Arc::new(bundle.with_sequence(7));
        Endpoint { bundle: Box::new(move || bundle.clone()), refresh_hint: Duration::from_secs(60) }
    }

    #[test]
    fn only_get_and_head_of_one_path_are_answered() {
        for (method, path, status) in [
            ("GET", "/", 200),
            ("HEAD", "/?x", 200),
            ("POST", "/", 405),
            ("GET", "/bundle", 404),
            ("PUT", "/bundle", 404),
        ] {
            let request = Request::builder().method(method).uri(path).body(()).expect("a request");
            let answer = endpoint().answer(&request);
            assert_eq!(answer.status(), status, "{method} {path}");
            assert_eq!(answer.headers().get(header::CONTENT_TYPE).is_some(), status == 200);
            assert_eq!(answer.headers().get(header::ALLOW).is_some(), status == 405);
        }
    }

    #[test]
    fn a_certificate_of_files_is_read_again_when_it_changes() {
        let folder = tempfile::tempdir().expect("a folder");
        let (chain, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let write = |age: u64| {
            let pair = rcgen::generate_simple_self_signed(["west.test".to_owned()]).expect("a certificate");
            for (path, text) in [(&chain, pair.cert.pem()), (&key, pair.signing_key.serialize_pem())] {
                std::fs::write(path, text).expect("written");
                let file = std::fs::File::open(path).expect("there");
                file.set_modified(SystemTime::now() - Duration::from_secs(age)).expect("a time");
            }
            pair.cert.der().clone()
        };
        let first = write(20);
        let certificate = FileCertificate::open(chain.clone(), key.clone()).expect("readable");
        assert_eq!(certificate.present().cert, [first]);
        let second = write(10);
        assert_eq!(certificate.present().cert.first(), Some(&second));
        std::fs::write(&chain, "nothing").expect("written");
        assert_eq!(certificate.present().cert, [second], "it goes on with the one of before");
        assert!(FileCertificate::open(chain, key).is_err());
    }
}
