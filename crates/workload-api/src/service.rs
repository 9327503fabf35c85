//! The calls of the API.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status};
use weft_identity::{Audience, jwt};
use weft_model::SpiffeId;

use crate::caller::Caller;
use crate::listen::{Listener, Peer};
use crate::messages::{claims, jwt_bundles, x509_bundles, x509_svids};
use crate::proto;
use crate::proto::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use crate::workloads::{Entitlement, Grant, Workloads, hinted, no_identity};

/// What no browser and no forged request of another program carries (Workload Endpoint s.3).
pub(crate) const SECURITY_HEADER: &str = "workload.spiffe.io";
/// Requests are small: a token and some names.
const MAX_REQUEST: usize = 64 * 1024;
/// Calls at a time on one connection.
const MOST_CALLS: u32 = 128;
/// The most users without an identity that the log names.
const MOST_STRANGERS: usize = 64;
/// With [`PING_TIMEOUT`], a caller that hangs is noticed.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves the API, and what else is on the same endpoint, until the listener fails.
///
/// # Errors
/// The server could not be built.
pub async fn serve(
    listener: Listener,
    workloads: Arc<dyn Workloads>,
    beside: Routes,
) -> Result<(), tonic::transport::Error> {
    tonic::transport::Server::builder()
        .max_concurrent_streams(MOST_CALLS)
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .add_routes(beside.add_service(service(workloads)))
        .serve_with_incoming(listener.connections())
        .await
}

/// The gRPC service.
pub fn service(workloads: Arc<dyn Workloads>) -> SpiffeWorkloadApiServer<impl SpiffeWorkloadApi> {
    SpiffeWorkloadApiServer::new(Api { workloads, strangers: Mutex::default() }).max_decoding_message_size(MAX_REQUEST)
}

/// Who calls by this request.
///
/// # Errors
/// `UNAVAILABLE`: the kernel did not say. That is not "nobody": clients keep what they have.
pub fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let peer = request.extensions().get::<Peer>();
    peer.and_then(|peer| peer.0.clone())
        .ok_or_else(|| Status::unavailable("workload attestation failed: who calls is unknown"))
}

struct Api {
    workloads: Arc<dyn Workloads>,
    /// Users without an identity that were told of.
    strangers: Mutex<BTreeSet<u32>>,
}

impl Api {
    /// Who calls, and what that one is entitled to.
    async fn admit<T>(&self, request: &Request<T>) -> Result<(Caller, watch::Receiver<Entitlement>), Status> {
        let mut values = request.metadata().get_all(SECURITY_HEADER).iter();
        if values.next().is_none_or(|value| value != "true") || values.next().is_some() {
            return Err(Status::invalid_argument("security header missing from request"));
        }
        let caller = caller(request)?;
        let entitled = self.workloads.attest(&caller).await.inspect_err(|status| {
            if status.code() == Code::PermissionDenied {
                self.tell(&caller);
            }
        })?;
        Ok((caller, entitled))
    }

    /// Says that somebody has no identity: once of each user, since anybody can call as often as he likes.
    fn tell(&self, caller: &Caller) {
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        if strangers.len() < MOST_STRANGERS && strangers.insert(caller.uid) {
            tracing::info!(
                uid = caller.uid,
                pid = caller.pid,
                "a user without an identity has called the Workload API"
            );
        }
    }

    /// A message at once and after each change, none that equals the one before.
    async fn stream<T, M>(&self, request: &Request<T>, message: Message<M>) -> Result<Response<Messages<M>>, Status>
    where
        M: Clone + PartialEq + Send + 'static,
    {
        let (_, mut entitled) = self.admit(request).await?;
        let first = message(entitled.borrow_and_update().grant()?)?;
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(push(first, entitled, message, sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

type Message<M> = fn(&Grant) -> Result<M, Status>;
type Messages<M> = ReceiverStream<Result<M, Status>>;

/// Tells one caller, until either end goes or the identity is taken away.
async fn push<M: Clone + PartialEq>(
    first: M,
    mut entitled: watch::Receiver<Entitlement>,
    message: Message<M>,
    sender: mpsc::Sender<Result<M, Status>>,
) {
    let mut last = first.clone();
    if sender.send(Ok(first)).await.is_err() {
        return;
    }
    loop {
        tokio::select! {
            changed = entitled.changed() => if changed.is_err() { return },
            () = sender.closed() => return,
        }
        let next = entitled.borrow_and_update().grant().and_then(|grant| message(grant));
        let told = match next {
            Ok(next) if next == last => continue,
            Ok(next) => {
                last = next.clone();
                sender.send(Ok(next)).await
            }
            Err(status) if status.code() == Code::PermissionDenied => {
                let _ = sender.send(Err(status)).await; // the stream ends in any case
                return;
            }
            // What is only missing at present takes nothing away.
            Err(_) => continue,
        };
        if told.is_err() {
            return;
        }
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Api {
    type FetchX509SVIDStream = Messages<proto::X509svidResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<proto::X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.stream(&request, x509_svids).await
    }

    type FetchX509BundlesStream = Messages<proto::X509BundlesResponse>;

    async fn fetch_x509_bundles(
        &self,
        request: Request<proto::X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.stream(&request, x509_bundles).await
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<proto::JwtsvidRequest>,
    ) -> Result<Response<proto::JwtsvidResponse>, Status> {
        let (caller, entitled) = self.admit(&request).await?;
        let proto::JwtsvidRequest { audience, spiffe_id } = request.into_inner();
        let audience = Audience::new(audience).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let asked: Option<SpiffeId> = match spiffe_id.as_str() {
            "" => None,
            id => Some(id.parse().map_err(|error| Status::invalid_argument(format!("spiffe_id: {error}")))?),
        };
        let grant = entitled.borrow().grant()?.clone();
        let wanted = |id: &SpiffeId| asked.as_ref().is_none_or(|asked| asked == id);
        let mut svids = Vec::new();
        for (granted, hint) in hinted(grant.identities.iter().filter(|granted| wanted(granted.svid.id()))) {
            let id = granted.svid.id();
            let token = self.workloads.jwt_svid(&caller, id, &audience).await?;
            svids.push(proto::Jwtsvid { spiffe_id: id.to_string(), svid: token.to_string(), hint: hint.to_owned() });
        }
        if svids.is_empty() {
            return Err(no_identity());
        }
        Ok(Response::new(proto::JwtsvidResponse { svids }))
    }

    type FetchJWTBundlesStream = Messages<proto::JwtBundlesResponse>;

    async fn fetch_jwt_bundles(
        &self,
        request: Request<proto::JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        self.stream(&request, jwt_bundles).await
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<proto::ValidateJwtsvidRequest>,
    ) -> Result<Response<proto::ValidateJwtsvidResponse>, Status> {
        let (_, entitled) = self.admit(&request).await?;
        let proto::ValidateJwtsvidRequest { audience, svid } = request.into_inner();
        let grant = entitled.borrow().grant()?.clone();
        if audience.is_empty() || svid.is_empty() {
            return Err(Status::invalid_argument("audience and svid must be specified"));
        }
        let bundle = |domain: &_| grant.bundle_of(domain).map(|bundle| bundle.jwt().clone());
        let valid = jwt::validate(&svid, &audience, bundle, SystemTime::now());
        let valid = valid.map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(proto::ValidateJwtsvidResponse {
            spiffe_id: valid.id.to_string(),
            claims: Some(claims(&valid.claims)),
        }))
    }
}
