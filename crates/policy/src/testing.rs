//! Small intents and random bundles, for tests and fuzz targets of this crate and of those behind it. Not for anything that serves.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use weft_model::intent::{
    AccessRule, Allow, App, Authorization, Caller, Defaults, EndpointUrl, Endpoints, ForeignDomain, Intent, Member,
    Mesh, Paths, PolicyFile, PolicyInputs, Profile, Protocol, Role, Service, ServiceIdentity,
};
use weft_model::{Mtls, ServiceName, Span, SpiffeId, TrustDomain};
use weft_policy_eval::Kind;
pub use weft_policy_eval::testing::Choices;
use weft_policy_eval::testing::Vocabulary;

use crate::bundle::{Bundle, PolicyText, ServiceFacts};
use crate::engine::Engine;
use crate::request::{CallRequest, NoHeaders, Principal};

pub fn span(file: &str, line: u32) -> Span {
    Span { file: file.into(), line, column: 1 }
}

pub fn name(text: &str) -> ServiceName {
    text.parse().expect("a service name")
}

pub fn id(service: &str) -> SpiffeId {
    SpiffeId::for_service(&"acme.internal".parse().expect("legal"), &name(service))
}

pub fn mesh(attributes: &[(&str, &[&str])]) -> Mesh {
    let value = |values: &[&str]| values.iter().map(|value| Arc::from(*value)).collect();
    Mesh {
        name: "acme".into(),
        trust_domain: "acme.internal".parse().expect("legal"),
        attributes: attributes.iter().map(|(name, values)| (Arc::from(*name), value(values))).collect(),
        policy: PolicyInputs::default(),
        defaults: Defaults { timeout: Duration::from_secs(15), svid_ttl: Duration::from_secs(3600) },
        identity: weft_model::intent::Identity::default(),
        span: span("mesh.yaml", 1),
    }
}

pub fn service(text: &str) -> Service {
    let file = format!("services/{}.yaml", text.replace('/', "-"));
    Service {
        name: name(text),
        attributes: BTreeMap::new(),
        port: 8080,
        protocol: Protocol::Http,
        endpoints: Endpoints::Registry,
        subsets: BTreeMap::new(),
        access: Vec::new(),
        routes: Vec::new(),
        span: span(&file, 1),
        access_span: span(&file, 10),
        app: App::default(),
        mtls: Mtls::default(),
        paths: Paths::default(),
        authorization: Authorization::default(),
        identity: ServiceIdentity::default(),
        attest: Vec::new(),
    }
}

pub fn intent(services: &[&str]) -> Intent {
    Intent {
        mesh: mesh(&[]),
        services: services.iter().map(|text| (name(text), service(text))).collect(),
        roles: BTreeMap::new(),
        trust_domains: BTreeMap::new(),
        operators: BTreeMap::new(),
        policies: Vec::new(),
        tests: Vec::new(),
        local: Vec::new(),
    }
}

/// Declares another trust domain.
pub fn federate(intent: &mut Intent, domain: &str) {
    let name: TrustDomain = domain.parse().expect("legal");
    let endpoint = EndpointUrl { host: domain.into(), port: 443, path: "/".into() };
    let (profile, span) = (Profile::Web, span("federation.yaml", 1));
    intent.trust_domains.insert(name.clone(), ForeignDomain { name, endpoint, profile, services: Vec::new(), span });
}

/// Adds an `access` entry on the next free line from 11 on.
pub fn allow(intent: &mut Intent, callee: &str, from: Caller, allow: Vec<Allow>) {
    let service = intent.services.get_mut(&name(callee)).expect("in the mesh");
    let span = Span { line: 11 + service.access.len() as u32, ..service.access_span.clone() };
    service.access.push(AccessRule { from: vec![from], allow, shadow: false, span });
}

pub fn role(intent: &mut Intent, name: &str, members: Vec<Caller>) {
    let span = span("roles.yaml", 1);
    let members = members.into_iter().map(Member::Caller).collect();
    intent.roles.insert(name.into(), Role { name: name.into(), members, span });
}

pub fn policies(intent: &mut Intent, text: &str) {
    intent.policies.push(PolicyFile { path: "policies/x.cedar".into(), text: text.into() });
}

pub fn bundle(intent: &Intent, callee: &str) -> Bundle {
    let model = crate::compile(intent, "c0ffee").unwrap_or_else(|findings| panic!("{findings:#?}"));
    model.bundle_for(&name(callee))
}

pub fn engine(intent: &Intent, callee: &str) -> Engine {
    Engine::new(&bundle(intent, callee)).expect("a bundle that was just made")
}

pub fn request(principal: &SpiffeId) -> CallRequest<'_> {
    CallRequest {
        principal: Principal::Id(principal),
        method: "GET",
        path: "/",
        host: "board.prod",
        protocol: "HTTP/2",
        source_ip: None,
        query: None,
        headers: &NoHeaders,
        grpc: false,
        tls: None,
        user: None,
        now: UNIX_EPOCH + Duration::from_secs(1_795_776_000),
    }
}

/// What a pattern means, by the letter: segment by segment.
pub fn matches_by_the_letter(pattern: &str, path: &str) -> bool {
    let pattern: Vec<&str> = pattern[1..].split('/').collect();
    let Some(path) = path.strip_prefix('/') else { return pattern == ["**"] };
    let path: Vec<&str> = path.split('/').collect();
    let (head, open) = match pattern.split_last() {
        Some((&"**", head)) => (head, true),
        _ => (&pattern[..], false),
    };
    let enough = if open { path.len() >= head.len() } else { path.len() == head.len() };
    enough && head.iter().zip(&path).all(|(want, have)| if *want == "*" { !have.is_empty() } else { want == have })
}

/// What random policies are about: the callers of [`random_bundle`], and all that a context has.
const WORDS: Vocabulary = Vocabulary {
    entities: &["Service::\"prod/web\"", "Service::\"prod/board\"", "Service::\"dev/web\"", "Service::\"gone/x\""],
    groups: &["Namespace::\"prod\"", "Namespace::\"dev\"", "Role::\"ops\"", "Role::\"all\"", "Service::\"dev/x\""],
    attributes: &["namespace", "name", "tier", "team", "absent"],
    context: &[
        ("method", Kind::Text, false),
        ("path", Kind::Text, false),
        // The more often, the more policies have keys.
        ("path", Kind::Text, false),
        ("path", Kind::Text, false),
        ("method", Kind::Text, false),
        ("depth", Kind::Long, false),
        ("host", Kind::Text, false),
        ("protocol", Kind::Text, false),
        ("first1", Kind::Text, true),
        ("first2", Kind::Text, true),
        ("sourceIp", Kind::Ip, true),
    ],
    texts: &["/a", "GET", "/a/b", "POST", "/", "web", "one", "two", "", "prod", "ops"],
    patterns: &["/a*", "/a/*", "*", "/a/b", "*b", "G*", "/*b*", "we?", "", "\\**"],
};

/// A bundle of `prod/board` that no control plane has checked: policies that make sense, and some that do not.
pub fn random_bundle(choices: &mut Choices<'_>, policies: usize) -> Bundle {
    bundle_of(&WORDS, choices, policies)
}

/// The same of policies that read whatever a call can bring: [`INPUTS`](inputs) are declared.
pub fn random_bundle_of_all(choices: &mut Choices<'_>, policies: usize) -> Bundle {
    let words = Vocabulary { context: ALL, ..WORDS };
    Bundle { inputs: inputs(), ..bundle_of(&words, choices, policies) }.sealed()
}

/// The same as [`random_bundle`] of a service that takes plain text, with policies that name whoever calls so.
pub fn random_bundle_with_plain_text(choices: &mut Choices<'_>, policies: usize) -> Bundle {
    let entities = &["Service::\"plain-text\"", "Service::\"plain-text\"", "Service::\"prod/web\""];
    let groups = &["Namespace::\"prod\"", "Role::\"all\"", "Service::\"plain-text\""];
    let words = Vocabulary { entities, groups, ..WORDS };
    Bundle { plain_text: true, ..bundle_of(&words, choices, policies) }.sealed()
}

/// What [`random_bundle_of_all`] declares.
pub fn inputs() -> PolicyInputs {
    PolicyInputs {
        redact: Vec::new(),
        headers: vec!["plan".into(), "tenant".into()],
        query: vec!["tag".into()],
        claims: vec!["team".into()],
        time_zones: [("office".into(), "Europe/Berlin".into())].into(),
    }
}

const ALL: &[(&str, Kind, bool)] = &[
    ("method", Kind::Text, false),
    ("path", Kind::Text, false),
    ("port", Kind::Long, false),
    ("segment1", Kind::Text, true),
    ("segment2", Kind::Text, true),
    ("headers.tenant", Kind::Text, true),
    ("headers.plan", Kind::Text, true),
    ("grpc.service", Kind::Text, true),
    ("grpc.method", Kind::Text, true),
    ("tls.sni", Kind::Text, true),
    ("user.subject", Kind::Text, true),
    ("user.claims.team", Kind::Text, true),
    ("time.utc.hour", Kind::Long, false),
    ("time.office.minuteOfDay", Kind::Long, false),
    ("time.office.weekday", Kind::Text, false),
];

fn bundle_of(words: &Vocabulary, choices: &mut Choices<'_>, policies: usize) -> Bundle {
    let facts = |service: &str, attributes: &[(&str, &str)], roles: &[&str]| ServiceFacts {
        name: name(service),
        attributes: attributes.iter().map(|(name, value)| (Arc::from(*name), Arc::from(*value))).collect(),
        roles: roles.iter().map(|role| Arc::from(*role)).collect(),
    };
    let callers = vec![
        facts("dev/web", &[("tier", "one")], &["all", "ops"]),
        facts("dev/x", &[("name", "not its name")], &["all"]),
        facts("prod/web", &[("tier", "one"), ("team", "ops")], &["all", "ops"]),
    ];
    let text = |at: usize| PolicyText {
        id: format!("x.cedar:{at}").into(),
        file: "x.cedar".into(),
        line: at as u32,
        text: words.policy(choices).into(),
    };
    let policies = (1..=policies).map(text).collect();
    let board = facts("prod/board", &[("tier", "two")], &["all"]);
    let trust_domain = "acme.internal".parse().expect("legal");
    let denying = Bundle::denying(trust_domain, board, "services/board.yaml:1".into());
    Bundle { port: 8080, policies, callers, ..denying }.sealed()
}

/// A call to it: who, method, path, host, protocol, address.
pub fn random_call(choices: &mut Choices<'_>) -> (SpiffeId, [&'static str; 4], Option<IpAddr>) {
    let caller = id(choices.pick::<&str>(&["prod/web", "dev/web", "dev/x"]));
    let method = choices.pick::<&str>(&["GET", "POST", "PUT", ""]);
    let path = choices.pick::<&str>(&["/a/b", "/a", "/", "/a/c", "/ab", "/b/b/b", "*", ""]);
    let host = choices.pick::<&str>(&["web", "board.prod"]);
    let protocol = choices.pick::<&str>(&["HTTP/2", "TCP"]);
    let ip = choices.pick::<&str>(&["10.0.0.1", "127.0.0.1", "::1", "224.0.0.1", ""]);
    (caller, [method, path, host, protocol], ip.parse().ok())
}
