//! A machine proves to hold the key of a certificate that somebody else has issued to it (x509pop: proof of possession).
//!
//! There is no challenge to be sent and answered: both ends export 32 bytes from their TLS connection (RFC 8446 s.7.5), which come from the
//! random numbers of both and from the certificate that the server has shown. A signature over these is fresh, is for that very server, and
//! is of no use to whoever stands between (RFC 9266 has the same idea).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};
use weft_model::Subject;
use zeroize::Zeroizing;

use crate::crypto;
use crate::machine::Binding;
use crate::proto;

/// What a signature is for, so that it is good for nothing else.
const PURPOSE: &[u8] = b"weft x509pop 1\0";
/// P-256, P-384, Ed25519, and RSA from 2048 bits on.
const SCHEMES: [SignatureScheme; 6] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
];
/// A chain has two or three certificates.
const MOST_CERTIFICATES: usize = 10;
const MOST_BYTES: usize = 64 << 10;

/// A certificate and its key on this machine.
pub(crate) struct NodeCertificate(Arc<CertifiedKey>);

impl NodeCertificate {
    /// Reads PEM files: the certificate with what leads to its CA, and its key (PKCS#8, PKCS#1 or SEC 1).
    ///
    /// # Errors
    /// Which file cannot be used, and why.
    pub(crate) fn load(certificate: &Path, key: &Path) -> Result<Self, (PathBuf, String)> {
        let of_certificate = |why: String| (certificate.to_owned(), why);
        let text = fs::read(certificate).map_err(|error| of_certificate(error.to_string()))?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        let chain = chain.map_err(|error| of_certificate(error.to_string()))?;
        if chain.is_empty() {
            return Err(of_certificate("there is no certificate in it".to_owned()));
        }
        let of_key = |why: String| (key.to_owned(), why);
        let text = Zeroizing::new(fs::read(key).map_err(|error| of_key(error.to_string()))?);
        let der = PrivateKeyDer::from_pem_slice(&text).map_err(|error| of_key(error.to_string()))?;
        let certified = CertifiedKey::from_der(chain, der, crypto::provider());
        certified.map(|certified| Self(Arc::new(certified))).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => of_key(format!("it is not the key of {}", certificate.display())),
            other => of_key(other.to_string()),
        })
    }

    /// Proves on one connection that whoever holds the key asks for a certificate of `subject` by this signing request, together with the
    /// key of this machine.
    ///
    /// # Errors
    /// In words: the key is of another kind, or does not sign.
    pub(crate) fn prove(
        &self,
        binding: &Binding,
        subject: &Subject,
        csr: &[u8],
        machine: &[u8],
    ) -> Result<proto::NodeCertificate, String> {
        let signer = self.0.key.choose_scheme(&SCHEMES);
        let signer = signer.ok_or("its key is of a kind that is not taken: P-256, P-384, Ed25519 and RSA are")?;
        let signature = signer.sign(&message(binding, subject, csr, machine)).map_err(|error| error.to_string())?;
        Ok(proto::NodeCertificate {
            chain: self.0.cert.iter().map(|certificate| certificate.to_vec()).collect(),
            scheme: u32::from(u16::from(signer.scheme())),
            signature,
        })
    }
}

/// Why somebody has not proved to hold the key of a certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PopError {
    /// None was sent, or too much.
    #[error(
        "send a certificate and what leads to its CA, at most {MOST_CERTIFICATES} with {MOST_BYTES} bytes together"
    )]
    Size,
    /// It cannot be read.
    #[error("the machine's certificate is malformed: {0}")]
    Malformed(String),
    /// Neither of those that are taken.
    #[error("the key of the machine's certificate is of a kind that is not taken: P-256, P-384, Ed25519 and RSA are")]
    Scheme,
    /// Another key's, or for something else.
    #[error(
        "the signature by the key of the machine's certificate is wrong, or was made for another connection, service or request"
    )]
    Signature,
}

/// The chain of whoever has proved to hold the key of its first certificate. Who issued that is not looked at.
///
/// # Errors
/// It is not proved.
pub fn verify(
    proof: &proto::NodeCertificate,
    binding: &Binding,
    subject: &Subject,
    csr: &[u8],
    machine: &[u8],
) -> Result<Vec<CertificateDer<'static>>, PopError> {
    let bytes: usize = proof.chain.iter().map(Vec::len).sum();
    if proof.chain.is_empty() || proof.chain.len() > MOST_CERTIFICATES || bytes > MOST_BYTES {
        return Err(PopError::Size);
    }
    let chain: Vec<CertificateDer<'static>> = proof.chain.iter().cloned().map(CertificateDer::from).collect();
    let leaf = webpki::EndEntityCert::try_from(&chain[0]).map_err(|error| PopError::Malformed(error.to_string()))?;
    let scheme = u16::try_from(proof.scheme).map(SignatureScheme::from).map_err(|_| PopError::Scheme)?;
    let mapping = crypto::provider().signature_verification_algorithms.mapping;
    let algorithms = mapping.iter().find(|(known, _)| *known == scheme && SCHEMES.contains(known));
    let (_, algorithms) = algorithms.ok_or(PopError::Scheme)?;
    let message = message(binding, subject, csr, machine);
    let is_good = |algorithm: &&'static dyn rustls::pki_types::SignatureVerificationAlgorithm| {
        leaf.verify_signature(*algorithm, &message, &proof.signature).is_ok()
    };
    if algorithms.iter().any(is_good) { Ok(chain) } else { Err(PopError::Signature) }
}

fn message(binding: &Binding, subject: &Subject, csr: &[u8], machine: &[u8]) -> Vec<u8> {
    [PURPOSE, binding, &Sha256::digest(csr), &Sha256::digest(machine), subject.to_string().as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// Writes a certificate for this key, and the key.
    fn files(folder: &Path, key: &KeyPair) -> (PathBuf, PathBuf) {
        let certificate = CertificateParams::new(vec!["m1.example".into()]).unwrap().self_signed(key).unwrap();
        let (chain, private) = (folder.join("node.pem"), folder.join("node.key"));
        fs::write(&chain, certificate.pem()).unwrap();
        fs::write(&private, key.serialize_pem()).unwrap();
        (chain, private)
    }

    fn subject(text: &str) -> Subject {
        text.parse().unwrap()
    }

    #[test]
    fn a_proof_is_good_on_its_connection_for_its_request_machine_and_service_alone() {
        let folder = tempfile::tempdir().unwrap();
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let (chain, key) = files(folder.path(), &KeyPair::generate_for(algorithm).unwrap());
            let board = subject("prod/board");
            let node = NodeCertificate::load(&chain, &key).unwrap();
            let proof = node.prove(&[1; 32], &board, b"csr", b"machine").unwrap();
            let judge = |binding, who: &str, csr: &[u8], machine: &[u8]| {
                verify(&proof, &[binding; 32], &subject(who), csr, machine).map(|chain| chain.len())
            };
            assert_eq!(judge(1, "prod/board", b"csr", b"machine"), Ok(1));
            assert_eq!(judge(2, "prod/board", b"csr", b"machine"), Err(PopError::Signature));
            assert_eq!(judge(1, "prod/web", b"csr", b"machine"), Err(PopError::Signature));
            assert_eq!(judge(1, "prod/board", b"other", b"machine"), Err(PopError::Signature));
            assert_eq!(judge(1, "prod/board", b"csr", b"other"), Err(PopError::Signature));
            for (scheme, why) in [(0x0201, PopError::Scheme), (0x0401, PopError::Scheme), (70_000, PopError::Scheme)] {
                let other = proto::NodeCertificate { scheme, ..proof.clone() };
                assert_eq!(verify(&other, &[1; 32], &board, b"csr", b"machine"), Err(why));
            }
            let none = proto::NodeCertificate { chain: Vec::new(), ..proof.clone() };
            assert_eq!(verify(&none, &[1; 32], &board, b"csr", b"machine"), Err(PopError::Size));
            let many = proto::NodeCertificate { chain: vec![proof.chain[0].clone(); 11], ..proof.clone() };
            assert_eq!(verify(&many, &[1; 32], &board, b"csr", b"machine"), Err(PopError::Size));
            let junk = proto::NodeCertificate { chain: vec![b"x".to_vec()], ..proof.clone() };
            assert!(matches!(verify(&junk, &[1; 32], &board, b"csr", b"machine"), Err(PopError::Malformed(_))));
        }
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (chain, key) = files(folder.path(), &KeyPair::generate().unwrap());
        let refused = |chain: &Path, key: &Path| NodeCertificate::load(chain, key).err().expect("it cannot be used");
        let gone = folder.path().join("gone.pem");
        assert_eq!(refused(&gone, &key).0, gone);
        assert_eq!(refused(&chain, &gone).0, gone);
        assert!(refused(&key, &key).1.contains("no certificate"));
        let other = folder.path().join("other");
        fs::create_dir(&other).unwrap();
        let (_, other) = files(&other, &KeyPair::generate().unwrap());
        let (file, why) = refused(&chain, &other);
        assert!(file == other && why.contains("not the key of"), "{why}");
    }
}
