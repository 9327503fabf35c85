//! Children of `weft up`: this very binary, each with its output in a file, none of which outlives us.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::{Child as Process, Command};

use weft_process::child::{PARENT, terminate};

/// A running child.
pub(crate) struct Child {
    name: String,
    process: Process,
    log: PathBuf,
}

impl Child {
    /// Starts this binary with `args` and, for what others must not see in a list of processes, `env`; what it writes goes to `log`, after what is there.
    pub(crate) fn start(name: &str, args: &[String], env: &[(&str, &str)], log: &Path) -> Result<Self> {
        let binary = std::env::current_exe().context("finding this binary")?;
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))?;
        let process = Command::new(binary)
            .args(args)
            .envs(env.iter().copied())
            .env(PARENT, std::process::id().to_string())
            .env("RUST_LOG", std::env::var("WEFT_UP_LOG").unwrap_or_else(|_| "info".to_owned()))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0) // Ctrl-C is for us; we stop the children in order
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Self { name: name.to_owned(), process, log: log.to_owned() })
    }

    /// Process id; 0 after its end.
    pub(crate) fn id(&self) -> u32 {
        self.process.id().unwrap_or(0)
    }

    /// An error with the end of its log when it has ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.process.try_wait()? {
            None => Ok(()),
            Some(status) => {
                anyhow::bail!("{} has ended ({status}); the end of {}:\n{}", self.name, self.log.display(), self.tail())
            }
        }
    }

    /// SIGTERM, and SIGKILL when that has not helped within `bound`.
    pub(crate) async fn stop(&mut self, bound: Duration) -> Option<ExitStatus> {
        terminate(&self.process);
        match tokio::time::timeout(bound, self.process.wait()).await {
            Ok(status) => status.ok(),
            Err(_) => {
                tracing::warn!(name = self.name, "did not end in time and is killed");
                let _ = self.process.kill().await; // it has just ended by itself
                None
            }
        }
    }

    fn tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].iter().map(|line| format!("  {line}\n")).collect()
    }
}
