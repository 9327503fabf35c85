//! A CA whose certificate and key are in files.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use weft_identity::ca::{Ca, CaError, requested_key, rfc3339};
use weft_identity::certificate::{parse, validity};
use weft_identity::issuing::IssuingRequest;
use weft_model::TrustDomain;

use crate::error::UpstreamError;
use crate::fitness::{check, is_self_issued, path_from};
use crate::pem::{Stamp, certificates, private_key};
use crate::upstream::Signed;

/// Between two looks at the files.
const LOOK: Duration = Duration::from_secs(1);

/// Which files.
#[derive(Clone, Debug)]
pub struct FilesConfig {
    /// The CA's certificate, and after it those above it, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// The roots, PEM; by default those in `certificate` that signed themselves.
    pub bundle: Option<PathBuf>,
}

/// See the module. The files are read whenever something is to be signed, and kept no longer.
pub struct Files {
    config: FilesConfig,
    /// Of the files when they were read last.
    seen: Mutex<Stamp>,
}

impl Files {
    /// Nothing is read yet.
    pub fn new(config: FilesConfig) -> Self {
        let seen = Mutex::new(Stamp::default());
        Self { config, seen }
    }

    pub(crate) fn name(&self) -> String {
        self.config.certificate.display().to_string()
    }

    pub(crate) fn roots(&self) -> Result<Vec<CertificateDer<'static>>, UpstreamError> {
        let mut roots = Vec::new();
        for certificate in certificates(self.config.bundle.as_ref().unwrap_or(&self.config.certificate))? {
            let is_root =
                self.config.bundle.is_some() || is_self_issued(&certificate).map_err(|why| self.unfit(why))?;
            if is_root && !roots.contains(&certificate) {
                roots.push(certificate);
            }
        }
        Ok(roots)
    }

    pub(crate) fn sign(
        &self,
        request: &IssuingRequest,
        domain: &TrustDomain,
        life: Duration,
        now: SystemTime,
    ) -> Result<Signed, UpstreamError> {
        *self.seen() = self.stamp(); // before they are read: what changes meanwhile is read again
        let FilesConfig { certificate: file, key: key_file, .. } = &self.config;
        let mut own = certificates(file)?;
        let certificate = own.remove(0);
        let key = private_key(key_file)?;
        let mut ca = Ca::from_der(certificate.clone(), &key).map_err(|error| match error {
            CaError::OtherKey => UpstreamError::file(key_file, format!("it is not the key of {}", file.display())),
            other => UpstreamError::file(key_file, format!("{other}; P-256, P-384, Ed25519 and RSA keys can be used")),
        })?;
        let roots = self.roots()?;
        let path = path_from(&certificate, &own, &roots).map_err(|why| self.unfit(why))?;
        check(&path, domain, now).map_err(|why| self.unfit(why))?;
        let end = end_of(&path).map_err(|why| self.unfit(why))?;
        if end < now + life {
            tracing::warn!(ca = %file.display(), ends = rfc3339(end), "the upstream CA, or one above it, ends before an issuing CA would: that ends with it");
        }
        ca.not_after = end;
        let key = requested_key(request.csr()).map_err(|error| self.unfit(error.to_string()))?;
        let issuing = ca.issuing_for(&key, domain, now, life).map_err(|error| self.unfit(error.to_string()))?;
        let above = path[..path.len() - 1].to_vec();
        let root = path[path.len() - 1].clone();
        let others = roots.into_iter().filter(|other| *other != root);
        Ok(Signed { issuing, above, roots: std::iter::once(root.clone()).chain(others).collect() })
    }

    pub(crate) async fn changed(&self) {
        while self.stamp() == *self.seen() {
            tokio::time::sleep(LOOK).await;
        }
    }

    fn stamp(&self) -> Stamp {
        let FilesConfig { certificate, key, bundle } = &self.config;
        Stamp::of([certificate, key].into_iter().chain(bundle))
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Stamp> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unfit(&self, why: String) -> UpstreamError {
        UpstreamError::Unfit { what: self.name(), why }
    }
}

/// When the first of these ends.
pub(crate) fn end_of(path: &[CertificateDer<'_>]) -> Result<SystemTime, String> {
    let mut ends = Vec::with_capacity(path.len());
    for certificate in path {
        ends.push(validity(&parse(certificate).map_err(|error| error.to_string())?).1);
    }
    ends.into_iter().min().ok_or_else(|| "there is nobody".to_owned())
}
