//! By what a workload proves at first contact which one it is, and how it knows the right control plane.
//!
//! Files are read each time that they are needed: certificates of machines, tokens and roots are replaced while a sidecar runs.

use std::fs;
use std::path::PathBuf;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use weft_model::{Subject, TrustDomain};

use crate::document::Document;
use crate::fault::PeerError;
use crate::join_token::JoinToken;
use crate::jwt::MAX_TOKEN;
use crate::machine::{Binding, MachineKey};
use crate::proto;
use crate::svid::TrustBundle;
use crate::x509pop::NodeCertificate;

/// By what a workload proves at first contact which one it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A join token, good for once. It names the root of the mesh.
    Token(JoinToken),
    /// Something that this machine has from elsewhere, good for as long as that is.
    Node(NodeProof),
}

/// What a machine has from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeProof {
    /// What it proves by.
    pub by: NodeProofFiles,
    /// The roots of the mesh, by which the control plane is known: PEM, or a SPIFFE bundle document.
    pub server_ca: PathBuf,
}

/// Which files it proves by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeProofFiles {
    /// x509pop: PEM of a certificate with what leads to its CA, and of its key.
    Certificate {
        /// The certificate.
        chain: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// OIDC: a JWT.
    Jwt(PathBuf),
}

/// A file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot use {what} {}: {why}", .file.display())]
pub struct ProofError {
    /// What it is for.
    pub what: &'static str,
    /// Which.
    pub file: PathBuf,
    /// Why not.
    pub why: String,
}

impl NodeProof {
    /// What it is called in the log.
    pub(crate) fn name(&self) -> &'static str {
        match self.by {
            NodeProofFiles::Certificate { .. } => "the machine's certificate",
            NodeProofFiles::Jwt(_) => "the token of an issuer",
        }
    }

    /// The roots by which the control plane is known.
    pub(crate) fn roots(&self) -> Result<Roots, ProofError> {
        let failed =
            |why| ProofError { what: "the roots of the mesh (--server-ca)", file: self.server_ca.clone(), why };
        let text = fs::read(&self.server_ca).map_err(|error| failed(error.to_string()))?;
        if text.trim_ascii_start().first() == Some(&b'{') {
            return Ok(Roots::Document(text));
        }
        let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        let roots = roots.map_err(|error| failed(error.to_string()))?;
        if roots.is_empty() {
            return Err(failed("there is neither a certificate in PEM nor a SPIFFE bundle document in it".to_owned()));
        }
        Ok(Roots::Pem(roots))
    }

    /// Adds the proof to a question on one connection.
    pub(crate) fn add_to(
        &self,
        question: &mut proto::AttestRequest,
        binding: &Binding,
        subject: &Subject,
        machine: &MachineKey,
    ) -> Result<(), ProofError> {
        match &self.by {
            NodeProofFiles::Certificate { chain, key } => {
                let what = "the machine's certificate and key (--attest-cert, --attest-key)";
                let node = NodeCertificate::load(chain, key).map_err(|(file, why)| ProofError { what, file, why })?;
                let proof = node.prove(binding, subject, &question.csr, &machine.public_key());
                question.certificate = Some(proof.map_err(|why| ProofError { what, file: key.clone(), why })?);
            }
            NodeProofFiles::Jwt(file) => {
                let failed = |why| ProofError { what: "the token (--attest-jwt)", file: file.clone(), why };
                let text = fs::read_to_string(file).map_err(|error| failed(error.to_string()))?;
                let token = text.trim();
                if token.is_empty() || token.len() > MAX_TOKEN {
                    return Err(failed(format!("it has {} bytes, and a token 1 to {MAX_TOKEN}", token.len())));
                }
                token.clone_into(&mut question.jwt);
            }
        }
        Ok(())
    }
}

/// The roots of a mesh, as somebody has put them on this machine.
#[derive(Debug)]
pub(crate) enum Roots {
    /// Certificates.
    Pem(Vec<CertificateDer<'static>>),
    /// A SPIFFE bundle document.
    Document(Vec<u8>),
}

impl Roots {
    /// As those of this trust domain.
    pub(crate) fn bundle(&self, domain: &TrustDomain) -> Result<TrustBundle, PeerError> {
        let bundle = match self {
            Self::Pem(roots) => TrustBundle::new(domain.clone(), roots.clone()).map_err(|error| error.to_string()),
            Self::Document(text) => Document::read(domain, text).map(|document| document.bundle),
        };
        bundle.map_err(PeerError::Roots)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::ca::Ca;
    use crate::document;
    use crate::files::certificates_pem;

    #[test]
    fn the_roots_are_read_as_pem_or_as_a_bundle_document_and_count_for_their_own_trust_domain() {
        let folder = tempfile::tempdir().unwrap();
        let (domain, other): (TrustDomain, TrustDomain) = ("a.test".parse().unwrap(), "b.test".parse().unwrap());
        let root = Ca::root(&domain, SystemTime::now(), Duration::from_secs(3600)).unwrap();
        let bundle = TrustBundle::new(domain.clone(), vec![root.certificate().clone()]).unwrap();
        let file = folder.path().join("roots");
        let proof = NodeProof { by: NodeProofFiles::Jwt(file.clone()), server_ca: file.clone() };
        for text in [certificates_pem(bundle.roots()), format!("\n{}", document::write(&bundle, None))] {
            fs::write(&file, text).unwrap();
            let roots = proof.roots().unwrap();
            assert_eq!(roots.bundle(&domain).unwrap().roots(), bundle.roots());
            assert!(matches!(roots.bundle(&other), Err(PeerError::Roots(_))));
        }
        fs::write(&file, "nothing").unwrap();
        assert!(proof.roots().unwrap_err().to_string().contains("--server-ca"));
        fs::remove_file(&file).unwrap();
        assert_eq!(proof.roots().unwrap_err().file, file);
    }
}
