//! Incremental xDS (xDS protocol, "Incremental xDS").

use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3 as pb;
use tonic::Status;

use super::{Event, Session, Variant, check_count, check_name, known_type, order};
use crate::Snapshot;

/// One delta stream.
pub struct DeltaSession(Session);

impl DeltaSession {
    /// A stream that has just opened.
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        Self(Session::new(Variant::Delta, snapshot))
    }

    /// Takes a request: subscriptions, unsubscriptions, the state of an earlier stream, an answer to a response, or several of these.
    /// Subscriptions count whatever the nonce is; an answer counts only for the outstanding response of the type.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` or `RESOURCE_EXHAUSTED`; the stream must end.
    pub fn on_request(&mut self, request: pb::DeltaDiscoveryRequest) -> Result<Option<Event>, Status> {
        let type_url = match known_type(&request.type_url)? {
            Ok(type_url) => type_url,
            Err(event) => return Ok(Some(event)),
        };
        if !request.resource_locators_subscribe.is_empty() || !request.resource_locators_unsubscribe.is_empty() {
            return Err(Status::invalid_argument("resource_locators are not supported; subscribe by resource name"));
        }
        let names = request.resource_names_subscribe.iter().chain(request.initial_resource_versions.keys());
        names.into_iter().try_for_each(|name| check_name(name))?;
        check_count(type_url, request.initial_resource_versions.len())?;

        let session = &mut self.0;
        let event = session.answer(type_url, &request.response_nonce, request.error_detail);
        let first = !session.tracks.contains_key(type_url);
        let track = session.tracks.entry(type_url).or_default();
        let silent = request.resource_names_subscribe.is_empty() && request.resource_names_unsubscribe.is_empty();
        if first && silent && order::legacy_wildcard(type_url) {
            track.follow_all();
        }
        for name in &request.resource_names_unsubscribe {
            match name.as_str() {
                "*" => track.unfollow_all(),
                name => track.unfollow(name, true),
            }
        }
        for name in request.resource_names_subscribe {
            match name.as_str() {
                "*" => track.follow_all(),
                name => track.follow(name.into()),
            }
        }
        check_count(type_url, track.names().len())?;
        if first {
            for (name, version) in request.initial_resource_versions {
                track.claim(name.into(), version.into());
            }
        }
        session.check_expected();
        Ok(event)
    }

    /// The state that the client should have from now on.
    pub fn on_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        self.0.on_snapshot(snapshot);
    }

    /// The next response that may go out now, or `None` until something else happens. It counts as sent.
    pub fn next_response(&mut self) -> Option<pb::DeltaDiscoveryResponse> {
        let (type_url, nonce, batch) = self.0.next()?;
        let resources = batch.changes.iter().map(|resource| pb::Resource {
            name: resource.name.to_string(),
            version: resource.version.to_string(),
            resource: Some(resource.any.clone()),
            ..Default::default()
        });
        Some(pb::DeltaDiscoveryResponse {
            system_version_info: self.0.snapshot.revision.to_string(),
            resources: resources.collect(),
            removed_resources: batch.removed.iter().map(|name| name.to_string()).collect(),
            type_url: type_url.to_owned(),
            nonce,
            ..Default::default()
        })
    }

    /// The current snapshot, when everything that the client follows has just been answered for it. Ask after each `next_response`
    /// that returned `None`.
    pub fn settled(&mut self) -> Option<Arc<Snapshot>> {
        self.0.settled()
    }

    /// Whether something is held back only for requests that the client is likely to send soon. The caller, who has a clock, should
    /// then call [`stop_holding`](Self::stop_holding) after a second or so.
    pub fn holding(&self) -> bool {
        self.0.holding()
    }

    /// The client will not send what was waited for.
    pub fn stop_holding(&mut self) {
        self.0.stop_holding();
    }

    /// The client has closed its sending side. What `next_response` still gives is all that it asked for; after that the stream is over,
    /// and nothing settles any more.
    pub fn no_more_requests(&mut self) {
        self.0.no_more_requests();
    }
}
