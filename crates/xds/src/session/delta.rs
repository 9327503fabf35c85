//! Incremental xDS (xDS protocol, "Incremental xDS").

use envoy_types::pb::envoy::service::discovery::v3 as pb;
use envoy_types::pb::google::rpc;
use tonic::Status;

use super::event::{check_count, check_name};
use super::order;
use super::protocol::Protocol;
use super::stream::{Sending, Stream, Variant};
use super::track::Track;
use crate::{Node, Resources};

/// The incremental protocol. A request says which names are followed more and which no longer, and on a new stream what is there
/// from an earlier one.
pub enum Delta {}

impl Protocol for Delta {
    type Request = pb::DeltaDiscoveryRequest;
    type Response = pb::DeltaDiscoveryResponse;
    const VARIANT: Variant = Variant::Delta;

    fn node(request: &Self::Request) -> Option<&Node> {
        request.node.as_ref()
    }

    fn parts(request: &mut Self::Request) -> (&mut Option<Node>, &mut String) {
        (&mut request.node, &mut request.type_url)
    }

    fn size(response: &Self::Response) -> (&str, usize) {
        (&response.type_url, response.resources.len() + response.removed_resources.len())
    }

    fn check(type_url: &'static str, request: &Self::Request) -> Result<(), Status> {
        if !request.resource_locators_subscribe.is_empty() || !request.resource_locators_unsubscribe.is_empty() {
            return Err(Status::invalid_argument("resource_locators are not supported; subscribe by resource name"));
        }
        let names = request.resource_names_subscribe.iter().chain(request.initial_resource_versions.keys());
        names.into_iter().try_for_each(|name| check_name(name))?;
        check_count(type_url, request.initial_resource_versions.len())
    }

    fn answer(request: &mut Self::Request) -> (String, Option<rpc::Status>) {
        (std::mem::take(&mut request.response_nonce), request.error_detail.take())
    }

    fn subscribe(
        request: Self::Request,
        type_url: &'static str,
        track: &mut Track,
        _: &Resources,
        first: bool,
    ) -> Result<(), Status> {
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
        Ok(())
    }

    fn response(stream: &Stream, Sending { type_url, nonce, batch }: Sending) -> Option<Self::Response> {
        let resources = batch.changes.iter().map(|resource| pb::Resource {
            name: resource.name.to_string(),
            version: resource.version.to_string(),
            resource: Some(resource.any.clone()),
            ..Default::default()
        });
        Some(pb::DeltaDiscoveryResponse {
            system_version_info: stream.snapshot.revision.to_string(),
            resources: resources.collect(),
            removed_resources: batch.removed.iter().map(|name| name.to_string()).collect(),
            type_url: type_url.to_owned(),
            nonce,
            ..Default::default()
        })
    }
}
