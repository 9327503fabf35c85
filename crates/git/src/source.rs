//! An open repository of intent: its newest commit, and the files in that.

use weft_model::source::SourceFile;

use super::commit::{Commit, CommitId};
use super::config::GitConfig;
use super::error::GitError;
use super::url::{Place, place, safe};
use super::{local, mirror, tree};

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
                let options = gix::open::Options::isolated().object_store_slots(mirror::SLOTS);
                Ok(Self { repo: local::open(path, options)?, config, mirror: None })
            }
            Place::Remote(url) => {
                let (repo, mirror) = mirror::open(url, &config)?;
                Ok(Self { repo, config, mirror: Some(mirror) })
            }
        }
    }

    /// The newest commit of the branch; fetches it first from a remote.
    pub fn head(&mut self) -> Result<CommitId, GitError> {
        if let Some(mirror) = &self.mirror {
            mirror.fetch(&mut self.repo)?;
        }
        let branch = match (&self.mirror, &self.config.branch) {
            (Some(_), _) => mirror::HEAD.to_owned(),
            (None, Some(branch)) => format!("refs/heads/{branch}"),
            (None, None) => "HEAD".to_owned(),
        };
        let named = self.config.branch.clone().unwrap_or_else(|| "HEAD".to_owned());
        let failed = |e: gix::Error| GitError::Read { what: named.clone(), why: tree::missing_or(&self.repo, &e) };
        let found = match self.repo.try_find_reference(&*branch).map_err(failed)? {
            None => None,
            // `HEAD` may name a branch that has no commit yet.
            Some(mut reference) => match reference.follow_to_object() {
                Ok(_) => Some(reference),
                Err(e) if e.is_not_found() => None,
                Err(e) => return Err(failed(e)),
            },
        };
        let Some(mut reference) = found else {
            return Err(GitError::NoCommit { place: safe(&self.config.url), branch: named });
        };
        let id = reference.peel_to_commit().map_err(failed)?.id;
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
    fn look(&mut self, last: Option<&CommitId>) -> Result<Option<Commit>, GitError> {
        let head = self.head()?;
        if last == Some(&head) { Ok(None) } else { self.commit(&head).map(Some) }
    }

    /// As [`Self::look`]; what failed is tried again with the repository opened anew.
    pub(super) fn look_again(&mut self, last: Option<&CommitId>) -> Result<Option<Commit>, GitError> {
        let result = self.look(last);
        let Err(error) = &result else { return result };
        *self = Self::open(self.config.clone())?;
        if self.mirror.is_none() || error.is_of_the_disk() { self.look(last) } else { result }
    }
}
