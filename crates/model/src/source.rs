//! The files of one commit (or of one folder) as they come out of Git, before anybody looked into them.

use std::sync::Arc;

/// One file of the intent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Path relative to the root of the intent, with `/`.
    pub path: Arc<str>,
    /// What is in it.
    pub content: Content,
}

/// What is in a file, or why it was not read. Refusals become findings when the intent is parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The bytes.
    Bytes(Arc<[u8]>),
    /// A symbolic link in the place of an intent file. Never followed: it could leave the repository, and a commit would not say what it means.
    Symlink,
    /// A Git submodule in the place of an intent file: another repository, at a commit that this one does not contain.
    Submodule,
    /// More than [`MAX_FILE_BYTES`]; it was not loaded.
    TooLarge(u64),
    /// The operating system's or Git's words.
    Unreadable(Arc<str>),
}

/// Largest file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 20;
/// Most intent files in a repository.
pub const MAX_FILES: usize = 20_000;
/// Deepest folder that is looked into.
pub const MAX_FOLDERS: usize = 32;

impl SourceFile {
    /// A file with these bytes.
    pub fn new(path: impl Into<Arc<str>>, bytes: impl Into<Arc<[u8]>>) -> Self {
        Self { path: path.into(), content: Content::Bytes(bytes.into()) }
    }

    /// The text, if it was read and is UTF-8.
    pub fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }
}

/// Whether a file name (not a path) is that of an intent file: `*.yaml`, `*.yml`, `*.cedar`, and not hidden.
pub fn is_intent_file(name: &str) -> bool {
    !is_hidden(name) && (is_yaml(name) || is_cedar(name))
}

/// Whether a file or folder name starts with a dot. Hidden ones (`.git`, `.github`) are not part of the intent.
pub fn is_hidden(name: &str) -> bool {
    name.starts_with('.')
}

pub(crate) fn is_yaml(name: &str) -> bool {
    name.ends_with(".yaml") || name.ends_with(".yml")
}

pub(crate) fn is_cedar(name: &str) -> bool {
    name.ends_with(".cedar")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intent_files_are_told_by_their_names() {
        for name in ["mesh.yaml", "board.yml", "abac.cedar", "a.b.yaml"] {
            assert!(is_intent_file(name), "{name}");
        }
        for name in ["README.md", ".hidden.yaml", "yaml", "mesh.yaml.bak", "mesh.YAML", "cedar"] {
            assert!(!is_intent_file(name), "{name}");
        }
    }
}
