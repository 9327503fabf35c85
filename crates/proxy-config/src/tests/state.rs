//! Updates, one after the other.

use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::cluster::v3::OutlierDetection;

use super::*;

#[test]
fn a_bad_resource_isolates_itself_and_its_last_good_version_stays() {
    let mut builder = web();
    let before = builder.build();
    let web = snapshot("prod/web");
    let mut bad: pb_cluster::Cluster = of(&web, type_url::CLUSTER, "outbound|8080||board.prod");
    bad.outlier_detection = Some(OutlierDetection::default());
    let mut good: pb_cluster::Cluster = of(&web, type_url::CLUSTER, "outbound|9000||echo.tools");
    good.connect_timeout = Some(envoy_types::pb::google::protobuf::Duration { seconds: 9, nanos: 0 });
    let changed = vec![cluster(&bad), cluster(&good)];
    let update = Update { type_url: type_url::CLUSTER, revision: "2".into(), changed, removed: Vec::new() };
    let reason = "envoy.config.cluster.v3.Cluster.outlier_detection: not supported by this proxy".to_owned();
    assert_eq!(builder.apply(update), [Rejection { name: bad.name.as_str().into(), reason }]);
    let after = builder.build();
    assert!(Arc::ptr_eq(&before.clusters[&*bad.name], &after.clusters[&*bad.name]));
    assert_eq!(after.clusters[&*good.name].cluster.connect_timeout.as_secs(), 9);
}

#[test]
fn what_did_not_change_is_shared() {
    let mut builder = web();
    let before = builder.build();
    assert_eq!(apply(&mut builder, &snapshot("prod/web")), []);
    let after = builder.build();
    assert!(before.listeners.iter().zip(&after.listeners).all(|(one, other)| Arc::ptr_eq(one, other)));
    assert!(before.clusters.iter().all(|(name, one)| Arc::ptr_eq(one, &after.clusters[name])));
    assert!(before.routes.iter().all(|(name, one)| Arc::ptr_eq(one, &after.routes[name])));
}

#[test]
fn new_endpoints_make_a_new_upstream_of_the_same_cluster() {
    let mut builder = web();
    let before = builder.build();
    let name = "outbound|8080||board.prod";
    let mut moved: pb_endpoint::ClusterLoadAssignment = of(&snapshot("prod/web"), type_url::ENDPOINT, name);
    moved.endpoints[0].lb_endpoints.pop();
    assert_eq!(offer(&mut builder, assignment(&moved)), Ok(()));
    let after = builder.build();
    let (one, other) = (&before.clusters[name], &after.clusters[name]);
    assert!(Arc::ptr_eq(&one.cluster, &other.cluster) && !Arc::ptr_eq(one, other));
    assert_eq!((one.endpoints.len(), other.endpoints.len()), (3, 2));
    let unrelated = "outbound|8080|v1|board.prod";
    assert!(Arc::ptr_eq(&before.clusters[unrelated], &after.clusters[unrelated]));
}

#[test]
fn a_listener_waits_for_its_routes() {
    let mut builder = web();
    let config = builder.build();
    assert!(config.listeners.iter().all(|listener| config.has_routes(listener)));
    let removed = vec!["egress".into()];
    let update = Update { type_url: type_url::ROUTE, revision: "2".into(), changed: Vec::new(), removed };
    assert_eq!(builder.apply(update), []);
    let config = builder.build();
    let waiting: Vec<_> = config.listeners.iter().filter(|listener| !config.has_routes(listener)).collect();
    assert_eq!(waiting.iter().map(|listener| &*listener.name).collect::<Vec<_>>(), ["egress"]);
}

#[test]
fn what_is_wanted_follows_clusters_and_listeners() {
    let mut builder = web();
    assert_eq!(builder.wanted(type_url::ROUTE), BTreeSet::from(["egress".into()]));
    let wanted = builder.wanted(type_url::ENDPOINT);
    assert!(wanted.contains("outbound|8080|v2|board.prod") && !wanted.contains("inbound|8080||"));
    assert_eq!(builder.wanted(type_url::CLUSTER), BTreeSet::new());
    let name = "outbound|8080|v2|board.prod";
    remove(&mut builder, type_url::CLUSTER, name);
    assert!(!builder.wanted(type_url::ENDPOINT).contains(name));
    // Endpoints that nobody asks for are forgotten: the cluster starts without any when it comes back.
    assert_eq!(offer(&mut builder, snapshot("prod/web").get(type_url::CLUSTER)[name].clone()), Ok(()));
    assert!(builder.build().clusters[name].endpoints.is_empty());
    remove(&mut builder, type_url::LISTENER, "egress");
    assert_eq!(builder.wanted(type_url::ROUTE), BTreeSet::new());
    assert!(builder.build().routes.is_empty());
}

#[test]
fn a_route_to_a_cluster_that_does_not_exist_finds_nothing_until_it_does() {
    let mut builder = web();
    let name = "outbound|9000||echo.tools";
    remove(&mut builder, type_url::CLUSTER, name);
    let config = builder.build();
    let hit = config.routes["egress"].route("echo.tools", "/", &::http::Method::GET, &Default::default(), 0).unwrap();
    assert_eq!((&*hit.cluster.name, config.upstream(hit.cluster).is_none()), (name, true));
    assert_eq!(offer(&mut builder, snapshot("prod/web").get(type_url::CLUSTER)[name].clone()), Ok(()));
    assert!(builder.build().upstream(hit.cluster).is_some());
}

#[test]
fn removal_of_policy_and_revision() {
    let mut builder = web();
    let name = snapshot("prod/web").get(type_url::POLICY_BUNDLE).keys().next().unwrap().clone();
    remove(&mut builder, type_url::POLICY_BUNDLE, "another");
    assert!(builder.build().policy.is_some());
    remove(&mut builder, type_url::POLICY_BUNDLE, &name);
    assert!(builder.build().policy.is_none());
    assert_eq!(offer(&mut builder, Resource::from_bytes(type_url::REVISION, "mesh", b"beef".to_vec())), Ok(()));
    assert_eq!(&*builder.build().revision, "beef");
}

#[test]
fn weft_types_are_refused_with_a_reason_too() {
    let mut builder = web();
    let bundle = Resource::from_bytes(type_url::POLICY_BUNDLE, "prod/web", b"{}".to_vec());
    let refused = offer(&mut builder, bundle).unwrap_err();
    assert!(refused.starts_with("weft.policy.v1.Bundle: "), "{refused}");
    let revision = Resource::from_bytes(type_url::REVISION, "mesh", vec![0xff]);
    assert_eq!(offer(&mut builder, revision).unwrap_err(), "weft.mesh.v1.Revision: not UTF-8");
    let secret = Resource::from_bytes(type_url::SECRET, "default", Vec::new());
    assert!(offer(&mut builder, secret).is_err());
    assert!(builder.build().policy.is_some());
}

#[test]
fn two_listeners_cannot_have_one_address() {
    let mut builder = web();
    let mut second: pb_listener::Listener = of(&snapshot("prod/web"), type_url::LISTENER, "egress");
    second.name = "second".into();
    assert_eq!(
        offer(&mut builder, listener(&second)).unwrap_err(),
        "envoy.config.listener.v3.Listener.address: 127.0.0.1:15001 is the address of the listener egress already"
    );
}
