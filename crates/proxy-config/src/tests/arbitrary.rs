//! Whatever the bytes are, they are taken or refused, and nothing panics.

use proptest::prelude::*;

use super::*;

const TYPES: [&str; 6] = [
    type_url::LISTENER,
    type_url::ROUTE,
    type_url::CLUSTER,
    type_url::ENDPOINT,
    type_url::POLICY_BUNDLE,
    type_url::REVISION,
];

/// Uses what was taken, as a request would.
fn exercise(config: &Config, random: u64) {
    for listener in &config.listeners {
        if let ListenerKind::Http(http) = &listener.kind {
            let Some(table) = config.route_table(&http.routes) else { continue };
            for host in ["board.prod", "", "echo"] {
                if let Ok(hit) = table.route(host, "/", &::http::Method::GET, &Default::default(), random) {
                    config.upstream(hit.cluster);
                }
            }
        }
    }
    for upstream in config.clusters.values() {
        let endpoints = &upstream.endpoints;
        if !endpoints.is_empty() {
            let (point, length) = endpoints.part(endpoints.at(endpoints.spread(random)));
            assert!(length > 0 && point + length <= endpoints.total_weight());
        }
    }
}

fn valid() -> &'static [Arc<Resource>] {
    static ALL: std::sync::LazyLock<Vec<Arc<Resource>>> = std::sync::LazyLock::new(|| {
        let (web, db) = (snapshot("prod/web"), snapshot("prod/db"));
        TYPES.iter().flat_map(|kind| web.get(kind).values().chain(db.get(kind).values()).cloned()).collect()
    });
    &ALL
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_bytes(kind in 0..TYPES.len(), bytes: Vec<u8>, random: u64) {
        let mut builder = Builder::default();
        let _ = offer(&mut builder, Resource::from_bytes(TYPES[kind], "x", bytes));
        exercise(&builder.build(), random);
    }

    #[test]
    fn a_good_resource_with_damage(
        which: prop::sample::Index, damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut: prop::sample::Index, random: u64
    ) {
        let original = which.get(valid());
        let mut bytes = original.any.value.clone();
        for (at, byte) in damage {
            let length = bytes.len();
            bytes[at.index(length)] = byte;
        }
        if random % 4 == 0 {
            bytes.truncate(cut.index(bytes.len()));
        }
        let mut builder = Builder::default();
        let kind = type_url::intern(&original.any.type_url).unwrap();
        let _ = offer(&mut builder, Resource::from_bytes(kind, &original.name, bytes));
        exercise(&builder.build(), random);
    }
}
