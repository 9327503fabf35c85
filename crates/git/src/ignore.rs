//! What Git ignores: the ignore files of a repository, of its user, and of each folder on the way down (gitignore(5)).
//!
//! gix has this too, and takes the root of the work tree for a folder that can be ignored: with `*` and `!*.yaml` in `info/exclude`
//! everything would be. Here a folder is asked about before it is entered, and the root never is.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use gix::bstr::{BStr, ByteSlice};
use gix::glob::pattern::Case;
use gix::ignore::Search;
use gix::ignore::search::Ignore;

/// The name of an ignore file.
pub(super) const NAME: &str = ".gitignore";

/// The ignore files that hold in a folder.
pub(super) struct Ignores {
    root: PathBuf,
    case: Case,
    /// The user's, then the repository's own.
    everywhere: Search,
    /// Those of the folders from the root down to the one that was entered last; a list each.
    folders: Search,
}

impl Ignores {
    /// Before the root of the work tree is entered.
    pub(super) fn new(repo: &gix::Repository, root: &Path) -> gix::Result<Self> {
        let config = repo.config_snapshot();
        let users = match config.string("core.excludesFile") {
            Some(_) => config.trusted_path("core.excludesFile")?,
            None => gix::path::env::xdg_config("ignore", &mut |name| env::var_os(name)),
        };
        let users = users.filter(|file| file.is_file());
        let everywhere = Search::from_git_dir(repo.common_dir(), users, &mut Vec::new(), Ignore::default());
        let fold = config.boolean("core.ignoreCase").unwrap_or(false);
        Ok(Self {
            root: root.to_owned(),
            case: if fold { Case::Fold } else { Case::Sensitive },
            // What cannot be read ignores nothing.
            everywhere: everywhere.unwrap_or_default(),
            folders: Search::default(),
        })
    }

    /// Goes into a folder, which has this ignore file in Git's index, if it is one to be taken from there.
    pub(super) fn enter(&mut self, folder: &BStr, kept: Option<&[u8]>) {
        let file = gix::path::from_bstr(folder).map(|folder| self.root.join(folder).join(NAME));
        let file = file.unwrap_or_else(|_| self.root.join(NAME));
        let read = read_no_link(&file).ok();
        let bytes = read.as_deref().or(kept).unwrap_or_default();
        if self.folders.add_patterns_buffer(bytes, &file, Some(&self.root), Ignore::default()).is_err() {
            self.folders.patterns.push(Default::default());
        }
    }

    /// Comes back out of it.
    pub(super) fn leave(&mut self) {
        self.folders.patterns.pop();
    }

    /// Whether an entry of the folder that was entered last is ignored.
    pub(super) fn has(&self, path: &BStr, is_folder: bool) -> bool {
        let find = |search: &Search| {
            let found = search.pattern_matching_relative_path(path.as_bstr(), Some(is_folder), self.case);
            found.map(|found| !found.pattern.is_negative())
        };
        find(&self.folders).or_else(|| find(&self.everywhere)).unwrap_or(false)
    }
}

/// Git does not follow a link to an ignore file either.
fn read_no_link(file: &Path) -> io::Result<Vec<u8>> {
    match fs::symlink_metadata(file)?.is_file() {
        true => fs::read(file),
        false => Err(io::ErrorKind::NotFound.into()),
    }
}
