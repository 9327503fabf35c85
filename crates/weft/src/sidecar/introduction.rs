//! What the control plane is told of this sidecar; a change is sent at once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use weft_control::node::AgentNode;
use weft_identity::LiveIdentity;
use weft_xds::{Client, Node};

use super::args::Args;
use super::place::Place;
use super::plane::Plane;

/// How long the client may take to write what it has received: it waits for a sink, and for the disk.
const CLOSE_BOUND: Duration = Duration::from_secs(5);

/// Shared by all that have something to tell.
#[derive(Clone)]
pub(crate) struct Introduction(Arc<Mutex<Told>>);

struct Told {
    agent: AgentNode,
    /// None when nothing more will be told.
    sender: Option<watch::Sender<Node>>,
}

impl Introduction {
    /// With what the client follows.
    pub(crate) fn new(agent: AgentNode) -> (Self, watch::Receiver<Node>) {
        let (sender, nodes) = watch::channel(agent.to_node());
        (Self(Arc::new(Mutex::new(Told { agent, sender: Some(sender) }))), nodes)
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut AgentNode)) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut told.agent);
        let node = told.agent.to_node();
        if let Some(sender) = &told.sender {
            sender.send_replace(node);
        }
    }

    /// As it is told now.
    pub(crate) fn agent(&self) -> AgentNode {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).agent.clone()
    }

    /// Lets the control plane show when the certificate expires.
    pub(crate) async fn report_certificate(self, identity: Arc<LiveIdentity>) {
        let mut changes = identity.subscribe();
        loop {
            let expires = identity.load().svid().map(|svid| weft_control::status::unix_seconds(svid.not_after()));
            self.update(|agent| agent.certificate_expires = expires);
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).sender = None;
    }
}

/// The client that follows the control plane.
pub(crate) struct Following {
    introduction: Introduction,
    client: JoinHandle<()>,
}

impl Following {
    /// Feeds the data plane from now on.
    pub(crate) fn start(
        args: &Args,
        place: &Place,
        identity: &Arc<LiveIdentity>,
        plane: &Plane,
        introduction: &Introduction,
        nodes: watch::Receiver<Node>,
    ) -> Self {
        let (server, live) = (args.server.clone(), identity.clone());
        let connect = move || {
            let (server, live) = (server.clone(), live.clone());
            async move {
                // With an expired identity there is nobody to connect as; the renewal has told of it.
                live.unexpired().await;
                weft_identity::connect(&server, &live).await
            }
        };
        let client = Client::new(nodes, Some(place.state.join("xds-cache")), connect);
        let client = match plane {
            Plane::Weft(proxy) => tokio::spawn(client.run(proxy.sink())),
            Plane::Envoy(envoy) => tokio::spawn(client.run(envoy.sink())),
        };
        Self { introduction: introduction.clone(), client }
    }

    /// Follows it no longer; what was received is on disk then, for the next start.
    pub(crate) async fn end(self) {
        self.introduction.close();
        if tokio::time::timeout(CLOSE_BOUND, self.client).await.is_err() {
            tracing::warn!("the newest configuration may not be on disk; a restart would begin with an older one");
        }
    }
}
