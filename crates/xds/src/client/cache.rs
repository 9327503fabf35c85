//! The last good state on disk: one file, replaced as a whole, readable by its owner only.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use prost::Message;
use sha2::{Digest, Sha256};

/// Starts the file; a later format gets another.
const MAGIC: &[u8; 16] = b"weft-xds-cache1\n";
const HASH: usize = 32;

/// What follows the magic and the SHA-256 of it.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Content {
    #[prost(string, tag = "1")]
    pub(super) owner: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) responses: Vec<DeltaDiscoveryResponse>,
}

/// The bytes of a cache file.
pub(super) fn encode(owner: &str, responses: Vec<DeltaDiscoveryResponse>) -> Vec<u8> {
    let content = Content { owner: owner.to_owned(), responses }.encode_to_vec();
    [MAGIC.as_slice(), &Sha256::digest(&content), &content].concat()
}

/// The state that was written for `owner`.
///
/// # Errors
/// `NotFound` without a file; `InvalidData` for a damaged one, one of another format or one of another owner.
pub(super) fn read(path: &Path, owner: &str) -> io::Result<Vec<DeltaDiscoveryResponse>> {
    let bytes = fs::read(path)?;
    let content = decode(&bytes).map_err(|problem| io::Error::new(io::ErrorKind::InvalidData, problem))?;
    if content.owner != owner {
        let problem = format!("it holds the configuration of `{}`, not of `{owner}`", content.owner);
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    Ok(content.responses)
}

pub(super) fn decode(bytes: &[u8]) -> Result<Content, String> {
    let rest = bytes.strip_prefix(MAGIC).ok_or("it is not a cache file of this version")?;
    let (hash, content) = rest.split_at_checked(HASH).ok_or("it is cut short")?;
    if Sha256::digest(content).as_slice() != hash {
        return Err("it is damaged: its checksum does not match".to_owned());
    }
    Content::decode(content).map_err(|error| error.to_string())
}

/// Replaces the file atomically: a reader sees the old or the new one, also after a crash.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = folder(path);
    fs::create_dir_all(folder)?;
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let temporary = folder.join(name);
    // One left by a crash could be anything, with any mode.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary); // a full disk needs the room; the first error is the one to report
    }
    written?;
    fs::File::open(folder)?.sync_all()
}

/// Removes what earlier processes began to write beside `path` and did not finish: `NAME.new`, and `NAME.PID.new` of older versions.
pub(super) fn clear_remains(path: &Path) {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return };
    let is_remains =
        |file: &str| file.strip_prefix(name).is_some_and(|rest| rest.starts_with('.') && rest.ends_with(".new"));
    for entry in fs::read_dir(folder(path)).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_remains) {
            let _ = fs::remove_file(entry.path()); // the next write tells if it is in the way
        }
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn sample() -> Vec<DeltaDiscoveryResponse> {
        vec![DeltaDiscoveryResponse { type_url: "x".into(), ..Default::default() }]
    }

    #[test]
    fn what_is_written_is_read_by_its_owner_only() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("deep/er/cache");
        assert_eq!(read(&path, "a").expect_err("absent").kind(), io::ErrorKind::NotFound);
        write(&path, &encode("a", Vec::new())).expect("first");
        write(&path, &encode("a", sample())).expect("second");
        assert_eq!(read(&path, "a").expect("readable"), sample());
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let error = read(&path, "b").expect_err("of another service");
        assert_eq!(error.to_string(), "it holds the configuration of `a`, not of `b`");
        assert_eq!(fs::read_dir(path.parent().expect("has one")).expect("readable").count(), 1);
    }

    #[test]
    fn what_an_earlier_process_did_not_finish_is_cleared() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = |name: &str| folder.path().join(name);
        for name in ["cache", "cache.new", "cache.4711.new", "cache.old", "other.new"] {
            fs::write(file(name), "x").expect("written");
        }
        clear_remains(&file("cache"));
        let mut left: Vec<_> =
            fs::read_dir(folder.path()).expect("readable").flatten().map(|e| e.file_name()).collect();
        left.sort();
        assert_eq!(left, ["cache", "cache.old", "other.new"]);
    }

    #[test]
    fn every_damage_is_noticed() {
        let bytes = encode("a", sample());
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
            let mut flipped = bytes.clone();
            flipped[cut] ^= 1;
            assert!(decode(&flipped).is_err(), "flipped at {cut}");
        }
    }
}
