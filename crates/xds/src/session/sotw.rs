//! State-of-the-world xDS (xDS protocol, "Streaming gRPC subscriptions").

use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3 as pb;
use envoy_types::pb::google::rpc;
use sha2::{Digest, Sha256};
use tonic::Status;

use super::event::{check_count, check_name};
use super::order;
use super::protocol::Protocol;
use super::stream::{Sending, Stream, Variant};
use super::track::Track;
use crate::resource::hex;
use crate::{Node, Resource, Resources};

/// The state-of-the-world protocol. A request holds the whole set of names that the client follows of a type.
///
/// LDS and CDS responses hold everything that the client should have (and what it must not lose yet), those of other types only what
/// changed. The version is a hash of all that the client then has.
pub enum Sotw {}

impl Protocol for Sotw {
    type Request = pb::DiscoveryRequest;
    type Response = pb::DiscoveryResponse;
    const VARIANT: Variant = Variant::Sotw;

    fn node(request: &Self::Request) -> Option<&Node> {
        request.node.as_ref()
    }

    fn parts(request: &mut Self::Request) -> (&mut Option<Node>, &mut String) {
        (&mut request.node, &mut request.type_url)
    }

    fn size(response: &Self::Response) -> (&str, usize) {
        (&response.type_url, response.resources.len())
    }

    fn check(type_url: &'static str, request: &Self::Request) -> Result<(), Status> {
        if !request.resource_locators.is_empty() {
            return Err(Status::invalid_argument("resource_locators are not supported; subscribe by resource name"));
        }
        request.resource_names.iter().try_for_each(|name| check_name(name))?;
        let names: BTreeSet<&String> = request.resource_names.iter().collect();
        check_count(type_url, names.len())
    }

    fn answer(request: &mut Self::Request) -> (String, Option<rpc::Status>) {
        (request.response_nonce.clone(), request.error_detail.take())
    }

    fn subscribe(
        request: Self::Request,
        type_url: &'static str,
        track: &mut Track,
        available: &Resources,
        first: bool,
    ) -> Result<(), Status> {
        let mut names: BTreeSet<Arc<str>> = request.resource_names.into_iter().map(Into::into).collect();
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
        if resumes && request.version_info == version_of(track.targets(available)) {
            track.claim_all(available);
        }
        Ok(())
    }

    fn response(stream: &Stream, Sending { type_url, nonce, batch }: Sending) -> Option<Self::Response> {
        let track = stream.tracks.get(type_url)?;
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
