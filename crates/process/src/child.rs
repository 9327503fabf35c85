//! Programs that this process runs, none of which outlives it, and what their ends mean.

use std::ffi::OsStr;
use std::io::IsTerminal;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};
use tokio::process::{Child, Command};

use crate::guard;

/// Tells a child of `weft up` whose death it must not survive.
pub const PARENT: &str = "WEFT_PARENT";
/// How long a guard may take to kill what it guards.
const KILL_BOUND: Duration = Duration::from_secs(8);

/// Called first thing in `main`: a child of `weft up` asks the kernel to be stopped when `weft up` dies, however it dies.
pub fn follow_parent() {
    let Some(parent) = std::env::var(PARENT).ok().and_then(|pid| pid.parse().ok()).map(Pid::from_raw) else { return };
    // SIGTERM, so that a sidecar stops its own children in order.
    if set_pdeathsig(Signal::SIGTERM).is_err() || getppid() != parent {
        std::process::exit(1); // it has died in between
    }
}

/// SIGTERM to a child that may have ended.
pub fn terminate(child: &Child) {
    if let Some(pid) = child.id() {
        let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM);
    }
}

/// A program under a [`guard`]: it and all that it starts end with this process, also when that is killed.
pub struct Guarded(Child);

impl Guarded {
    /// The command that runs `program` so. Standard input and output are the program's; `lock` is locked while anything of it runs.
    pub fn command(program: impl AsRef<OsStr>, lock: &Path) -> Command {
        // Not `current_exe`, whose file may have been replaced since the start.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("weft").args(["guard", "--parent", &std::process::id().to_string(), "--lock"]).arg(lock);
        command.arg("--").arg(program);
        // Neither is for the child: the token is a secret, and its parent is this process.
        command.env_remove("WEFT_JOIN_TOKEN").env_remove(PARENT);
        // A signal to our whole group is for us, and we stop the program in order. At a terminal a program of another group could not read.
        if !std::io::stdin().is_terminal() {
            command.process_group(0);
        }
        command
    }

    /// Starts a command that [`Guarded::command`] made.
    pub fn start(mut command: Command) -> std::io::Result<Self> {
        command.spawn().map(Self)
    }

    /// Process id of the guard, unless it has ended.
    pub fn id(&self) -> Option<u32> {
        self.0.id()
    }

    /// Waits for the end of the program and of all that it has left behind. A guard ends as its program did, with 128 and the signal
    /// for one that was killed.
    pub async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        self.0.wait().await
    }

    /// SIGTERM to the program, SIGKILL to everything when that has not helped within `bound`. None when it had to be killed.
    pub async fn stop(&mut self, bound: Duration) -> Option<ExitStatus> {
        self.tell(guard::ASK);
        match tokio::time::timeout(bound, self.0.wait()).await {
            Ok(status) => status.ok(),
            Err(_) => {
                self.kill().await;
                None
            }
        }
    }

    /// SIGKILL to the program and to all that it has started.
    pub async fn kill(&mut self) {
        self.tell(guard::KILL);
        if tokio::time::timeout(KILL_BOUND, self.0.wait()).await.is_err() {
            let _ = self.0.kill().await; // it has just ended by itself
        }
    }

    fn tell(&self, signal: Signal) {
        if let Some(guard) = self.0.id() {
            guard::tell(guard, signal);
        }
    }
}

/// The exit code with which to pass on a program's end.
pub fn exit_code(status: ExitStatus) -> ExitCode {
    // A guard that was killed itself has no code.
    status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// How a guarded program ended, for a log line.
pub fn describe(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => match Signal::try_from(code - 128) {
            Ok(signal) => format!("killed by {signal}"),
            Err(_) => format!("exit code {code}"),
        },
        None => format!("its guard ended: {status}"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn an_end_is_told_as_the_programs() {
        let ended = |code: i32| describe(ExitStatus::from_raw(code << 8));
        assert_eq!(ended(0), "exit code 0");
        assert_eq!(ended(127), "exit code 127");
        assert_eq!(ended(128 + 11), "killed by SIGSEGV");
        assert_eq!(ended(255), "exit code 255");
        assert_eq!(describe(ExitStatus::from_raw(9)), "its guard ended: signal: 9 (SIGKILL)");
    }
}
