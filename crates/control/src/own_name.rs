//! What one of several servers is told from the others by, and that its state folder is its own.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// The name, for as long as this lives; another server cannot use the folder meanwhile.
#[derive(Debug)]
pub(crate) struct OwnName {
    pub(crate) name: String,
    _lock: File,
}

impl OwnName {
    /// The name in the file `server.name` of the state folder: 16 hexadecimal digits, which are made once. The folder is made with mode 0700.
    pub(crate) fn open(state: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(state)?;
        let lock = File::options().create(true).append(true).mode(0o600).open(state.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let why = "another `weft server` uses this state folder; stop it or give this one a folder of its own";
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let path = state.join("server.name");
        let saved = match fs::read_to_string(&path) {
            Ok(text) => Some(text.trim().to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let is_name = |name: &String| name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        if let Some(name) = saved.filter(is_name) {
            return Ok(Self { name, _lock: lock });
        }
        let name = format!("{:016x}", rand::random::<u64>());
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(name.as_bytes())?;
        file.sync_all()?;
        Ok(Self { name, _lock: lock })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_stays_and_one_server_has_the_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("state");
        let first = OwnName::open(&state).expect("it is made");
        let busy = OwnName::open(&state).expect_err("it is in use").to_string();
        assert!(busy.contains("another `weft server` uses this state folder"), "{busy}");
        let name = first.name.clone();
        drop(first);
        assert_eq!(OwnName::open(&state).expect("it is free").name, name);
        assert_ne!(OwnName::open(&folder.path().join("other")).expect("another").name, name);
    }
}
