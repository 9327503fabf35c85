//! The client's end of delta ADS: keeps a [`Sink`] up to date through reconnects, server restarts and its own restarts.
//!
//! What is in force never goes away because a server does: the state of the last stream is offered to the next one
//! (`initial_resource_versions`), and a copy on disk is applied before the first.

mod backoff;
mod cache;
mod state;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3 as pb;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::server::MAX_MESSAGE;
use crate::sink::{ClientStatus, Sink};
use crate::{Node, type_url};
use backoff::Backoff;
use state::State;

/// Changes are written to the cache when there has been none for this long, so that a whole update is written rather than its beginning,
const CACHE_QUIET: Duration = Duration::from_millis(200);
/// but at most this long after the first of them.
const CACHE_DELAY: Duration = Duration::from_secs(2);
/// What could not be written is tried again after this long.
const CACHE_AGAIN: Duration = Duration::from_secs(5);
/// Requests that wait for the transport. A response makes at most three, and at most one response a type is unanswered, so this is
/// never full while the server reads.
const OUTBOX: usize = 64;

type Connect = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<Channel, String>> + Send>> + Send + Sync>;

/// A delta ADS client that never gives up.
pub struct Client {
    node: watch::Receiver<Node>,
    cache: Option<PathBuf>,
    connect: Connect,
    status: watch::Sender<ClientStatus>,
}

impl Client {
    /// A client for `node`, which is sent again whenever it changes. With `cache`, that file is applied at the start and kept up to
    /// date. `connect` makes a channel for each attempt; give it keep-alive with [`client_endpoint`](crate::client_endpoint).
    pub fn new<F, Fut, E>(node: watch::Receiver<Node>, cache: Option<PathBuf>, connect: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Channel, E>> + Send + 'static,
        E: std::fmt::Display,
    {
        let connect: Connect = Box::new(move || {
            let attempt = connect();
            Box::pin(async move { attempt.await.map_err(|error| error.to_string()) })
        });
        Self { node, cache, connect, status: watch::Sender::default() }
    }

    /// What the client is doing, now and from now on.
    pub fn status(&self) -> watch::Receiver<ClientStatus> {
        self.status.subscribe()
    }

    /// Runs until the sender of the node is dropped, and then ends with everything that was received on disk. A future that is dropped
    /// instead may leave the newest out.
    pub async fn run(mut self, mut sink: impl Sink) {
        let mut state = State::default();
        let mut cache =
            Cache { path: self.cache.take(), owner: self.node.borrow().cluster.clone(), due: None, failed: false };
        self.start_from_cache(&mut cache, &mut state, &mut sink).await;
        let mut backoff = Backoff::default();
        while self.node.has_changed().is_ok() {
            let began = Instant::now();
            let ended = self.one_stream(&mut state, &mut sink, &mut cache, &mut backoff).await;
            if self.status.borrow().connected && began.elapsed() > backoff::LAST {
                backoff.reset();
            }
            let Err(error) = ended else { break };
            tracing::warn!(%error, "xDS stream ended");
            self.status.send_modify(|status| {
                status.connected = false;
                status.last_error = Some(error);
            });
            cache.write(&state).await;
            let pause = sleep(backoff.next(rand::random()));
            self.unless_closed(pause).await;
        }
        cache.write(&state).await;
    }

    async fn start_from_cache(&self, cache: &mut Cache, state: &mut State, sink: &mut impl Sink) {
        let Some(path) = &cache.path else { return };
        cache::clear_remains(path);
        let updates = match cache::read(path, &cache.owner) {
            Ok(updates) => updates,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the xDS cache is not used");
                return;
            }
        };
        for response in updates {
            let answer = state.receive(response, sink).await;
            self.status.send_modify(|status| answer.record(status));
        }
        // What the last run had for something that it did not accept, or no longer knows, is of no use.
        state.resubscribe(sink).await;
        self.status.send_modify(|status| status.from_cache = true);
    }

    /// What the future gives; none when the sender of the node is dropped first.
    async fn unless_closed<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut node = self.node.clone();
        let closed = async { while node.changed().await.is_ok() {} };
        tokio::select! {
            value = future => Some(value),
            () = closed => None,
        }
    }

    /// One stream, until it ends. `Ok` when there is no reason to go on.
    async fn one_stream(
        &mut self,
        state: &mut State,
        sink: &mut impl Sink,
        cache: &mut Cache,
        backoff: &mut Backoff,
    ) -> Result<(), String> {
        let Some(channel) = self.unless_closed((self.connect)()).await else { return Ok(()) };
        let channel = channel?;
        let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let (outbox, requests) = mpsc::channel(OUTBOX);
        let node = self.node.borrow_and_update().clone();
        for request in state.open(node, sink) {
            send(&outbox, request).await?;
        }
        let opening = client.delta_aggregated_resources(ReceiverStream::new(requests));
        let Some(responses) = self.unless_closed(opening).await else { return Ok(()) };
        let mut responses = responses.map_err(|status| describe(&status))?.into_inner();
        self.status.send_modify(|status| {
            status.connected = true;
            status.from_cache = false;
            status.last_error = None;
        });
        loop {
            tokio::select! {
                response = responses.message() => {
                    let response = response.map_err(|status| describe(&status))?;
                    let response = response.ok_or("the server closed the stream")?;
                    backoff.reset();
                    let nonce = response.nonce.clone();
                    let answer = state.receive(response, sink).await;
                    cache.changed();
                    self.status.send_modify(|status| answer.record(status));
                    // The new subscriptions first: then the server knows of them when it sees the acknowledgement, and does not take
                    // the client for one that needs nothing more.
                    for request in state.resubscribe(sink).await {
                        send(&outbox, request).await?;
                    }
                    send(&outbox, answer.into_request(nonce)).await?;
                }
                taken = sink.late() => {
                    cache.changed();
                    let again = state.take_back(taken);
                    for request in again.into_iter().chain(state.resubscribe(sink).await) {
                        send(&outbox, request).await?;
                    }
                }
                changed = self.node.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let node = Some(self.node.borrow_and_update().clone());
                    send(&outbox, pb::DeltaDiscoveryRequest { node, type_url: type_url::CLUSTER.to_owned(), ..Default::default() }).await?;
                }
                () = cache.time_to_write() => cache.write(state).await,
            }
        }
    }
}

async fn send(
    outbox: &mpsc::Sender<pb::DeltaDiscoveryRequest>,
    request: pb::DeltaDiscoveryRequest,
) -> Result<(), String> {
    outbox.send(request).await.map_err(|_| "the stream is closed".to_owned())
}

fn describe(status: &tonic::Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}

/// When and where the state is written.
struct Cache {
    path: Option<PathBuf>,
    /// Whose configuration it is; that of another service is never applied.
    owner: String,
    /// When the first change came that is not written yet, and when to write it.
    due: Option<(Instant, Instant)>,
    /// The last attempt failed, and that was told.
    failed: bool,
}

impl Cache {
    fn changed(&mut self) {
        let waits_for_room = self.failed && self.due.is_some();
        if self.path.is_some() && !waits_for_room {
            let now = Instant::now();
            let first = self.due.map_or(now, |(first, _)| first);
            self.due = Some((first, (now + CACHE_QUIET).min(first + CACHE_DELAY)));
        }
    }

    async fn time_to_write(&self) {
        match self.due {
            Some((_, due)) => sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    async fn write(&mut self, state: &State) {
        let (Some(path), Some(_)) = (self.path.clone(), self.due.take()) else { return };
        let bytes = cache::encode(&self.owner, state.as_responses());
        let target = Arc::new(path);
        let written = tokio::task::spawn_blocking({
            let target = target.clone();
            move || cache::write(&target, &bytes)
        });
        let error = match written.await {
            Ok(Ok(())) => {
                if std::mem::take(&mut self.failed) {
                    tracing::info!(path = %target.display(), "the xDS cache is written again");
                }
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        if !std::mem::replace(&mut self.failed, true) {
            tracing::warn!(path = %target.display(), error, "the xDS cache could not be written, and is tried again; a restart would begin with an older one");
        }
        let now = Instant::now();
        self.due = Some((now, now + CACHE_AGAIN));
    }
}

/// For the fuzz target `cache`: gives a sink what a cache file with this content holds, and says what the file would hold then.
#[doc(hidden)]
pub async fn replay(bytes: &[u8], sink: &mut impl Sink) -> Result<Vec<u8>, String> {
    let content = cache::decode(bytes)?;
    let mut state = State::default();
    for response in content.responses {
        state.receive(response, sink).await;
    }
    state.resubscribe(sink).await;
    Ok(cache::encode(&content.owner, state.as_responses()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_cache_that_could_not_be_written_is_written_when_it_can_be() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let place = folder.path().join("place");
        std::fs::write(&place, "no folder").expect("written");
        let path = place.join("xds");
        let mut cache = Cache { path: Some(path.clone()), owner: "prod/board".to_owned(), due: None, failed: false };
        cache.changed();
        cache.time_to_write().await;
        cache.write(&State::default()).await;
        let again = cache.due;
        assert!(cache.failed && again.is_some());
        // What changes meanwhile does not put it off.
        cache.changed();
        assert_eq!(cache.due, again);

        std::fs::remove_file(&place).expect("removed");
        cache.time_to_write().await;
        cache.write(&State::default()).await;
        assert!(path.is_file() && !cache.failed && cache.due.is_none());
        assert_eq!(std::fs::read_dir(&place).expect("a folder").count(), 1, "nothing is left beside it");
    }
}
