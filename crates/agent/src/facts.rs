//! What a process is, as far as anything is asked of it.

use std::fmt;
use std::fs::File;
use std::sync::Arc;

/// What a process was at one look.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Its number, for people.
    pub pid: i32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// The name of the user, if it was asked for and has one.
    pub user: Option<Arc<str>>,
    /// The name of the group, likewise.
    pub group: Option<Arc<str>>,
    /// The file that it runs, if the agent may look.
    pub executable: Option<Executable>,
    /// Its control group.
    pub cgroup: Option<Arc<str>>,
}

/// The file that a process runs.
#[derive(Clone, Debug)]
pub struct Executable {
    /// Which file.
    pub file: FileId,
    /// Its path, if the file of this path in the agent's own file system is this very one: a process that has made file systems of its own says
    /// what it likes.
    pub path: Option<Arc<str>>,
    /// Keeps the number of the file from being used for another one.
    pub pinned: Arc<File>,
}

/// A file and its state: what has the same has the same content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Device and number on it.
    pub file: (u64, u64),
    /// Bytes.
    pub size: u64,
    /// When its content changed, in seconds and nanoseconds.
    pub modified: (i64, i64),
    /// When its state changed, likewise. Nobody can set it.
    pub changed: (i64, i64),
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} uid {} gid {}", self.pid, self.uid, self.gid)?;
        if let Some(path) = self.executable.as_ref().and_then(|executable| executable.path.as_ref()) {
            write!(f, " {path}")?;
        }
        if let Some(cgroup) = self.cgroup.as_ref().filter(|cgroup| ***cgroup != *"/") {
            write!(f, " in {cgroup}")?;
        }
        Ok(())
    }
}
