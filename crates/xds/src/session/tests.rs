//! One test a rule of the protocol, and random histories against a client that follows the rules.

mod delta;
mod order;
mod property;
mod sotw;

use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3 as pb;
use envoy_types::pb::google::rpc;

use crate::{Resource, Snapshot, type_url};

/// `[(type, name, body)]` at a revision.
fn snapshot(revision: &str, resources: &[(&'static str, &str, &str)]) -> Arc<Snapshot> {
    let mut snapshot = Snapshot::new(revision);
    for (type_url, name, body) in resources {
        snapshot.insert(Resource::from_bytes(type_url, name, body.as_bytes().to_vec()));
    }
    Arc::new(snapshot)
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn refusal(reason: &str) -> Option<rpc::Status> {
    Some(rpc::Status { code: 3, message: reason.to_owned(), ..Default::default() })
}

/// A delta request for names.
fn subscribe(type_url: &str, names: &[&str]) -> pb::DeltaDiscoveryRequest {
    pb::DeltaDiscoveryRequest {
        type_url: type_url.into(),
        resource_names_subscribe: strings(names),
        ..Default::default()
    }
}

fn unsubscribe(type_url: &str, names: &[&str]) -> pb::DeltaDiscoveryRequest {
    pb::DeltaDiscoveryRequest {
        type_url: type_url.into(),
        resource_names_unsubscribe: strings(names),
        ..Default::default()
    }
}

fn ack(response: &pb::DeltaDiscoveryResponse) -> pb::DeltaDiscoveryRequest {
    pb::DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..Default::default()
    }
}

fn nack(response: &pb::DeltaDiscoveryResponse, reason: &str) -> pb::DeltaDiscoveryRequest {
    pb::DeltaDiscoveryRequest { error_detail: refusal(reason), ..ack(response) }
}

/// `CDS +a=body +b=body -c`, which is all that matters of a delta response.
fn show(response: &pb::DeltaDiscoveryResponse) -> String {
    let mut text = type_url::short(&response.type_url).to_owned();
    for resource in &response.resources {
        let body = &resource.resource.as_ref().expect("a resource has content").value;
        text += &format!(" +{}={}", resource.name, String::from_utf8_lossy(body));
    }
    for name in &response.removed_resources {
        text += &format!(" -{name}");
    }
    text
}
