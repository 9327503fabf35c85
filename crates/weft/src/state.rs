//! State folders: each is for one process at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::output::hinted;

/// Makes the folder (mode 0700) and takes it for this process, a `who`, until the file is dropped. The path is absolute, because children
/// may run elsewhere.
///
/// # Errors
/// It cannot be used, or another process has it.
pub(crate) fn take(state: &Path, who: &str) -> Result<(PathBuf, File)> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state)
        .with_context(|| format!("making the state folder {}", state.display()))?;
    let state = state.canonicalize().with_context(|| format!("finding the state folder {}", state.display()))?;
    let lock = lock(&state, who)?;
    Ok((state, lock))
}

fn lock(state: &Path, who: &str) -> Result<File> {
    let path = state.join("lock");
    let open = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = open.with_context(|| format!("opening {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(hinted(
            format!("another {who} runs on the state folder {}", state.display()),
            "stop it first, or give this one a folder of its own with --state-dir, and a join token for its first start",
        )),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("locking {}", path.display())),
    }
}
