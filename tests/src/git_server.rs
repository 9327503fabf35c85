//! A Git server that hands out repositories over HTTPS: `git http-backend`, which Git itself brings.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;

use crate::pki::{Authority, Pair};
use crate::process::{Process, run};
use crate::repo::Repo;
use crate::{peers, ports, wait};

/// A server of one bare repository, `intent.git`, with a certificate of an authority that nobody knows.
#[derive(Debug)]
pub struct GitServer {
    process: Process,
    folder: PathBuf,
    address: SocketAddr,
    certificate: Pair,
    login: String,
}

impl GitServer {
    /// Starts one in `folder`. `login` is `user:password`; whoever does not say it may not read.
    #[track_caller]
    pub fn start(folder: &Path, login: &str) -> Self {
        let certificate = Authority::create(folder, "git-ca", "nobody.example").server("git-server");
        let root = folder.join("git");
        run(Command::new("git").args(["init", "-q", "--bare", "-b", "main"]).arg(root.join("intent.git")));
        let address = ports::free();
        let process = spawn(folder, address, &certificate, login);
        Self { process, folder: folder.to_owned(), address, certificate, login: login.to_owned() }
    }

    /// The certificate of its authority.
    pub fn authority(&self) -> &Path {
        &self.certificate.bundle
    }

    /// The URL of the repository for whoever logs in as `login`, which is empty or ends with `@`.
    pub fn url(&self, login: &str) -> String {
        format!("https://{login}{}/intent.git", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes the server's branch what the work tree's newest commit is, whatever was there before.
    #[track_caller]
    pub fn publish(&self, repo: &Repo) {
        repo.push(&self.folder.join("git/intent.git"));
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again in the same place.
    #[track_caller]
    pub fn restart(&mut self) {
        self.process = spawn(&self.folder, self.address, &self.certificate, &self.login);
    }

    /// From now on connections are taken (by the kernel) and never answered.
    pub fn hang(&self) {
        self.process.signal(Signal::SIGSTOP);
    }

    /// Answers again.
    pub fn resume(&self) {
        self.process.signal(Signal::SIGCONT);
    }
}

#[track_caller]
fn spawn(folder: &Path, address: SocketAddr, certificate: &Pair, login: &str) -> Process {
    let args = [
        peers::script("git_server.py").display().to_string(),
        address.to_string(),
        folder.join("git").display().to_string(),
        certificate.certificate.display().to_string(),
        certificate.key.display().to_string(),
        login.to_owned(),
    ];
    let mut process = Process::start(folder, "git-server", peers::venv("python"), args, &[]);
    wait::until("the Git server to listen", wait::SOON, || {
        process.assert_running();
        std::net::TcpStream::connect(address)
    });
    process
}
