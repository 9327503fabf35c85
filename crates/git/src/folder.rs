//! The intent files of a folder, before they are committed: what `weft check` and `weft up` look at.
//!
//! In a Git work tree these are the files that `git add --all && git commit` would commit now. A folder outside of Git is read as it
//! is, and so is one that Git ignores: whoever names it means it.

use std::fs::{self, FileType};
use std::io;
use std::path::Path;

use gix::bstr::{BString, ByteSlice};
use weft_model::source::{Content, MAX_FILE_BYTES, MAX_FILES, SourceFile};

use super::entry::{Kind, Look, look};
use super::error::GitError;
use super::local;
use super::worktree::{Known, WorkTree};

/// The same files that a commit of this folder would have, sorted by path.
///
/// # Errors
/// The folder itself, or the repository that it is in, cannot be read; a file that cannot becomes a finding.
pub fn read_dir(dir: &Path) -> Result<Vec<SourceFile>, GitError> {
    let failed = |why: String| GitError::Read { what: dir.display().to_string(), why };
    let root = dir.canonicalize().map_err(|e| failed(e.to_string()))?;
    let repo = local::around(&root)?;
    let mut walk = Walk { git: None, files: Vec::new() };
    if let Some(repo) = &repo {
        if repo.workdir().is_none() && local::place_in(repo, &root).is_some() {
            return Err(GitError::Format {
                place: dir.display().to_string(),
                what: "is bare, without files to check".to_owned(),
                advice: "clone it, and check the clone".to_owned(),
            });
        }
        walk.git = WorkTree::around(repo, &root)?;
    }
    if let Some(git) = &mut walk.git {
        walk.files = git.kept()?;
    }
    let start = At { prefix: String::new(), depth: 0, in_git: walk.git.as_ref().map(WorkTree::start) };
    walk.read(&root, &start).map_err(|e| failed(e.to_string()))?;
    walk.files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(walk.files)
}

struct Walk<'repo> {
    /// `None` outside of Git.
    git: Option<WorkTree<'repo>>,
    files: Vec<SourceFile>,
}

/// A folder on the way.
struct At {
    /// Its path in the intent: empty, or with a `/` at the end.
    prefix: String,
    depth: usize,
    /// Its path in the repository, likewise, and whether only its tracked files count, because Git ignores it.
    in_git: Option<(BString, bool)>,
}

impl Walk<'_> {
    fn read(&mut self, dir: &Path, at: &At) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            if self.files.len() > MAX_FILES {
                break;
            }
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{}{name}", at.prefix);
            let mut kind = entry.file_type().map_or(Kind::Other, kind);
            // Most entries need no question to Git.
            if look(&name, kind, at.depth) == Look::Pass {
                continue;
            }
            let mut below = None;
            if let (Some(git), Some((folder, tracked_only))) = (&self.git, &at.in_git) {
                let mut in_git = folder.clone();
                in_git.extend_from_slice(entry.file_name().as_encoded_bytes());
                match git.known(in_git.as_bstr(), kind, *tracked_only) {
                    Known::Ignored | Known::Kept => continue,
                    Known::Module => kind = Kind::Module,
                    Known::Counts => below = Some((in_git, false)),
                    Known::OnlyTracked => below = Some((in_git, true)),
                }
            }
            let content = match look(&name, kind, at.depth) {
                Look::Pass => continue,
                Look::Enter => match self.enter(&entry.path(), format!("{path}/"), at.depth + 1, below) {
                    Ok(()) => continue,
                    Err(e) => Content::Unreadable(e.to_string().into()),
                },
                Look::Read => self.content(&entry.path(), below.as_ref().map(|(in_git, _)| in_git)),
                Look::Refuse(why) => why,
            };
            self.files.push(SourceFile { path: path.into(), content });
        }
        Ok(())
    }

    fn enter(&mut self, dir: &Path, prefix: String, depth: usize, in_git: Option<(BString, bool)>) -> io::Result<()> {
        if let (Some(git), Some((folder, _))) = (&mut self.git, &in_git) {
            git.enter(folder.as_bstr());
        }
        let in_git = in_git.map(|(mut folder, tracked_only)| {
            folder.push(b'/');
            (folder, tracked_only)
        });
        let read = self.read(dir, &At { prefix, depth, in_git });
        if let Some(git) = &mut self.git {
            git.leave();
        }
        read
    }

    /// What is in a file; in a work tree, what a commit would have of it.
    fn content(&mut self, path: &Path, in_git: Option<&BString>) -> Content {
        let read = match path.metadata().map(|file| file.len()) {
            Ok(size) if size > MAX_FILE_BYTES => Ok(Content::TooLarge(size)),
            Ok(_) => match (&mut self.git, in_git) {
                (Some(git), Some(in_git)) => git.content(path, in_git.as_bstr()),
                _ => fs::read(path).map(|bytes| Content::Bytes(bytes.into())),
            },
            Err(e) => Err(e),
        };
        read.unwrap_or_else(|e| Content::Unreadable(e.to_string().into()))
    }
}

fn kind(file_type: FileType) -> Kind {
    match () {
        () if file_type.is_symlink() => Kind::Link,
        () if file_type.is_dir() => Kind::Folder,
        () if file_type.is_file() => Kind::File,
        // Reading one could block for ever.
        () => Kind::Other,
    }
}
