//! Whoever signs, behind one face.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use weft_identity::issuing::IssuingRequest;
use weft_model::TrustDomain;

use crate::error::UpstreamError;
use crate::files::{Files, FilesConfig};
use crate::offline::{Offline, OfflineConfig};
use crate::vault::{Vault, VaultConfig};

/// What an upstream CA gave.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The issuing CA.
    pub issuing: CertificateDer<'static>,
    /// Those between it and the root, the nearest first; without the root.
    pub above: Vec<CertificateDer<'static>>,
    /// What is to be trusted: the root that it leads to, and perhaps others.
    pub roots: Vec<CertificateDer<'static>>,
}

/// Which CA it is, and how it is reached.
#[derive(Clone, Debug)]
pub enum UpstreamConfig {
    /// Its key is in a file.
    Files(FilesConfig),
    /// The PKI of an OpenBao or Vault.
    Vault(VaultConfig),
    /// It is kept apart, and signs by hand.
    Offline(OfflineConfig),
}

/// A CA outside of the mesh.
pub enum Upstream {
    /// Its key is in a file.
    Files(Files),
    /// The PKI of an OpenBao or Vault.
    Vault(Vault),
    /// It is kept apart, and signs by hand.
    Offline(Offline),
}

impl Upstream {
    /// Nothing is read or asked yet.
    pub fn new(config: UpstreamConfig) -> Self {
        match config {
            UpstreamConfig::Files(config) => Self::Files(Files::new(config)),
            UpstreamConfig::Vault(config) => Self::Vault(Vault::new(config)),
            UpstreamConfig::Offline(config) => Self::Offline(Offline::new(config)),
        }
    }

    /// What it is called in what people read.
    pub fn name(&self) -> String {
        match self {
            Self::Files(files) => files.name(),
            Self::Vault(vault) => vault.name(),
            Self::Offline(offline) => offline.name(),
        }
    }

    /// Has an issuing CA signed that lives for `life`, or as long as those above it allow. What it gave is not judged yet as peers will.
    ///
    /// # Errors
    /// See [`UpstreamError`]; the same request may be given again.
    pub async fn sign(
        &self,
        request: &IssuingRequest,
        domain: &TrustDomain,
        life: Duration,
        now: SystemTime,
    ) -> Result<Signed, UpstreamError> {
        match self {
            Self::Files(files) => files.sign(request, domain, life, now),
            Self::Vault(vault) => vault.sign(request, life).await,
            Self::Offline(offline) => offline.sign(request, domain, now),
        }
    }

    /// The roots that are to be trusted whatever it signs with, where that is known without asking it.
    ///
    /// # Errors
    /// The file that has them cannot be used.
    pub fn roots(&self) -> Result<Vec<CertificateDer<'static>>, UpstreamError> {
        match self {
            Self::Files(files) => files.roots(),
            Self::Vault(_) => Ok(Vec::new()),
            Self::Offline(offline) => offline.roots(),
        }
    }

    /// The same request is to be kept until it is signed, since that takes a person.
    pub fn is_by_hand(&self) -> bool {
        matches!(self, Self::Offline(_))
    }

    /// Waits until it may sign with another CA, or has other roots, than when it was asked last.
    pub async fn changed(&self) {
        match self {
            Self::Files(files) => files.changed().await,
            Self::Vault(vault) => vault.changed().await,
            Self::Offline(offline) => offline.changed().await,
        }
    }
}
