//! Keys stay in memory: a process that holds some leaves no core dump, and only root may look into it (prctl(2), PR_SET_DUMPABLE).

use nix::errno::Errno;
use nix::sys::prctl;

/// The environment variable that allows core dumps all the same, to look for a crash: `WEFT_CORE_DUMPS=1`.
pub const ALLOWED_BY: &str = "WEFT_CORE_DUMPS";

/// From now on, unless the environment allows it. Programs that this one starts are not meant.
///
/// # Errors
/// What the kernel says.
pub fn forbid() -> Result<(), Errno> {
    if std::env::var_os(ALLOWED_BY).is_some_and(|value| value == "1") {
        return Ok(());
    }
    prctl::set_dumpable(false)
}
