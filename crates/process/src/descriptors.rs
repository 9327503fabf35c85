//! How many files and connections a process may have open.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// As many as the system lets it have: the limit that most systems begin with, 1024, is for programs that use select(2).
///
/// # Errors
/// What the kernel says.
pub fn raise() -> Result<(), Errno> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)
}
