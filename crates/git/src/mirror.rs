//! A bare mirror of one branch of a remote repository.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use gix::credentials::helper::Action;
use gix::odb::store::init::Slots;
use gix::remote::Direction;
use gix::remote::fetch::{Shallow, Tags};

use super::config::GitConfig;
use super::error::{GitError, chain};
use super::transport;
use super::url::safe;

/// A mirror with more packs than this is made anew when it is opened: every fetch brings one, and nobody packs them together.
const MAX_PACKS: usize = 256;

/// Where the fetched branch is kept in the mirror. One name for all branches, so that a removed branch cannot linger.
pub(super) const HEAD: &str = "refs/weft/head";

/// Packs that an open repository can come to hold. The default grows too little for one that is watched for months.
pub(super) const SLOTS: Slots = Slots::Given(1024);

/// How to fetch.
pub(super) struct Mirror {
    /// Where it is.
    place: PathBuf,
    /// With what is needed to log in.
    url: String,
    /// `refs/heads/main`, or `HEAD`.
    branch: String,
    /// Whose certificates are trusted, if not the system's.
    ca: Option<PathBuf>,
    /// How long the server may say nothing.
    patience: Duration,
}

/// Opens the mirror of `url`, making it if it is not there. Asks nobody yet.
pub(super) fn open(url: &str, config: &GitConfig) -> Result<(gix::Repository, Mirror), GitError> {
    let branch = config.branch.as_ref().map_or("HEAD".to_owned(), |branch| format!("refs/heads/{branch}"));
    let place = config.cache_dir.join(folder(url, &branch));
    let packs = std::fs::read_dir(place.join("objects/pack")).map_or(0, Iterator::count) / 2;
    let repo = match gix::open_opts(&place, options()) {
        Ok(repo) if packs <= MAX_PACKS => repo,
        // Not there yet, worn out, or half made by a process that was killed.
        _ => make(&place, gix::hash::Kind::Sha1)?,
    };
    let mirror = Mirror { place, url: url.to_owned(), branch, ca: config.ca.clone(), patience: config.patience };
    transport::options(&repo, url, mirror.ca.as_deref(), mirror.patience)?;
    Ok((repo, mirror))
}

fn options() -> gix::open::Options {
    gix::open::Options::default().open_path_as_is(true).object_store_slots(SLOTS).config_overrides([
        // Nobody sits at the control plane to answer a prompt.
        "gitoxide.credentials.terminalPrompt=false",
        "protocol.version=2",
    ])
}

/// Makes the mirror anew, for objects with these ids: nothing in an old one cannot be fetched again.
fn make(place: &Path, ids: gix::hash::Kind) -> Result<gix::Repository, GitError> {
    let failed = |why: String| GitError::Mirror { place: place.display().to_string(), why };
    if place.exists() {
        std::fs::remove_dir_all(place).map_err(|e| failed(e.to_string()))?;
    }
    std::fs::create_dir_all(place).map_err(|e| failed(e.to_string()))?;
    let format = gix::create::Options { object_hash: Some(ids), ..Default::default() };
    gix::create::into(place, gix::create::Kind::Bare, format).map_err(|e| failed(chain(&e)))?;
    gix::open_opts(place, options()).map_err(|e| failed(chain(&e)))
}

impl Mirror {
    /// Brings the newest commit of the branch, and only that. A server that says nothing is given up after [`Self::patience`].
    pub(super) fn fetch(&self, repo: &mut gix::Repository) -> Result<(), GitError> {
        let Some(ids) = self.receive(repo)? else { return Ok(()) };
        // Until it is asked, nobody knows which ids a remote's objects have; and it may have been made anew since.
        *repo = make(&self.place, ids)?;
        match self.receive(repo)? {
            None => Ok(()),
            Some(_) => Err(GitError::Fetch {
                url: safe(&self.url),
                why: "it says now that its objects have SHA-1 ids, and now SHA-256".to_owned(),
            }),
        }
    }

    /// Fetches, unless the remote's objects have ids of another kind than the mirror's, which is then the answer.
    fn receive(&self, repo: &gix::Repository) -> Result<Option<gix::hash::Kind>, GitError> {
        let login_asked = Cell::new(false);
        let failed = |e: gix::Error| transport::explain(&e, &self.url, login_asked.get(), self.patience);
        let spec = format!("+{}:{HEAD}", self.branch);
        let remote = repo
            .remote_at(self.url.as_str())
            .and_then(|remote| remote.with_fetch_tags(Tags::None).with_refspecs([spec.as_str()], Direction::Fetch))
            .map_err(failed)?;
        let options = transport::options(repo, &self.url, self.ca.as_deref(), self.patience)?;
        let connection = remote.connect(Direction::Fetch).map_err(failed)?.with_transport_options(options);
        let mut helpers = connection.configured_credentials_for_current_url();
        // Once a login was accepted, what fails is not the login.
        let connection = connection.with_credentials(|action| {
            login_asked.set(!matches!(action, Action::Store(_)));
            helpers(action)
        });
        let fetch = connection.prepare_fetch(gix::progress::Discard, Default::default()).map_err(failed)?;
        if fetch.ref_map().mappings.is_empty() {
            let branch = self.branch.trim_start_matches("refs/heads/").to_owned();
            return Err(GitError::NoCommit { place: safe(&self.url), branch });
        }
        let ids = fetch.ref_map().object_hash;
        if ids != repo.object_hash() {
            return Ok(Some(ids));
        }
        let depth = std::num::NonZeroU32::MIN;
        fetch
            .with_shallow(Shallow::DepthAtRemote(depth))
            .receive(gix::progress::Discard, &AtomicBool::new(false))
            .map_err(failed)?;
        Ok(None)
    }
}

/// A folder name that two URLs or branches never share.
fn folder(url: &str, branch: &str) -> String {
    let name: String = safe(url).chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    let text = format!("{url}\n{branch}");
    let hash = gix::objs::compute_hash(gix::hash::Kind::Sha1, gix::object::Kind::Blob, text.as_bytes());
    let hash = hash.map(|id| id.to_hex_with_len(16).to_string()).unwrap_or_default();
    let start = name.len().saturating_sub(80);
    format!("{}-{hash}.git", name[start..].trim_start_matches('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_of_two_branches_are_two_folders() {
        let (a, b) = (folder("https://h/x.git", "refs/heads/a"), folder("https://h/x.git", "refs/heads/b"));
        assert_ne!(a, b);
        assert!(a.starts_with("https---h-x.git-") && a.ends_with(".git"), "{a}");
    }
}
