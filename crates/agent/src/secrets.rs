//! SDS v3 for Envoys of the machine: each caller's own identities, by the names that Weft and SPIRE have for them.
//!
//! `default` is the first identity and `ROOTCA` the bundle; an identity goes by its SPIFFE ID too, and the bundle by that of its trust domain.

use std::pin::Pin;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use futures_util::{Stream, TryStreamExt};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};
use weft_identity::sds::{self, Copies};
use weft_model::SpiffeId;
use weft_workload_api::{Entitlement, Grant, caller, no_identity};
use weft_xds::{AdsServer, Directory, Node, Snapshot, Subscription};

use crate::watched::Attested;
use crate::workloads::Workloads;

/// See the module.
pub(crate) struct Secrets {
    pub(crate) all: Arc<Workloads>,
    /// Which generation of the agent's identity, and with it of the bundle, its Envoys have.
    pub(crate) copies: Copies,
}

impl Secrets {
    /// For a tonic router.
    pub(crate) fn service(self) -> SecretDiscoveryServiceServer<Self> {
        SecretDiscoveryServiceServer::new(self)
    }

    /// What serves this caller, and nobody else.
    async fn serve<T>(&self, request: &Request<T>) -> Result<(AdsServer<Own>, watch::Receiver<Entitlement>), Status> {
        let attested = Attested::new(&self.all, &caller(request)?).await?;
        let entitled = attested.follow().await;
        let first = entitled.borrow().grant()?.clone();
        let (sender, snapshots) = watch::channel(Arc::new(snapshot(&first, generation(&self.all))));
        tokio::spawn(follow(self.all.clone(), entitled.clone(), sender));
        Ok((AdsServer::new(Arc::new(Own { snapshots, copies: self.copies.clone() })), entitled))
    }
}

/// Until the identity is taken away or nobody listens; the stream ends with the sender.
async fn follow(all: Arc<Workloads>, mut entitled: watch::Receiver<Entitlement>, sender: watch::Sender<Arc<Snapshot>>) {
    let mut common = all.common();
    loop {
        tokio::select! {
            () = sender.closed() => return,
            changed = entitled.changed() => if changed.is_err() { return },
            // The agent's own generation stands in what is sent, so that it is known who has which bundle.
            _ = common.changed() => {}
        }
        // Before the grant is read: it is of this generation, or a later one.
        let generation = generation(&all);
        let current = entitled.borrow_and_update().clone();
        match current {
            Entitlement::Granted(grant) if has_present_bundle(&all, &grant) => {
                sender.send_replace(Arc::new(snapshot(&grant, generation)));
            }
            Entitlement::Granted(_) | Entitlement::NotYet => {}
            Entitlement::Nothing => return,
        }
    }
}

/// A grant of before a change of the bundle is followed by another in a moment.
fn has_present_bundle(all: &Workloads, grant: &Grant) -> bool {
    all.bundle().is_some_and(|bundle| Arc::ptr_eq(&bundle, &grant.bundle))
}

fn generation(all: &Workloads) -> u64 {
    all.live().map_or(0, |live| live.load().generation())
}

fn snapshot(grant: &Grant, generation: u64) -> Snapshot {
    let mut snapshot = Snapshot::new(&generation.to_string());
    if let Some(first) = grant.identities.first() {
        snapshot.insert(sds::certificate(sds::CERTIFICATE, &first.svid));
    }
    for granted in &grant.identities {
        snapshot.insert(sds::certificate(granted.svid.id().as_str(), &granted.svid));
    }
    snapshot.insert(sds::validation(sds::BUNDLE, &grant.bundle, &grant.federated));
    for bundle in std::iter::once(&grant.bundle).chain(&grant.federated) {
        snapshot.insert(sds::validation(&bundle.trust_domain().id(), bundle, []));
    }
    snapshot
}

/// What one caller is served.
struct Own {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    copies: Copies,
}

#[tonic::async_trait]
impl Directory for Own {
    async fn open(&self, _: Option<SpiffeId>, _: &Node) -> Result<Subscription, Status> {
        Ok(Subscription { snapshots: self.snapshots.clone(), observer: self.copies.observer() })
    }
}

type Responses<R> = Pin<Box<dyn Stream<Item = Result<R, Status>> + Send>>;

/// The same stream, which ends as the Workload API does where the identity was taken away: an Envoy says so in its log and asks again later.
fn until_taken_away<R: 'static>(
    responses: Response<Responses<R>>,
    entitled: watch::Receiver<Entitlement>,
) -> Response<Responses<R>> {
    responses.map(|responses| {
        let told = responses.map_err(move |status| match &*entitled.borrow() {
            Entitlement::Nothing => no_identity(),
            _ => status,
        });
        Box::pin(told) as Responses<R>
    })
}

#[tonic::async_trait]
impl SecretDiscoveryService for Secrets {
    type DeltaSecretsStream = Responses<DeltaDiscoveryResponse>;
    type StreamSecretsStream = Responses<DiscoveryResponse>;

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        let (server, entitled) = self.serve(&request).await?;
        Ok(until_taken_away(server.delta_secrets(request).await?, entitled))
    }

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let (server, entitled) = self.serve(&request).await?;
        Ok(until_taken_away(server.stream_secrets(request).await?, entitled))
    }

    async fn fetch_secrets(&self, request: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        self.serve(&request).await?.0.fetch_secrets(request).await
    }
}
