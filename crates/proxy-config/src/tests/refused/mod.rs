//! What is refused, and by which path. Each row changes one thing of what the control plane compiles.

#![allow(deprecated)] // what is deprecated is refused too

mod clusters;
mod http;
mod listeners;
mod routes;

use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration, UInt32Value};
use prost::{Message, Name};

use super::*;

const ACCEPTED: &str = "accepted";

/// A change, and what is said about it.
type Row<M> = (Box<dyn FnOnce(&mut M)>, &'static str);

fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

/// Changes the message in an `Any`.
fn inside<M: Message + Name + Default>(any: &mut Any, change: impl FnOnce(&mut M)) {
    assert_eq!(any.type_url, M::type_url());
    let mut message = M::decode(&*any.value).unwrap();
    change(&mut message);
    any.value = message.encode_to_vec();
}

/// Offers a changed resource: the reason why it is refused.
fn reason<M: Message + Default>(
    service: &str,
    type_url: &'static str,
    name: &str,
    change: impl FnOnce(&mut M),
) -> String {
    let mut message: M = of(&snapshot(service), type_url, name);
    change(&mut message);
    let mut builder = Builder::default();
    offer(&mut builder, Resource::new(type_url, name, &message)).err().unwrap_or_else(|| ACCEPTED.to_owned())
}

/// Each change is refused with the text beside it, where the name of the resource's type is left out and `NS` says "not
/// supported by this proxy".
fn check<M: Message + Default>(service: &str, type_url: &'static str, name: &str, rows: Vec<Row<M>>) {
    for (change, expected) in rows {
        let reason = reason(service, type_url, name, change);
        let root = type_url.rsplit('/').next().unwrap();
        let reason = reason.strip_prefix(root).unwrap_or(&reason);
        let expected = expected.replace(" NS", " not supported by this proxy");
        assert_eq!(reason, expected);
    }
}

fn row<M: 'static>(change: impl FnOnce(&mut M) + 'static, expected: &'static str) -> Row<M> {
    (Box::new(change), expected)
}

#[test]
fn a_resource_of_another_type() {
    let good = snapshot("prod/web").get(type_url::CLUSTER)["inbound|8080||"].clone();
    let lie = Update { type_url: type_url::ROUTE, revision: "r".into(), changed: vec![good], removed: Vec::new() };
    let reason = Builder::default().apply(lie).pop().unwrap().reason;
    assert_eq!(
        reason,
        "envoy.config.route.v3.RouteConfiguration: the resource is of another type, `type.googleapis.com/envoy.config.cluster.v3.Cluster`"
    );
}
