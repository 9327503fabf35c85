//! Where intent is to be read from, and how often.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::local;
use super::url::safe;

/// How long a remote may say nothing before it counts as away.
const PATIENCE: Duration = Duration::from_secs(20);

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

    /// The repository that the folder `dir` is in, with `dir` as the path within it: whether or not a commit has it, and whether or
    /// not the repository can be read, which is for [`GitSource::open`](super::GitSource::open) to say. `None` if it is in none.
    pub fn discover(dir: &Path, cache_dir: impl Into<PathBuf>) -> Option<Self> {
        let dir = dir.canonicalize().ok()?;
        let (root, path) = match local::around(&dir) {
            Ok(repo) => local::place_in(&repo?, &dir)?,
            Err(_) => local::place_below(&dir)?,
        };
        Some(Self { path: path.to_str()?.to_owned(), ..Self::new(root.to_str()?, cache_dir) })
    }
}
