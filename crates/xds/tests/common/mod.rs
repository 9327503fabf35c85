//! A server over loopback whose state the test sets, and a sink that shows what it has.

#![allow(dead_code, unreachable_pub)]

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tonic::Status;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint};
use weft_model::SpiffeId;
use weft_xds::type_url::{self, CLUSTER, ENDPOINT, LISTENER, ROUTE};
use weft_xds::{
    AdsServer, Client, ClientStatus, Directory, Nack, Node, Observer, Rejection, Resource, Sink, Snapshot,
    Subscription, Update,
};

/// Waits for something with a bound, which is never reached when all is well.
#[track_caller]
pub fn soon<F: Future>(what: F) -> impl Future<Output = F::Output> {
    let place = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(Duration::from_secs(20), what).await {
            Ok(output) => output,
            Err(_) => panic!("not within 20 s: the wait at {place}"),
        }
    }
}

/// `[(type, name, body)]` at a revision.
pub fn snapshot(revision: &str, resources: &[(&'static str, &str, &str)]) -> Arc<Snapshot> {
    let mut snapshot = Snapshot::new(revision);
    for (type_url, name, body) in resources {
        snapshot.insert(Resource::from_bytes(type_url, name, body.as_bytes().to_vec()));
    }
    Arc::new(snapshot)
}

pub fn node(id: &str) -> Node {
    Node { id: id.into(), cluster: "prod/board".into(), ..Default::default() }
}

/// Serves everyone but the node `stranger` the same state, and writes down what happens.
pub struct World {
    pub snapshots: watch::Sender<Arc<Snapshot>>,
    log: mpsc::UnboundedSender<String>,
}

pub type Log = mpsc::UnboundedReceiver<String>;

impl World {
    pub fn new(snapshot: Arc<Snapshot>) -> (Arc<Self>, Log) {
        let (log, lines) = mpsc::unbounded_channel();
        (Arc::new(Self { snapshots: watch::Sender::new(snapshot), log }), lines)
    }
}

#[tonic::async_trait]
impl Directory for World {
    async fn open(&self, peer: Option<SpiffeId>, node: &Node) -> Result<Subscription, Status> {
        if node.id == "stranger" {
            return Err(Status::permission_denied("the certificate is not that of stranger"));
        }
        let _ = self.log.send(format!("open {} {peer:?}", node.id));
        Ok(Subscription { snapshots: self.snapshots.subscribe(), observer: Box::new(Recorder(self.log.clone())) })
    }
}

struct Recorder(mpsc::UnboundedSender<String>);

impl Recorder {
    fn say(&self, line: String) {
        let _ = self.0.send(line);
    }
}

impl Observer for Recorder {
    fn node(&mut self, node: &Node) -> Result<(), Status> {
        self.say(format!("node {}", node.id));
        if node.id == "impostor" { Err(Status::permission_denied("no longer who it was")) } else { Ok(()) }
    }
    fn sent(&mut self, type_url: &'static str, count: usize, bytes: usize) {
        assert!(bytes > 0);
        self.say(format!("sent {} {count}", type_url::short(type_url)));
    }
    fn ack(&mut self, type_url: &'static str, revision: &str, still_refused: &[Arc<str>]) {
        let but = if still_refused.is_empty() { String::new() } else { format!(" but {still_refused:?}") };
        self.say(format!("ack {} {revision}{but}", type_url::short(type_url)));
    }
    fn nack(&mut self, nack: &Nack) {
        self.say(format!(
            "nack {} {} {:?}: {}",
            type_url::short(nack.type_url),
            nack.revision,
            nack.resources,
            nack.reason
        ));
    }
    fn settled(&mut self, revision: &str) {
        self.say(format!("settled {revision}"));
    }
    fn closed(&mut self) {
        self.say("closed".to_owned());
    }
}

/// Reads the log up to a line that starts with `wanted`, and returns all that was read.
#[track_caller]
pub fn log_until<'a>(log: &'a mut Log, wanted: &'a str) -> impl Future<Output = Vec<String>> + 'a {
    soon(async move {
        let mut lines = Vec::new();
        loop {
            let line = log.recv().await.expect("the log ends with the world");
            println!("{line}");
            lines.push(line);
            if lines.last().is_some_and(|line| line.starts_with(wanted)) {
                return lines;
            }
        }
    })
}

/// A server with a runtime of its own, so that it can be killed with all its connections.
pub struct Server {
    pub address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Server {
    pub fn start(world: &Arc<World>) -> Self {
        Self::start_at(world, SocketAddr::from((own_loopback(), 0)))
    }

    pub fn start_at(world: &Arc<World>, address: SocketAddr) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let ads = AdsServer::new(world.clone());
        let incoming = runtime.block_on_elsewhere(async move { TcpIncoming::bind(address).expect("a port") });
        let address = incoming.local_addr().expect("bound");
        let server = weft_xds::server_builder().add_service(ads.ads()).add_service(ads.sds());
        runtime.spawn(async move { server.serve_with_incoming(incoming).await.expect("serves") });
        Self { address, runtime: Some(runtime) }
    }

    /// Drops every connection, and the port, before it returns.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Not on this thread, which may be one of another runtime.
            std::thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(20))).join().expect("no panic");
        }
    }
}

/// A loopback address that nothing else is at: a port of it that was given up can be had again, whoever connects from where meanwhile.
fn own_loopback() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, NEXT.fetch_add(1, Ordering::Relaxed), high, low)
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

trait BlockElsewhere {
    fn block_on_elsewhere<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T;
}

impl BlockElsewhere for tokio::runtime::Runtime {
    /// `block_on` from within another runtime.
    fn block_on_elsewhere<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        let handle = self.handle().clone();
        std::thread::spawn(move || handle.block_on(future)).join().expect("no panic")
    }
}

pub async fn channel(address: SocketAddr) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    weft_xds::client_endpoint(endpoint).connect().await
}

pub type View = BTreeMap<(&'static str, String), String>;

/// Keeps everything but what starts with `bad`. Wants the endpoints of every cluster, and the route `r` with any listener.
#[derive(Clone, Default)]
pub struct TestSink {
    pub view: Arc<watch::Sender<View>>,
    pub updates: Arc<watch::Sender<Vec<String>>>,
}

#[tonic::async_trait]
impl Sink for TestSink {
    async fn apply(&mut self, update: Update) -> Vec<Rejection> {
        let mut rejections = Vec::new();
        let names: Vec<_> = update.changed.iter().map(|resource| format!("+{}", resource.name)).collect();
        let gone: Vec<_> = update.removed.iter().map(|name| format!("-{name}")).collect();
        let line = format!("{} {}", type_url::short(update.type_url), [names, gone].concat().join(" "));
        self.view.send_modify(|view| {
            for resource in &update.changed {
                let body = String::from_utf8_lossy(&resource.any.value).into_owned();
                if body.starts_with("bad") {
                    rejections.push(Rejection { name: resource.name.clone(), reason: format!("field: {body}") });
                } else {
                    view.insert((update.type_url, resource.name.to_string()), body);
                }
            }
            for name in &update.removed {
                view.remove(&(update.type_url, name.to_string()));
            }
        });
        self.updates.send_modify(|updates| updates.push(line));
        rejections
    }

    fn wanted(&self, type_url: &'static str) -> BTreeSet<Arc<str>> {
        let view = self.view.borrow();
        let of = |wanted| view.keys().filter(move |(url, _)| *url == wanted).map(|(_, name)| Arc::from(name.as_str()));
        match type_url {
            ENDPOINT => of(CLUSTER).collect(),
            ROUTE if of(LISTENER).next().is_some() => ["r".into()].into(),
            _ => BTreeSet::new(),
        }
    }
}

impl TestSink {
    /// Waits until the view is what the snapshot has.
    #[track_caller]
    pub fn has(&self, snapshot: &Snapshot) -> impl Future<Output = ()> {
        let mut expected = View::new();
        for (type_url, resources) in snapshot.types() {
            for resource in resources.values() {
                let body = String::from_utf8_lossy(&resource.any.value).into_owned();
                expected.insert((type_url, resource.name.to_string()), body);
            }
        }
        let mut view = self.view.subscribe();
        soon(async move { drop(view.wait_for(|view| *view == expected).await.expect("the sink lives")) })
    }

    /// What has been applied since the last call.
    pub fn take_updates(&self) -> Vec<String> {
        let mut taken = Vec::new();
        self.updates.send_modify(|updates| taken = std::mem::take(updates));
        taken
    }
}

/// A client that runs, until it is dropped.
pub struct Running {
    pub sink: TestSink,
    pub node: watch::Sender<Node>,
    pub status: watch::Receiver<ClientStatus>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    pub fn start(id: &str, address: SocketAddr, cache: Option<std::path::PathBuf>) -> Self {
        let (sink, node) = (TestSink::default(), watch::Sender::new(node(id)));
        let client = Client::new(node.subscribe(), cache, move || channel(address));
        let status = client.status();
        let task = tokio::spawn(client.run(sink.clone()));
        Self { sink, node, status, task }
    }

    /// Waits for a status, and returns it.
    #[track_caller]
    pub fn status(&mut self, what: impl FnMut(&ClientStatus) -> bool) -> impl Future<Output = ClientStatus> {
        soon(async { self.status.wait_for(what).await.expect("the client lives").clone() })
    }

    /// Ends it as the end of the process would, but for what is written at the end.
    pub fn stop(self) -> impl Future<Output = ()> {
        drop(self.node);
        let task = self.task;
        soon(async move { task.await.expect("no panic") })
    }
}
