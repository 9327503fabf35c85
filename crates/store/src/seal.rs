//! Encryption of single values at rest, under one root key that stands in a file of its own.
//!
//! A sealed value is `1 | nonce (12) | AES-256-GCM ciphertext and tag (16)`; the additional data is the key path, so that a
//! value opens only where it was put. The root key never leaves this module and is wiped from memory when dropped.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::StoreError;

const FORMAT: u8 = 1;
const ROOT_KEY_LEN: usize = 32;

/// Seals and opens values.
pub(crate) struct Sealer(LessSafeKey);

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer")
    }
}

impl Sealer {
    /// Reads the root key from `path`, or makes one (mode 0600) if there is no such file.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        if !path.exists() {
            create_root_key(path)?;
        }
        let mode = fs::metadata(path).map_err(StoreError::file("read", path))?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(StoreError::ExposedRootKey { path: path.to_owned(), mode });
        }
        let text = Zeroizing::new(fs::read_to_string(path).map_err(StoreError::file("read", path))?);
        let key = parse_hex(text.trim()).ok_or_else(|| StoreError::BadRootKey(path.to_owned()))?;
        let key = UnboundKey::new(&AES_256_GCM, &*key).map_err(|_| StoreError::BadRootKey(path.to_owned()))?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// Encrypts `plain` for the key path `path`.
    pub(crate) fn seal(&self, path: &str, plain: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE_LEN] = rand::random();
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + plain.len() + AES_256_GCM.tag_len());
        sealed.push(FORMAT);
        sealed.extend_from_slice(&nonce);
        // Encrypts in a buffer of its own; after it the buffer holds only ciphertext.
        let mut body = Zeroizing::new(plain.to_vec());
        let tag = self
            .0
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(path.as_bytes()), &mut body)
            .expect("AES-GCM seals anything below 64 GiB");
        sealed.extend_from_slice(&body);
        sealed.extend_from_slice(tag.as_ref());
        sealed
    }

    /// Decrypts what was sealed for the key path `path`.
    pub(crate) fn open_sealed(&self, path: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let tampered = || StoreError::Tampered(path.to_owned());
        let (header, body) = sealed.split_at_checked(1 + NONCE_LEN).ok_or_else(tampered)?;
        if header[0] != FORMAT {
            return Err(tampered());
        }
        let nonce = Nonce::try_assume_unique_for_key(&header[1..]).map_err(|_| tampered())?;
        let mut plain = Zeroizing::new(body.to_vec());
        let length = match self.0.open_in_place(nonce, Aad::from(path.as_bytes()), &mut plain) {
            Ok(opened) => opened.len(),
            Err(_) => return Err(tampered()),
        };
        plain.truncate(length);
        Ok(plain)
    }
}

/// Writes a new key and gives it its name only when it is complete; loses gracefully against another process that did the same.
fn create_root_key(path: &Path) -> Result<(), StoreError> {
    let key: Zeroizing<[u8; ROOT_KEY_LEN]> = Zeroizing::new(rand::random());
    let text = Zeroizing::new(key.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n");
    let draft = path.with_extension(format!("{:x}.new", rand::random::<u64>()));
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(StoreError::file("write", &draft))?;
    let named = fs::hard_link(&draft, path);
    fs::remove_file(&draft).map_err(StoreError::file("remove", &draft))?;
    match named {
        Ok(()) => {
            tracing::warn!(
                path = %path.display(),
                "made a new root key; keep a copy apart from this machine: without it nothing sealed can be read"
            );
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(StoreError::file("write", path)(error)),
    }
}

fn parse_hex(text: &str) -> Option<Zeroizing<[u8; ROOT_KEY_LEN]>> {
    let digits = text.as_bytes();
    if digits.len() != 2 * ROOT_KEY_LEN {
        return None;
    }
    let mut key = Zeroizing::new([0; ROOT_KEY_LEN]);
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = (digit(0)? * 16 + digit(1)?) as u8;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer() -> (tempfile::TempDir, Sealer) {
        let folder = tempfile::tempdir().unwrap();
        let sealer = Sealer::open(&folder.path().join("root.key")).unwrap();
        (folder, sealer)
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (_folder, sealer) = sealer();
        let sealed = sealer.seal("ca/root", b"private");
        for bit in 0..sealed.len() * 8 {
            let mut forged = sealed.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(sealer.open_sealed("ca/root", &forged), Err(StoreError::Tampered(_))), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(sealer.open_sealed("ca/root", &sealed[..length]).is_err(), "cut at {length}");
        }
        assert_eq!(&**sealer.open_sealed("ca/root", &sealed).unwrap(), b"private");
    }

    #[test]
    fn a_value_opens_only_at_its_own_path() {
        let (_folder, sealer) = sealer();
        let sealed = sealer.seal("ca/root", b"private");
        assert!(sealer.open_sealed("ca/issuing", &sealed).is_err());
        assert!(!sealed.windows(7).any(|window| window == b"private"));
        assert_ne!(sealed, sealer.seal("ca/root", b"private"), "nonces must differ");
    }

    #[test]
    fn the_key_file_is_made_private_once_and_must_stay_so() {
        use std::os::unix::fs::PermissionsExt;
        let (folder, first) = sealer();
        let path = folder.path().join("root.key");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
        let again = Sealer::open(&path).unwrap();
        assert_eq!(&**again.open_sealed("a", &first.seal("a", b"x")).unwrap(), b"x");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = Sealer::open(&path).unwrap_err().to_string();
        assert!(error.contains("mode 644") && error.contains("chmod 600"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "not a key").unwrap();
        assert!(matches!(Sealer::open(&path), Err(StoreError::BadRootKey(_))));
    }
}
