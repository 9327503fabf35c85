//! The SPIFFE Workload API beside a sidecar: the app, and whoever else runs as its user, gets the sidecar's own identity there.
//!
//! The socket is there before there is an identity, since real clients look for it once, at their start. On it is SDS too, for an Envoy
//! that the app's owner runs; not on TCP, where no header guards it (Workload Endpoint s.3).

use std::sync::{Arc, OnceLock};

use anyhow::Result;
use nix::unistd::Uid;
use tonic::Status;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use weft_identity::Identity;
use weft_model::SpiffeId;
use weft_workload_api::{Endpoint, Listener, OneWorkload, serve};
use weft_xds::{AdsServer, Directory, Node, Subscription};

use super::args::Args;
use super::secrets::Secrets;
use crate::output::hinted;

pub(crate) struct WorkloadSocket {
    endpoint: Endpoint,
    workload: Arc<OneWorkload>,
    secrets: Later,
}

impl WorkloadSocket {
    /// Opens it, if one is wanted. Whoever asks is told to try again until [`Self::begin`].
    ///
    /// # Errors
    /// It cannot be opened.
    pub(crate) async fn open(args: &Args) -> Result<Option<Self>> {
        let Some(wanted) = &args.workload_socket else { return Ok(None) };
        let listener = Listener::open(wanted).await.map_err(|error| {
            hinted(
                format!("cannot serve the Workload API at {wanted}: {error}"),
                "give another place with --workload-socket",
            )
        })?;
        let endpoint = listener.endpoint().clone();
        let uid = args.workload_user.unwrap_or_else(|| Uid::effective().as_raw());
        let (workload, secrets) = (OneWorkload::of(uid), Later::default());
        let mut beside = Routes::default();
        match &endpoint {
            Endpoint::Unix(_) => {
                let sds = AdsServer::new(Arc::new(secrets.clone())).sds();
                let guard = workload.clone();
                beside = beside.add_service(InterceptedService::new(sds, move |request| guard.check(request)));
            }
            Endpoint::Tcp(_) => tracing::warn!(
                %endpoint,
                "the Workload API is on TCP: any program of this machine can reach it; the kernel's table of connections says whose each is"
            ),
        }
        tracing::info!(%endpoint, uid, "the Workload API is served to this user");
        let workloads = workload.clone();
        tokio::spawn(async move {
            if let Err(error) = serve(listener, workloads, beside).await {
                tracing::error!(%error, "the Workload API is closed");
            }
        });
        Ok(Some(Self { endpoint, workload, secrets }))
    }

    /// The identity is there: it is handed out from now on.
    pub(crate) fn begin(&self, identity: &Identity) {
        let _ = self.secrets.0.set(Secrets::new(identity.live())); // called once
        self.workload.begin(identity.live().clone(), identity.tokens());
    }

    /// As the app is told.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

/// Secrets once there is an identity.
#[derive(Clone, Default)]
struct Later(Arc<OnceLock<Secrets>>);

#[tonic::async_trait]
impl Directory for Later {
    async fn open(&self, peer: Option<SpiffeId>, node: &Node) -> Result<Subscription, Status> {
        let secrets = self.0.get().ok_or_else(|| Status::unavailable("there is no identity yet; try again"))?;
        secrets.open(peer, node).await
    }
}
