//! A worker's listening sockets: opened, kept and closed as the configuration says, without touching open connections.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use weft_identity::tls::{ClientAuth, server_config};

use crate::serve::serve;
use crate::worker::Worker;
use weft_proxy_config::{Config, DownstreamTls, Listener};
use weft_proxy_http::spawn_large;

/// Connections waiting to be accepted, for each worker.
const BACKLOG: i32 = 1024;

struct Listening {
    listener: Arc<RefCell<Arc<Listener>>>,
    address: SocketAddr,
    tls: Option<DownstreamTls>,
    accepting: AbortHandle,
}

/// The sockets of one worker, by listener name.
#[derive(Default)]
pub(crate) struct Listeners {
    open: HashMap<Arc<str>, Listening>,
}

impl Listeners {
    /// Makes the sockets what `config` says; one whose routes are still on their way is not opened yet. Gives the listeners whose
    /// address could not be bound.
    pub(crate) fn reconcile(&mut self, worker: &Rc<Worker>, config: &Config) -> Vec<(Arc<str>, io::Error)> {
        self.open.retain(|name, listening| {
            let kept = config.listeners.iter().any(|listener| {
                listener.name == *name && listener.address == listening.address && listener.tls == listening.tls
            });
            if !kept {
                listening.accepting.abort();
            }
            kept
        });
        let mut failed = Vec::new();
        for listener in &config.listeners {
            if let Some(listening) = self.open.get(&listener.name) {
                listening.listener.replace(listener.clone());
                continue;
            }
            if !config.has_routes(listener) {
                continue;
            }
            match self.start(worker, listener) {
                Ok(listening) => drop(self.open.insert(listener.name.clone(), listening)),
                Err(error) => failed.push((listener.name.clone(), error)),
            }
        }
        failed
    }

    /// Stops accepting; what was accepted goes on.
    pub(crate) fn close(&mut self) {
        self.open.drain().for_each(|(_, listening)| listening.accepting.abort());
    }

    #[allow(clippy::arc_with_non_send_sync)]
    fn start(&self, worker: &Rc<Worker>, listener: &Arc<Listener>) -> io::Result<Listening> {
        let socket = TcpListener::from_std(bind(listener.address, true)?)?;
        let tls = listener.tls.as_ref().map(|tls| {
            let alpn: Vec<&[u8]> = tls.alpn.iter().map(Vec::as_slice).collect();
            server_config(worker.shared.identity.clone(), ClientAuth::Required, &alpn)
        });
        let current = Arc::new(RefCell::new(listener.clone()));
        let (worker, shown) = (worker.clone(), current.clone());
        let accepting = tokio::task::spawn_local(async move {
            loop {
                match socket.accept().await {
                    Ok((tcp, _)) => {
                        let listener = shown.borrow().clone();
                        let (worker, tls) = (worker.clone(), tls.clone());
                        worker.shared.connections.fetch_add(1, Ordering::Relaxed);
                        spawn_large(async move {
                            serve(worker.clone(), listener, tls, tcp).await;
                            worker.shared.connections.fetch_sub(1, Ordering::Relaxed);
                        });
                    }
                    Err(error) => {
                        // Out of file descriptors, or a connection that ended before it was accepted.
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    }
                }
            }
        });
        Ok(Listening {
            listener: current,
            address: listener.address,
            tls: listener.tls.clone(),
            accepting: accepting.abort_handle(),
        })
    }
}

/// A listening socket. With `shared`, each worker has its own on the same address and the kernel spreads connections.
pub(crate) fn bind(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?; // whatever the machine's default is
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether no other program listens on the address. To be asked before the workers share it, since the kernel would let two
/// sidecars of one user share a port and split its connections.
pub fn is_free(address: SocketAddr) -> io::Result<()> {
    bind(address, false).map(drop)
}
