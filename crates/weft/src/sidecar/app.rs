//! The app beside the sidecar: started after it, stopped before it ends.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;
use weft_workload_api::Endpoint;

use super::args::Args;
use super::place::Place;
use crate::output::hinted;
use weft_process::child::{Guarded, describe, exit_code};

/// What a shell gives for a program that was killed.
const KILLED: u8 = 128 + Signal::SIGKILL as u8;

/// A supervised app with all that it starts, or none when somebody else runs it.
pub(crate) struct App(Option<Guarded>);

impl App {
    /// Starts the app if the sidecar was given one. It finds its sidecar in `EGRESS`, its own port in `PORT`, and where it can ask for its
    /// own identity, if that is anywhere, in `SPIFFE_ENDPOINT_SOCKET` (Workload Endpoint s.4).
    pub(crate) fn start(args: &Args, place: &Place, identity: Option<&Endpoint>) -> Result<Self> {
        let Some((program, arguments)) = args.command.split_first() else { return Ok(Self(None)) };
        let mut command = Guarded::command(program, &place.guarded());
        command.args(arguments).env("PORT", args.app.port().to_string()).env("EGRESS", args.egress.to_string());
        if let Some(endpoint) = identity {
            command.env("SPIFFE_ENDPOINT_SOCKET", endpoint.to_string());
        }
        let app = Guarded::start(command).map_err(|error| {
            hinted(format!("cannot start the app `{program}`: {error}"), "give its path after `--`")
        })?;
        tracing::info!(program, guard = app.id(), "the app is started");
        Ok(Self(Some(app)))
    }

    /// Waits for its end; for ever when there is none.
    pub(crate) async fn ended(&mut self) -> ExitCode {
        let Some(app) = &mut self.0 else { return std::future::pending().await };
        match app.ended().await {
            Ok(status) => {
                tracing::info!(status = describe(status), "the app has ended");
                exit_code(status)
            }
            Err(error) => {
                tracing::error!(%error, "the app cannot be waited for");
                ExitCode::FAILURE
            }
        }
    }

    /// SIGTERM, and SIGKILL when that has not helped within `bound`. Success if the app has ended as it was asked to, else what a
    /// killed program gives.
    pub(crate) async fn stop(&mut self, bound: Duration) -> ExitCode {
        let Some(app) = &mut self.0 else { return ExitCode::SUCCESS };
        if app.stop(bound).await.is_some() {
            return ExitCode::SUCCESS;
        }
        tracing::warn!("the app did not end within {} s and was killed", bound.as_secs());
        ExitCode::from(KILLED)
    }

    /// SIGKILL, at once.
    pub(crate) async fn kill(&mut self) -> ExitCode {
        let Some(app) = &mut self.0 else { return ExitCode::SUCCESS };
        tracing::warn!("told to stop once more: the app is killed");
        app.kill().await;
        ExitCode::from(KILLED)
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
