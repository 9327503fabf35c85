//! What several targets begin with: a small mesh, compiled, a way to damage good bytes, and one to cut them.

use std::fmt::Debug;
use std::sync::LazyLock;
use std::time::UNIX_EPOCH;

use weft_compile::CompiledMesh;
pub use weft_compile::testing::snapshot;
use weft_compile::testing::{self, MESH, ROUTES, service, service_of};
use weft_model::{Intent, SpiffeId};
use weft_policy::{Bundle, CallRequest, Decisions, Engine, NoHeaders, Principal};
use weft_proxy_config::Builder;
use weft_xds::{Rejection, Snapshot, Update, type_url};

/// A mesh with something of everything.
pub fn text() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let access = r#"access:
  - {from: [prod/web, "role:ops"], allow: ["GET /api/**", "POST /api/pins"]}
  - {from: ["*"], allow: ["* /public/*/x"]}"#;
        let board = format!("subsets: {{v1: {{version: v1}}, v2: {{version: v2}}}}\n{access}\n{ROUTES}");
        let db = "endpoints: {static: [{address: 10.0.0.7:15006, labels: {zone: b}}]}\naccess: [{from: [prod/web]}]";
        [
            format!("{MESH}attributes: {{sensitivity: [low, high]}}\n"),
            service("prod/web", "attributes: {sensitivity: low}\naccess: [{from: [prod/board]}]"),
            service("prod/board", &board),
            service_of("tools/echo", "grpc", 9000, r#"access: [{from: ["prod/*"]}]"#),
            service_of("prod/db", "tcp", 5432, db),
            "---\nkind: Role\nname: ops\nmembers: [tools/echo]\n".to_owned(),
        ]
        .concat()
    });
    &TEXT
}

/// The intent of [`text`].
pub fn intent() -> Intent {
    testing::intent(text())
}

/// The mesh of an intent that the check accepts.
pub fn compiled(intent: Intent) -> CompiledMesh {
    testing::compiled(intent, "c0ffee")
}

/// The snapshot of `prod/web` in [`text`].
pub fn web() -> &'static Snapshot {
    static WEB: LazyLock<Snapshot> = LazyLock::new(|| snapshot(&compiled(intent()), "prod/web"));
    &WEB
}

/// Gives a proxy all of a snapshot, and returns what it refuses.
pub fn apply(builder: &mut Builder, snapshot: &Snapshot) -> Vec<Rejection> {
    let updates = type_url::ALL.into_iter().map(|type_url| {
        let changed = snapshot.get(type_url).values().cloned().collect();
        Update { type_url, revision: snapshot.revision.clone(), changed, removed: Vec::new() }
    });
    updates.flat_map(|update| builder.apply(update)).collect()
}

/// The bundle of `prod/board`.
pub fn board(intent: &Intent) -> Bundle {
    let model = weft_policy::compile(intent, "c0ffee").unwrap_or_else(|findings| panic!("{findings:#?}"));
    model.bundle_for(&"prod/board".parse().expect("legal"))
}

/// What the engine says of a GET of this path by this caller. A decision that is remembered must be the same.
pub fn decide(engine: &Engine, caller: Option<&SpiffeId>, path: &str) -> bool {
    let request = CallRequest {
        principal: caller.map_or(Principal::Unknown, Principal::Id),
        method: "GET",
        path,
        query: None,
        host: "board.prod",
        protocol: "HTTP/2",
        source_ip: Some([10, 1, 2, 3].into()),
        headers: &NoHeaders,
        grpc: false,
        tls: None,
        user: None,
        now: UNIX_EPOCH,
    };
    let decision = engine.decide(&request);
    let mut remembered = Decisions::default();
    for _ in 0..2 {
        let again = remembered.decide(engine, &request).decision;
        assert_eq!(
            (again.allowed, &again.policies, &again.reason),
            (decision.allowed, &decision.policies, &decision.reason)
        );
    }
    decision.allowed
}

/// `base` with edits: each is a place, how many bytes go, how many come, and those. No edits leave it as it is.
pub fn edited(base: &[u8], mut edits: &[u8]) -> Vec<u8> {
    let mut bytes = base.to_vec();
    while let [high, low, gone, count, rest @ ..] = edits {
        let at = usize::from(u16::from_be_bytes([*high, *low])) % (bytes.len() + 1);
        let (new, rest) = rest.split_at(usize::from(*count).min(rest.len()));
        bytes.splice(at..(at + usize::from(*gone)).min(bytes.len()), new.iter().copied());
        edits = rest;
    }
    bytes
}

/// Asserts that a reader understands bytes alike, whether they come at once, cut at two places, or one by one.
pub fn same_in_pieces<T: Debug + PartialEq>(
    bytes: &[u8],
    cuts: [u8; 2],
    read: impl Fn(&mut dyn Iterator<Item = &[u8]>) -> Result<T, String>,
) {
    let whole = read(&mut [bytes].into_iter());
    let (one, rest) = bytes.split_at(usize::from(cuts[0]).min(bytes.len()));
    let (two, three) = rest.split_at(usize::from(cuts[1]).min(rest.len()));
    let mut cut = vec![read(&mut [one, two, three].into_iter())];
    if bytes.len() < 1000 {
        cut.push(read(&mut bytes.chunks(1)));
    }
    for cut in cut {
        match (&whole, &cut) {
            (Ok(whole), Ok(cut)) => assert_eq!(whole, cut),
            (Err(_), Err(_)) => {}
            _ => panic!("at once {whole:?}, in pieces {cut:?}"),
        }
    }
}
