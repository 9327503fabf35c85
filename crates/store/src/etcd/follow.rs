//! Following all writes of the mesh, from one member of etcd to the next, without a gap that nobody is told of.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status, Streaming};

use super::cluster::{ATTEMPT, Cluster, explain};
use super::end_of;
use super::proto::event::EventType;
use super::proto::watch_client::WatchClient;
use super::proto::watch_request::RequestUnion;
use super::proto::{Event as Written, WatchCreateRequest, WatchRequest, WatchResponse};
use crate::watch::{Change, Event, Watchers};

/// Between two attempts to follow.
const PAUSE: Duration = Duration::from_millis(100);
/// How often it is said that nobody can be followed, in attempts.
const SAID: u32 = 100;

/// Tells the watchers of every write under `folder` from revision `next` on, until it is aborted.
pub(super) async fn follow(cluster: Arc<Cluster>, folder: String, mut next: i64, watchers: Arc<Watchers>) {
    let mut failures = 0;
    loop {
        let (number, channel) = cluster.present();
        let opened = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
        let error = match timeout(ATTEMPT, open(opened, &folder, next)).await {
            Ok(Ok(news)) => {
                failures = 0;
                match listen(news, &folder, &mut next, &watchers).await {
                    Ok(()) => continue, // some of it is compacted away: from its end on
                    Err(status) => explain(&status),
                }
            }
            Ok(Err(status)) => explain(&status),
            Err(_) => format!("no answer within {} s", ATTEMPT.as_secs()),
        };
        if failures % SAID == 0 {
            tracing::info!(
                member = cluster.address(number),
                error,
                "etcd tells nothing of changes; trying the next member"
            );
        }
        failures += 1;
        cluster.leave(number);
        tokio::time::sleep(PAUSE).await;
    }
}

async fn open(
    mut client: WatchClient<tonic::transport::Channel>,
    folder: &str,
    next: i64,
) -> Result<Streaming<WatchResponse>, Status> {
    let create = WatchCreateRequest { key: folder.into(), range_end: end_of(folder), start_revision: next };
    let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    // The stream of requests has to stay open: etcd ends the watch with it.
    let mut request = Request::new(tokio_stream::once(create).chain(tokio_stream::pending()));
    // A member that is cut off from the others says so, and does not keep silent for ever.
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    let mut news = client.watch(request).await?.into_inner();
    match news.message().await? {
        Some(first) if first.created && !first.canceled => Ok(news),
        Some(first) => Err(Status::unavailable(first.cancel_reason)),
        None => Err(Status::unavailable("the stream ended at once")),
    }
}

/// Until the stream breaks. `Ok`: what comes next has been compacted away, and the watchers are told to list again.
async fn listen(
    mut news: Streaming<WatchResponse>,
    folder: &str,
    next: &mut i64,
    watchers: &Watchers,
) -> Result<(), Status> {
    while let Some(response) = news.message().await? {
        if response.compact_revision > 0 {
            tracing::info!(
                from = *next,
                to = response.compact_revision,
                "etcd has forgotten changes that were not seen yet: listing again"
            );
            *next = response.compact_revision;
            watchers.missed();
            return Ok(());
        }
        if response.canceled {
            return Err(Status::unavailable(response.cancel_reason));
        }
        // All writes of a revision come in one response.
        for written in response.events {
            if let Some((revision, event)) = read(written, folder) {
                *next = (*next).max(revision + 1);
                event.into_iter().for_each(|event| watchers.tell(event));
            }
        }
    }
    Err(Status::unavailable("the stream ended"))
}

/// The revision, and the event if its key is one of ours.
fn read(written: Written, folder: &str) -> Option<(i64, Option<Event>)> {
    let is_put = written.r#type() == EventType::Put;
    let entry = written.kv?;
    let revision = entry.mod_revision;
    let key = std::str::from_utf8(&entry.key).ok().and_then(|key| key.strip_prefix(folder));
    let change = if is_put { Change::Put(entry.value.into()) } else { Change::Deleted };
    Some((revision, key.map(|key| Event { key: key.into(), revision: revision.unsigned_abs(), change })))
}
