//! How a remote is asked over HTTPS: whose certificates are trusted, how long silence may last, and what a refusal means to
//! whoever runs the control plane. Certificates are always verified: Git's `http.sslVerify` has no say here.

use std::any::Any;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gix::protocol::transport::client::blocking_io::http;
use reqwest::Certificate;
use reqwest::blocking::ClientBuilder;
use rustls::CertificateError;

use super::error::{GitError, chain};
use super::url::{safe, without_secrets};

/// What the transport is to do with `url`. The authority is `ca`, else what Git is configured with (`http.sslCAInfo`,
/// `GIT_SSL_CAINFO`), else the system's. The file is read every time, so that it can be replaced.
pub(super) fn options(
    repo: &gix::Repository,
    url: &str,
    ca: Option<&Path>,
    patience: Duration,
) -> Result<Box<dyn Any>, GitError> {
    let configured = repo
        .transport_options(url, None)
        .map_err(|e| GitError::Fetch { url: safe(url), why: without_secrets(&chain(&e), url) })?;
    let mut options = match configured.map(|options| options.downcast::<http::Options>()) {
        Some(Ok(options)) => *options,
        _ => http::Options::default(),
    };
    let ca = ca.map(Path::to_owned).or_else(|| options.ssl_ca_info.clone()).filter(|file| !file.as_os_str().is_empty());
    let roots = ca.map(roots).transpose()?;
    let configure = move |client: ClientBuilder| {
        let client = client.connect_timeout(patience).timeout(patience);
        Ok(match &roots {
            Some(roots) => client.tls_certs_only(roots.iter().cloned()),
            None => client,
        })
    };
    let backend = http::reqwest::Options { configure_client: Some(Box::new(configure)), configure_request: None };
    options.backend = Some(Arc::new(Mutex::new(backend)));
    Ok(Box::new(options))
}

fn roots(file: PathBuf) -> Result<Vec<Certificate>, GitError> {
    let failed = |why: String| GitError::Authority { file: file.display().to_string(), why };
    let text = std::fs::read(&file).map_err(|e| failed(e.to_string()))?;
    match Certificate::from_pem_bundle(&text) {
        Ok(roots) if !roots.is_empty() => Ok(roots),
        Ok(_) => Err(failed("there is no PEM certificate in it".to_owned())),
        Err(error) => Err(failed(chain(&error))),
    }
}

/// Why a fetch of `url` failed. `login_asked` says that the server wanted to know who asks.
pub(super) fn explain(error: &gix::Error, url: &str, login_asked: bool, patience: Duration) -> GitError {
    let place = safe(url);
    if let Some(rustls::Error::InvalidCertificate(reason)) = find(error) {
        return GitError::Certificate { url: place, why: untrusted(reason) };
    }
    let why = match find::<reqwest::Error>(error) {
        Some(request) if request.is_timeout() => format!("no answer within {} s", patience.as_secs_f32()),
        Some(request) => match request.status() {
            Some(status) if status == 404 => {
                "404 Not Found; is the path right? some servers say this also of a repository that the login may not read"
                    .to_owned()
            }
            Some(status) => format!("the server answers {status}"),
            // What it was asking is known; the last cause says what happened.
            None => causes(request).last().map_or_else(|| chain(request), |cause| cause.to_string()),
        },
        None if login_asked => {
            let given = gix::url::parse(url).is_ok_and(|url| url.password().is_some());
            return GitError::Login { given, url: place };
        }
        None => chain(error),
    };
    GitError::Fetch { why: without_secrets(&why, url), url: place }
}

/// What is wrong with a certificate, and what to do.
fn untrusted(reason: &CertificateError) -> String {
    match reason {
        CertificateError::UnknownIssuer => {
            "it was issued by an authority that is not trusted here; name the authority's certificate with --repo-ca"
                .to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet; is this machine's clock right?".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is not for the host in the URL".to_owned()
        }
        other => other.to_string(),
    }
}

/// The first cause of a type, wherever it is wrapped.
fn find<T: Error + 'static>(error: &gix::Error) -> Option<&T> {
    error.iter_errors().flat_map(causes).find_map(|cause| cause.downcast_ref())
}

/// An error and what it wraps, outermost first. What an I/O error wraps is not what it calls its source.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| {
        let error: &'a (dyn Error + 'static) = *error;
        match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => error.source(),
        }
    })
}
