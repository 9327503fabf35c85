//! An etcd of several members on free loopback ports, each with its own folder, killed at the end.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::pki::Pair;
use crate::process::Process;
use crate::{curl, ports, wait};

/// A running etcd.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    folder: TempDir,
}

#[derive(Debug)]
struct Member {
    process: Process,
    args: Vec<String>,
    client: SocketAddr,
}

impl Etcd {
    /// Starts so many members and waits until all of them serve.
    ///
    /// # Panics
    /// When there is no `etcd` here: `make setup` installs it.
    #[track_caller]
    pub fn start(members: usize) -> Self {
        Self::start_with(members, None)
    }

    /// Starts one member that takes clients by TLS alone, and only those with a certificate of the authority.
    #[track_caller]
    pub fn start_with_tls(own: &Pair) -> Self {
        Self::start_with(1, Some(own))
    }

    #[track_caller]
    fn start_with(members: usize, tls: Option<&Pair>) -> Self {
        let folder = tempfile::Builder::new().prefix("weft-etcd-").tempdir().expect("a temporary folder");
        let peers: Vec<SocketAddr> = (0..members).map(|_| ports::free()).collect();
        let all: Vec<String> = peers.iter().enumerate().map(|(n, peer)| format!("m{n}=http://{peer}")).collect();
        let all = all.join(",");
        let start = |(number, peer): (usize, &SocketAddr)| {
            let client = ports::free();
            let option = |name: &str, value: String| format!("--{name}={value}");
            let scheme = if tls.is_some() { "https" } else { "http" };
            let mut args = vec![
                option("name", format!("m{number}")),
                option("data-dir", folder.path().join(format!("m{number}")).display().to_string()),
                option("listen-client-urls", format!("{scheme}://{client}")),
                option("advertise-client-urls", format!("{scheme}://{client}")),
                option("listen-peer-urls", format!("http://{peer}")),
                option("initial-advertise-peer-urls", format!("http://{peer}")),
                option("initial-cluster", all.clone()),
                option("logger", "zap".to_owned()),
                option("log-level", "warn".to_owned()),
            ];
            if let Some(Pair { certificate, key, bundle }) = tls {
                args.push("--client-cert-auth".to_owned());
                args.push(option("cert-file", certificate.display().to_string()));
                args.push(option("key-file", key.display().to_string()));
                args.push(option("trusted-ca-file", bundle.display().to_string()));
            }
            Member { process: launch(folder.path(), number, &args), args, client }
        };
        let members = peers.iter().enumerate().map(start).collect();
        let mut etcd = Self { members, folder };
        match tls {
            None => (0..peers.len()).for_each(|number| etcd.wait_healthy(number)),
            Some(_) => etcd.members.iter().for_each(|member| {
                wait::until("etcd to listen", wait::SOON, || TcpStream::connect(member.client).map(drop));
            }),
        }
        etcd
    }

    /// `etcd://…`, all members.
    pub fn url(&self) -> String {
        let members: Vec<String> = self.members.iter().map(|member| member.client.to_string()).collect();
        format!("etcd://{}", members.join(","))
    }

    /// Where a member takes clients.
    pub fn client(&self, number: usize) -> SocketAddr {
        self.members[number].client
    }

    /// SIGKILL.
    pub fn kill(&mut self, number: usize) {
        self.members[number].process.kill();
    }

    /// Starts a member again after its end, and waits until it serves.
    #[track_caller]
    pub fn restart(&mut self, number: usize) {
        let process = launch(self.folder.path(), number, &self.members[number].args);
        self.members[number].process = process;
        self.wait_healthy(number);
    }

    #[track_caller]
    fn wait_healthy(&mut self, number: usize) {
        let member = &mut self.members[number];
        wait::until(&format!("member {number} of etcd to serve"), wait::SOON, || {
            member.process.assert_running();
            TcpStream::connect(member.client).map_err(|error| error.to_string())?;
            let reply = curl::curl(&[&format!("http://{}/health", member.client)]);
            if reply.body.contains("true") { Ok(()) } else { Err(format!("{} {}", reply.body, reply.error)) }
        });
    }
}

fn launch(folder: &Path, number: usize, args: &[String]) -> Process {
    let program = PathBuf::from("etcd");
    Process::start(folder, &format!("etcd-{number}"), program, args, &[])
}
