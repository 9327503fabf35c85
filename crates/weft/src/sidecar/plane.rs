//! The two data planes behind one face.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use weft_control::node::AgentNode;
use weft_decision_log::{DecisionLog, PlainText};
use weft_identity::LiveIdentity;
use weft_proxy::{Proxy, ProxyConfig, ProxyHandle};

use super::args::{Args, DataPlane};
use super::envoy::Envoy;
use super::health;
use super::place::Place;

#[derive(Clone)]
pub(crate) enum Plane {
    Weft(Arc<ProxyHandle>),
    Envoy(Arc<Envoy>),
}

impl Plane {
    /// Starts it without configuration. Fails if another program has one of its addresses.
    pub(crate) async fn start(
        args: &Args,
        place: &Place,
        node: &AgentNode,
        identity: &Arc<LiveIdentity>,
        decision_log: Option<DecisionLog>,
        plain_text: PlainText,
    ) -> Result<Self> {
        for (option, address) in [("egress", args.egress), ("ingress", args.ingress)] {
            weft_proxy::is_free(address).with_context(|| {
                format!("cannot listen on {address}: stop the other program, or give another address with --{option}")
            })?;
        }
        let workers = args.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        Ok(match args.data_plane {
            DataPlane::Weft => {
                let config = ProxyConfig {
                    workers,
                    identity: identity.clone(),
                    service: args.service.clone(),
                    decision_log,
                    plain_text,
                    admin: Some(args.admin),
                    health: Some(args.health),
                    prometheus: Some(args.prometheus),
                };
                Self::Weft(Proxy::start(config).await?)
            }
            DataPlane::Envoy => {
                let envoy = Envoy::start(args, place, node, identity, decision_log, plain_text, workers).await?;
                health::serve(args.health, envoy.clone()).await?;
                health::serve(args.prometheus, envoy.clone()).await?;
                Self::Envoy(envoy)
            }
        })
    }

    /// Waits until both listeners are open.
    pub(crate) async fn ready(&self) {
        match self {
            Self::Weft(proxy) => proxy.ready().await,
            Self::Envoy(envoy) => envoy.ready().await,
        }
    }

    /// Takes nothing new and waits, at most for `bound`, for what is under way; returns how much was left.
    pub(crate) async fn drain(&self, bound: Duration) -> usize {
        match self {
            Self::Weft(proxy) => proxy.drain(bound).await,
            Self::Envoy(envoy) => envoy.drain(bound).await,
        }
    }

    /// Opens the log files again, so that one that was moved away gets no more lines.
    pub(crate) async fn reopen_logs(&self) {
        match self {
            Self::Weft(proxy) => proxy.reopen_logs(),
            Self::Envoy(envoy) => envoy.reopen_logs().await,
        }
    }

    /// Waits until a connection to the app was refused.
    pub(crate) async fn app_refused(&self) {
        match self {
            Self::Weft(proxy) => proxy.app_refused().await,
            Self::Envoy(envoy) => envoy.app_refused().await,
        }
    }

    /// Says in `/ready` whether the app, which took connections, takes none.
    pub(crate) fn set_app_gone(&self, gone: bool) {
        match self {
            Self::Weft(proxy) => proxy.set_app_gone(gone),
            Self::Envoy(envoy) => envoy.set_app_gone(gone),
        }
    }

    /// Ends it.
    pub(crate) async fn stop(self) {
        match self {
            Self::Weft(proxy) => proxy.stop(),
            Self::Envoy(envoy) => envoy.stop().await,
        }
    }
}
