//! Small intents, for tests and fuzz targets of this crate and of those behind it. Not for anything that serves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use weft_model::intent::{
    AccessRule, Allow, App, Caller, Defaults, Endpoints, Intent, Mesh, Paths, PolicyFile, Protocol, Role, Service,
};
use weft_model::{ServiceName, Span, SpiffeId};

use crate::bundle::Bundle;
use crate::engine::Engine;
use crate::request::CallRequest;

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
        defaults: Defaults { timeout: Duration::from_secs(15), svid_ttl: Duration::from_secs(3600) },
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
        paths: Paths::default(),
    }
}

pub fn intent(services: &[&str]) -> Intent {
    Intent {
        mesh: mesh(&[]),
        services: services.iter().map(|text| (name(text), service(text))).collect(),
        roles: BTreeMap::new(),
        policies: Vec::new(),
        local: Vec::new(),
    }
}

/// Adds an `access` entry on the next free line from 11 on.
pub fn allow(intent: &mut Intent, callee: &str, from: Caller, allow: Vec<Allow>) {
    let service = intent.services.get_mut(&name(callee)).expect("in the mesh");
    let span = Span { line: 11 + service.access.len() as u32, ..service.access_span.clone() };
    service.access.push(AccessRule { from: vec![from], allow, span });
}

pub fn role(intent: &mut Intent, name: &str, members: Vec<Caller>) {
    let span = span("roles.yaml", 1);
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
        principal: Some(principal),
        method: "GET",
        path: "/",
        host: "board.prod",
        protocol: "HTTP/2",
        source_ip: None,
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
