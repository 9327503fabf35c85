//! A control plane's identity half on a free port, and the `openssl` command as a second opinion.

#![allow(dead_code, unreachable_pub)] // each test file uses a part
#![allow(clippy::unwrap_used)] // helpers of tests

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use tonic::Status;
use weft_attestation::Nodes;
use weft_authority::{
    Admission, Authority, BanList, IdentityService, JoinTokens, KeyProof, Lives, Machines, Proofs, Records, Registrar,
};
use weft_identity::proto::PlainTextReport;
use weft_identity::{
    Assignment, ClientAuth, Federated, JoinToken, LiveIdentity, Names, Svid, Withdrawal, serve_tls, tls,
};
use weft_model::attest::{Attest, Selectors};
use weft_model::intent::NodeEntry;
use weft_model::{AgentName, ServiceName, SpiffeId, Subject};
use weft_store::Store;

pub const DOMAIN: &str = "acme.internal";
/// How long a machine may be away.
pub const MACHINE_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
pub const HOUR: Duration = Duration::from_secs(3600);
pub const SOON: Duration = Duration::from_secs(20);

pub fn service(name: &str) -> ServiceName {
    name.parse().unwrap()
}

pub fn id(name: &str) -> SpiffeId {
    SpiffeId::for_service(&DOMAIN.parse().unwrap(), &service(name))
}

/// The services of the intent and the TTL of each, and what was issued to whom.
#[derive(Default)]
pub struct Intent {
    pub services: Mutex<BTreeMap<ServiceName, Duration>>,
    pub issued: Mutex<Vec<(SpiffeId, String, SystemTime)>>,
    pub plain_text: Mutex<Vec<(SpiffeId, PlainTextReport)>>,
    /// Which processes agents give which identity to.
    pub attest: Mutex<BTreeMap<ServiceName, Vec<Attest>>>,
    /// How long a machine may be away, if it is another time than [`MACHINE_LIFE`].
    pub machine_life: Mutex<Option<Duration>>,
    /// By which proofs a machine becomes whom.
    pub nodes: Mutex<Vec<NodeEntry>>,
    changed: watch::Sender<u64>,
}

impl Intent {
    pub fn set(&self, name: &str, ttl: Option<Duration>) {
        let mut services = self.services.lock().unwrap();
        match ttl {
            Some(ttl) => services.insert(service(name), ttl),
            None => services.remove(&service(name)),
        };
    }

    /// Processes of this user on these machines, or on any, are this service from now on; no process is, without a user.
    pub fn attest(&self, name: &str, agents: &[&str], uid: Option<u32>) {
        let agents = agents.iter().map(|agent| agent.parse().unwrap()).collect();
        let entry = uid.map(|uid| Attest { agents, selectors: Selectors { uid: Some(uid), ..Selectors::default() } });
        self.attest.lock().unwrap().insert(service(name), entry.into_iter().collect());
        self.changed.send_modify(|count| *count += 1);
    }
}

#[tonic::async_trait]
impl Registrar for Intent {
    fn admits(&self, subject: &Subject) -> Option<Admission> {
        let ttl = match subject {
            Subject::Service(service) => self.services.lock().unwrap().get(service).copied(),
            Subject::Agent(_) => Some(HOUR),
        };
        let machine_life = self.machine_life.lock().unwrap().unwrap_or(MACHINE_LIFE);
        ttl.map(|ttl| Admission { ttl, machine_life, dns_names: Vec::new() })
    }

    fn nodes(&self) -> Arc<[NodeEntry]> {
        self.nodes.lock().unwrap().clone().into()
    }

    fn assignments(&self, agent: &AgentName) -> Vec<Assignment> {
        let services = self.services.lock().unwrap();
        let attest = self.attest.lock().unwrap();
        let assignment = |(service, entries): (&ServiceName, &Vec<Attest>)| {
            let here = entries.iter().filter(|entry| entry.is_for(agent));
            let any: Vec<_> = here.map(|entry| entry.selectors.clone()).collect();
            let svid_ttl = *services.get(service)?;
            (!any.is_empty()).then(|| Assignment { service: service.clone(), any, svid_ttl })
        };
        attest.iter().filter_map(assignment).collect()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    async fn withdraw(&self, peer: &SpiffeId, node_id: &str) -> Result<Withdrawal, Status> {
        match peer.service() {
            Some(service) if node_id.starts_with(&format!("{service}~")) => {
                Ok(Withdrawal { acknowledged: 2, waiting: 1 })
            }
            _ => Err(Status::permission_denied(format!("{node_id} is not {peer}'s"))),
        }
    }

    fn plain_text(&self, peer: &SpiffeId, report: PlainTextReport) -> Result<(), Status> {
        self.plain_text.lock().unwrap().push((peer.clone(), report));
        Ok(())
    }

    fn issued(&self, id: &SpiffeId, node_id: &str, not_after: SystemTime) {
        self.issued.lock().unwrap().push((id.clone(), node_id.to_owned(), not_after));
    }
}

pub struct Server {
    pub folder: PathBuf,
    pub authority: Arc<Authority>,
    pub tokens: JoinTokens,
    pub bans: BanList,
    pub federated: Arc<watch::Sender<Arc<Federated>>>,
    pub intent: Arc<Intent>,
    pub live: Arc<LiveIdentity>,
    pub address: SocketAddr,
    /// A process of its own, as it were: all its connections end with it.
    process: Option<Runtime>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

impl Server {
    /// On a free port.
    pub async fn start(folder: &Path, intent: &Arc<Intent>) -> Self {
        Self::start_on(folder, intent, "127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn start_on(folder: &Path, intent: &Arc<Intent>, address: SocketAddr) -> Self {
        Self::start_with(folder, intent, address, Lives::default()).await
    }

    pub async fn start_with(folder: &Path, intent: &Arc<Intent>, address: SocketAddr, lives: Lives) -> Self {
        let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (folder, intent) = (folder.to_owned(), intent.clone());
        let start = async move {
            let store = Store::open(&folder).unwrap();
            let open = Authority::open(store.clone(), DOMAIN.parse().unwrap(), "self", lives, SystemTime::now());
            let authority = Arc::new(open.await.unwrap());
            let (tokens, machines) = (JoinTokens::new(store.clone()), store);
            let (live, _) = authority.start(Names::local(), HOUR).unwrap();
            let listener = TcpListener::bind(address).await.unwrap();
            let address = listener.local_addr().unwrap();
            let config = tls::server_config(live.clone(), ClientAuth::Optional, &[b"h2"]);
            let bans = BanList::open(machines.clone()).await.unwrap();
            tokio::spawn(bans.clone().enforce(live.clone()));
            let proofs = Proofs { tokens: tokens.clone(), nodes: Nodes::new(machines.clone()) };
            let (machines, own) = (Machines::new(machines), live.clone());
            let records = Records::open(&folder).unwrap();
            tokio::spawn(records.clone().gather());
            let federated = Arc::new(watch::Sender::<Arc<Federated>>::default());
            let service = IdentityService::server(
                authority.clone(),
                proofs,
                machines,
                bans.clone(),
                records,
                federated.subscribe(),
                intent.clone(),
            );
            let router = tonic::transport::Server::builder().add_service(service);
            tokio::spawn(async move {
                router.serve_with_incoming(serve_tls(listener, config, own)).await.unwrap();
            });
            Self { folder, authority, tokens, bans, federated, intent, live, address, process: None }
        };
        let mut server = process.spawn(start).await.unwrap();
        server.process = Some(process);
        server
    }

    /// Stops and lets go of the store; the port is free afterwards.
    pub async fn stop(mut self) {
        let process = self.process.take().unwrap();
        drop(self);
        tokio::task::spawn_blocking(move || process.shutdown_timeout(SOON)).await.unwrap();
    }

    pub async fn token(&self, name: &str) -> JoinToken {
        self.tokens.create(&name.parse().unwrap(), self.authority.pin(), HOUR, SystemTime::now()).await.unwrap()
    }

    /// An SVID without asking the service, as of `now`.
    pub fn svid(&self, name: &str, ttl: Duration, now: SystemTime) -> Svid {
        issue(&self.authority, name, ttl, now)
    }

    /// A live identity that nothing renews.
    pub fn identity(&self, name: &str) -> Arc<LiveIdentity> {
        let live = LiveIdentity::empty();
        live.set(self.svid(name, HOUR, SystemTime::now()), (*self.authority.bundle()).clone());
        live
    }
}

pub fn issue(authority: &Authority, name: &str, ttl: Duration, now: SystemTime) -> Svid {
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    let issued =
        authority.issue(&KeyProof::check(csr.der()).unwrap(), &id(name), None, ttl, &Names::default(), now).unwrap();
    Svid::from_der(issued.chain, &key.serialize_der()).unwrap()
}

/// A TLS listener that answers every line with the same line. Returns its address; it ends with the test's runtime.
pub async fn echo(identity: Arc<LiveIdentity>, client_auth: ClientAuth) -> (SocketAddr, AbortHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(tls::server_config(identity, client_auth, &[]));
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut buffer = [0; 1024];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    if stream.write_all(&buffer[..read]).await.is_err() || buffer[..read] == *b"bye\n" {
                        break;
                    }
                }
                let _ = stream.shutdown().await;
            });
        }
    });
    (address, task.abort_handle())
}

/// Runs `openssl` with `input`; exit code 0 or not, and all that it said.
pub async fn openssl(arguments: &[&str], input: &[u8]) -> (bool, String) {
    let mut command = tokio::process::Command::new("openssl");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("the openssl command");
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    tokio::spawn(async move {
        let _ = stdin.write_all(&input).await;
    });
    let output = tokio::time::timeout(SOON, child.wait_with_output()).await.expect("openssl ends").unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

/// Says "bye" to an [`echo`] listener by `openssl s_client`; whether the answer came, and all that was said.
pub async fn s_client(address: SocketAddr, arguments: &[&str]) -> (bool, String) {
    let address = address.to_string();
    let all: Vec<&str> = ["s_client", "-connect", &address, "-quiet"].iter().chain(arguments).copied().collect();
    let (_, text) = openssl(&all, b"bye\n").await;
    (text.lines().any(|line| line == "bye"), text)
}
