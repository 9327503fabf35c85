//! What the control plane must know after a restart before Git answers: the last good commit with its files, and the endpoints.
//!
//! Two files in the state folder, replaced atomically. The first lets a restarted server serve at once, also while the newest
//! commit is bad or the repository is away; the second keeps it from telling the first sidecar that nobody else exists.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use weft_model::source::SourceFile;

use crate::hub::Hub;
use crate::registry::Registration;

/// Endpoints change in bursts; one write covers a burst.
const SETTLE: Duration = Duration::from_millis(200);
/// Until what could not be saved is tried again.
pub(crate) const AGAIN: Duration = Duration::from_secs(5);

/// A commit that passed the check.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct GoodCommit {
    pub(crate) commit: String,
    pub(crate) subject: String,
    /// Path -> text. A commit with a file that is no text does not pass the check.
    files: BTreeMap<String, String>,
}

impl GoodCommit {
    pub(crate) fn new(commit: &str, subject: &str, files: &[SourceFile]) -> Self {
        let text = |file: &SourceFile| Some((file.path.to_string(), file.text()?.to_owned()));
        Self { commit: commit.to_owned(), subject: subject.to_owned(), files: files.iter().filter_map(text).collect() }
    }

    pub(crate) fn files(&self) -> Vec<SourceFile> {
        self.files.iter().map(|(path, text)| SourceFile::new(path.as_str(), text.as_bytes())).collect()
    }
}

/// The two files.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    folder: PathBuf,
    /// Held while the endpoints are written.
    endpoints: Arc<Mutex<()>>,
}

impl Saved {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), endpoints: Arc::default() }
    }

    /// The last good commit, if there is one and it can be read.
    pub(crate) fn commit(&self) -> Option<GoodCommit> {
        read(&self.folder.join("commit.json"))
    }

    pub(crate) fn save_commit(&self, commit: &GoodCommit) -> io::Result<()> {
        write(&self.folder.join("commit.json"), commit)
    }

    pub(crate) fn endpoints(&self) -> BTreeMap<Arc<str>, Registration> {
        read(&self.folder.join("endpoints.json")).unwrap_or_default()
    }

    pub(crate) fn save_endpoints(&self, hub: &Hub) -> io::Result<()> {
        let _one_at_a_time = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let endpoints: BTreeMap<Arc<str>, Registration> =
            hub.state().registry.iter().map(|(node, registration)| (node.clone(), registration.clone())).collect();
        write(&self.folder.join("endpoints.json"), &endpoints)
    }

    /// Writes the endpoints whenever they have changed, until the process ends.
    pub(crate) async fn follow_endpoints(self, hub: Arc<Hub>) {
        let mut failed = false;
        loop {
            if failed {
                let _ = tokio::time::timeout(AGAIN, hub.registry_changed.notified()).await; // whichever comes first
            } else {
                hub.registry_changed.notified().await;
            }
            tokio::time::sleep(SETTLE).await;
            let written = self.save_endpoints(&hub);
            match &written {
                Err(error) if !failed => {
                    tracing::warn!(%error, "the endpoints were not saved, and are tried again; a restart would begin without them");
                }
                Ok(()) if failed => tracing::info!("the endpoints are saved"),
                _ => {}
            }
            failed = written.is_err();
        }
    }
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "cannot be read; starting without it");
            return None;
        }
    };
    serde_json::from_slice(&text)
        .inspect_err(|error| tracing::warn!(%error, path = %path.display(), "is not as this version writes it; starting without it"))
        .ok()
}

fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let written = (|| {
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&serde_json::to_vec(value)?)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary); // the first error is the one to report
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_what_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let saved = Saved::new(folder.path());
        assert!(saved.commit().is_none() && saved.endpoints().is_empty());
        let files = [SourceFile::new("mesh.yaml", "kind: Mesh\n".as_bytes().to_vec())];
        saved.save_commit(&GoodCommit::new("c1", "first", &files)).expect("writes");
        let read = saved.commit().expect("reads");
        assert_eq!((read.commit.as_str(), read.files()), ("c1", files.to_vec()));
        std::fs::write(folder.path().join("commit.json"), "{").expect("writes");
        assert!(saved.commit().is_none(), "a broken file is as none");
    }
}
