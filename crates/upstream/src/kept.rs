//! A root that is kept apart from all servers: made once, and opened only to sign.
//!
//! A folder with `root.pem`, for everybody, and `root.key`: PKCS#8, under a passphrase (PBES2 with scrypt, RFC 8018 s.6.2 and RFC 7914, which openssl reads too),
//! or plain where the medium itself is locked away. Nothing here talks to anybody.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use pkcs8::pkcs5::pbes2::Parameters;
use pkcs8::pkcs5::scrypt;
use pkcs8::{EncryptedPrivateKeyInfo, LineEnding, PrivateKeyInfo, SecretDocument};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use weft_identity::ca::{Ca, pin_of, requested_key};
use weft_identity::certificate::{parse, signing_domain};
use weft_model::TrustDomain;
use zeroize::Zeroizing;

use crate::error::UpstreamError;
use crate::fitness::check;
use crate::pem::{certificates, private_key, request_in, text};

/// What a guess costs (RFC 7914 s.2): N = 2^14 and r = 8 are 16 MiB of memory, five times over. openssl takes no more than 32 MiB.
const LOG_N: u8 = 14;
const R: u32 = 8;
const P: u32 = 5;
/// The length of an AES-256 key, bytes.
const KEY: usize = 32;
const SEALED: &str = "ENCRYPTED PRIVATE KEY";

/// A root that is kept apart.
pub struct KeptRoot {
    ca: Ca,
    domain: TrustDomain,
}

/// The files of one in a folder: the certificate, and the key.
pub fn kept_files(folder: &Path) -> (PathBuf, PathBuf) {
    (folder.join("root.pem"), folder.join("root.key"))
}

/// Whether the key in a folder is under a passphrase.
///
/// # Errors
/// It cannot be read.
pub fn is_sealed(folder: &Path) -> Result<bool, UpstreamError> {
    let file = kept_files(folder).1;
    let text = std::fs::read_to_string(&file).map(Zeroizing::new).map_err(|error| UpstreamError::file(&file, error))?;
    Ok(text.contains(SEALED))
}

impl KeptRoot {
    /// Makes a root in a folder that has none; the key is plain, for its owner alone, where there is no passphrase.
    ///
    /// # Errors
    /// The files are there already, or cannot be written.
    pub fn make(
        folder: &Path,
        domain: &TrustDomain,
        passphrase: Option<&str>,
        life: Duration,
        now: SystemTime,
    ) -> Result<Self, UpstreamError> {
        let (certificate_file, key_file) = kept_files(folder);
        let made = Ca::root(domain, now, life).map_err(|error| UpstreamError::file(folder, error))?;
        let key = made.key_der();
        let key = match passphrase {
            None => Zeroizing::new(text("PRIVATE KEY", &key)),
            Some(passphrase) => seal(&key, passphrase).map_err(|why| UpstreamError::file(&key_file, why))?,
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| UpstreamError::file(folder, error))?;
        write(&key_file, 0o600, &key)?;
        write(&certificate_file, 0o644, &text("CERTIFICATE", made.certificate()))?;
        Ok(Self { ca: made, domain: domain.clone() })
    }

    /// Opens the one in a folder.
    ///
    /// # Errors
    /// A file cannot be used, or the passphrase is missing or another one.
    pub fn open(folder: &Path, passphrase: Option<&str>) -> Result<Self, UpstreamError> {
        let (certificate_file, key_file) = kept_files(folder);
        let certificate = certificates(&certificate_file)?.remove(0);
        let domain = parse(&certificate).and_then(|parsed| signing_domain(&parsed));
        let domain = domain.map_err(|error| UpstreamError::file(&certificate_file, error))?;
        let key = if is_sealed(folder)? {
            let wrong = |why: &str| UpstreamError::file(&key_file, why);
            let passphrase = passphrase.ok_or_else(|| wrong("it is under a passphrase: give it"))?;
            let pem = std::fs::read_to_string(&key_file).map_err(|error| UpstreamError::file(&key_file, error))?;
            unseal(&pem, passphrase).map_err(|why| wrong(&why))?
        } else {
            private_key(&key_file)?
        };
        let ca = Ca::from_der(certificate, &key).map_err(|error| UpstreamError::file(&key_file, error))?;
        Ok(Self { ca, domain })
    }

    /// Signs the request (PEM) of a server's issuing CA; the certificate, PEM. Names in the request are not looked at: the trust domain is that of
    /// the root.
    ///
    /// # Errors
    /// The request is none, or the root has ended.
    pub fn sign(&self, request: &str, life: Duration, now: SystemTime) -> Result<CertificateDer<'static>, String> {
        let request = request_in(request.as_bytes())?;
        let key = requested_key(&request).map_err(|error| error.to_string())?;
        check(std::slice::from_ref(self.ca.certificate()), &self.domain, now)?;
        self.ca.issuing_for(&key, &self.domain, now, life).map_err(|error| error.to_string())
    }

    /// The trust domain that it signs for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        self.ca.certificate()
    }

    /// When it ends.
    pub fn not_after(&self) -> SystemTime {
        self.ca.not_after
    }
}

/// What tells the key of a certificate from others, for people to compare: the first 16 hexadecimal digits of the SHA-256 of its
/// SubjectPublicKeyInfo, as `weft identity tree` shows it.
///
/// # Errors
/// It is no certificate.
pub fn key_name(certificate: &CertificateDer<'_>) -> Result<String, String> {
    let pin = pin_of(certificate).map_err(|error| error.to_string())?;
    Ok(pin[..8].iter().map(|byte| format!("{byte:02x}")).collect())
}

fn seal(pkcs8: &[u8], passphrase: &str) -> Result<Zeroizing<String>, String> {
    let (salt, iv): ([u8; 16], [u8; 16]) = (rand::random(), rand::random());
    let cost = scrypt::Params::new(LOG_N, R, P, KEY).map_err(|error| error.to_string())?;
    let parameters = Parameters::scrypt_aes256cbc(cost, &salt, &iv).map_err(|error| error.to_string())?;
    let key = PrivateKeyInfo::try_from(pkcs8).map_err(|error| error.to_string())?;
    let sealed = key.encrypt_with_params(parameters, passphrase).map_err(|error| error.to_string())?;
    sealed.to_pem(SEALED, LineEnding::LF).map_err(|error| error.to_string())
}

fn unseal(pem: &str, passphrase: &str) -> Result<PrivateKeyDer<'static>, String> {
    let (_, sealed) = SecretDocument::from_pem(pem).map_err(|error| format!("it is no PEM: {error}"))?;
    let sealed = EncryptedPrivateKeyInfo::try_from(sealed.as_bytes()).map_err(|error| error.to_string())?;
    let key = sealed.decrypt(passphrase).map_err(|_| "the passphrase is another one, or the file is damaged")?;
    Ok(PrivateKeyDer::Pkcs8(key.as_bytes().to_vec().into()))
}

/// Writes a file that is not there yet.
fn write(file: &Path, mode: u32, text: &str) -> Result<(), UpstreamError> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(file);
    let written = opened.and_then(|mut opened| opened.write_all(text.as_bytes()).and_then(|()| opened.sync_all()));
    written.map_err(|error| UpstreamError::file(file, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn a_root_under_a_passphrase_opens_with_it_alone_and_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let (domain, now) = ("acme.internal".parse().unwrap(), SystemTime::now());
        let made = KeptRoot::make(folder.path(), &domain, Some("correct horse"), 10 * DAY, now).unwrap();
        assert!(is_sealed(folder.path()).unwrap());
        let opened = KeptRoot::open(folder.path(), Some("correct horse")).unwrap();
        assert_eq!((opened.certificate(), opened.trust_domain()), (made.certificate(), &domain));
        for (passphrase, why) in [(Some("wrong"), "another one"), (None, "give it")] {
            let Err(error) = KeptRoot::open(folder.path(), passphrase) else { panic!("it opened") };
            assert!(error.to_string().contains(why), "{error}");
        }
        let again = KeptRoot::make(folder.path(), &domain, None, DAY, now);
        assert!(again.is_err_and(|error| error.to_string().contains("root.key")));
        assert_eq!(KeptRoot::open(folder.path(), Some("correct horse")).unwrap().certificate(), made.certificate());
    }

    #[test]
    fn it_signs_requests_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (domain, now) = ("acme.internal".parse().unwrap(), SystemTime::now());
        let root = KeptRoot::make(folder.path(), &domain, None, 10 * DAY, now).unwrap();
        let request = weft_identity::issuing::IssuingRequest::new(&"other.internal".parse().unwrap()).unwrap();
        let signed = root.sign(&text("CERTIFICATE REQUEST", request.csr()), DAY, now).unwrap();
        assert!(request.is_for(&signed));
        let parsed = parse(&signed).unwrap();
        assert_eq!(signing_domain(&parsed).unwrap(), domain, "what the request says does not count");
        let long = root.sign(&text("CERTIFICATE REQUEST", request.csr()), 100 * DAY, now).unwrap();
        let end = weft_identity::certificate::validity(&parse(&long).unwrap()).1;
        assert_eq!(end, root.not_after(), "it ends with its root");
        for (bad, why) in
            [("", "no certificate request"), (&*text("CERTIFICATE", root.certificate()), "no certificate request")]
        {
            let told = root.sign(bad, DAY, now).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
        assert!(
            root.sign(&text("CERTIFICATE REQUEST", request.csr()), DAY, now + 11 * DAY)
                .unwrap_err()
                .contains("has expired")
        );
    }
}
