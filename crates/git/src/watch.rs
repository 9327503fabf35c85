//! Watching a repository on a thread of its own: everything about Git blocks.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::commit::{Commit, CommitId};
use super::config::GitConfig;
use super::error::GitError;
use super::source::GitSource;
use super::url::{Place, place};

/// How often a local repository is looked at.
const POLL_LOCAL: Duration = Duration::from_millis(500);
/// How often a remote repository is asked.
const POLL_REMOTE: Duration = Duration::from_secs(10);

/// What is known of the source by now.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The last commit that could be read; it stays while there is an error.
    pub commit: Option<Arc<Commit>>,
    /// Why the source cannot be read at the moment.
    pub error: Option<Arc<GitError>>,
}

impl GitSource {
    /// Opens the source and watches it on a thread of its own, which ends when nobody listens any more.
    ///
    /// A commit to a local repository is seen within the poll interval. Fails as [`Self::open`] does; all that goes wrong
    /// later is in [`Observed::error`]. The first value may be empty.
    pub fn watch(config: GitConfig) -> Result<watch::Receiver<Observed>, GitError> {
        let poll = config.poll.unwrap_or(match place(&config.url)? {
            Place::Local(_) => POLL_LOCAL,
            Place::Remote(_) => POLL_REMOTE,
        });
        // The repository's handle cannot change threads, so it is opened on the one that uses it.
        let (opened, result) = std::sync::mpsc::sync_channel(1);
        let (observed, receiver) = watch::channel(Observed::default());
        std::thread::Builder::new()
            .name("git".to_owned())
            .spawn(move || {
                let mut source = match Self::open(config) {
                    Ok(source) => source,
                    Err(error) => return drop(opened.send(Err(error))),
                };
                drop(opened.send(Ok(())));
                poll_loop(&observed, poll, |last| source.look_again(last));
            })
            .map_err(|e| GitError::Read { what: "the Git thread".to_owned(), why: e.to_string() })?;
        result.recv().unwrap_or_else(|_| {
            Err(GitError::Read { what: "the Git thread".to_owned(), why: "it ended at once".to_owned() })
        })?;
        Ok(receiver)
    }
}

/// Looks again and again until nobody listens; tells listeners only of what changed.
fn poll_loop(
    observed: &watch::Sender<Observed>,
    poll: Duration,
    mut look: impl FnMut(Option<&CommitId>) -> Result<Option<Commit>, GitError>,
) {
    let mut last: Option<CommitId> = None;
    while !observed.is_closed() {
        match look(last.as_ref()) {
            Ok(Some(commit)) => {
                tracing::info!(commit = commit.id.short(), subject = commit.subject, "commit read");
                last = Some(commit.id.clone());
                observed.send_replace(Observed { commit: Some(Arc::new(commit)), error: None });
            }
            Ok(None) => {
                if observed.send_if_modified(|observed| observed.error.take().is_some()) {
                    tracing::info!("the intent's source can be read again");
                }
            }
            Err(error) => {
                observed.send_if_modified(|observed| {
                    let new = observed.error.as_deref() != Some(&error);
                    if new {
                        tracing::warn!(%error, "the intent's source cannot be read");
                        observed.error = Some(Arc::new(error));
                    }
                    new
                });
            }
        }
        std::thread::sleep(poll);
    }
}
