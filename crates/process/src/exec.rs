//! `weft exec`: becomes another program that does not outlive its [`guard`](crate::guard).
//!
//! The request to the kernel stays in force through `execve` (prctl(2), PR_SET_PDEATHSIG), so no code has to run between `fork` and
//! `exec`, and no `setpriv` has to be installed.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getppid};

/// What a shell gives when it cannot start a program.
pub const NOT_STARTED: u8 = 127;

/// Arguments of `weft exec`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Process whose end kills the program
    #[arg(long)]
    parent: i32,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Returns only if the program cannot be started.
pub fn run(args: Args) -> ExitCode {
    let (program, arguments) = args.command.split_first().expect("clap demands one");
    if let Err(error) = set_pdeathsig(Signal::SIGKILL) {
        eprintln!("weft: asking to be killed with the sidecar: {error}");
        return ExitCode::from(NOT_STARTED);
    }
    if getppid() != Pid::from_raw(args.parent) {
        return ExitCode::from(NOT_STARTED); // it has died in between
    }
    // The guard holds signals back, and a program inherits that (execve(2)).
    if let Err(error) = SigSet::empty().thread_set_mask() {
        eprintln!("weft: letting signals through to the program: {error}");
        return ExitCode::from(NOT_STARTED);
    }
    let error = Command::new(program).args(arguments).exec();
    eprintln!("weft: cannot start {}: {error}", program.display());
    ExitCode::from(NOT_STARTED)
}
