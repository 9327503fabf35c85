//! The requests of an xDS client that follows no rule: a session sends what the mesh has, and one response a type until it is answered.
#![no_main]

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use envoy_types::pb::envoy::service::discovery::v3 as pb;
use envoy_types::pb::google::rpc;
use libfuzzer_sys::fuzz_target;
use weft_fuzz::{compiled, intent, snapshot};
use weft_xds::{DeltaSession, Snapshot, SotwSession, type_url};

static SNAPSHOTS: LazyLock<[Arc<Snapshot>; 3]> = LazyLock::new(|| {
    let mesh = compiled(intent());
    ["prod/web", "prod/board", "prod/db"].map(|service| Arc::new(snapshot(&mesh, service)))
});

/// What a step may name, beside what does not exist.
static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let all = SNAPSHOTS.iter().flat_map(|snapshot| snapshot.types()).flat_map(|(_, resources)| resources.keys());
    let mut names: Vec<String> = all.map(|name| name.to_string()).chain(["*".into(), "".into(), "?".into()]).collect();
    names.sort();
    names.dedup();
    names
});

/// The nonces that wait for an answer, by type.
type Unanswered = BTreeMap<String, String>;

fuzz_target!(|steps: &[u8]| {
    let mut delta = DeltaSession::new(SNAPSHOTS[0].clone());
    let mut sotw = SotwSession::new(SNAPSHOTS[0].clone());
    let (mut of_delta, mut of_sotw) = (Unanswered::new(), Unanswered::new());
    for step in steps.chunks_exact(3) {
        let [what, kind, name] = [step[0], step[1], step[2]].map(usize::from);
        let type_url = type_url::ALL.get(kind % (type_url::ALL.len() + 1)).copied().unwrap_or("unknown");
        let name = &NAMES[name % NAMES.len()];
        let error_detail = (what & 8 != 0).then(|| rpc::Status { code: 3, message: "no".into(), ..Default::default() });
        match what % 8 {
            0 => delta.on_snapshot(SNAPSHOTS[kind % 3].clone()),
            1 => sotw.on_snapshot(SNAPSHOTS[kind % 3].clone()),
            2 => delta.stop_holding(),
            3 => sotw.stop_holding(),
            half => {
                let list = |asked: bool| if asked { vec![name.clone()] } else { Vec::new() };
                let nonce = |unanswered: &mut Unanswered| match half {
                    4 => String::new(),
                    5 => name.clone(),
                    _ => unanswered.remove(type_url).unwrap_or_default(),
                };
                let of_delta = pb::DeltaDiscoveryRequest {
                    type_url: type_url.to_owned(),
                    response_nonce: nonce(&mut of_delta),
                    resource_names_subscribe: list(what & 16 != 0),
                    resource_names_unsubscribe: list(what & 32 != 0),
                    initial_resource_versions: list(what & 64 != 0)
                        .into_iter()
                        .map(|name| (name, "1".into()))
                        .collect(),
                    error_detail: error_detail.clone(),
                    ..Default::default()
                };
                let of_sotw = pb::DiscoveryRequest {
                    type_url: type_url.to_owned(),
                    response_nonce: nonce(&mut of_sotw),
                    resource_names: list(what & 16 != 0),
                    error_detail,
                    ..Default::default()
                };
                if delta.on_request(of_delta).is_err() || sotw.on_request(of_sotw).is_err() {
                    return;
                }
            }
        }
        while let Some(response) = delta.next_response() {
            for resource in &response.resources {
                assert!(exists(&response.type_url, &resource.name), "{} was made up", resource.name);
            }
            let before = of_delta.insert(response.type_url.clone(), response.nonce);
            assert_eq!(before, None, "two responses of {} at once", response.type_url);
        }
        while let Some(response) = sotw.next_response() {
            let before = of_sotw.insert(response.type_url.clone(), response.nonce);
            assert_eq!(before, None, "two responses of {} at once", response.type_url);
        }
        let _ = (delta.settled(), sotw.settled());
    }
});

fn exists(type_url: &str, name: &str) -> bool {
    SNAPSHOTS.iter().any(|snapshot| snapshot.get(type_url).contains_key(name))
}
