//! Certificates and keys in PEM files, and when they have changed.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::error::UpstreamError;

/// More is no file of certificates.
const MAX_BYTES: u64 = 1 << 20;
/// Who else than its owner and readers of its group may do anything with a key.
const OTHERS: u32 = 0o037;

/// All certificates of a PEM file.
///
/// # Errors
/// It cannot be read, or has none.
pub fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, UpstreamError> {
    let text = read(file)?;
    certificates_in(&text).map_err(|why| UpstreamError::file(file, why))
}

/// All certificates of a PEM text.
///
/// # Errors
/// In words: one cannot be read, or there is none.
pub fn certificates_in(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match all {
        Ok(all) if all.is_empty() => Err("there is no certificate (PEM) in it".to_owned()),
        Ok(all) => Ok(all),
        Err(error) => Err(format!("it is no PEM: {error}")),
    }
}

/// The private key of a PEM file (PKCS#8, PKCS#1 or SEC1, not encrypted) that only its owner can change and only its owner and group can read.
///
/// # Errors
/// It cannot be read, has no key, or is open to others.
pub fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, UpstreamError> {
    let mode = std::fs::metadata(file).map_err(|error| UpstreamError::file(file, error))?.permissions().mode();
    if mode & OTHERS != 0 {
        let why = format!("it has mode {:03o}, and others could use the key: `chmod 600` it", mode & 0o777);
        return Err(UpstreamError::file(file, why));
    }
    let text = read(file)?;
    if text.windows(9).any(|part| part == b"ENCRYPTED") {
        return Err(UpstreamError::file(file, "the key is encrypted, and a server has nobody to ask: decrypt it"));
    }
    PrivateKeyDer::from_pem_slice(&text)
        .map_err(|error| UpstreamError::file(file, format!("there is no key in it: {error}")))
}

/// The first certificate request of a PEM text, DER.
///
/// # Errors
/// In words: there is none.
pub(crate) fn request_in(text: &[u8]) -> Result<Vec<u8>, String> {
    let request = CertificateSigningRequestDer::from_pem_slice(text);
    request
        .map(|request| request.to_vec())
        .map_err(|error| format!("there is no certificate request (PEM) in it: {error}"))
}

/// DER as PEM.
pub fn text(kind: &str, der: &[u8]) -> String {
    let body = Zeroizing::new(BASE64.encode(der));
    let mut text = format!("-----BEGIN {kind}-----\n");
    for line in body.as_bytes().chunks(64) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text + &format!("-----END {kind}-----\n")
}

fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, UpstreamError> {
    let length = std::fs::metadata(file).map_err(|error| UpstreamError::file(file, error))?.len();
    if length > MAX_BYTES {
        return Err(UpstreamError::file(file, "it has more than a megabyte"));
    }
    std::fs::read(file).map(Zeroizing::new).map_err(|error| UpstreamError::file(file, error))
}

/// What tells a file from the one that was there before: another one under its name, written anew, or gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp(Vec<Option<(u64, u64, i64, i64)>>);

impl Stamp {
    /// Of these files, now.
    pub(crate) fn of<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> Self {
        let stamp = |file: &PathBuf| {
            let is = std::fs::metadata(file).ok()?;
            Some((is.ino(), is.len(), is.mtime(), is.mtime_nsec()))
        };
        Self(files.into_iter().map(stamp).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.key");
        let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
        std::fs::write(&file, &pem).unwrap();
        for (mode, good) in
            [(0o600, true), (0o400, true), (0o640, true), (0o644, false), (0o660, false), (0o604, false)]
        {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            let read = private_key(&file);
            assert_eq!(read.is_ok(), good, "{mode:o}");
            if let Err(error) = read {
                assert!(error.to_string().contains("chmod 600"), "{error}");
            }
        }
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&file, pem.replace("PRIVATE", "ENCRYPTED PRIVATE")).unwrap();
        assert!(private_key(&file).unwrap_err().to_string().contains("encrypted"));
        std::fs::write(&file, "").unwrap();
        assert!(private_key(&file).unwrap_err().to_string().contains("no key"));
        assert!(certificates(&file).unwrap_err().to_string().contains("no certificate"));
    }

    #[test]
    fn a_file_that_was_written_or_replaced_or_removed_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let files = [folder.path().join("ca.pem")];
        let none = Stamp::of(&files);
        std::fs::write(&files[0], "one").unwrap();
        let one = Stamp::of(&files);
        assert!(none != one && one == Stamp::of(&files));
        let other = folder.path().join("other");
        std::fs::write(&other, "two").unwrap();
        std::fs::rename(&other, &files[0]).unwrap();
        assert!(one != Stamp::of(&files));
        std::fs::remove_file(&files[0]).unwrap();
        assert_eq!(Stamp::of(&files), none);
    }
}
