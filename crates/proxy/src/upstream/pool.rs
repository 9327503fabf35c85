//! A worker's connections, by cluster and endpoint.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::HashMap;
use rustls::ClientConfig;
use tokio::sync::Mutex;
use tokio::time::{Duration, Instant};
use weft_identity::LiveIdentity;
use weft_identity::tls::PeerMatch;
use weft_proxy_config::{Cluster, ClusterId, Config, UpstreamProtocol};
use weft_proxy_http::client::{H1Connection, H2Connection, StreamCount};
use weft_proxy_http::{AttemptError, Sent, Stream};
use weft_telemetry::Failure;

use super::connect::connect;
use crate::identity;

/// Idle connections to an app that a worker keeps.
const IDLE_MAX: usize = 256;
/// Endpoints that failed to connect are avoided for so long.
pub(crate) const AVOID_FOR: Duration = Duration::from_secs(2);

/// All pools of a worker.
pub(crate) struct Pools {
    identity: Arc<LiveIdentity>,
    endpoints: RefCell<HashMap<(ClusterId, SocketAddr), Rc<EndpointPool>>>,
}

/// The connections of one endpoint.
pub(crate) struct EndpointPool {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) address: SocketAddr,
    identity: Arc<LiveIdentity>,
    tls: Option<Arc<ClientConfig>>,
    h2: RefCell<Vec<Rc<H2Connection>>>,
    idle: RefCell<Vec<H1Connection>>,
    /// Held while a connection is made, so that requests which come together share the new one.
    connecting: Mutex<()>,
    refreshing: Cell<bool>,
    active: Cell<u32>,
    failed: Cell<Option<(Instant, Failure)>>,
}

/// A connection for one request.
pub(crate) enum Leased {
    /// Shared with others.
    H2(Rc<H2Connection>, StreamCount),
    /// Alone; to be given back after the response.
    H1(H1Connection),
}

impl Pools {
    pub(crate) fn new(identity: Arc<LiveIdentity>) -> Self {
        Self { identity, endpoints: RefCell::default() }
    }

    /// The pool of an endpoint, made on first use.
    pub(crate) fn endpoint(&self, cluster: &Arc<Cluster>, address: SocketAddr) -> Rc<EndpointPool> {
        let mut endpoints = self.endpoints.borrow_mut();
        let pool = endpoints
            .entry((cluster.id, address))
            .or_insert_with(|| Rc::new(EndpointPool::new(cluster.clone(), address, self.identity.clone())));
        if !Arc::ptr_eq(&pool.cluster, cluster) && pool.cluster != *cluster {
            *pool = Rc::new(EndpointPool::new(cluster.clone(), address, self.identity.clone()));
        }
        pool.clone()
    }

    /// Requests under way to an endpoint, and whether it lately refused a connection.
    pub(crate) fn load(&self, cluster: ClusterId, address: SocketAddr, now: Instant) -> (u32, bool) {
        self.endpoints.borrow().get(&(cluster, address)).map_or((0, false), |pool| {
            let avoid = pool.failed.get().is_some_and(|(failed, _)| now.duration_since(failed) < AVOID_FOR);
            (pool.active.get(), avoid)
        })
    }

    /// Drops idle connections that were closed at the other end; to be called now and then.
    pub(crate) fn sweep(&self) {
        self.endpoints.borrow().values().for_each(|pool| pool.sweep());
    }

    /// Drops the pools of endpoints that are gone; what is under way on their connections goes on.
    pub(crate) fn retain(&self, config: &Config) {
        self.endpoints.borrow_mut().retain(|(id, address), _| {
            config.clusters.values().any(|upstream| {
                upstream.cluster.id == *id && upstream.endpoints.iter().any(|endpoint| endpoint.address == *address)
            })
        });
    }
}

impl EndpointPool {
    fn new(cluster: Arc<Cluster>, address: SocketAddr, identity: Arc<LiveIdentity>) -> Self {
        let tls = cluster.tls.as_ref().map(|tls| {
            let alpn: Vec<&[u8]> = tls.alpn.iter().map(Vec::as_slice).collect();
            weft_identity::tls::client_config(identity.clone(), PeerMatch::Exact(tls.expected.clone()), &alpn)
        });
        Self {
            cluster,
            address,
            identity,
            tls,
            h2: RefCell::default(),
            idle: RefCell::default(),
            connecting: Mutex::new(()),
            refreshing: Cell::new(false),
            active: Cell::new(0),
            failed: Cell::new(None),
        }
    }

    /// Counts a request to the endpoint for as long as the guard lives.
    pub(crate) fn enter(self: &Rc<Self>) -> ActiveCount {
        self.active.set(self.active.get() + 1);
        ActiveCount(self.clone())
    }

    /// A connection for a request: one that is there, or a new one. Making one is boxed: it is rare, and a task is as large as the
    /// largest thing that it may wait for.
    pub(crate) async fn lease(self: &Rc<Self>) -> Result<Leased, AttemptError> {
        match self.cluster.protocol {
            UpstreamProtocol::Http2 => {
                let connection = match self.h2_ready() {
                    Some(connection) => connection,
                    None => Box::pin(self.h2_connect()).await?,
                };
                let count = connection.enter();
                Ok(Leased::H2(connection, count))
            }
            UpstreamProtocol::Http1 => match self.idle_ready() {
                Some(connection) => Ok(Leased::H1(connection)),
                None => Box::pin(self.h1_connect()).await.map(Leased::H1),
            },
        }
    }

    /// A new connection for bytes in both directions.
    pub(crate) async fn dial(&self) -> Result<Stream, AttemptError> {
        if self.tls.is_some()
            && let Some(fault) = self.identity.fault()
        {
            // The endpoint is not to blame: nothing is remembered against it.
            return Err(AttemptError::new(identity::own(&fault), Sent::Nowhere, fault));
        }
        self.remember(connect(&self.cluster, self.address, self.tls.as_ref(), &self.identity).await)
    }

    /// A new connection to the app, past the idle ones.
    pub(crate) async fn h1_connect(&self) -> Result<H1Connection, AttemptError> {
        Ok(H1Connection::new(self.dial().await?))
    }

    /// Gives back a connection whose response has ended.
    pub(crate) fn give_back(&self, connection: H1Connection) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
    }

    /// Drops idle connections that the app has closed or is about to close, or that nobody has wanted for long.
    fn sweep(&self) {
        self.idle.borrow_mut().retain(|connection| self.is_usable(connection));
    }

    fn is_usable(&self, connection: &H1Connection) -> bool {
        connection.is_open() && !connection.is_stale(self.cluster.idle_timeout)
    }

    fn idle_ready(&self) -> Option<H1Connection> {
        let mut idle = self.idle.borrow_mut();
        while let Some(connection) = idle.pop() {
            if self.is_usable(&connection) {
                return Some(connection);
            }
        }
        None
    }

    /// An open connection with room. One made under an older certificate serves while its successor is being made.
    fn h2_ready(self: &Rc<Self>) -> Option<Rc<H2Connection>> {
        let mut open = self.h2.borrow_mut();
        if open.iter().any(|connection| !connection.is_open()) {
            open.retain(|connection| connection.is_open());
        }
        let generation = self.identity.load().generation();
        let current = open.iter().find(|connection| connection.generation == generation && connection.has_room());
        if let Some(connection) = current {
            return Some(connection.clone());
        }
        let older = open.iter().find(|connection| connection.generation != generation && connection.has_room())?;
        if !self.refreshing.replace(true) {
            let pool = self.clone();
            tokio::task::spawn_local(async move {
                if let Err(error) = pool.h2_connect().await {
                    tracing::warn!(endpoint = %pool.address, cause = error.reason, "no connection under the new certificate yet");
                }
                pool.refreshing.set(false);
            });
        }
        Some(older.clone())
    }

    async fn h2_connect(self: &Rc<Self>) -> Result<Rc<H2Connection>, AttemptError> {
        let asked = Instant::now();
        let _alone = self.connecting.lock().await;
        let generation = self.identity.load().generation();
        let made_meanwhile =
            |connection: &&Rc<H2Connection>| connection.generation == generation && connection.has_room();
        if let Some(connection) = self.h2.borrow().iter().find(made_meanwhile) {
            return Ok(connection.clone());
        }
        if let Some((_, failure)) = self.failed.get().filter(|(failed, _)| *failed > asked) {
            let reason = format!("{}: the attempt that this request waited for failed", self.address);
            return Err(AttemptError::new(failure, Sent::NoConnection, reason));
        }
        let connection =
            Rc::new(H2Connection::start(self.dial().await?, generation, self.cluster.connect_timeout).await?);
        let mut open = self.h2.borrow_mut();
        open.retain(|older| older.generation == generation && older.is_open());
        open.push(connection.clone());
        Ok(connection)
    }

    /// Avoids the endpoint for a while, as one to which no connection can be made.
    pub(crate) fn avoid(&self, failure: Failure) {
        self.failed.set(Some((Instant::now(), failure)));
    }

    fn remember<T>(&self, result: Result<T, AttemptError>) -> Result<T, AttemptError> {
        self.failed.set(result.as_ref().err().map(|error| (Instant::now(), error.failure)));
        result
    }
}

/// One request under way to an endpoint.
pub(crate) struct ActiveCount(Rc<EndpointPool>);

impl Drop for ActiveCount {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
    }
}
