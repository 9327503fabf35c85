//! A guard's children: the program, and whatever it has left behind; and the signals that tell of them.
//!
//! Only children are signalled, never a process found otherwise: a child's id is its own until it is reaped, and nobody but the guard
//! reaps it.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};

/// Faults of this very process, which cannot be put off, and what a terminal stops a job with.
const NOT_HELD: [Signal; 11] = [
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGTRAP,
    Signal::SIGABRT,
    Signal::SIGSYS,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGCONT,
];

/// Signals as they come, none of which ends this process any more.
pub(super) struct Watch(SignalFd);

/// A signal and who sent it; the kernel is nobody.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    number: i32,
    pub(super) from: Pid,
}

impl Received {
    pub(super) fn is(self, signal: Signal) -> bool {
        self.number == signal as i32
    }

    /// Unless it is one without a name.
    pub(super) fn known(self) -> Option<Signal> {
        Signal::try_from(self.number).ok()
    }
}

impl Watch {
    /// From now on signals are held back until they are read here.
    pub(super) fn begin() -> nix::Result<Self> {
        let mut held = SigSet::all();
        NOT_HELD.into_iter().for_each(|signal| held.remove(signal));
        held.thread_block()?;
        SignalFd::with_flags(&held, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map(Self)
    }

    /// The next signal; none when `deadline` has passed first.
    pub(super) fn next(&mut self, deadline: Option<Instant>) -> nix::Result<Option<Received>> {
        loop {
            if let Some(info) = self.0.read_signal()? {
                let (number, from) = (info.ssi_signo.cast_signed(), info.ssi_pid.cast_signed());
                return Ok(Some(Received { number, from: Pid::from_raw(from) }));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            // A millisecond more, so that a wait for less than one is none without a pause.
            let bound = left.map_or(PollTimeout::NONE, |left| {
                PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX)
            });
            match poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], bound) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The program and its descendants.
pub(super) struct Family {
    program: Pid,
    /// Exit code of the program; 128 and the signal if it was killed.
    status: Option<u8>,
    /// Who has been sent SIGTERM.
    asked: BTreeSet<Pid>,
}

impl Family {
    pub(super) fn new(program: Pid) -> Self {
        Self { program, status: None, asked: BTreeSet::new() }
    }

    /// The program's exit code once it has ended.
    pub(super) fn status(&self) -> Option<u8> {
        self.status
    }

    /// Takes note of every child that has ended.
    pub(super) fn reap(&mut self) {
        loop {
            let ended = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, u8::try_from(code).unwrap_or(1)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as u8),
                Ok(WaitStatus::StillAlive) => return,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(_) => return, // there is none
            };
            self.asked.remove(&ended.0);
            if ended.0 == self.program {
                self.status = Some(ended.1);
            }
        }
    }

    /// Hands a signal on to the program.
    pub(super) fn pass(&self, signal: Signal) {
        if self.status.is_none() {
            let _ = kill(self.program, signal); // it may have just ended
        }
    }

    /// SIGTERM to the program. What it has started is its own to end.
    pub(super) fn ask(&self) {
        self.pass(Signal::SIGTERM);
    }

    /// SIGTERM, once each, to whatever is left; whether there is any.
    pub(super) fn ask_all(&mut self) -> bool {
        let children = children();
        for child in &children {
            if self.asked.insert(*child) {
                let _ = kill(*child, Signal::SIGTERM); // it may have just ended
            }
        }
        !children.is_empty()
    }

    /// SIGKILL to whatever is left; whether there is any.
    pub(super) fn kill_all(&self) -> bool {
        let children = children();
        for child in &children {
            let _ = kill(*child, Signal::SIGKILL); // it may have just ended
        }
        !children.is_empty()
    }
}

/// Every child that has not been reaped. `/proc/PID/task/TID/children` is not in every kernel, so all processes are looked at; that is
/// done at the end of a program only.
fn children() -> Vec<Pid> {
    let own = getpid();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| parent(&stat) == Some(own.as_raw()))
    })
    .map(Pid::from_raw)
    .collect()
}

/// Field 4 of `/proc/PID/stat` (proc(5)). The name before it may hold anything, also spaces and parentheses.
fn parent(stat: &str) -> Option<i32> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_hides_no_parent() {
        assert_eq!(parent("41 (sh) S 7 41 41 0 -1"), Some(7));
        assert_eq!(parent("42 (a) S 1 (b) R 41 42 42 0 -1"), Some(41));
        assert_eq!(parent("43 (cut"), None);
    }
}
