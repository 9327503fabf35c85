//! The intent files of a commit, from the object database.

use gix::object::tree::EntryKind;
use weft_model::source::{Content, MAX_FILE_BYTES, MAX_FILES, SourceFile};

use super::commit::{Commit, CommitId};
use super::entry::{Kind, Look, look};
use super::error::{GitError, chain};
use super::local::is_partial;

/// Reads the files below `path` of a commit.
pub(super) fn commit(repo: &gix::Repository, id: &CommitId, path: &str) -> Result<Commit, GitError> {
    let failed = |e: gix::Error| GitError::Read { what: format!("commit {id}"), why: missing_or(repo, &e) };
    let object: gix::ObjectId = id
        .as_str()
        .parse()
        .map_err(|_| GitError::Read { what: format!("commit {id}"), why: "no such id".to_owned() })?;
    let commit = repo.find_commit(object).map_err(failed)?;
    let root = commit.tree().map_err(failed)?;
    let path = path.trim_matches('/');
    let folder = if path.is_empty() || path == "." {
        root
    } else {
        let missing = || GitError::NoPath { commit: id.clone(), path: path.to_owned() };
        let entry = root.lookup_entry_by_path(path).map_err(failed)?.ok_or_else(missing)?;
        if !entry.mode().is_tree() {
            return Err(missing());
        }
        entry.object().map_err(failed)?.try_into_tree().map_err(|_| missing())?
    };
    let mut files = Vec::new();
    read(&folder, "", 0, &mut files).map_err(failed)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let subject = commit.message().map(|m| m.summary().to_string()).unwrap_or_default();
    let author = commit.author().map(|a| a.name.to_string()).unwrap_or_default();
    Ok(Commit { id: id.clone(), subject, author, files })
}

/// Files of a folder and its folders. Stops soon after [`MAX_FILES`], which is a finding then.
pub(super) fn read(tree: &gix::Tree<'_>, prefix: &str, depth: usize, files: &mut Vec<SourceFile>) -> gix::Result<()> {
    for entry in tree.iter() {
        if files.len() > MAX_FILES {
            return Ok(());
        }
        let entry = entry?;
        let name = entry.filename().to_string();
        let path = format!("{prefix}{name}");
        let content = match look(&name, kind(entry.kind()), depth) {
            Look::Pass => continue,
            Look::Enter => {
                let tree = entry.object()?.try_into_tree()?;
                read(&tree, &format!("{path}/"), depth + 1, files)?;
                continue;
            }
            Look::Read => blob(tree.repo, entry.object_id())?,
            Look::Refuse(why) => why,
        };
        files.push(SourceFile { path: path.into(), content });
    }
    Ok(())
}

fn kind(kind: EntryKind) -> Kind {
    match kind {
        EntryKind::Tree => Kind::Folder,
        EntryKind::Blob | EntryKind::BlobExecutable => Kind::File,
        EntryKind::Link => Kind::Link,
        EntryKind::Commit => Kind::Module,
    }
}

/// What a commit has in a file.
pub(super) fn blob(repo: &gix::Repository, id: gix::ObjectId) -> gix::Result<Content> {
    // The header tells the size, so that a huge file is never held.
    let size = repo.find_header(id)?.size();
    if size > MAX_FILE_BYTES {
        return Ok(Content::TooLarge(size));
    }
    Ok(Content::Bytes(repo.find_object(id)?.try_into_blob()?.take_data().into()))
}

/// Git's words; and what to do when objects were left out on purpose, which Git would fetch now and we do not.
pub(super) fn missing_or(repo: &gix::Repository, error: &gix::Error) -> String {
    let words = chain(error);
    match error.is_not_found() && is_partial(repo) {
        true => format!(
            "{words}; this is a partial clone, which leaves objects out: `git fetch --refetch --no-filter` brings them"
        ),
        false => words,
    }
}
