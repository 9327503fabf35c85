//! A bare mirror of one branch of a remote repository.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use gix::credentials::helper::Action;
use gix::remote::Direction;
use gix::remote::fetch::{Shallow, Tags};

use super::{GitConfig, GitError, SLOTS, chain, transport};

/// A mirror with more packs than this is made anew when it is opened: every fetch brings one, and nobody packs them together.
const MAX_PACKS: usize = 256;

/// Where the fetched branch is kept in the mirror. One name for all branches, so that a removed branch cannot linger.
pub(super) const HEAD: &str = "refs/weft/head";

/// How to fetch.
pub(super) struct Mirror {
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
    let failed = |why: String| GitError::Open { place: place.display().to_string(), why };
    std::fs::create_dir_all(&place).map_err(|e| failed(e.to_string()))?;
    let options = || {
        gix::open::Options::default().open_path_as_is(true).object_store_slots(SLOTS).config_overrides([
            // Nobody sits at the control plane to answer a prompt.
            "gitoxide.credentials.terminalPrompt=false",
            "protocol.version=2",
        ])
    };
    let packs = std::fs::read_dir(place.join("objects/pack")).map_or(0, Iterator::count) / 2;
    let repo = match gix::open_opts(&place, options()) {
        Ok(repo) if packs <= MAX_PACKS => repo,
        _ => {
            // Not there yet, worn out, or half made by a process that was killed: nothing in it cannot be fetched again.
            std::fs::remove_dir_all(&place)
                .and_then(|()| std::fs::create_dir_all(&place))
                .map_err(|e| failed(e.to_string()))?;
            gix::init_bare(&place).map_err(|e| failed(chain(&e)))?;
            gix::open_opts(&place, options()).map_err(|e| failed(chain(&e)))?
        }
    };
    let mirror = Mirror { url: url.to_owned(), branch, ca: config.ca.clone(), patience: config.patience };
    transport::options(&repo, url, mirror.ca.as_deref(), mirror.patience)?;
    Ok((repo, mirror))
}

impl Mirror {
    /// Brings the newest commit of the branch, and only that. A server that says nothing is given up after [`Self::patience`].
    pub(super) fn fetch(&self, repo: &gix::Repository) -> Result<(), GitError> {
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
        let depth = std::num::NonZeroU32::MIN;
        fetch
            .with_shallow(Shallow::DepthAtRemote(depth))
            .receive(gix::progress::Discard, &AtomicBool::new(false))
            .map_err(failed)?;
        Ok(())
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

/// The URL without what logs in, for whoever reads logs and status.
pub fn safe(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{host}{path}"),
        None => url.to_owned(),
    }
}

/// A text that may quote the URL, in whatever spelling, without what logs in.
pub(super) fn without_secrets(text: &str, url: &str) -> String {
    let mut text: String = text.split_inclusive(char::is_whitespace).map(safe).collect();
    let login = url
        .split_once("://")
        .and_then(|(_, rest)| rest.split('/').next())
        .and_then(|authority| authority.rsplit_once('@'))
        .map(|(login, _)| login);
    // GitHub takes a token as the user, without a password.
    let secret = login.map(|login| login.split_once(':').map_or(login, |(_, password)| password)).unwrap_or_default();
    let plain = gix::url::parse(url).ok().and_then(|url| url.password().map(str::to_owned)).unwrap_or_default();
    for secret in [secret, &plain] {
        if !secret.is_empty() {
            text = text.replace(secret, "***");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(safe("https://me:secret@h.example/x.git"), "https://h.example/x.git");
        assert_eq!(safe("https://h.example/a@b"), "https://h.example/a@b");
        assert_eq!(safe("/srv/a@b"), "/srv/a@b");
        let url = "https://me:secret@h.example/x.git";
        assert_eq!(
            without_secrets(&format!("could not reach {url} with secret"), url),
            "could not reach https://h.example/x.git with ***"
        );
        let encoded = "https://me:s%40fe@h.example/x.git";
        assert_eq!(without_secrets("s@fe, s%40fe (https://me:x@h/)", encoded), "***, *** (https://h/)");
        assert_eq!(without_secrets("bad token t0ken", "https://t0ken@h.example/x.git"), "bad token ***");
        assert_eq!(without_secrets("as it is", "https://h.example/x.git"), "as it is");
    }

    #[test]
    fn mirrors_of_two_branches_are_two_folders() {
        let (a, b) = (folder("https://h/x.git", "refs/heads/a"), folder("https://h/x.git", "refs/heads/b"));
        assert_ne!(a, b);
        assert!(a.starts_with("https---h-x.git-") && a.ends_with(".git"), "{a}");
    }
}
