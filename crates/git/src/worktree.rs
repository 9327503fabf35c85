//! What Git knows of a work tree: which files `git add --all && git commit` would commit now, and what of them.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use gix::bstr::{BStr, BString, ByteSlice};
use gix::index::entry::{Flags, Mode};
use weft_model::source::{Content, MAX_FILE_BYTES, SourceFile};

use super::entry::{Kind, Look, look_along};
use super::error::{GitError, chain};
use super::ignore::{self, Ignores};
use super::{local, tree};

/// What becomes of an entry of the work tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// It is in the commit as it stands here, or can have such files below it.
    Counts,
    /// A folder that Git ignores, with files that were added all the same.
    OnlyTracked,
    /// Git ignores it.
    Ignored,
    /// The commit has what is in the index, whatever stands here: see [`WorkTree::kept`].
    Kept,
    /// Another repository.
    Module,
}

/// A work tree, seen from the folder of the intent.
pub(super) struct WorkTree<'repo> {
    repo: &'repo gix::Repository,
    root: PathBuf,
    index: gix::worktree::Index,
    ignores: Ignores,
    filter: gix::filter::Pipeline<'repo>,
    /// The folder: empty, or with a `/` at the end.
    start: BString,
    /// Git ignores the folder, and has files of it all the same.
    tracked_only: bool,
}

impl<'repo> WorkTree<'repo> {
    /// The work tree of `repo`, in which `dir` is. `None` if Git ignores the folder.
    pub(super) fn around(repo: &'repo gix::Repository, dir: &Path) -> Result<Option<Self>, GitError> {
        let Some((root, path)) = local::place_in(repo, dir) else { return Ok(None) };
        let failed =
            |e: gix::Error| GitError::Read { what: format!("the index of {}", root.display()), why: chain(&e) };
        let index = repo.index_or_empty().map_err(failed)?;
        let ignores = Ignores::new(repo, &root).map_err(failed)?;
        let (filter, _) = repo.filter_pipeline(None).map_err(failed)?;
        let mut tree = Self { repo, root, index, ignores, filter, start: BString::default(), tracked_only: false };
        tree.enter(b"".as_bstr());
        for folder in path.iter() {
            tree.start.extend_from_slice(folder.as_encoded_bytes());
            let at = tree.start.clone();
            match tree.known(at.as_bstr(), Kind::Folder, tree.tracked_only) {
                Known::Ignored => return Ok(None),
                Known::OnlyTracked => tree.tracked_only = true,
                _ => {}
            }
            tree.start.push(b'/');
            tree.enter(at.as_bstr());
        }
        Ok(Some(tree))
    }

    /// Goes into a folder; [`Self::known`] is about its entries then.
    pub(super) fn enter(&mut self, folder: &BStr) {
        let mut file = folder.to_owned();
        if !file.is_empty() {
            file.push(b'/');
        }
        file.extend_from_slice(ignore::NAME.as_bytes());
        let entry = self.index.entry_by_path(file.as_bstr()).filter(|entry| is_kept(entry));
        let kept = entry.and_then(|entry| self.repo.find_object(entry.id).ok());
        self.ignores.enter(folder, kept.as_ref().map(|blob| &*blob.data));
    }

    /// Comes back out of it.
    pub(super) fn leave(&mut self) {
        self.ignores.leave();
    }

    /// The path of the folder in the repository, and whether only its tracked files count.
    pub(super) fn start(&self) -> (BString, bool) {
        (self.start.clone(), self.tracked_only)
    }

    /// What becomes of an entry of the folder that was entered last; `tracked_only` says that Git ignores the folder.
    pub(super) fn known(&self, path: &BStr, kind: Kind, tracked_only: bool) -> Known {
        let tracked = self.index.entry_range(path).map(|range| &self.index.entries()[range.start]);
        match tracked {
            Some(entry) if is_kept(entry) => return Known::Kept,
            Some(entry) if kind == Kind::Folder && entry.mode == Mode::COMMIT => return Known::Module,
            Some(_) if kind != Kind::Folder => return Known::Counts,
            // Also where a file was and a folder is now.
            _ if self.is_in_kept_folder(path) => return Known::Kept,
            _ => {}
        }
        let folder = kind == Kind::Folder;
        let mut below = path.to_owned();
        below.push(b'/');
        let tracked_below = folder && self.index.prefixed_entries(below.as_bstr()).is_some();
        let ignored = tracked_only || self.ignores.has(path, folder);
        match () {
            () if tracked_below && ignored => Known::OnlyTracked,
            () if tracked_below => Known::Counts,
            () if ignored => Known::Ignored,
            () if folder && self.is_repository(path) => Known::Module,
            () => Known::Counts,
        }
    }

    /// The files that are committed as the index has them: outside of a sparse checkout, or said to be unchanged
    /// (`git update-index --assume-unchanged`, `--skip-worktree`).
    pub(super) fn kept(&self) -> Result<Vec<SourceFile>, GitError> {
        let mut files = Vec::new();
        for entry in self.index.prefixed_entries(self.start.as_bstr()).unwrap_or_default() {
            if is_kept(entry) {
                self.keep(entry, &mut files)
                    .map_err(|e| GitError::Read { what: entry.path(&self.index).to_string(), why: chain(&e) })?;
            }
        }
        Ok(files)
    }

    fn keep(&self, entry: &gix::index::Entry, files: &mut Vec<SourceFile>) -> gix::Result<()> {
        let path = entry.path(&self.index)[self.start.len()..].as_bstr().to_string();
        let kind = match entry.mode {
            Mode::DIR => Kind::Folder,
            Mode::SYMLINK => Kind::Link,
            Mode::COMMIT => Kind::Module,
            _ => Kind::File,
        };
        let content = match look_along(path.trim_end_matches('/'), kind) {
            Look::Pass => return Ok(()),
            Look::Enter => {
                let folder = self.repo.find_object(entry.id)?.try_into_tree()?;
                return tree::read(&folder, &path, path.matches('/').count(), files);
            }
            Look::Read => tree::blob(self.repo, entry.id)?,
            Look::Refuse(why) => why,
        };
        files.push(SourceFile { path: path.into(), content });
        Ok(())
    }

    /// What a commit would have of a file: Git may change line ends, the encoding, or more than that (gitattributes(5)).
    pub(super) fn content(&mut self, file: &Path, path: &BStr) -> io::Result<Content> {
        let opened = File::open(file)?;
        let path = gix::path::from_bstr(path).map_err(io::Error::other)?;
        let converted = self.filter.convert_to_git(opened, &path, &self.index);
        let mut bytes = Vec::new();
        converted.map_err(|e| io::Error::other(chain(&e)))?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(Content::Bytes(bytes.into()))
    }

    /// Whether a sparse index has a folder above `path` as a whole.
    fn is_in_kept_folder(&self, path: &BStr) -> bool {
        let above = |entry: &gix::index::Entry| entry.mode == Mode::DIR && path.starts_with(entry.path(&self.index));
        self.index.is_sparse() && self.index.entries().iter().any(above)
    }

    fn is_repository(&self, path: &BStr) -> bool {
        let path = gix::path::from_bstr(path);
        path.is_ok_and(|path| gix::discover::is_git(&self.root.join(path).join(".git")).is_ok())
    }
}

fn is_kept(entry: &gix::index::Entry) -> bool {
    entry.mode == Mode::DIR || entry.flags.intersects(Flags::SKIP_WORKTREE | Flags::ASSUME_VALID)
}
