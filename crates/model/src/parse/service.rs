//! `kind: Service`: everything about how a service is called.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::access;
use super::attest;
use super::authorization;
use super::declared::Declared;
use super::fields::{Field, Shape, not_yet, short};
use super::report::Report;
use super::route;
use super::suggest;
use super::svid;
use super::yaml::{Node, Value};
use crate::code;
use crate::finding::Span;
use crate::id::ServiceName;
use crate::intent::{
    App, Authorization, Case, Endpoints, EscapedSlashes, Paths, Protocol, Service, ServiceIdentity, Slashes,
    StaticEndpoint,
};
use crate::mtls::{Mtls, PLAIN_TEXT};

const SERVICE: Shape = Shape {
    what: "a Service",
    fields: &[
        "kind",
        "name",
        "namespace",
        "attributes",
        "port",
        "protocol",
        "app",
        "mtls",
        "paths",
        "authorization",
        "identity",
        "attest",
        "endpoints",
        "subsets",
        "access",
        "routes",
    ],
    later: &[
        "health",
        "resilience",
        "users",
        "canary",
        "rollout",
        "retry",
        "timeouts",
        "filters",
        "limits",
        "rateLimits",
        "fault",
        "mirror",
        "labels",
        "instances",
        "tokens",
        "secrets",
        "telemetry",
        "locality",
    ],
};

const APP: Shape = Shape { what: "`app`", fields: &["idleTimeout"], later: &["address", "maxConnections"] };
const PATHS: Shape = Shape { what: "`paths`", fields: &["escapedSlashes", "slashes", "case"], later: &[] };
const ENDPOINTS: Shape =
    Shape { what: "`endpoints`", fields: &["static"], later: &["dns", "etcd", "consul", "kubernetes", "registry"] };
const ENDPOINT: Shape =
    Shape { what: "a static endpoint", fields: &["address", "labels"], later: &["locality", "weight", "priority"] };

/// Shorter than any app waits, and longer than none does.
const IDLE_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(24 * 3_600);

/// The namespace of the mesh's own services. `weft/server` is the control plane: a join token for a service of this name would make
/// a sidecar its equal.
const RESERVED_NAMESPACE: &str = "weft";

type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// Reads the document. `None` if it has no legal name.
pub(super) fn read(root: &Node, declared: &Declared, report: &mut Report) -> Option<Service> {
    let fields = SERVICE.read(root, report)?;
    let name = fields.required("name", "board", report).and_then(|field| {
        let name = field.dns_label(report)?;
        if name == PLAIN_TEXT {
            let message =
                format!("`{PLAIN_TEXT}` is no name of a service: policies mean callers without an identity by it");
            report.error(code::RESERVED, field.span(), message, "choose another name");
        }
        Some(name)
    });
    let namespace = fields.required("namespace", "prod", report).and_then(|field| {
        let namespace = field.dns_label(report)?;
        if namespace == RESERVED_NAMESPACE {
            let message = format!("the namespace `{RESERVED_NAMESPACE}` is for the mesh's own services");
            report.error(code::RESERVED, field.span(), message, "choose another namespace");
        }
        Some(namespace)
    });
    let attributes = fields.optional("attributes").map(|field| attributes(field, declared, report)).unwrap_or_default();
    let port = fields.required("port", "8080", report).and_then(|port| port.number(1, 65_535, report));
    let words = [("http", Protocol::Http), ("grpc", Protocol::Grpc), ("tcp", Protocol::Tcp)];
    let protocol = fields
        .required("protocol", "http", report)
        .and_then(|protocol| protocol.choice(&words, &["udp", "tls", "https"], report));
    let app = fields.optional("app").map(|field| app(field, protocol, report)).unwrap_or_default();
    let mtls = fields.optional("mtls").map(|field| mtls(field, protocol, report)).unwrap_or_default();
    let paths = fields.optional("paths").map(|field| paths(field, protocol, report)).unwrap_or_default();
    let authorization =
        fields.optional("authorization").map(|field| authorization::read(field, report)).unwrap_or_default();
    let identity = fields.optional("identity").map(|field| svid::read(field, report)).unwrap_or_default();
    let attest = fields.optional("attest").map(|field| attest::read(field, report)).unwrap_or_default();
    let endpoints =
        fields.optional("endpoints").and_then(|field| endpoints(field, report)).unwrap_or(Endpoints::Registry);
    let subsets = fields.optional("subsets").map(|field| subsets(field, &endpoints, report)).unwrap_or_default();
    let access_field = fields.optional("access");
    let access = access_field.map(|field| access::read(field, protocol, paths, declared, report)).unwrap_or_default();
    let routes = fields
        .optional("routes")
        .map(|field| route::read(field, protocol, paths, &subsets, report))
        .unwrap_or_default();

    Some(Service {
        name: ServiceName::new(namespace?, name?).ok()?,
        attributes,
        // Stand-ins only ever reach a draft: a missing port or protocol is an error.
        port: port.and_then(|port| u16::try_from(port).ok()).unwrap_or_default(),
        protocol: protocol.unwrap_or(Protocol::Http),
        app,
        mtls,
        paths,
        authorization,
        identity,
        attest,
        endpoints,
        subsets,
        access,
        routes,
        span: root.span.clone(),
        access_span: access_field.map_or_else(|| root.span.clone(), |field| field.key_span.clone()),
    })
}

/// What a draft holds of a document that could not be read but for its name.
pub(super) fn nameless(name: ServiceName, span: Span) -> Service {
    Service {
        name,
        attributes: BTreeMap::new(),
        port: 0,
        protocol: Protocol::Http,
        app: App::default(),
        mtls: Mtls::default(),
        paths: Paths::default(),
        authorization: Authorization::default(),
        identity: ServiceIdentity::default(),
        attest: Vec::new(),
        endpoints: Endpoints::Registry,
        subsets: BTreeMap::new(),
        access: Vec::new(),
        routes: Vec::new(),
        access_span: span.clone(),
        span,
    }
}

/// What holds of HTTP/1.1 alone: an app over HTTP/2 says itself when it takes no more (GOAWAY), and bytes know no idleness.
fn app(field: Field<'_>, protocol: Option<Protocol>, report: &mut Report) -> App {
    let mut app = App::default();
    let Some(idle) = APP.read(field.node, report).and_then(|fields| fields.optional("idleTimeout")) else { return app };
    if matches!(protocol, Some(Protocol::Grpc | Protocol::Tcp)) {
        let hint = "remove `idleTimeout`: a grpc app ends its connections in order by itself, and those of tcp are the caller's";
        report.error(code::NOT_HTTP, idle.key_span, "only connections to an http app wait for the next request", hint);
        return app;
    }
    if let Some(given) = idle.duration(report) {
        if IDLE_TIMEOUT.contains(&given) {
            app.idle_timeout = given;
        } else {
            let hint = "write a little less than the app itself waits before it closes an idle connection";
            report.error(code::DURATION, idle.span(), "`idleTimeout` must be from 100ms to 24h", hint);
        }
    }
    app
}

/// Of TLS a client sends the first bytes; of other bytes perhaps the server does, and then there is nothing to tell the two apart by.
fn mtls(field: Field<'_>, protocol: Option<Protocol>, report: &mut Report) -> Mtls {
    let words = [("strict", Mtls::Strict), ("permissive", Mtls::Permissive)];
    let mtls = field.choice(&words, &["disable", "disabled"], report).unwrap_or_default();
    if mtls == Mtls::Permissive && protocol == Some(Protocol::Tcp) {
        let message = "a caller in plain text has to send the first bytes: where the server speaks first, it is closed after 10 s";
        let hint = "leave `mtls` out if the protocol is one like that of MySQL or SMTP, and move its callers into the mesh at once";
        report.warning(code::PERMISSIVE_TCP, field.key_span, message, hint);
    }
    mtls
}

fn paths(field: Field<'_>, protocol: Option<Protocol>, report: &mut Report) -> Paths {
    if protocol == Some(Protocol::Tcp) {
        report.error(code::NOT_HTTP, field.key_span, "a tcp service has no paths", "remove `paths`");
        return Paths::default();
    }
    let Some(fields) = PATHS.read(field.node, report) else { return Paths::default() };
    let escaped = [("reject", EscapedSlashes::Reject), ("keep", EscapedSlashes::Keep)];
    let repeated = [("merge", Slashes::Merge), ("keep", Slashes::Keep)];
    let escaped_slashes = fields.optional("escapedSlashes").and_then(|it| it.choice(&escaped, &["unescape"], report));
    let slashes = fields.optional("slashes").and_then(|it| it.choice(&repeated, &["reject"], report));
    let cases = [("sensitive", Case::Sensitive), ("ignore", Case::Ignore)];
    let case = fields.optional("case").and_then(|it| it.choice(&cases, &[], report));
    Paths {
        escaped_slashes: escaped_slashes.unwrap_or_default(),
        slashes: slashes.unwrap_or_default(),
        case: case.unwrap_or_default(),
    }
}

fn attributes(field: Field<'_>, declared: &Declared, report: &mut Report) -> Labels {
    let mut attributes = Labels::new();
    for attribute in field.entries(report).unwrap_or_default() {
        let Some(value) = attribute.text(report) else { continue };
        let Some(vocabulary) = &declared.attributes else { continue };
        let Some(values) = vocabulary.get(attribute.key) else {
            let names = || vocabulary.keys().map(AsRef::as_ref);
            let hint = suggest::hint(attribute.key, names(), || {
                format!("declare it in the Mesh; its attributes are {}", suggest::listed(names(), "none"))
            });
            let message = format!("the Mesh declares no attribute `{}`", short(attribute.key));
            report.error(code::UNDECLARED_ATTRIBUTE, attribute.key_span, message, hint);
            continue;
        };
        if !values.iter().any(|known| **known == *value) {
            let names = || values.iter().map(AsRef::as_ref);
            let hint = suggest::hint(value, names(), || {
                format!("its declared values are {}", suggest::listed(names(), "none"))
            });
            let message = format!("`{}` is not a declared value of the attribute `{}`", short(value), attribute.key);
            report.error(code::UNDECLARED_ATTRIBUTE, attribute.span(), message, hint);
            continue;
        }
        attributes.insert(attribute.key.into(), value.into());
    }
    attributes
}

/// `endpoints: registry` or `endpoints: {static: [...]}`.
fn endpoints(field: Field<'_>, report: &mut Report) -> Option<Endpoints> {
    if matches!(field.node.value, Value::Scalar { .. }) {
        return field
            .choice(&[("registry", ())], &["dns", "etcd", "consul", "kubernetes"], report)
            .map(|()| Endpoints::Registry);
    }
    let fields = ENDPOINTS.read(field.node, report)?;
    let list = fields.optional("static")?;
    let mut endpoints: Vec<StaticEndpoint> = Vec::new();
    for item in list.items(report)? {
        let Some(fields) = ENDPOINT.read(item.node, report) else { continue };
        let address = fields.required("address", "10.0.0.7:15006", report).and_then(|field| address(field, report));
        let labels = fields.optional("labels").and_then(|field| field.labels(report)).unwrap_or_default();
        let Some(address) = address else { continue };
        if endpoints.iter().any(|known| known.address == address) {
            let hint = "keep one: an address is one sidecar";
            report.error(
                code::REPEATED,
                item.span(),
                format!("the endpoint {address} stands here a second time"),
                hint,
            );
            continue;
        }
        endpoints.push(StaticEndpoint { address, labels });
    }
    if matches!(&list.node.value, Value::List(items) if items.is_empty()) {
        let hint = "list its sidecars, or leave `endpoints` out and they register themselves";
        report.error(code::BAD_VALUE, list.span(), "a service with an empty list of endpoints cannot be called", hint);
    }
    Some(Endpoints::Static(endpoints))
}

fn address(field: Field<'_>, report: &mut Report) -> Option<SocketAddr> {
    let text = field.text(report)?;
    let problem = match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => "has port 0, where nothing can listen",
        Ok(address) if address.ip().is_unspecified() => "means every address, so it is none that can be called",
        Ok(address) if address.ip().is_multicast() => "is a multicast address",
        Ok(address) => return Some(address),
        Err(_)
            if text
                .rsplit_once(':')
                .is_some_and(|(host, _)| host.contains(|c: char| c.is_ascii_alphabetic()) && !host.contains(':')) =>
        {
            not_yet(&format!("the host name in `address: {}`", short(text)), field.span(), report);
            return None;
        }
        Err(_) => "is not an IP address with a port",
    };
    let hint = "write the address of the sidecar's ingress, like 10.0.0.7:15006 or \"[fd00::7]:15006\"";
    report.error(code::BAD_VALUE, field.span(), format!("`{}` {problem}", short(text)), hint);
    None
}

fn subsets(field: Field<'_>, endpoints: &Endpoints, report: &mut Report) -> BTreeMap<Arc<str>, Labels> {
    let mut subsets = BTreeMap::new();
    for subset in field.entries(report).unwrap_or_default() {
        if !crate::id::is_dns_label(subset.key) {
            super::values::bad_dns_label("subsets", subset.key, subset.key_span, report);
            continue;
        }
        if matches!(subset.node.value, Value::Null) {
            let message = format!("the subset `{}` has no labels", subset.key);
            report.error(code::BAD_VALUE, subset.key_span, message, format!("write `{}: {{version: v1}}`", subset.key));
            subsets.insert(subset.key.into(), Labels::new());
            continue;
        }
        let labels = subset.labels(report).unwrap_or_default();
        if matches!(&subset.node.value, Value::Map(entries) if entries.is_empty()) {
            let message = format!("the subset `{}` has no labels, so it is the whole service", subset.key);
            report.error(
                code::BAD_VALUE,
                subset.span(),
                message,
                "give it labels, or leave `subset` out of the backendRef",
            );
        }
        if let Endpoints::Static(endpoints) = endpoints
            && !labels.is_empty()
            && !endpoints.iter().any(|e| labels.iter().all(|(name, value)| e.labels.get(name) == Some(value)))
        {
            let message = format!("no static endpoint carries the labels of the subset `{}`", subset.key);
            report.warning(
                code::EMPTY_SUBSET,
                subset.key_span,
                message,
                "calls that are routed to it will fail; check the labels",
            );
        }
        subsets.insert(subset.key.into(), labels);
    }
    subsets
}
