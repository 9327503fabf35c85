//! A commit, as it is handed on.

use std::fmt;
use std::sync::Arc;

use weft_model::source::SourceFile;

/// The id of a commit: 40 hexadecimal digits, or 64 in a repository with SHA-256 objects.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId(pub(super) Arc<str>);

impl CommitId {
    /// All of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits, for people.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for CommitId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl fmt::Debug for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One commit and the intent files in it.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Its id.
    pub id: CommitId,
    /// First line of its message.
    pub subject: String,
    /// Name of its author.
    pub author: String,
    /// Intent files below the configured path, sorted; paths are relative to it.
    pub files: Vec<SourceFile>,
}
