//! A root that is kept apart: a request is written to a file, somebody carries it to the root and what it signed back.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use weft_identity::issuing::IssuingRequest;
use weft_model::TrustDomain;

use crate::error::UpstreamError;
use crate::fitness::{check, path_from};
use crate::pem::{Stamp, certificates, certificates_in, text};
use crate::upstream::Signed;

/// Between two looks at the files.
const LOOK: Duration = Duration::from_secs(1);

/// Which files.
#[derive(Clone, Debug)]
pub struct OfflineConfig {
    /// The roots, PEM, without their keys.
    pub roots: PathBuf,
    /// Where the request is written, PEM.
    pub request: PathBuf,
    /// Where what was signed is kept, PEM.
    pub chain: PathBuf,
}

/// See the module.
pub struct Offline {
    config: OfflineConfig,
    seen: Mutex<Stamp>,
    /// The request that waits, and for which trust domain.
    waits: Mutex<Option<Waits>>,
}

struct Waits {
    /// The key that has to be certified, SubjectPublicKeyInfo in DER.
    key: Vec<u8>,
    domain: TrustDomain,
}

impl Offline {
    /// Nothing waits yet.
    pub fn new(config: OfflineConfig) -> Self {
        let offline = Self { config, seen: Mutex::default(), waits: Mutex::new(None) };
        // A person is not to be asked again because the server was started again.
        *offline.seen.lock().unwrap_or_else(PoisonError::into_inner) = offline.stamp();
        offline
    }

    pub(crate) fn name(&self) -> String {
        format!("{} (offline)", self.config.roots.display())
    }

    pub(crate) fn roots(&self) -> Result<Vec<CertificateDer<'static>>, UpstreamError> {
        certificates(&self.config.roots)
    }

    /// The file of a request that waits to be signed.
    pub fn waiting(&self) -> Option<PathBuf> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|_| self.config.request.clone())
    }

    pub(crate) fn sign(
        &self,
        request: &IssuingRequest,
        domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Signed, UpstreamError> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = self.stamp();
        if let Ok(chain) = certificates(&self.config.chain)
            && request.is_for(&chain[0])
        {
            let signed = self.judge(&chain, domain, now)?;
            *self.waits.lock().unwrap_or_else(PoisonError::into_inner) = None;
            return Ok(signed);
        }
        let file = &self.config.request;
        let wanted = text("CERTIFICATE REQUEST", request.csr());
        if std::fs::read_to_string(file).ok().as_ref() != Some(&wanted) {
            std::fs::write(file, wanted).map_err(|error| UpstreamError::file(file, error))?;
        }
        *self.waits.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Waits { key: request.public_key(), domain: domain.clone() });
        Err(UpstreamError::Waiting { request: file.clone() })
    }

    /// Takes what the root has signed: the issuing CA first, then those between it and the root.
    ///
    /// # Errors
    /// In words: nothing waits, it is for another request, or the root or its rules do not allow it.
    pub fn install(&self, chain: &str, now: SystemTime) -> Result<(), String> {
        let chain = certificates_in(chain.as_bytes())?;
        let domain = {
            let waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
            let waits = waits.as_ref().ok_or("no request waits to be signed")?;
            let issuing = weft_identity::certificate::parse(&chain[0]).map_err(|error| error.to_string())?;
            if issuing.public_key().raw != waits.key {
                let file = self.config.request.display();
                return Err(format!(
                    "the first certificate is not for the request that waits in {file}: have that one signed"
                ));
            }
            waits.domain.clone()
        };
        self.judge(&chain, &domain, now).map_err(|error| error.to_string())?;
        let all: String = chain.iter().map(|one| text("CERTIFICATE", one)).collect();
        let file = &self.config.chain;
        std::fs::write(file, all).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
        Ok(())
    }

    fn judge(
        &self,
        chain: &[CertificateDer<'static>],
        domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Signed, UpstreamError> {
        let unfit = |why| UpstreamError::Unfit { what: self.name(), why };
        let roots = self.roots()?;
        let path = path_from(&chain[0], &chain[1..], &roots).map_err(unfit)?;
        let [issuing, above @ .., root] = &path[..] else {
            return Err(unfit("the chain is a root alone".to_owned()));
        };
        check(&path[1..], domain, now).map_err(unfit)?;
        let others = roots.iter().filter(|other| *other != root).cloned();
        let roots = std::iter::once(root.clone()).chain(others).collect();
        Ok(Signed { issuing: issuing.clone(), above: above.to_vec(), roots })
    }

    pub(crate) async fn changed(&self) {
        while self.stamp() == *self.seen.lock().unwrap_or_else(PoisonError::into_inner) {
            tokio::time::sleep(LOOK).await;
        }
    }

    fn stamp(&self) -> Stamp {
        Stamp::of([&self.config.roots, &self.config.chain])
    }
}
