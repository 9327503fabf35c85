//! The intent's source: commits of a Git repository, read straight from its object database, and folders before they are committed.
//!
//! A local repository (a path or `file://`) is read in place; a remote one (`https://`) is mirrored into a bare repository
//! first. The control plane looks at commits only, so nobody's uncommitted edits get into the mesh; `weft check` reads the work
//! tree as it would be committed. Which files of either are looked at is decided in one place (`entry`). Nothing here writes to a
//! repository that is not ours. All of it blocks: `watch` runs it on a thread of its own.

mod commit;
mod config;
mod entry;
mod error;
mod folder;
mod ignore;
mod local;
mod mirror;
mod source;
mod transport;
mod tree;
mod url;
mod watch;
mod worktree;

pub use commit::{Commit, CommitId};
pub use config::GitConfig;
pub use error::GitError;
pub use folder::read_dir;
pub use source::GitSource;
pub use url::safe;
pub use watch::Observed;

#[cfg(test)]
mod tests;
