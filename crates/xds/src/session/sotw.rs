//! State-of-the-world xDS (xDS protocol, "Streaming gRPC subscriptions").

use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3 as pb;
use sha2::{Digest, Sha256};
use tonic::Status;

use super::{Event, Session, Variant, check_count, check_name, known_type, order};
use crate::resource::hex;
use crate::{Resource, Snapshot};

/// One state-of-the-world stream.
pub struct SotwSession(Session);

impl SotwSession {
    /// A stream that has just opened.
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        Self(Session::new(Variant::Sotw, snapshot))
    }

    /// Takes a request: the whole set of names that the client follows of a type, and perhaps an answer to a response. The names count
    /// whatever the nonce is; an answer counts only for the outstanding response of the type.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` or `RESOURCE_EXHAUSTED`; the stream must end.
    pub fn on_request(&mut self, request: pb::DiscoveryRequest) -> Result<Option<Event>, Status> {
        let type_url = match known_type(&request.type_url)? {
            Ok(type_url) => type_url,
            Err(event) => return Ok(Some(event)),
        };
        if !request.resource_locators.is_empty() {
            return Err(Status::invalid_argument("resource_locators are not supported; subscribe by resource name"));
        }
        request.resource_names.iter().try_for_each(|name| check_name(name))?;
        let mut names: BTreeSet<Arc<str>> = request.resource_names.into_iter().map(Into::into).collect();
        check_count(type_url, names.len())?;

        let session = &mut self.0;
        let event = session.answer(type_url, &request.response_nonce, request.error_detail);
        let first = !session.tracks.contains_key(type_url);
        let track = session.tracks.entry(type_url).or_default();
        if names.is_empty() && !track.has_given_names() {
            if order::legacy_wildcard(type_url) {
                track.follow_all();
            }
        } else {
            track.mark_named();
            let all = names.remove("*");
            let dropped: Vec<_> = track.names().difference(&names).cloned().collect();
            let added: Vec<_> = names.difference(track.names()).cloned().collect();
            if all {
                track.follow_all();
            }
            dropped.iter().for_each(|name| track.unfollow(name, false));
            added.into_iter().for_each(|name| track.follow(name));
            if !all {
                track.unfollow_all();
            }
        }
        let resumes = first && request.response_nonce.is_empty() && !request.version_info.is_empty();
        let available = session.snapshot.get(type_url);
        if resumes && request.version_info == version_of(track.targets(available)) {
            track.claim_all(available);
        }
        session.check_expected();
        Ok(event)
    }

    /// The state that the client should have from now on.
    pub fn on_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        self.0.on_snapshot(snapshot);
    }

    /// The next response that may go out now, or `None` until something else happens. It counts as sent.
    ///
    /// LDS and CDS hold everything that the client should have (and what it must not lose yet), other types only what changed. The
    /// version is a hash of all that the client then has.
    pub fn next_response(&mut self) -> Option<pb::DiscoveryResponse> {
        let (type_url, nonce, batch) = self.0.next()?;
        let track = self.0.tracks.get(type_url)?;
        let resources = if order::full_state(type_url) {
            track.held().map(|resource| resource.any.clone()).collect()
        } else {
            batch.changes.iter().map(|resource| resource.any.clone()).collect()
        };
        Some(pb::DiscoveryResponse {
            version_info: version_of(track.held()),
            resources,
            type_url: type_url.to_owned(),
            nonce,
            ..Default::default()
        })
    }

    /// See [`DeltaSession::settled`](super::DeltaSession::settled).
    pub fn settled(&mut self) -> Option<Arc<Snapshot>> {
        self.0.settled()
    }

    /// See [`DeltaSession::holding`](super::DeltaSession::holding).
    pub fn holding(&self) -> bool {
        self.0.holding()
    }

    /// See [`DeltaSession::stop_holding`](super::DeltaSession::stop_holding).
    pub fn stop_holding(&mut self) {
        self.0.stop_holding();
    }

    /// See [`DeltaSession::no_more_requests`](super::DeltaSession::no_more_requests).
    pub fn no_more_requests(&mut self) {
        self.0.no_more_requests();
    }
}

/// Equal for equal sets of names and versions, whatever the order.
fn version_of<'a>(resources: impl Iterator<Item = &'a Arc<Resource>>) -> String {
    let mut lines: Vec<_> = resources.map(|resource| (&resource.name, &resource.version)).collect();
    lines.sort_unstable();
    let mut hash = Sha256::new();
    for (name, version) in lines {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name.as_bytes());
        hash.update(version.as_bytes());
    }
    hex(&hash.finalize()[..8])
}
