//! Python peers that speak gRPC and WebSocket, as servers, as suites of calls, and as one stream that stays open.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use crate::process::{Process, run};
use crate::{peers, ports, wait};

/// A server of the `peers/` folder on a free port.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its process.
    pub process: Process,
}

impl Server {
    /// Starts `peers/<script>` and waits until it listens.
    #[track_caller]
    pub fn start(folder: &Path, script: &str) -> Self {
        let address = ports::free();
        let path = peers::script(script).display().to_string();
        let mut process =
            Process::start(folder, script, peers::venv("python"), [&path, &address.port().to_string()], &[]);
        wait::until(script, wait::SOON, || {
            process.assert_running();
            std::net::TcpStream::connect(address)
        });
        Self { address, process }
    }
}

/// Runs `peers/<script> <args>`, which must print `ok`.
#[track_caller]
pub fn suite(script: &str, args: &[&str]) {
    let output = run(Command::new(peers::venv("python")).arg(peers::script(script)).args(args));
    assert_eq!(output.trim(), "ok", "{script} {args:?}");
}

/// A stream that stays open: `peers/<script> <args> talk`.
#[derive(Debug)]
pub struct Talk {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    said: u64,
}

impl Talk {
    /// Opens it and proves that it works.
    #[track_caller]
    pub fn open(script: &str, args: &[&str]) -> Self {
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(peers::venv("python"))
            .arg(peers::script(script))
            .args(args)
            .arg("talk")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python runs");
        let output = child.stdout.take().expect("it is piped");
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let input = child.stdin.take();
        let mut talk = Self { child, input, lines, said: 0 };
        talk.say();
        talk
    }

    /// Sends a message and waits for its echo.
    #[track_caller]
    pub fn say(&mut self) {
        self.said += 1;
        let message = format!("message {}", self.said);
        let input = self.input.as_mut().expect("only the end takes it");
        writeln!(input, "{message}").and_then(|()| input.flush()).expect("the client reads its input");
        match self.lines.recv_timeout(wait::SOON) {
            Ok(line) => assert_eq!(line, message, "the stream ended or changed a message"),
            Err(error) => panic!("no echo of message {}: {error}", self.said),
        }
    }

    /// Ends the stream and asserts that it ended well.
    #[track_caller]
    pub fn close(mut self) {
        drop(self.input.take());
        let line = self.lines.recv_timeout(wait::SOON);
        assert_eq!(line.as_deref(), Ok("end OK"), "after {} messages", self.said);
        assert_eq!(self.lines.recv_timeout(Duration::from_secs(10)), Err(RecvTimeoutError::Disconnected));
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
