//! `weft guard`: stands between a sidecar and a program that it runs, and leaves nothing of that program behind.
//!
//! A guard is the subreaper of the program (prctl(2), PR_SET_CHILD_SUBREAPER): whatever the program starts and does not wait for becomes
//! the guard's child, in whichever process group or session it is. So orphans are reaped, and can be found when it is time for them
//! to end: the program has ended, the owner asks for it, or the owner has died without a word.
//!
//! The same code is the first process of a container, whose orphans are its own by birth: see [`as_init`].
//!
//! Nothing here starts a thread or a runtime: a guard sleeps until a signal comes.

mod family;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use nix::sys::prctl::{set_child_subreaper, set_pdeathsig};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid, getppid};

use crate::exec::NOT_STARTED;
use family::{Family, Watch};

/// To a guard, from its owner: ask the program to end.
pub const ASK: Signal = Signal::SIGUSR1;
/// To a guard, from its owner: kill whatever is left.
pub const KILL: Signal = Signal::SIGUSR2;

/// How long what the program has left behind may take to end after SIGTERM.
const LEFT_BOUND: Duration = Duration::from_secs(2);
/// What does not die of SIGKILL for so long hangs in the kernel, and is not waited for.
const DEATH_BOUND: Duration = Duration::from_secs(5);

/// Arguments of `weft guard`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Process whose end kills the program and all that it has started
    #[arg(long)]
    parent: i32,
    /// File that is locked, shared, for as long as anything of the program runs
    #[arg(long)]
    lock: PathBuf,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Runs the program to its end and gives its exit code, 128 and the signal if it was killed.
pub fn run(args: Args) -> ExitCode {
    let owner = Pid::from_raw(args.parent);
    let guarded = lock(&args.lock).and_then(|_held| guard(owner, &args.command).map_err(io::Error::from));
    guarded.unwrap_or_else(|error| {
        eprintln!("weft: guarding {}: {error}", args.command[0].display());
        ExitCode::from(NOT_STARTED)
    })
}

/// Tells the next sidecar of the same folder that something of this one still runs. The program does not inherit it.
fn lock(path: &Path) -> io::Result<File> {
    let file = File::options().write(true).create(true).truncate(false).open(path)?;
    file.lock_shared()?;
    Ok(file)
}

fn guard(owner: Pid, command: &[OsString]) -> nix::Result<ExitCode> {
    let mut watch = Watch::begin()?;
    set_child_subreaper(true)?;
    // Any signal would do: it wakes the guard, which then sees that its parent is another.
    set_pdeathsig(Signal::SIGTERM)?;
    if getppid() != owner {
        return Ok(ExitCode::from(NOT_STARTED)); // it has died in between
    }
    let mut family = Family::new(spawn(command)?);
    while family.status().is_none() {
        if getppid() != owner {
            return Ok(end(&mut watch, &mut family));
        }
        let Some(signal) = watch.next(None)? else { continue };
        family.reap();
        // Who signals us all, like a terminal or a supervisor, has reached the program too; once is enough.
        match signal.from {
            from if from != owner => {}
            _ if signal.is(ASK) => family.ask(),
            _ if signal.is(KILL) => return Ok(end(&mut watch, &mut family)),
            _ => {}
        }
    }
    // The program has ended, and what it leaves behind is asked to.
    let deadline = Instant::now() + LEFT_BOUND;
    while getppid() == owner && family.ask_all() {
        match watch.next(Some(deadline))? {
            Some(signal) if signal.is(KILL) && signal.from == owner => break,
            Some(_) => family.reap(),
            None => break,
        }
    }
    Ok(end(&mut watch, &mut family))
}

/// Kills whatever is left, and gives the exit code of the program.
fn end(watch: &mut Watch, family: &mut Family) -> ExitCode {
    let deadline = Instant::now() + DEATH_BOUND;
    while family.kill_all() && Instant::now() < deadline {
        // A look at least every 20 ms: what a dying process leaves behind is ours without a signal.
        let _ = watch.next(Some(Instant::now() + Duration::from_millis(20))); // an error is a look now
        family.reap();
    }
    ExitCode::from(family.status().unwrap_or(128 + Signal::SIGKILL as u8))
}

/// Whether this is the first process of a container (or of a machine): it has to reap orphans that are not its own, and signals that it
/// does not handle do nothing.
pub fn is_first_process() -> bool {
    getpid() == Pid::from_raw(1)
}

/// The first process: starts this very command again as its child, hands signals on to it and reaps orphans. When the child has ended,
/// so does the first process, and the kernel kills whatever is left in the container.
pub fn as_init() -> ExitCode {
    init().unwrap_or_else(|error| {
        eprintln!("weft: as the first process: {error}");
        ExitCode::from(NOT_STARTED)
    })
}

fn init() -> nix::Result<ExitCode> {
    let mut watch = Watch::begin()?;
    let binary = std::env::current_exe().map_or_else(|_| "/proc/self/exe".into(), OsString::from);
    let command: Vec<OsString> = std::iter::once(binary).chain(std::env::args_os().skip(1)).collect();
    let mut family = Family::new(spawn(&command)?);
    loop {
        if let Some(status) = family.status() {
            return Ok(ExitCode::from(status));
        }
        let signal = watch.next(None)?;
        family.reap();
        if let Some(signal) = signal.and_then(|signal| signal.known()).filter(|signal| *signal != Signal::SIGCHLD) {
            family.pass(signal);
        }
    }
}

/// Starts `weft exec`, which becomes the program.
fn spawn(command: &[OsString]) -> nix::Result<Pid> {
    let child = Command::new("/proc/self/exe")
        .arg0("weft")
        .args([OsStr::new("exec"), OsStr::new("--parent"), OsStr::new(&getpid().to_string()), OsStr::new("--")])
        .args(command)
        .spawn();
    match child {
        Ok(child) => Ok(Pid::from_raw(child.id().cast_signed())),
        Err(error) => Err(nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or_default())),
    }
}

/// A signal to the guard `pid`, which may have ended.
pub fn tell(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
}
