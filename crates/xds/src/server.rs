//! The gRPC side of a server: ADS and SDS, both protocols, for whatever a [`Directory`] lets in.
//!
//! A stream is one loop over requests and snapshots, run by the response stream itself: it makes the next response only when the
//! transport has room, from the newest snapshot then, so nothing is ever queued for a slow client.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use futures_util::{FutureExt, Stream};
use prost::Message;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::StreamExt;
use tonic::{Request, Response, Status, Streaming};

use crate::resource::cut;
use crate::session::{Delta, Event, Protocol, Session, Sotw};
use crate::{ConnectPeer, Directory, Node, Observer, Snapshot, Subscription, type_url};

/// The largest request or response that is decoded, in bytes.
pub(crate) const MAX_MESSAGE: usize = 16 * 1024 * 1024;
/// How long a client may take to send its first request, which names its node.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// How long something safe-to-delay is held for requests that the client should be about to send.
const HOLD: Duration = Duration::from_secs(1);
/// How many requests are taken in a row before the next response is considered.
const REQUESTS_IN_A_ROW: usize = 64;
/// A ping goes out on a connection this often, and must be answered within [`PING_TIMEOUT`]: a dead peer is noticed within 20 s.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(8);

/// A gRPC server builder that notices half-open connections within 20 s.
pub fn server_builder() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
}

/// The same for the client's end.
pub fn client_endpoint(endpoint: tonic::transport::Endpoint) -> tonic::transport::Endpoint {
    endpoint
        .connect_timeout(Duration::from_secs(10))
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
}

/// Serves ADS and SDS, delta and state of the world. Cheap to clone.
pub struct AdsServer<D>(Arc<D>);

impl<D> Clone for AdsServer<D> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<D: Directory> AdsServer<D> {
    /// Serves what `directory` says.
    pub fn new(directory: Arc<D>) -> Self {
        Self(directory)
    }

    /// `envoy.service.discovery.v3.AggregatedDiscoveryService`, for a tonic router.
    pub fn ads(&self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// `envoy.service.secret.v3.SecretDiscoveryService`, for a tonic router. It serves secrets and nothing else.
    pub fn sds(&self) -> SecretDiscoveryServiceServer<Self> {
        SecretDiscoveryServiceServer::new(self.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    async fn serve<P: Protocol>(
        &self,
        request: Request<Streaming<P::Request>>,
        only: Option<&'static str>,
    ) -> Result<Response<Responses<P::Response>>, Status> {
        let peer = request.extensions().get::<ConnectPeer>().and_then(|peer| peer.id.clone());
        let mut requests = request.into_inner();
        let first = match timeout(FIRST_REQUEST, requests.message()).await {
            Ok(first) => {
                first.map_err(unreadable)?.ok_or_else(|| Status::cancelled("the stream ended without a request"))?
            }
            Err(_) => return Err(Status::deadline_exceeded("no request came within 10 s of opening the stream")),
        };
        let node = P::node(&first).cloned().ok_or_else(|| {
            Status::invalid_argument(
                "the first request of a stream must carry the node that sends it, and this one has none",
            )
        })?;
        let Subscription { mut snapshots, observer } = self.0.open(peer, &node).await?;
        let session = Session::<P>::new(snapshots.borrow_and_update().clone());
        let mut stream = StreamState { session, observer: Closing(observer), node, only };
        stream.on_request(first)?;
        Ok(Response::new(Box::pin(run(stream, requests, snapshots))))
    }
}

type Responses<R> = Pin<Box<dyn Stream<Item = Result<R, Status>> + Send>>;

/// Tells the observer when the stream is over, however it ends.
struct Closing(Box<dyn Observer>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.closed();
    }
}

struct StreamState<P> {
    session: Session<P>,
    observer: Closing,
    node: Node,
    only: Option<&'static str>,
}

impl<P: Protocol> StreamState<P> {
    fn on_request(&mut self, mut request: P::Request) -> Result<(), Status> {
        let (node, type_url) = P::parts(&mut request);
        if let Some(only) = self.only {
            if type_url.is_empty() {
                *type_url = only.to_owned();
            } else if type_url != only {
                return Err(Status::invalid_argument(format!(
                    "this service has no {}, only {only}",
                    cut(type_url, 200)
                )));
            }
        }
        if let Some(node) = node.take().filter(|node| *node != self.node) {
            self.observer.0.node(&node)?;
            self.node = node;
        }
        match self.session.on_request(request)? {
            Some(Event::Ack { type_url, revision, still_refused }) => {
                self.observer.0.ack(type_url, &revision, &still_refused);
            }
            Some(Event::Nack(nack)) => {
                tracing::warn!(node = %self.node.id, r#type = type_url::short(nack.type_url), revision = %nack.revision, reason = %nack.reason,
                    "xDS update refused");
                self.observer.0.nack(&nack);
            }
            Some(Event::UnknownType(url)) => {
                tracing::debug!(node = %self.node.id, url, "unknown resource type asked for")
            }
            None => {}
        }
        Ok(())
    }

    fn next_response(&mut self) -> Option<P::Response> {
        match self.session.next_response() {
            Some(response) => {
                let (type_url, count) = P::size(&response);
                if let Some(type_url) = type_url::intern(type_url) {
                    self.observer.0.sent(type_url, count, response.encoded_len());
                }
                Some(response)
            }
            None => {
                if let Some(snapshot) = self.session.settled() {
                    self.observer.0.settled_snapshot(&snapshot);
                }
                None
            }
        }
    }
}

fn run<P: Protocol>(
    mut stream: StreamState<P>,
    mut requests: Streaming<P::Request>,
    mut snapshots: tokio::sync::watch::Receiver<Arc<Snapshot>>,
) -> impl Stream<Item = Result<P::Response, Status>> + Send {
    async_stream::try_stream! {
        let mut hold_until = None;
        'requests: loop {
            for _ in 0..REQUESTS_IN_A_ROW {
                match requests.next().now_or_never() {
                    Some(Some(request)) => stream.on_request(request.map_err(unreadable)?)?,
                    Some(None) => break 'requests,
                    None => break,
                }
            }
            match snapshots.has_changed() {
                Ok(true) => stream.session.on_snapshot(snapshots.borrow_and_update().clone()),
                Ok(false) => {}
                Err(_) => Err(Status::unavailable("the server stops serving this node"))?,
            }
            if let Some(response) = stream.next_response() {
                yield response;
                continue;
            }
            hold_until = stream.session.holding().then(|| hold_until.unwrap_or_else(|| Instant::now() + HOLD));
            let request = tokio::select! {
                request = requests.next() => Some(request),
                _ = snapshots.changed() => {
                    // Taken above, where the end of the sender is noticed too.
                    snapshots.mark_changed();
                    None
                }
                () = sleep_until(hold_until.unwrap_or_else(Instant::now)), if hold_until.is_some() => {
                    stream.session.stop_holding();
                    None
                }
            };
            match request {
                Some(Some(request)) => stream.on_request(request.map_err(unreadable)?)?,
                Some(None) => break,
                None => {}
            }
        }
        // A client may close its sending side right after it has asked, and still wait for what it asked for.
        stream.session.no_more_requests();
        while let Some(response) = stream.next_response() {
            yield response;
        }
    }
}

/// What to tell a client whose request could not be read. A broken connection ends here too; then nobody reads it.
fn unreadable(status: Status) -> Status {
    match status.code() {
        tonic::Code::OutOfRange => {
            Status::resource_exhausted(format!("the request is too large; at most {MAX_MESSAGE} bytes are read"))
        }
        tonic::Code::Internal => Status::invalid_argument(format!("the request cannot be read: {}", status.message())),
        _ => status,
    }
}

#[tonic::async_trait]
impl<D: Directory> AggregatedDiscoveryService for AdsServer<D> {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        self.serve::<Sotw>(request, None).await
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        self.serve::<Delta>(request, None).await
    }
}

#[tonic::async_trait]
impl<D: Directory> SecretDiscoveryService for AdsServer<D> {
    type DeltaSecretsStream = Responses<DeltaDiscoveryResponse>;
    type StreamSecretsStream = Responses<DiscoveryResponse>;

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        self.serve::<Delta>(request, Some(type_url::SECRET)).await
    }

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        self.serve::<Sotw>(request, Some(type_url::SECRET)).await
    }

    async fn fetch_secrets(&self, _: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("polling is not supported; use StreamSecrets or DeltaSecrets"))
    }
}
