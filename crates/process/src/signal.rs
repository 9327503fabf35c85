//! Signals, of which none ends a process in the middle of its work.
//!
//! SIGTERM, SIGINT, SIGQUIT and SIGRTMIN+3 ask to stop. SIGHUP does so only at a terminal, where it says that the terminal is gone; elsewhere it asks,
//! as SIGUSR1 does, for log files to be opened again. The others are taken note of, and do nothing.

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What would end a process that does not know it, beside the real-time signals: SIGUSR2, timers, SIGIO, SIGPWR, what `ulimit -f` and
/// `ulimit -t` send, and one that nobody has sent for decades. SIGPIPE is ignored by Rust's runtime.
const OTHERS: [i32; 9] = {
    use nix::libc::{SIGALRM, SIGIO, SIGPROF, SIGPWR, SIGSTKFLT, SIGUSR2, SIGVTALRM, SIGXCPU, SIGXFSZ};
    [SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGPWR, SIGXCPU, SIGXFSZ, SIGSTKFLT]
};

/// What a container's manager sends to a process that it takes for systemd (`STOPSIGNAL SIGRTMIN+3`).
fn halt() -> SignalKind {
    SignalKind::from_raw(nix::libc::SIGRTMIN() + 3)
}

/// Requests within this time after the first are the same request: `timeout` and process managers signal a process and then its group.
const SAME: Duration = Duration::from_secs(1);

/// The request to stop.
#[derive(Debug)]
pub struct Stop {
    signals: Asking,
    told: bool,
}

#[derive(Debug)]
struct Asking {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
    halt: Signal,
    hangup: Signal,
}

impl Stop {
    /// From now on no signal kills the process, but SIGKILL and its own faults.
    pub fn listen() -> Result<Self> {
        for number in OTHERS {
            // What is caught once stays caught.
            drop(listen(SignalKind::from_raw(number))?);
        }
        for number in nix::libc::SIGRTMIN()..=nix::libc::SIGRTMAX() {
            // A tool that runs the process may keep one to itself, as valgrind does.
            drop(listen(SignalKind::from_raw(number)));
        }
        drop(listen(SignalKind::user_defined1())?);
        Ok(Self { signals: Asking::listen()?, told: false })
    }

    /// Waits to be told.
    pub async fn wait(&mut self) {
        self.signals.next().await;
        self.told = true;
    }

    /// Waits to be told once more than so far: twice, unless [`wait`](Self::wait) has returned.
    pub async fn again(&mut self) {
        if !self.told {
            self.wait().await;
        }
        tokio::time::sleep(SAME).await;
        // What came until now is taken off. It cannot fail: the same was listened for before.
        if let Ok(signals) = Asking::listen() {
            self.signals = signals;
        }
        self.signals.next().await;
    }
}

impl Asking {
    fn listen() -> Result<Self> {
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            quit: listen(SignalKind::quit())?,
            halt: listen(halt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        let hangup = async {
            if std::io::stdin().is_terminal() {
                self.hangup.recv().await;
            } else {
                std::future::pending().await
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.quit.recv() => {}
            _ = self.halt.recv() => {}
            () = hangup => {}
        }
    }
}

/// The request to open log files again.
#[derive(Debug)]
pub struct Reopen {
    user: Signal,
    hangup: Signal,
}

impl Reopen {
    /// From now on these ask for it, and kill nothing.
    pub fn listen() -> Result<Self> {
        Ok(Self { user: listen(SignalKind::user_defined1())?, hangup: listen(SignalKind::hangup())? })
    }

    /// Waits for the next request.
    pub async fn wait(&mut self) {
        tokio::select! {
            _ = self.user.recv() => {}
            // At a terminal it stops the process, and the files do not matter.
            _ = self.hangup.recv() => {}
        }
    }
}

fn listen(kind: SignalKind) -> Result<Signal> {
    signal(kind).with_context(|| format!("listening for signal {}", kind.as_raw_value()))
}
