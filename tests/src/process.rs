//! A child process that cannot outlive the test, with its output in a file.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::wait;

/// A running program. Dropping it kills its whole process group; the kernel kills it if the test dies first.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    exit: Option<ExitStatus>,
}

impl Process {
    /// Starts `program` with `args`; standard output and error go to `<folder>/<name>.log`, after what is there already.
    ///
    /// # Panics
    /// When the program cannot be started.
    #[track_caller]
    pub fn start<A: AsRef<OsStr>>(
        folder: &Path,
        name: &str,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = A>,
        env: &[(&str, &str)],
    ) -> Self {
        Self::start_under(&[], folder, name, program, args, env)
    }

    /// The same under another program with its arguments, which replaces itself by it or runs it in its own process.
    ///
    /// # Panics
    /// When the program cannot be started.
    #[track_caller]
    pub fn start_under<A: AsRef<OsStr>>(
        under: &[String],
        folder: &Path,
        name: &str,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = A>,
        env: &[(&str, &str)],
    ) -> Self {
        let log = folder.join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log).expect("the log file opens");
        let error = out.try_clone().expect("a file handle can be cloned");
        // setpriv (util-linux) asks the kernel for the signal at our death, which std cannot do without unsafe code.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .args(under)
            .arg(program.as_ref())
            .args(args)
            .envs(env.iter().copied())
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(error)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("starting {name} ({}): {error}", program.as_ref().display()));
        Self { name: name.to_owned(), child, log, exit: None }
    }

    /// The name given at the start.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Process id; setpriv replaces itself by the program, so it is the program's.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it has written so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The exit status if it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.exit.is_none() {
            self.exit = self.child.try_wait().expect("the child is ours to wait for");
        }
        self.exit
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it still runs after `bound`.
    #[track_caller]
    pub fn wait(&mut self, bound: Duration) -> ExitStatus {
        let what = format!("{} to exit", self.name);
        wait::until(&what, bound, || self.exited().ok_or("it still runs"))
    }

    /// Sends a signal to the process alone, not to its children.
    pub fn signal(&self, signal: Signal) {
        // Its end between two looks is no error of the test.
        let _ = kill(Pid::from_raw(self.child.id() as i32), signal);
    }

    /// Sends a signal that has no name.
    pub fn signal_number(&self, number: i32) {
        let status = Command::new("kill").arg(format!("-{number}")).arg(self.child.id().to_string()).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{number}");
    }

    /// Kills the whole group at once and waits.
    pub fn kill(&mut self) {
        if self.exited().is_none() {
            let _ = killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }

    /// Panics with the tail of the log if it has ended by itself.
    #[track_caller]
    pub fn assert_running(&mut self) {
        if let Some(status) = self.exited() {
            panic!("{} ended with {status}:\n{}", self.name, tail(&self.output(), 40));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The group is killed even when its leader has ended, for the children that it may have left.
        let _ = killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL);
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- end of the log of {} ({}):\n{}", self.name, self.log.display(), tail(&self.output(), 25));
        }
    }
}

/// The last `count` lines.
pub fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Runs a command to its end and gives its standard output.
///
/// # Panics
/// When it fails, with what it wrote.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("running {command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
