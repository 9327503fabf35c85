//! The intent files of a folder that is not, or not yet, in Git: `weft check` before a commit, `weft up` outside of a repository.

use std::fs;
use std::path::Path;

use weft_model::source::{
    Content, MAX_FILE_BYTES, MAX_FILES, MAX_FOLDERS, SourceFile, is_hidden, is_intent_file, may_hide_intent,
};

use super::{Commit, CommitId, GitError};

/// The same files that a commit of this folder would have, sorted by path.
///
/// Fails only if the folder itself cannot be read; a file in it that cannot becomes a finding.
pub fn read_dir(dir: &Path) -> Result<Vec<SourceFile>, GitError> {
    let mut files = Vec::new();
    read(dir, "", 0, &mut files).map_err(|e| GitError::Read { what: dir.display().to_string(), why: e.to_string() })?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn read(dir: &Path, prefix: &str, depth: usize, files: &mut Vec<SourceFile>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        if files.len() > MAX_FILES {
            break;
        }
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_hidden(&name) {
            continue;
        }
        let path = format!("{prefix}{name}");
        let unreadable = |why: String| Content::Unreadable(why.into());
        let content = match entry.file_type() {
            Ok(kind) if kind.is_symlink() && may_hide_intent(&name) => Content::Symlink,
            Ok(kind) if kind.is_dir() && depth >= MAX_FOLDERS => {
                unreadable(format!("folders are nested deeper than {MAX_FOLDERS}"))
            }
            Ok(kind) if kind.is_dir() => match read(&entry.path(), &format!("{path}/"), depth + 1, files) {
                Ok(()) => continue,
                Err(e) => unreadable(e.to_string()),
            },
            // Pipes and devices are not files: reading one could block for ever.
            Ok(kind) if kind.is_file() && is_intent_file(&name) => match entry.metadata().map(|m| m.len()) {
                Ok(size) if size > MAX_FILE_BYTES => Content::TooLarge(size),
                Ok(_) => {
                    fs::read(entry.path()).map_or_else(|e| unreadable(e.to_string()), |b| Content::Bytes(b.into()))
                }
                Err(e) => unreadable(e.to_string()),
            },
            Ok(_) if is_intent_file(&name) => unreadable("it is a pipe, a socket or a device".to_owned()),
            Ok(_) => continue,
            Err(e) => unreadable(e.to_string()),
        };
        files.push(SourceFile { path: path.into(), content });
    }
    Ok(())
}

/// The folder as if it were committed now; the id is made from names and bytes.
pub(super) fn commit(dir: &Path) -> Result<Commit, GitError> {
    let files = read_dir(dir)?;
    let mut bytes = Vec::new();
    for file in &files {
        let content = match &file.content {
            Content::Bytes(content) => content.to_vec(),
            refused => format!("{refused:?}").into_bytes(),
        };
        bytes.extend_from_slice(&(file.path.len() as u64).to_be_bytes());
        bytes.extend_from_slice(file.path.as_bytes());
        bytes.extend_from_slice(&(content.len() as u64).to_be_bytes());
        bytes.extend_from_slice(&content);
    }
    let hash = gix::objs::compute_hash(gix::hash::Kind::Sha1, gix::object::Kind::Blob, &bytes)
        .map_err(|e| GitError::Read { what: dir.display().to_string(), why: e.to_string() })?;
    let subject = format!("files of {}", dir.display());
    Ok(Commit { id: CommitId(format!("dir-{hash}").into()), subject, author: String::new(), files })
}
