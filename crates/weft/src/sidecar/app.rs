//! The app beside the sidecar: started after it, stopped before it ends.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::Args;
use crate::output::hinted;

/// A supervised app, or none when somebody else runs it.
pub(crate) struct App(Option<Child>);

impl App {
    /// Starts the app if the sidecar was given one. It finds its sidecar in `EGRESS`, and its own port in `PORT`.
    pub(crate) fn start(args: &Args) -> Result<Self> {
        let Some((program, arguments)) = args.command.split_first() else { return Ok(Self(None)) };
        let child = dies_with_us(program)
            .args(arguments)
            .env("PORT", args.app.port().to_string())
            .env("EGRESS", args.egress.to_string())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                hinted(format!("cannot start the app `{program}`: {error}"), "give its path after `--`")
            })?;
        tracing::info!(program, pid = child.id(), "the app is started");
        Ok(Self(Some(child)))
    }

    /// Waits for its end; for ever when there is none.
    pub(crate) async fn ended(&mut self) -> ExitCode {
        match &mut self.0 {
            Some(child) => match child.wait().await {
                Ok(status) => {
                    tracing::info!(%status, "the app has ended");
                    exit_code(status)
                }
                Err(error) => {
                    tracing::error!(%error, "the app cannot be waited for");
                    ExitCode::FAILURE
                }
            },
            None => std::future::pending().await,
        }
    }

    /// SIGTERM, and SIGKILL when that has not helped within `bound`. Success if the app has ended as it was asked to, else what a
    /// killed program gives.
    pub(crate) async fn stop(&mut self, bound: Duration) -> ExitCode {
        let Some(child) = &mut self.0 else { return ExitCode::SUCCESS };
        terminate(child);
        if tokio::time::timeout(bound, child.wait()).await.is_ok() {
            return ExitCode::SUCCESS;
        }
        tracing::warn!("the app did not end within {} s and is killed", bound.as_secs());
        let _ = child.start_kill(); // it may just have ended by itself
        child.wait().await.map_or(ExitCode::FAILURE, exit_code)
    }
}

/// SIGTERM to a child that may have ended.
pub(crate) fn terminate(child: &Child) {
    if let Some(pid) = child.id() {
        let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM);
    }
}

/// Whether there is a program to run, before anything is started for it.
///
/// # Errors
/// Nothing of that name in `PATH`, or no executable file at that path.
pub(crate) fn find(command: &[String]) -> Result<()> {
    let Some(program) = command.first() else { return Ok(()) };
    let is_program =
        |path: &Path| path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
    let (found, where_) = if program.contains('/') {
        (is_program(Path::new(program)), "at that path")
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        (std::env::split_paths(&path).any(|folder| is_program(&folder.join(program))), "in PATH")
    };
    if found {
        return Ok(());
    }
    let hint = "give the path of the app's program after `--`, then its arguments";
    Err(hinted(format!("cannot start the app `{program}`: there is no program of that name {where_}"), hint))
}

/// The program, killed by the kernel should this process die without a word. This binary asks for that and becomes the program:
/// see [`crate::exec`].
pub(crate) fn dies_with_us(program: impl AsRef<std::ffi::OsStr>) -> Command {
    // Not `current_exe`, whose file may have been replaced since the start.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("weft").args(["exec", "--parent", &std::process::id().to_string(), "--"]).arg(program);
    // Neither is for the child: the token is a secret, and its parent is this process.
    command.env_remove("WEFT_JOIN_TOKEN").env_remove(crate::up::child::PARENT);
    command
}

/// As a shell gives it: 128 and the signal for a program that was killed.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Waits until something accepts connections at the app's address.
pub(crate) async fn listens(address: SocketAddr) {
    let mut pause = Duration::from_millis(20);
    let mut told = false;
    while TcpStream::connect(address).await.is_err() {
        if !told && pause >= Duration::from_millis(500) {
            tracing::info!(app = %address, "waiting for the app to listen before the endpoint is registered");
            told = true;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}
