//! SHA-256 of the files that processes run. A file is read once: what has the same state has the same content.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::facts::FileId;

/// The most files that are remembered; then all are forgotten.
const MOST: usize = 1024;
/// A larger file has no digest, in bytes: any process may run one, and whoever asks for another waits for it.
const MAX_SIZE: u64 = 1 << 30;

/// See the module.
#[derive(Default)]
pub(crate) struct Digests {
    known: Mutex<HashMap<FileId, Arc<str>>>,
}

impl Digests {
    /// SHA-256 of a file in this state, 64 lower-case hexadecimal digits; the file is opened only where that is not known. Blocks.
    ///
    /// # Errors
    /// It cannot be read, is too large, or has changed.
    pub(crate) fn read(&self, file: &FileId, open: impl FnOnce() -> io::Result<File>) -> io::Result<Arc<str>> {
        if let Some(digest) = self.known(file) {
            return Ok(digest);
        }
        if file.size > MAX_SIZE {
            return Err(io::Error::other("the file is too large"));
        }
        let open = open()?;
        let digest = digest(&open, file)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(*file, digest.clone());
        Ok(digest)
    }

    /// The same, if it is known.
    pub(crate) fn known(&self, file: &FileId) -> Option<Arc<str>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(file).cloned()
    }
}

/// The file must be in this state before it is read and after.
fn digest(mut open: &File, expected: &FileId) -> io::Result<Arc<str>> {
    let check = || match state(open) {
        Ok(state) if state == *expected => Ok(()),
        Ok(_) => Err(io::Error::other("the file has changed")),
        Err(error) => Err(error),
    };
    check()?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 128 * 1024]);
    loop {
        match open.read(&mut buffer)? {
            0 => break,
            count => hash.update(&buffer[..count]),
        }
    }
    check()?;
    let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(digest.into())
}

fn state(open: &File) -> io::Result<FileId> {
    let state = open.metadata()?;
    if !state.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    Ok(FileId {
        file: (state.dev(), state.ino()),
        size: state.size(),
        modified: (state.mtime(), state.mtime_nsec()),
        changed: (state.ctime(), state.ctime_nsec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_once_until_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app");
        std::fs::write(&path, "abc").unwrap();
        let (digests, id) = (Digests::default(), state(&File::open(&path).unwrap()).unwrap());
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"; // FIPS 180-2, B.1
        assert_eq!(&*digests.read(&id, || File::open(&path)).unwrap(), expected);
        assert_eq!(&*digests.read(&id, || panic!("it is known")).unwrap(), expected);

        std::fs::write(&path, "abcd").unwrap();
        let changed = Digests::default().read(&id, || File::open(&path)).unwrap_err();
        assert!(changed.to_string().contains("has changed"), "{changed}");
        let id = state(&File::open(&path).unwrap()).unwrap();
        assert_ne!(&*digests.read(&id, || File::open(&path)).unwrap(), expected);
        let large = FileId { size: MAX_SIZE + 1, ..id };
        assert!(digests.read(&large, || panic!("not opened")).unwrap_err().to_string().contains("too large"));
    }
}
