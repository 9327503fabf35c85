//! A `weft agent` process, and programs of other users that ask it.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nix::unistd::Uid;
use serde_json::Value;
use tempfile::TempDir;

use crate::mesh::Mesh;
use crate::process::Process;
use crate::{curl, peers, ports, wait};

/// A running agent, in a folder that every user can reach. Fields drop in order: the process first.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    /// Where processes ask.
    pub socket: PathBuf,
    /// Health and metrics.
    pub health: SocketAddr,
    /// Where it keeps what must survive a restart.
    pub state: PathBuf,
    args: Vec<String>,
    folder: TempDir,
}

impl Agent {
    /// Starts it with a fresh token and waits until it is ready.
    #[track_caller]
    pub fn start(mesh: &Mesh, name: &str) -> Self {
        let token = mesh.agent_token(name);
        let mut agent = Self::launch(mesh, name, Some(&token));
        agent.until_ready();
        agent
    }

    /// Starts it without waiting.
    #[track_caller]
    pub fn launch(mesh: &Mesh, name: &str, token: Option<&str>) -> Self {
        let proof = token.map(|token| ["--join-token", token]);
        Self::launch_by(mesh, name, proof.as_ref().map_or(&[], |proof| &proof[..]))
    }

    /// The same with other options for its first start.
    #[track_caller]
    pub fn launch_by(mesh: &Mesh, name: &str, proof: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("weft-agent-").tempdir().expect("a temporary folder");
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).expect("the folder is ours");
        let (socket, state, health) = (folder.path().join("agent.sock"), folder.path().join("state"), ports::free());
        let mut args = vec!["agent".to_owned()];
        let mut flag = |name: &str, value: String| args.extend([format!("--{name}"), value]);
        flag("name", name.to_owned());
        flag("server", mesh.xds.to_string());
        flag("socket", socket.display().to_string());
        flag("state-dir", state.display().to_string());
        flag("health", health.to_string());
        let first = args.iter().cloned().chain(proof.iter().map(ToString::to_string));
        let process = Process::start(folder.path(), "agent", peers::weft(), first, &[]);
        Self { process, socket, health, state, args, folder }
    }

    /// A folder that every user can reach.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What `/ready` says.
    pub fn ready(&self) -> curl::Reply {
        curl::curl(&[&format!("http://{}/ready", self.health)])
    }

    /// Waits until it has an identity and knows whose identities there are.
    #[track_caller]
    pub fn until_ready(&mut self) {
        wait::until("the agent to be ready", wait::SOON, || {
            self.process.assert_running();
            let reply = self.ready();
            if reply.status == 200 { Ok(()) } else { Err(format!("{} {} {}", reply.status, reply.body, reply.error)) }
        });
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on what it has on disk, without a token; waits for nothing.
    pub fn start_again(&mut self) {
        self.process = Process::start(self.folder.path(), "agent", peers::weft(), &self.args, &[]);
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// A number of the metrics.
    pub fn metric(&self, name: &str) -> Option<u64> {
        let text = curl::curl(&[&format!("http://{}/metrics", self.health)]).body;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    /// What PyPI `spiffe` says when a process of this user runs it.
    #[track_caller]
    pub fn ask(&self, uid: u32, arguments: &[&str]) -> Value {
        let output = Command::new("timeout")
            .args(["60", "setpriv"])
            .args(user(uid))
            .arg(peers::venv("python"))
            .arg(peers::script("spiffe_client.py"))
            .args(arguments)
            .env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", self.socket.display()))
            .output()
            .expect("timeout runs");
        let said = String::from_utf8_lossy(&output.stdout);
        let error = String::from_utf8_lossy(&output.stderr);
        serde_json::from_str(&said).unwrap_or_else(|why| panic!("{why}: {said}{error}"))
    }

    /// A process of this user that listens for X.509-SVIDs at a socket.
    #[track_caller]
    pub fn listener(&self, uid: u32, socket: &Path) -> Talker {
        let mut command = Command::new("setpriv");
        command.args(user(uid)).arg(peers::venv("python")).arg(peers::script("workload_stream.py"));
        Talker::start(command.arg("listen").arg(socket))
    }
}

/// The options of setpriv by which a program becomes this user.
pub fn user(uid: u32) -> [String; 5] {
    let uid = uid.to_string();
    ["--reuid".to_owned(), uid.clone(), "--regid".to_owned(), uid, "--clear-groups".to_owned()]
}

/// Whether programs can be run as other users, which is root's alone. Says so if not.
pub fn may_be_others() -> bool {
    let root = Uid::effective().is_root();
    if !root {
        eprintln!("skipped: only root can run programs as other users");
    }
    root
}

/// A program that says a JSON line for each thing that happens, ended with this.
#[derive(Debug)]
pub struct Talker {
    child: Child,
    /// What it listens to; a line may be written.
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Talker {
    /// Starts it.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program can be started");
        let (sender, lines) = channel();
        let (stdout, stdin) = (child.stdout.take().expect("it is piped"), child.stdin.take().expect("it is piped"));
        std::thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            lines.map(|line| sender.send(line)).take_while(Result::is_ok).count()
        });
        Self { child, stdin, lines }
    }

    /// What it says next.
    ///
    /// # Panics
    /// It says nothing for so long, or no JSON.
    #[track_caller]
    pub fn next(&self, bound: Duration) -> Value {
        let line = self.lines.recv_timeout(bound).unwrap_or_else(|error| panic!("nothing was said: {error}"));
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Whether it has said nothing more so far.
    pub fn is_silent(&self) -> bool {
        self.lines.try_recv().is_err()
    }

    /// Tells it to go on.
    pub fn go_on(&mut self) {
        self.stdin.write_all(b"go on\n").expect("it listens");
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
