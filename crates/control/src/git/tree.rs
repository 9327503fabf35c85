//! The intent files of a commit, from the object database.

use gix::object::tree::EntryKind;
use weft_model::source::{
    Content, MAX_FILE_BYTES, MAX_FILES, MAX_FOLDERS, SourceFile, is_hidden, is_intent_file, may_hide_intent,
};

use super::{Commit, CommitId, GitError, chain};

/// Reads the files below `path` of a commit.
pub(super) fn commit(repo: &gix::Repository, id: &CommitId, path: &str) -> Result<Commit, GitError> {
    let failed = |e: gix::Error| GitError::Read { what: format!("commit {id}"), why: chain(&e) };
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
fn read(tree: &gix::Tree<'_>, prefix: &str, depth: usize, files: &mut Vec<SourceFile>) -> gix::Result<()> {
    for entry in tree.iter() {
        if files.len() > MAX_FILES {
            return Ok(());
        }
        let entry = entry?;
        let name = entry.filename().to_string();
        if is_hidden(&name) {
            continue;
        }
        let path = format!("{prefix}{name}");
        let content = match entry.kind() {
            EntryKind::Tree if depth >= MAX_FOLDERS => {
                Content::Unreadable(format!("folders are nested deeper than {MAX_FOLDERS}").into())
            }
            EntryKind::Tree => {
                let tree = entry.object()?.try_into_tree()?;
                read(&tree, &format!("{path}/"), depth + 1, files)?;
                continue;
            }
            EntryKind::Blob | EntryKind::BlobExecutable if is_intent_file(&name) => {
                // The header tells the size, so that a huge file is never held.
                let size = tree.repo.find_header(entry.object_id())?.size();
                if size > MAX_FILE_BYTES {
                    Content::TooLarge(size)
                } else {
                    Content::Bytes(entry.object()?.try_into_blob()?.take_data().into())
                }
            }
            EntryKind::Blob | EntryKind::BlobExecutable => continue,
            EntryKind::Link if may_hide_intent(&name) => Content::Symlink,
            EntryKind::Link => continue,
            EntryKind::Commit => Content::Submodule,
        };
        files.push(SourceFile { path: path.into(), content });
    }
    Ok(())
}
