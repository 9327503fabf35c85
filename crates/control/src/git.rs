//! The intent's source: commits of a Git repository, read straight from its object database.
//!
//! A local repository (a path or `file://`) is read in place; a remote one (`https://`) is mirrored into a bare repository
//! first. There is never a work tree, so nobody's uncommitted edits get into the mesh, and nothing here writes to a
//! repository that is not ours. All of it blocks: `watch` runs it on a thread of its own.

mod dir;
mod mirror;
mod transport;
mod tree;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use weft_model::source::SourceFile;

pub use dir::read_dir;
pub use mirror::safe;

/// How often a local repository is looked at.
const POLL_LOCAL: Duration = Duration::from_millis(500);
/// How often a remote repository is asked.
const POLL_REMOTE: Duration = Duration::from_secs(10);

/// How long a remote may say nothing before it counts as away.
const PATIENCE: Duration = Duration::from_secs(20);

/// Packs that an open repository can come to hold. The default grows too little for one that is watched for months.
const SLOTS: gix::odb::store::init::Slots = gix::odb::store::init::Slots::Given(1024);

/// Where the intent is.
#[derive(Clone)]
pub struct GitConfig {
    /// A path, a `file://` URL, or an `https://` URL (`http://` only to this machine). It may log in: see [`safe`].
    pub url: String,
    /// The branch; what the repository's `HEAD` points to without one.
    pub branch: Option<String>,
    /// Folder of the intent within the repository, with `/`; empty for all of it.
    pub path: String,
    /// Time between two looks; 500 ms for a local repository and 10 s for a remote one without one.
    pub poll: Option<Duration>,
    /// How long a remote may say nothing before it counts as away.
    pub patience: Duration,
    /// PEM certificates of the authorities that an `https://` remote's certificate may come from, instead of the system's.
    pub ca: Option<PathBuf>,
    /// Where mirrors of remote repositories are kept. Not used for local ones.
    pub cache_dir: PathBuf,
}

impl fmt::Debug for GitConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GitConfig")
            .field("url", &safe(&self.url))
            .field("branch", &self.branch)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl GitConfig {
    /// The whole repository at `url`, its default branch, mirrors under `cache_dir`.
    pub fn new(url: impl Into<String>, cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            url: url.into(),
            branch: None,
            path: String::new(),
            poll: None,
            patience: PATIENCE,
            ca: None,
            cache_dir: cache_dir.into(),
        }
    }

    /// The repository that `dir` is in, with `dir` as the path within it. `None` if it is in none, or not in its last
    /// commit (a scratch folder below somebody's repository); [`read_dir`] and [`watch_dir`] are for those.
    pub fn discover(dir: &Path, cache_dir: impl Into<PathBuf>) -> Option<Self> {
        let dir = dir.canonicalize().ok()?;
        let repo = gix::discover(&dir).ok()?;
        // A bare repository is its own root.
        let root = repo.workdir().unwrap_or_else(|| repo.path()).canonicalize().ok()?;
        let path = dir.strip_prefix(&root).ok()?.to_str()?.to_owned();
        let config = Self { path, ..Self::new(root.to_str()?, cache_dir) };
        let source = GitSource::open(config.clone()).ok()?;
        let head = source.head().ok()?;
        let known = tree::commit(&source.repo, &head, &config.path);
        (!matches!(known, Err(GitError::NoPath { .. }))).then_some(config)
    }
}

/// The id of a commit: 40 hexadecimal digits (or `dir-` and 40 digits for a folder outside of Git).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId(Arc<str>);

impl CommitId {
    /// All of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits, for people.
    pub fn short(&self) -> &str {
        let end = if self.0.starts_with("dir-") { 16 } else { 12 };
        self.0.get(..end).unwrap_or(&self.0)
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for CommitId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl fmt::Debug for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One commit and the intent files in it.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Its id.
    pub id: CommitId,
    /// First line of its message.
    pub subject: String,
    /// Name of its author.
    pub author: String,
    /// Intent files below the configured path, sorted; paths are relative to it.
    pub files: Vec<SourceFile>,
}

/// Why the intent could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GitError {
    /// The URL is of no kind that is read.
    #[error("{url} cannot be a source of intent: {why}")]
    Url {
        /// Without a password.
        url: String,
        /// What to do.
        why: &'static str,
    },
    /// There is no repository.
    #[error("no Git repository at {place}: {why}")]
    Open {
        /// Its path.
        place: String,
        /// Git's words.
        why: String,
    },
    /// The branch does not exist or has no commit.
    #[error("{place} has no commit on {branch}: commit the intent, or name another branch")]
    NoCommit {
        /// Path or URL of the repository.
        place: String,
        /// The branch, or `HEAD`.
        branch: String,
    },
    /// The configured path is not a folder of the commit.
    #[error("commit {commit} has no folder {path}")]
    NoPath {
        /// Where it was looked for.
        commit: CommitId,
        /// What was looked for.
        path: String,
    },
    /// The remote repository did not answer, or refused.
    #[error("cannot fetch {url}: {why}")]
    Fetch {
        /// Without a password.
        url: String,
        /// In one line, with what to do if that is known.
        why: String,
    },
    /// The remote repository wants to know who asks, and was not told, or does not accept who does.
    #[error("{url} {}", login_advice(*given))]
    Login {
        /// Without a password.
        url: String,
        /// Whether the URL has a login.
        given: bool,
    },
    /// The server's certificate is not trusted.
    #[error("the certificate of {url} is not trusted: {why}")]
    Certificate {
        /// Without a password.
        url: String,
        /// What is wrong with it, and what to do.
        why: String,
    },
    /// The file of trusted authorities cannot be used.
    #[error("cannot use the authorities for the repository in {file}: {why}")]
    Authority {
        /// Where it is.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// Objects of the repository are missing or broken.
    #[error("reading {what} failed: {why}")]
    Read {
        /// Object or folder.
        what: String,
        /// Git's words.
        why: String,
    },
}

fn login_advice(given: bool) -> &'static str {
    if given {
        "refuses the login in its URL: is the token whole, not expired, and allowed to read this repository?"
    } else {
        "asks for a login: write https://USER:TOKEN@… (WEFT_REPO keeps it off the command line), or set up a Git credential helper \
         for the control plane's user"
    }
}

impl GitError {
    /// Whether opening the repository anew may help at once: somebody may have moved, repacked or remade it. A remote that did not
    /// answer, or not well, has until the next look.
    fn is_of_the_disk(&self) -> bool {
        matches!(self, Self::Open { .. } | Self::NoPath { .. } | Self::Read { .. })
    }
}

/// What is known of the source by now.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The last commit that could be read; it stays while there is an error.
    pub commit: Option<Arc<Commit>>,
    /// Why the source cannot be read at the moment.
    pub error: Option<Arc<GitError>>,
}

/// An open source.
pub struct GitSource {
    repo: gix::Repository,
    config: GitConfig,
    /// Set for a remote repository, whose mirror `repo` is.
    mirror: Option<mirror::Mirror>,
}

impl GitSource {
    /// Opens the source. Fails when a local repository does not exist; a remote one is first asked by [`Self::head`].
    pub fn open(config: GitConfig) -> Result<Self, GitError> {
        match place(&config.url)? {
            Place::Local(path) => {
                let options = gix::open::Options::isolated().object_store_slots(SLOTS);
                let repo = gix::open_opts(path, options)
                    .map_err(|e| GitError::Open { place: path.display().to_string(), why: chain(&e) })?;
                Ok(Self { repo, config, mirror: None })
            }
            Place::Remote(url) => {
                let (repo, mirror) = mirror::open(url, &config)?;
                Ok(Self { repo, config, mirror: Some(mirror) })
            }
        }
    }

    /// The newest commit of the branch; fetches it first from a remote.
    pub fn head(&self) -> Result<CommitId, GitError> {
        if let Some(mirror) = &self.mirror {
            mirror.fetch(&self.repo)?;
        }
        let branch = match (&self.mirror, &self.config.branch) {
            (Some(_), _) => mirror::HEAD.to_owned(),
            (None, Some(branch)) => format!("refs/heads/{branch}"),
            (None, None) => "HEAD".to_owned(),
        };
        let named = || self.config.branch.clone().unwrap_or_else(|| "HEAD".to_owned());
        let missing = || GitError::NoCommit { place: safe(&self.config.url), branch: named() };
        let read = |e: gix::Error| match e.is_not_found() {
            true => missing(),
            false => GitError::Read { what: named(), why: chain(&e) },
        };
        let mut reference = self.repo.try_find_reference(&*branch).map_err(read)?.ok_or_else(missing)?;
        let id = reference.peel_to_commit().map_err(read)?.id;
        Ok(CommitId(id.to_string().into()))
    }

    /// The intent files of a commit.
    pub fn files(&self, commit: &CommitId) -> Result<Vec<SourceFile>, GitError> {
        Ok(self.commit(commit)?.files)
    }

    /// A commit with its intent files.
    pub fn commit(&self, id: &CommitId) -> Result<Commit, GitError> {
        tree::commit(&self.repo, id, &self.config.path)
    }

    /// The newest commit, unless it is the last one.
    fn look(&self, last: Option<&CommitId>) -> Result<Option<Commit>, GitError> {
        let head = self.head()?;
        if last == Some(&head) { Ok(None) } else { self.commit(&head).map(Some) }
    }

    /// As [`Self::look`]; what failed is tried again with the repository opened anew.
    fn look_again(&mut self, last: Option<&CommitId>) -> Result<Option<Commit>, GitError> {
        let result = self.look(last);
        let Err(error) = &result else { return result };
        *self = Self::open(self.config.clone())?;
        if self.mirror.is_none() || error.is_of_the_disk() { self.look(last) } else { result }
    }

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

/// Watches a folder outside of Git as [`GitSource::watch`] does a repository. A change of the files is a new commit, whose
/// id is made from their names and bytes; half-saved files are seen as they are.
pub fn watch_dir(dir: PathBuf, poll: Option<Duration>) -> Result<watch::Receiver<Observed>, GitError> {
    read_dir(&dir)?;
    let (observed, receiver) = watch::channel(Observed::default());
    std::thread::Builder::new()
        .name("intent-dir".to_owned())
        .spawn(move || {
            poll_loop(&observed, poll.unwrap_or(POLL_LOCAL), |last| {
                let commit = dir::commit(&dir)?;
                Ok((last != Some(&commit.id)).then_some(commit))
            });
        })
        .map_err(|e| GitError::Read { what: "the folder's thread".to_owned(), why: e.to_string() })?;
    Ok(receiver)
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

enum Place<'a> {
    Local(&'a Path),
    Remote(&'a str),
}

fn place(url: &str) -> Result<Place<'_>, GitError> {
    let refuse = |why| Err(GitError::Url { url: safe(url), why });
    if let Some(path) = url.strip_prefix("file://") {
        return match path.strip_prefix("localhost").unwrap_or(path) {
            path if path.starts_with('/') => Ok(Place::Local(Path::new(path))),
            _ => refuse("a file:// URL has three slashes and an absolute path, like file:///srv/intent.git"),
        };
    }
    if url.starts_with("https://") {
        return Ok(Place::Remote(url));
    }
    if let Some(rest) = url.strip_prefix("http://") {
        let host = rest.split(['/', '?']).next().unwrap_or_default();
        let host = host.rsplit('@').next().unwrap_or_default();
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        return match host {
            "localhost" | "127.0.0.1" | "[::1]" => Ok(Place::Remote(url)),
            _ => refuse("whoever can change what comes over http:// owns the mesh; use https://"),
        };
    }
    if url.contains("://") || (url.contains('@') && url.contains(':')) {
        return refuse("use a path, file:// or https://");
    }
    if url.is_empty() {
        return refuse("name a path, or a file:// or https:// URL");
    }
    Ok(Place::Local(Path::new(url)))
}

/// An error and what caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string().trim().replace('\n', " ");
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string().trim().replace('\n', " ");
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
