//! An identity on disk, so that a restart needs neither a new join token nor a control plane that answers.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use weft_model::TrustDomain;
use zeroize::{Zeroize, Zeroizing};

use crate::ca::pin_of;
use crate::certificate::hex;
use crate::jwk::JwtKey;
use crate::svid::{Svid, SvidError, TrustBundle};

const FILE: &str = "identity.json";
/// Roots that are remembered: one is replaced every five years, or when it was stolen.
const MOST_PINS: usize = 64;

/// An identity and when it was issued, which is not the start of its life.
#[derive(Debug)]
pub struct Saved {
    /// Certificate and key.
    pub svid: Svid,
    /// What was vouched with then.
    pub bundle: TrustBundle,
    /// When it came; never in the future.
    pub issued_at: SystemTime,
    /// SHA-256 of the key of every root that was in a bundle of this identity, upper-case hexadecimal: a join token that it began with
    /// names one of them, also when that root is gone.
    pub(crate) pins: Vec<String>,
}

/// Base64 of DER; `issued_at` in seconds after the epoch.
#[derive(Serialize, Deserialize)]
struct Document {
    trust_domain: TrustDomain,
    chain: Vec<String>,
    key: String,
    roots: Vec<String>,
    /// Of the bundle.
    #[serde(default)]
    sequence: u64,
    /// Keys for JWT-SVIDs: `kid` and SubjectPublicKeyInfo.
    #[serde(default)]
    jwt_keys: Vec<(String, String)>,
    #[serde(default)]
    pins: Vec<String>,
    issued_at: u64,
}

impl Drop for Document {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// Writes an identity whole or not at all, readable by the owner only.
///
/// # Errors
/// The folder or the file cannot be written.
pub fn save(folder: &Path, svid: &Svid, bundle: &TrustBundle, issued_at: SystemTime) -> io::Result<()> {
    let before = read(folder).ok().filter(|before| before.trust_domain == *bundle.trust_domain());
    let encode = |certificates: &[CertificateDer<'_>]| certificates.iter().map(|der| BASE64.encode(der)).collect();
    let document = Document {
        trust_domain: bundle.trust_domain().clone(),
        chain: encode(svid.chain()),
        key: BASE64.encode(svid.private_key_der()),
        roots: encode(bundle.roots()),
        sequence: bundle.sequence(),
        jwt_keys: encode_keys(bundle),
        pins: with_pins(before.map(|mut before| std::mem::take(&mut before.pins)).unwrap_or_default(), bundle),
        issued_at: issued_at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
    };
    let text = Zeroizing::new(serde_json::to_vec(&document)?);
    write_private(&folder.join(FILE), &text)
}

fn read(folder: &Path) -> io::Result<Document> {
    let text = Zeroizing::new(fs::read(folder.join(FILE))?);
    Ok(serde_json::from_slice(&text)?)
}

/// The pins of before and those of this bundle's roots, the last [`MOST_PINS`].
fn with_pins(mut pins: Vec<String>, bundle: &TrustBundle) -> Vec<String> {
    let of_roots = bundle.roots().iter().filter_map(|root| pin_of(root).ok()).map(|pin| hex(&pin));
    for pin in of_roots {
        if !pins.contains(&pin) {
            pins.push(pin);
        }
    }
    pins.split_off(pins.len().saturating_sub(MOST_PINS))
}

fn encode_keys(bundle: &TrustBundle) -> Vec<(String, String)> {
    bundle.jwt().keys().iter().map(|key| (key.kid().to_owned(), BASE64.encode(key.spki()))).collect()
}

fn decode_keys(keys: &[(String, String)]) -> Result<Vec<JwtKey>, String> {
    let decode = |(kid, spki): &(String, String)| {
        JwtKey::from_spki(kid, BASE64.decode(spki).map_err(|error| error.to_string())?)
    };
    keys.iter().map(decode).collect()
}

/// Replaces the bundle beside a saved identity.
pub(crate) fn save_bundle(folder: &Path, bundle: &TrustBundle) -> io::Result<()> {
    let mut document = read(folder)?;
    document.pins = with_pins(std::mem::take(&mut document.pins), bundle);
    document.roots = bundle.roots().iter().map(|der| BASE64.encode(der)).collect();
    document.sequence = bundle.sequence();
    document.jwt_keys = encode_keys(bundle);
    write_private(&folder.join(FILE), &Zeroizing::new(serde_json::to_vec(&document)?))
}

impl Saved {
    /// What was saved; `None` if nothing was. Unreadable content is an error for a log line: the caller then attests afresh.
    ///
    /// # Errors
    /// In words, why it is of no use.
    pub fn load(folder: &Path) -> Result<Option<Self>, String> {
        let path = folder.join(FILE);
        clear_drafts(&path, Duration::ZERO); // the folder is ours
        let text = match fs::read(&path) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
        };
        Self::decode(&text).map(Some).map_err(|error| format!("{} is of no use: {error}", path.display()))
    }

    fn decode(text: &[u8]) -> Result<Self, String> {
        let document: Document = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let decode = |texts: &[String]| -> Result<Vec<CertificateDer<'static>>, String> {
            let decode_one = |text| BASE64.decode(text).map(CertificateDer::from).map_err(|error| error.to_string());
            texts.iter().map(decode_one).collect()
        };
        let key = Zeroizing::new(BASE64.decode(&document.key).map_err(|error| error.to_string())?);
        let usable = |error: SvidError| error.to_string();
        let keys = decode_keys(&document.jwt_keys)?;
        Ok(Self {
            svid: Svid::from_der(decode(&document.chain)?, &key).map_err(usable)?,
            bundle: TrustBundle::new(document.trust_domain.clone(), decode(&document.roots)?)
                .and_then(|bundle| bundle.with_jwt_keys(keys))
                .map_err(usable)?
                .with_sequence(document.sequence),
            pins: document.pins.clone(),
            // Never in the future, whatever the clock said then: the renewal is reckoned from it.
            issued_at: UNIX_EPOCH
                .checked_add(Duration::from_secs(document.issued_at))
                .map_or(UNIX_EPOCH, |at| at.min(SystemTime::now())),
        })
    }
}

/// Replaces a file atomically; the new one has mode 0600 from its first byte on, and its folder, if that is made, 0700.
///
/// # Errors
/// The folder or the file cannot be written.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    clear_drafts(path, Duration::from_secs(60)); // younger ones may be of a process that runs
    let draft = path.with_extension(format!("{:x}.new", rand::random::<u64>()));
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&draft, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&draft); // the first error is the one to report
    }
    written
}

/// Removes what a process that was killed had begun to write: it may hold a private key. `age` is how old it must be.
fn clear_drafts(path: &Path, age: Duration) {
    let (Some(folder), Some(stem)) = (path.parent(), path.file_stem().and_then(|stem| stem.to_str())) else { return };
    let is_draft = |name: &str| {
        let random = name.strip_prefix(stem).and_then(|rest| rest.strip_prefix('.')?.strip_suffix(".new"));
        random.is_some_and(|random| !random.is_empty() && random.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let begun = entry.metadata().and_then(|file| file.modified());
        let is_old = begun.is_ok_and(|begun| begun.elapsed().is_ok_and(|since| since >= age));
        if is_old && entry.file_name().to_str().is_some_and(is_draft) {
            let _ = fs::remove_file(entry.path()); // it harms nobody
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_had_begun_is_cleared() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let names = || {
            let entries = fs::read_dir(folder.path()).expect("readable").flatten();
            let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().expect("text")).collect();
            names.sort();
            names
        };
        for name in ["identity.1f.new", "identity.new", "identity.xyz.new", "key.2e.new"] {
            fs::write(folder.path().join(name), "x").expect("written");
        }
        write_private(&folder.path().join(FILE), b"{}").expect("written");
        assert!(names().contains(&"identity.1f.new".to_owned()), "it may be of a process that runs");
        assert!(Saved::load(folder.path()).is_err(), "nothing of use is saved");
        assert_eq!(names(), ["identity.json", "identity.new", "identity.xyz.new", "key.2e.new"]);
    }
}
