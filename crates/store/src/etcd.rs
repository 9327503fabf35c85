//! The store in an etcd, which several servers share.
//!
//! Each key stands under the mesh's folder (`weft/ca/trust`), and an entry's revision is etcd's `mod_revision`. Reads are linearizable: what
//! one server wrote, another reads. A write whose answer was lost is sent again, and found to be done if it was.

mod address;
mod cluster;
mod follow;
#[rustfmt::skip]
#[allow(missing_docs, unreachable_pub, clippy::all)]
mod proto;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::AbortHandle;
use tonic::transport::Channel;
use tonic::{Response, Status};

pub use address::{BadEtcdAddress, EtcdAddress, EtcdFiles};
use cluster::Cluster;
use proto::compare::{CompareTarget, TargetUnion};
use proto::kv_client::KvClient;
use proto::lease_client::LeaseClient;
use proto::request_op::Request as Op;
use proto::response_op::Response as Done;
use proto::{
    Compare, DeleteRangeRequest, KeyValue, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, PutRequest,
    RangeRequest, RangeResponse, RequestOp, ResponseHeader, TxnRequest, TxnResponse,
};

use crate::entry::Expect;
use crate::watch::Watchers;
use crate::{Entry, StoreError, Swap};

/// The most that etcd takes in a request, 1.5 MiB, less what a request is besides key and value.
const MOST_BYTES: usize = 1_572_864 - 4_096;
/// The most operations that etcd takes in a transaction.
const MOST_WRITES: usize = 128;
/// How many keys are listed at once.
const PAGE: i64 = 1_000;

/// See the module.
#[derive(Debug)]
pub(crate) struct Etcd {
    cluster: Arc<Cluster>,
    /// `weft/`.
    folder: String,
    /// The newest revision that an answer has had.
    seen: AtomicU64,
    following: AbortHandle,
}

impl Etcd {
    /// Finds the etcd, and follows its writes for the watchers from now on.
    pub(crate) async fn connect(
        address: &EtcdAddress,
        files: &EtcdFiles,
        watchers: Arc<Watchers>,
    ) -> Result<Self, StoreError> {
        let cluster = Arc::new(Cluster::new(address, files)?);
        let folder = format!("{}/", address.folder);
        let question = RangeRequest { key: folder.clone().into(), ..RangeRequest::default() };
        let first = cluster.call(question, range).await?.value;
        let revision = first.header.unwrap_or_default().revision;
        let following = tokio::spawn(follow::follow(cluster.clone(), folder.clone(), revision + 1, watchers));
        let seen = AtomicU64::new(revision.unsigned_abs());
        Ok(Self { cluster, folder, seen, following: following.abort_handle() })
    }

    /// The newest revision that an answer has had: whatever is written from now on has a later one.
    pub(crate) fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    pub(crate) async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let question = RangeRequest { key: self.full(key), ..RangeRequest::default() };
        let found = self.cluster.call(question, range).await?.value;
        self.note(found.header);
        Ok(found.kvs.into_iter().next().map(entry))
    }

    /// All pages are of one revision. If that is compacted away meanwhile, it is begun anew.
    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<(String, Entry)>, StoreError> {
        let (start, range_end) = (self.full(prefix), end_of(&format!("{}{prefix}", self.folder)));
        let (mut found, mut from, mut revision): (Vec<_>, _, _) = (Vec::new(), start.clone(), 0);
        loop {
            let question = RangeRequest { key: from, range_end: range_end.clone(), limit: PAGE, revision };
            let page = match self.cluster.call(question, range).await {
                Err(StoreError::EtcdRefused { why, .. }) if revision > 0 && why.contains("compacted") => {
                    (found, from, revision) = (Vec::new(), start.clone(), 0);
                    continue;
                }
                page => page?.value,
            };
            if revision == 0 {
                revision = page.header.as_ref().map_or(0, |header| header.revision);
            }
            self.note(page.header);
            let Some(last) = page.kvs.last().filter(|_| page.more).map(|last| last.key.clone()) else {
                found.extend(page.kvs.into_iter().filter_map(|item| self.item(item)));
                return Ok(found);
            };
            from = [&last[..], &[0]].concat();
            found.extend(page.kvs.into_iter().filter_map(|item| self.item(item)));
        }
    }

    /// Writes `value` (`None` deletes) if the key is as expected.
    pub(crate) async fn write(&self, key: &str, expect: Expect, value: Option<Vec<u8>>) -> Result<Swap, StoreError> {
        self.fits(key, value.as_deref())?;
        match (expect, value) {
            (Expect::Anything, Some(value)) => {
                let put = PutRequest { key: self.full(key), value, lease: 0 };
                let done =
                    self.cluster.call(put, |channel, put| async move { kv(channel).put(put).await }).await?.value;
                Ok(Swap::Done(self.note(done.header)))
            }
            (Expect::Anything, None) => {
                let delete = DeleteRangeRequest { key: self.full(key) };
                let done = self
                    .cluster
                    .call(delete, |channel, delete| async move { kv(channel).delete_range(delete).await })
                    .await?
                    .value;
                let revision = self.note(done.header);
                Ok(if done.deleted > 0 { Swap::Done(revision) } else { Swap::Conflict(None) })
            }
            (Expect::Revision(None), None) => Ok(Swap::Conflict(self.get(key).await?)),
            (Expect::Revision(expected), value) => self.swap(key, expected.unwrap_or(0), value, 0).await,
        }
    }

    /// Writes `value` if the key's revision is `expected` (0: there is none), bound to a lease of etcd (0: to none).
    async fn swap(&self, key: &str, expected: u64, value: Option<Vec<u8>>, lease: i64) -> Result<Swap, StoreError> {
        let full = self.full(key);
        let compare = Compare {
            target: CompareTarget::Mod.into(),
            key: full.clone(),
            target_union: Some(TargetUnion::ModRevision(expected.cast_signed())),
            ..Compare::default() // EQUAL
        };
        let request = match &value {
            Some(value) => Op::RequestPut(PutRequest { key: full.clone(), value: value.clone(), lease }),
            None => Op::RequestDeleteRange(DeleteRangeRequest { key: full.clone() }),
        };
        let look = Op::RequestRange(RangeRequest { key: full, ..RangeRequest::default() });
        let ops = |request| vec![RequestOp { request: Some(request) }];
        let transaction = TxnRequest { compare: vec![compare], success: ops(request), failure: ops(look) };
        let answer = self.cluster.call(transaction, txn).await?;
        let revision = self.note(answer.value.header);
        if answer.value.succeeded {
            return Ok(Swap::Done(revision));
        }
        let present = found(answer.value);
        // The answer to an attempt before may have been lost, and not the attempt.
        Ok(match (present, value) {
            (Some(present), Some(value)) if answer.repeated && present.value == value => Swap::Done(present.revision),
            (None, None) if answer.repeated => Swap::Done(revision),
            (present, _) => Swap::Conflict(present),
        })
    }

    /// Writes all of them, whatever was there: in one transaction if etcd takes so many, else in several.
    pub(crate) async fn write_all(&self, writes: Vec<(String, Option<Vec<u8>>)>) -> Result<(), StoreError> {
        let mut transaction = TxnRequest::default();
        let (mut keys, mut bytes) = (HashSet::new(), 0);
        for (key, value) in writes {
            self.fits(&key, value.as_deref())?;
            let size = key.len() + self.folder.len() + value.as_ref().map_or(0, Vec::len) + 32;
            let full = transaction.success.len() == MOST_WRITES || bytes + size > MOST_BYTES;
            if full || keys.contains(&key) {
                self.commit(std::mem::take(&mut transaction)).await?; // etcd refuses a key twice in one
                keys.clear();
                bytes = 0;
            }
            let full_key = self.full(&key);
            let request = match value {
                Some(value) => Op::RequestPut(PutRequest { key: full_key, value, lease: 0 }),
                None => Op::RequestDeleteRange(DeleteRangeRequest { key: full_key }),
            };
            transaction.success.push(RequestOp { request: Some(request) });
            keys.insert(key);
            bytes += size;
        }
        self.commit(transaction).await
    }

    async fn commit(&self, transaction: TxnRequest) -> Result<(), StoreError> {
        if transaction.success.is_empty() {
            return Ok(());
        }
        let done = self.cluster.call(transaction, txn).await?.value;
        self.note(done.header);
        Ok(())
    }

    /// Takes a key that is gone when nobody keeps it for `ttl`, in whole seconds and at least 2 (etcd's least). The number of etcd's lease, and the
    /// revision in which the key was made; `None`: somebody else has it.
    pub(crate) async fn take_lease(
        &self,
        key: &str,
        holder: Vec<u8>,
        ttl: Duration,
    ) -> Result<Option<(i64, u64)>, StoreError> {
        let grant = LeaseGrantRequest { ttl: ttl.as_secs_f64().ceil().max(2.0) as i64 };
        let lease = self
            .cluster
            .call(grant, |channel, grant| async move { leases(channel).lease_grant(grant).await })
            .await?
            .value
            .id;
        match self.swap(key, 0, Some(holder), lease).await {
            Ok(Swap::Done(revision)) => Ok(Some((lease, revision))),
            Ok(Swap::Conflict(_)) => {
                self.give_back(lease).await?;
                Ok(None)
            }
            Err(error) => Err(error), // the lease runs out by itself, and the key with it
        }
    }

    /// Begins the time of a lease anew. `false`: it has run out.
    pub(crate) async fn keep_lease(&self, lease: i64) -> Result<bool, StoreError> {
        Ok(self.cluster.call(lease, keep_alive).await?.value)
    }

    /// Ends a lease, and with it the key that was taken.
    pub(crate) async fn give_back(&self, lease: i64) -> Result<(), StoreError> {
        let revoke = LeaseRevokeRequest { id: lease };
        let revoked =
            self.cluster.call(revoke, |channel, revoke| async move { leases(channel).lease_revoke(revoke).await });
        match revoked.await {
            Err(StoreError::EtcdRefused { why, .. }) if why.contains("lease not found") => Ok(()), // it has run out
            done => done.map(drop),
        }
    }

    fn fits(&self, key: &str, value: Option<&[u8]>) -> Result<(), StoreError> {
        let size = self.folder.len() + key.len() + value.map_or(0, <[u8]>::len);
        if size > MOST_BYTES {
            return Err(StoreError::TooLarge { key: key.to_owned(), size, most: MOST_BYTES });
        }
        Ok(())
    }

    fn full(&self, key: &str) -> Vec<u8> {
        [self.folder.as_bytes(), key.as_bytes()].concat()
    }

    /// `None` for a key that nobody of us has written.
    fn item(&self, item: KeyValue) -> Option<(String, Entry)> {
        let key = std::str::from_utf8(&item.key).ok()?.strip_prefix(&self.folder)?.to_owned();
        Some((key, entry(item)))
    }

    fn note(&self, header: Option<ResponseHeader>) -> u64 {
        let revision = header.map_or(0, |header| header.revision.unsigned_abs());
        self.seen.fetch_max(revision, Ordering::Relaxed);
        revision
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.following.abort();
    }
}

fn kv(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(usize::MAX)
}

async fn range(channel: Channel, question: RangeRequest) -> Result<Response<RangeResponse>, Status> {
    kv(channel).range(question).await
}

async fn txn(channel: Channel, transaction: TxnRequest) -> Result<Response<TxnResponse>, Status> {
    kv(channel).txn(transaction).await
}

async fn keep_alive(channel: Channel, id: i64) -> Result<Response<bool>, Status> {
    let answer = leases(channel).lease_keep_alive(tokio_stream::once(LeaseKeepAliveRequest { id })).await?;
    let kept = answer.into_inner().message().await?;
    Ok(Response::new(kept.is_some_and(|kept| kept.ttl > 0)))
}

fn leases(channel: Channel) -> LeaseClient<Channel> {
    LeaseClient::new(channel)
}

/// The first key that does not start with this any more. No text ends with the byte 255.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

fn entry(item: KeyValue) -> Entry {
    Entry { value: item.value, revision: item.mod_revision.unsigned_abs() }
}

/// What the key held that was not as expected.
fn found(answer: TxnResponse) -> Option<Entry> {
    match answer.responses.into_iter().next()?.response? {
        Done::ResponseRange(range) => range.kvs.into_iter().next().map(entry),
        _ => None,
    }
}
