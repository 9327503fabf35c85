//! What the control plane must know after a restart before Git answers: the last good commit with its files, the endpoints, the
//! certificates that are out, and break-glass.
//!
//! Four files in the state folder, replaced atomically. The first lets a restarted server serve at once, also while the newest
//! commit is bad or the repository is away; the second keeps it from telling the first sidecar that nobody else exists; the third
//! tells of sidecars whose certificates ran out while it was away; the fourth keeps what was broken broken, and what was signed from being
//! obeyed twice.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use weft_model::source::SourceFile;
use weft_policy::BreakGlass;

use crate::hub::Hub;
use crate::issued::Certificate;
use crate::registry::Registration;

/// Endpoints change in bursts, and certificates are renewed in some; one write covers a burst.
const SETTLE: Duration = Duration::from_millis(200);
/// Of certificates only their ends are saved, and all of them each time.
const CERTIFICATES_SETTLE: Duration = Duration::from_secs(2);
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

/// Break-glass.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct GlassState {
    pub(crate) broken: Option<BreakGlass>,
    /// Operator -> `at` of the last request that was obeyed: none is obeyed twice.
    pub(crate) last: BTreeMap<String, u64>,
}

/// The files.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    folder: PathBuf,
    /// Held from reading what is to be saved until it is.
    writing: Arc<Mutex<()>>,
}

impl Saved {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), writing: Arc::default() }
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

    pub(crate) fn certificates(&self) -> HashMap<Arc<str>, Certificate> {
        read(&self.folder.join("certificates.json")).unwrap_or_default()
    }

    pub(crate) fn glass(&self) -> GlassState {
        read(&self.folder.join("break-glass.json")).unwrap_or_default()
    }

    pub(crate) fn save_glass(&self, state: &GlassState) -> io::Result<()> {
        write(&self.folder.join("break-glass.json"), state)
    }

    /// Writes both of this moment: what has just changed would else be lost at the end.
    pub(crate) fn save(&self, hub: &Hub) -> io::Result<()> {
        self.save_endpoints(hub).and(self.save_certificates(hub))
    }

    /// Writes the endpoints whenever they have changed, until the process ends.
    pub(crate) async fn follow_endpoints(self, hub: Arc<Hub>) {
        follow("endpoints", SETTLE, &hub.registry_changed, || self.save_endpoints(&hub)).await;
    }

    /// The same for the certificates that are out.
    pub(crate) async fn follow_certificates(self, hub: Arc<Hub>) {
        follow("certificates' ends", CERTIFICATES_SETTLE, &hub.issued_changed, || self.save_certificates(&hub)).await;
    }

    fn save_endpoints(&self, hub: &Hub) -> io::Result<()> {
        self.write("endpoints.json", || {
            let state = hub.state();
            let registered = state.registry.iter().map(|(node, registration)| (node.clone(), registration.clone()));
            registered.collect::<BTreeMap<Arc<str>, Registration>>()
        })
    }

    fn save_certificates(&self, hub: &Hub) -> io::Result<()> {
        self.write("certificates.json", || hub.state().issued.nodes().clone())
    }

    fn write<T: Serialize>(&self, name: &str, read: impl FnOnce() -> T) -> io::Result<()> {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        write(&self.folder.join(name), &read())
    }
}

/// Saves whenever it has `changed`, until the process ends.
async fn follow(what: &str, settle: Duration, changed: &Notify, save: impl Fn() -> io::Result<()>) {
    let mut failed = false;
    loop {
        if failed {
            let _ = tokio::time::timeout(AGAIN, changed.notified()).await; // whichever comes first
        } else {
            changed.notified().await;
        }
        tokio::time::sleep(settle).await;
        let saved = save();
        match &saved {
            Err(error) if !failed => {
                tracing::warn!(%error, "the {what} were not saved, and are tried again; a restart would begin without them");
            }
            Ok(()) if failed => tracing::info!("the {what} are saved"),
            _ => {}
        }
        failed = saved.is_err();
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
