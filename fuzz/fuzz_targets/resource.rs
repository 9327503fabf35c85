//! An xDS resource that is damaged, or anything at all: a proxy takes it or refuses it, and what it refuses changes nothing.
#![no_main]

use std::sync::{Arc, LazyLock};

use http::{HeaderMap, Method};
use libfuzzer_sys::fuzz_target;
use weft_fuzz::{compiled, edited, intent, snapshot, web};
use weft_proxy::balance::pick;
use weft_proxy_config::{Builder, Config, ListenerKind};
use weft_xds::{Rejection, Resource, Update, type_url};

const TYPES: [&str; 4] = [type_url::LISTENER, type_url::ROUTE, type_url::CLUSTER, type_url::ENDPOINT];

static GOOD: LazyLock<Vec<Arc<Resource>>> = LazyLock::new(|| {
    let db = snapshot(&compiled(intent()), "prod/db");
    TYPES.iter().flat_map(|kind| web().get(kind).values().chain(db.get(kind).values())).cloned().collect()
});

fuzz_target!(|input: &[u8]| {
    let [which, edits @ ..] = input else { return };
    let good = &GOOD[usize::from(*which) % GOOD.len()];
    let kind = type_url::intern(&good.any.type_url).expect("known");
    let bytes = if usize::from(*which) < GOOD.len() { edited(&good.any.value, edits) } else { edits.to_vec() };
    let damaged = Resource::from_bytes(kind, &good.name, bytes);

    let mut builder = Builder::default();
    assert_eq!(offer(&mut builder, good), []);
    let before = builder.build();
    let refused = offer(&mut builder, &damaged);
    let after = builder.build();
    if !refused.is_empty() {
        same(&before, &after);
    }
    exercise(&after);
    assert_eq!(offer(&mut builder, &damaged), refused);
    same(&after, &builder.build());
    assert_eq!(offer(&mut builder, good), []);
    same(&before, &builder.build());
});

fn offer(builder: &mut Builder, resource: &Arc<Resource>) -> Vec<Rejection> {
    let type_url = type_url::intern(&resource.any.type_url).expect("known");
    builder.apply(Update { type_url, revision: "r".into(), changed: vec![resource.clone()], removed: Vec::new() })
}

fn same(one: &Config, other: &Config) {
    assert_eq!((&one.listeners, &one.routes), (&other.listeners, &other.routes));
    assert_eq!(one.clusters.len(), other.clusters.len());
    for (name, upstream) in &one.clusters {
        assert_eq!(upstream.cluster, other.clusters[name].cluster);
        assert_eq!(upstream.endpoints, other.clusters[name].endpoints);
    }
}

/// Uses what was taken, as a request would.
fn exercise(config: &Config) {
    for listener in &config.listeners {
        let ListenerKind::Http(http) = &listener.kind else { continue };
        let Some(table) = config.route_table(&http.routes) else { continue };
        for (host, path, random) in [("board.prod", "/slow/x", 0), ("", "/", 7), ("echo.tools", "/a/b", u64::MAX)] {
            if let Ok(hit) = table.route(host, path, &Method::GET, &HeaderMap::new(), random) {
                config.upstream(hit.cluster);
            }
        }
    }
    for upstream in config.clusters.values() {
        for random in [0, 1, u64::MAX] {
            let picked = pick(&upstream.endpoints, upstream.cluster.lb_policy, |_| (0, false), random, random);
            assert_eq!(picked.is_none(), upstream.endpoints.is_empty());
        }
    }
}
