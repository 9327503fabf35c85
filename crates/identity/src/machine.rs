//! The key of a machine: by it a workload that was enrolled once comes back by itself, also when its certificate has run out.
//!
//! The key is made beside the first identity and never leaves the machine; the control plane keeps its public half. What is signed with it
//! is bound to one TLS connection, so a signature that somebody records is of no use on another.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use sha2::{Digest, Sha256};
use weft_model::Subject;
use zeroize::Zeroizing;

use crate::proto;
use crate::saved::write_private;

const FILE: &str = "machine.key";
/// What both ends export from a TLS connection to bind a signature to it (RFC 8446 s.7.5; RFC 5705 s.4 on labels of one's own).
const LABEL: &[u8] = b"EXPERIMENTAL weft machine";
/// What a signature is for, so that it is good for nothing else.
const PURPOSE: &[u8] = b"weft machine 1\0";

/// Which machine it is: the first 16 hexadecimal digits of the SHA-256 of its key's SubjectPublicKeyInfo.
pub type MachineId = String;

/// 32 bytes that only the two ends of one TLS connection know.
pub type Binding = [u8; 32];

/// What binds a signature to this connection.
///
/// # Errors
/// The handshake is not over.
pub fn binding<D>(connection: &rustls::ConnectionCommon<D>) -> Result<Binding, rustls::Error> {
    connection.export_keying_material([0; 32], LABEL, None)
}

/// A key of this machine. Neither `Debug` nor any message shows it.
pub struct MachineKey(EcdsaKeyPair);

impl std::fmt::Debug for MachineKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MachineKey({})", self.id())
    }
}

impl MachineKey {
    /// The key in the state folder; it is made (P-256, mode 0600) if there is none.
    ///
    /// # Errors
    /// The file cannot be read or written, or is no key.
    pub fn open(state: &Path) -> io::Result<Self> {
        if let Some(key) = Self::load(state)? {
            return Ok(key);
        }
        let refused = |_| io::Error::other("the system gives no random numbers");
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new()).map_err(refused)?;
        write_private(&state.join(FILE), pkcs8.as_ref())?;
        Self::from_pkcs8(pkcs8.as_ref())
    }

    /// The key in the state folder, if there is one.
    ///
    /// # Errors
    /// The file cannot be read, or is no key.
    pub fn load(state: &Path) -> io::Result<Option<Self>> {
        match fs::read(state.join(FILE)).map(Zeroizing::new) {
            Ok(pkcs8) => Self::from_pkcs8(&pkcs8).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn from_pkcs8(pkcs8: &[u8]) -> io::Result<Self> {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8);
        key.map(Self).map_err(|error| io::Error::new(ErrorKind::InvalidData, format!("{FILE} is no key: {error}")))
    }

    /// Which machine this is.
    pub fn id(&self) -> MachineId {
        machine_id(&self.public_key())
    }

    /// SubjectPublicKeyInfo, DER.
    pub(crate) fn public_key(&self) -> Vec<u8> {
        let der: Result<PublicKeyX509Der<'_>, _> = self.0.public_key().as_der();
        der.map(|der| der.as_ref().to_vec()).unwrap_or_default() // of a key that was made it always is
    }

    /// Proves on one connection that this machine asks for a certificate of `subject` by this signing request.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn sign(&self, binding: &Binding, subject: &Subject, csr: &[u8]) -> io::Result<proto::Machine> {
        let signature = self.0.sign(&SystemRandom::new(), &message(binding, subject, csr));
        let signature = signature.map_err(|_| io::Error::other("the machine's key does not sign"))?;
        Ok(proto::Machine { public_key: self.public_key(), signature: signature.as_ref().to_vec() })
    }
}

/// The machine whose key has signed for this request on this connection.
///
/// # Errors
/// It is another key's signature, or for something else.
pub fn verify(
    machine: &proto::Machine,
    binding: &Binding,
    subject: &Subject,
    csr: &[u8],
) -> Result<MachineId, BadSignature> {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &machine.public_key)
        .verify(&message(binding, subject, csr), &machine.signature)
        .map_err(|_| BadSignature)?;
    Ok(machine_id(&machine.public_key))
}

/// A signature that proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature of the machine's key is wrong, or was made for another connection, service or request")]
pub struct BadSignature;

fn machine_id(public_key: &[u8]) -> MachineId {
    Sha256::digest(public_key)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn message(binding: &Binding, subject: &Subject, csr: &[u8]) -> Vec<u8> {
    [PURPOSE, binding, &Sha256::digest(csr), subject.to_string().as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_good_on_its_connection_for_its_service_and_request_alone() {
        let folder = tempfile::tempdir().unwrap();
        assert!(MachineKey::load(folder.path()).unwrap().is_none());
        let key = MachineKey::open(folder.path()).unwrap();
        assert_eq!(MachineKey::open(folder.path()).unwrap().id(), key.id(), "the same after a restart");
        let (board, web): (Subject, Subject) = ("prod/board".parse().unwrap(), "prod/web".parse().unwrap());
        let proof = key.sign(&[1; 32], &board, b"csr").unwrap();
        assert_eq!(verify(&proof, &[1; 32], &board, b"csr"), Ok(key.id()));
        assert_eq!(verify(&proof, &[2; 32], &board, b"csr"), Err(BadSignature));
        assert_eq!(verify(&proof, &[1; 32], &web, b"csr"), Err(BadSignature));
        assert_eq!(verify(&proof, &[1; 32], &board, b"other"), Err(BadSignature));
        let other = proto::Machine { public_key: b"x".to_vec(), ..proof };
        assert_eq!(verify(&other, &[1; 32], &board, b"csr"), Err(BadSignature));
    }

    #[test]
    fn the_key_is_for_its_owner_only_and_a_damaged_one_is_told() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let key = MachineKey::open(folder.path()).unwrap();
        let file = folder.path().join(FILE);
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert!(!format!("{key:?}").contains("PRIVATE"));
        fs::write(&file, "no key").unwrap();
        assert!(MachineKey::open(folder.path()).unwrap_err().to_string().contains("machine.key is no key"));
    }
}
