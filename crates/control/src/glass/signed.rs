//! What an operator signs with a key of SSH, and how that is verified (OpenSSH's PROTOCOL.sshsig).
//!
//! `ssh-keygen -Y sign` makes the same, so that keys in an agent, or on a token, can sign too.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use ssh_key::private::{Ed25519Keypair, Ed25519PrivateKey, KeypairData};
use ssh_key::public::{Ed25519PublicKey, KeyData};
use ssh_key::{Algorithm, HashAlg, LineEnding, PrivateKey, Signature, SshSig};
use weft_model::intent::SshKey;

/// Keeps signatures for something else from being taken for one of these.
pub const NAMESPACE: &str = "weft-break-glass";

/// `POST /api/break-glass`, the question: break the glass, or make it whole again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GlassRequest {
    /// `Mesh.name`.
    pub mesh: String,
    /// Name of the operator.
    pub operator: String,
    /// For how long; 0 ends it.
    pub seconds: u64,
    /// One line.
    pub reason: String,
    /// When this was signed, in milliseconds since 1970.
    pub at: u64,
    /// Over [`GlassRequest::text`], in the namespace [`NAMESPACE`], as `ssh-keygen -Y sign` writes it.
    #[serde(default)]
    pub signature: String,
}

impl GlassRequest {
    /// What is signed.
    pub fn text(&self) -> String {
        let Self { mesh, operator, seconds, reason, at, .. } = self;
        format!(
            "weft break-glass\nmesh: {mesh}\noperator: {operator}\nseconds: {seconds}\nat: {at}\nreason: {reason}\n"
        )
    }

    /// Signs it with a private key as OpenSSH writes them, without a passphrase.
    ///
    /// # Errors
    /// The text is no such key of the kind `ssh-ed25519`.
    pub fn sign(&mut self, key: &PrivateKey) -> Result<(), String> {
        let pair =
            key.key_data().ed25519().ok_or("the key is of another kind than ssh-ed25519, or has a passphrase")?;
        let signer = Ed25519KeyPair::from_seed_and_public_key(&pair.private.to_bytes(), pair.public.as_ref())
            .map_err(|error| format!("the key is damaged: {error}"))?;
        let signed = || {
            let data = SshSig::signed_data(NAMESPACE, HashAlg::Sha512, self.text().as_bytes())?;
            let signature = Signature::new(Algorithm::Ed25519, signer.sign(&data).as_ref())?;
            SshSig::new(KeyData::Ed25519(pair.public), NAMESPACE, HashAlg::Sha512, signature)?.to_pem(LineEnding::LF)
        };
        self.signature = signed().map_err(|error: ssh_key::Error| error.to_string())?;
        Ok(())
    }

    /// By which of `keys` it is signed.
    ///
    /// # Errors
    /// By none.
    pub(super) fn signer<'a>(&self, keys: &'a [SshKey]) -> Result<&'a SshKey, &'static str> {
        let signature = SshSig::from_pem(&self.signature).map_err(|_| "the signature is no signature of SSH")?;
        if signature.namespace() != NAMESPACE {
            return Err("the signature is one for something else");
        }
        let by =
            signature.public_key().ed25519().ok_or("the signature is by a key of another kind than ssh-ed25519")?;
        let known = keys.iter().find(|key| key.ed25519 == *by.as_ref()).ok_or("the key is none of the operator's")?;
        let data = SshSig::signed_data(NAMESPACE, signature.hash_alg(), self.text().as_bytes());
        let data = data.map_err(|_| "the signature cannot be verified")?;
        let key = UnparsedPublicKey::new(&ED25519, known.ed25519);
        key.verify(&data, signature.signature_bytes()).map_err(|_| "the signature is not over this")?;
        Ok(known)
    }
}

/// A new key, and the line of its public part. Not written anywhere.
///
/// # Errors
/// The system gives no random numbers.
pub fn new_key(comment: &str) -> Result<(PrivateKey, String), String> {
    let mut seed = [0; 32];
    aws_lc_rs::rand::fill(&mut seed).map_err(|_| "the system gives no random numbers")?;
    let key = of_seed(&seed, comment).map_err(|error| error.to_string())?;
    let line = key.public_key().to_openssh().map_err(|error| error.to_string())?;
    Ok((key, line))
}

fn of_seed(seed: &[u8; 32], comment: &str) -> ssh_key::Result<PrivateKey> {
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| ssh_key::Error::Crypto)?;
    let public = Ed25519PublicKey::try_from(pair.public_key().as_ref())?;
    let pair = Ed25519Keypair { public, private: Ed25519PrivateKey::from_bytes(seed) };
    PrivateKey::new(KeypairData::Ed25519(pair), comment)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A key of this seed.
    pub(crate) fn key(seed: u8) -> (PrivateKey, SshKey) {
        let key = of_seed(&[seed; 32], "alice@laptop").expect("any seed is one");
        let public = key.key_data().ed25519().expect("it is one").public.0;
        (key, SshKey { ed25519: public, comment: "alice@laptop".into() })
    }

    #[test]
    fn what_is_signed_is_verified_and_nothing_else() {
        let (private, public) = key(7);
        let (_, other) = key(8);
        let mut request = GlassRequest {
            mesh: "acme".into(),
            operator: "alice".into(),
            seconds: 60,
            reason: "deploy is stuck".into(),
            at: 1,
            signature: String::new(),
        };
        let keys = [other.clone(), public.clone()];
        assert!(request.signer(&keys).is_err());
        request.sign(&private).expect("signs");
        assert_eq!(request.signer(&keys), Ok(&keys[1]));
        assert_eq!(request.signer(&[other]), Err("the key is none of the operator's"));
        let not_this = |change: fn(&mut GlassRequest)| {
            let mut changed = request.clone();
            change(&mut changed);
            changed.signer(&keys).expect_err("it is changed")
        };
        for why in [
            not_this(|request| request.mesh.push('x')),
            not_this(|request| request.operator.push('x')),
            not_this(|request| request.seconds += 1),
            not_this(|request| request.reason.push('x')),
            not_this(|request| request.at += 1),
        ] {
            assert_eq!(why, "the signature is not over this");
        }
        assert_eq!(not_this(|request| request.signature.truncate(60)), "the signature is no signature of SSH");
    }
}
