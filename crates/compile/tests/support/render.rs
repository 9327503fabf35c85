//! A snapshot as text that a person can review: one tree a resource, defaults left out, nested messages decoded.

use std::fmt::Debug;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::config::trace::v3::OpenTelemetryConfig;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::ExtAuthz;
use envoy_types::pb::envoy::extensions::filters::http::lua::v3::Lua;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::ext_authz::v3::ExtAuthz as TcpExtAuthz;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::http::early_header_mutation::header_mutation::v3::HeaderMutation;
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{DownstreamTlsContext, UpstreamTlsContext};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use prost::{Message, Name};
use weft_xds::{Snapshot, type_url};

/// Every resource but the policy, which is not ours to show.
pub fn snapshot(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    for (kind, resources) in snapshot.types().filter(|(kind, _)| *kind != type_url::POLICY_BUNDLE) {
        for resource in resources.values() {
            out += &format!("== {} {}\n", type_url::short(kind), resource.name);
            out += &joined(&message(kind, &resource.any.value));
        }
    }
    out
}

/// Access logs have their own snapshots, by what Envoy prints; here only that there is one.
const ACCESS_LOG: &str = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog";

fn message(kind: &str, bytes: &[u8]) -> String {
    fn shown<M: Message + Name + Default + Debug>(kind: &str, bytes: &[u8]) -> Option<String> {
        (kind == M::type_url()).then(|| tidy(&format!("{:#?}", M::decode(bytes).unwrap())))
    }
    match kind {
        type_url::REVISION => return format!("{}\n", String::from_utf8_lossy(bytes)),
        ACCESS_LOG => return "FileAccessLog\n".to_owned(),
        _ => {}
    }
    let kinds = [
        shown::<Listener>,
        shown::<RouteConfiguration>,
        shown::<Cluster>,
        shown::<ClusterLoadAssignment>,
        shown::<HttpConnectionManager>,
        shown::<HttpProtocolOptions>,
        shown::<UpstreamTlsContext>,
        shown::<DownstreamTlsContext>,
        shown::<ExtAuthz>,
        shown::<TcpExtAuthz>,
        shown::<Router>,
        shown::<Lua>,
        shown::<TcpProxy>,
        shown::<HeaderMutation>,
        shown::<OpenTelemetryConfig>,
        shown::<PreviousHostsPredicate>,
    ];
    kinds.iter().find_map(|shown| shown(kind, bytes)).unwrap_or_else(|| panic!("unknown {kind}"))
}

const DEFAULTS: [&str; 19] = [
    ": None,",
    ": \"\",",
    ": [],",
    ": {},",
    ": false,",
    ": 0,",
    "protocol: Tcp,",
    "health_status: Unknown,",
    "priority: Default,",
    "dns_lookup_family: Auto,",
    "drain_type: Default,",
    "codec_type: Auto,",
    "headers_with_underscores_action: Allow,",
    "ocsp_staple_policy: LenientStapling,",
    "lb_policy: RoundRobin,",
    "cluster_not_found_response_code: ServiceUnavailable,",
    "internal_redirect_action: PassThroughInternalRedirect,",
    "protocol_selection: UseConfiguredProtocol,",
    "trust_chain_verification: VerifyTrustChain,",
];

/// Writes a tree of indented lines anew: what has one thing inside stands on one line with it, maps are sorted.
fn joined(tree: &str) -> String {
    let lines: Vec<&str> = tree.lines().collect();
    let mut out = String::new();
    write(&lines, 0, &mut out);
    out
}

fn write(lines: &[&str], depth: usize, out: &mut String) {
    let mut nodes = nodes(lines);
    if nodes.iter().all(|(head, _)| head.starts_with('"') && head.contains("\": ")) {
        nodes.sort();
    }
    for (head, mut inside) in nodes {
        let mut line = head.to_owned();
        while let [(word, deeper)] = self::nodes(inside)[..] {
            if !line.ends_with(&format!(" {word}")) && !NOISE.contains(&word) {
                line = format!("{line} {}", word.strip_prefix("value: ").unwrap_or(word));
            }
            inside = deeper;
        }
        let line = line.replace(": Value kind: StringValue ", ": ");
        *out += &format!("{:depth$}{line}\n", "", depth = 2 * depth);
        write(inside, depth + 1, out);
    }
}

/// The outermost lines, each with what stands deeper below it.
fn nodes<'a, 'b>(lines: &'a [&'b str]) -> Vec<(&'b str, &'a [&'b str])> {
    let depth = |line: &str| line.len() - line.trim_start().len();
    let mut rest = lines;
    let mut nodes = Vec::new();
    while let Some((head, after)) = rest.split_first() {
        let count = after.iter().take_while(|line| depth(line) > depth(head)).count();
        nodes.push((head.trim_start(), &after[..count]));
        rest = &after[count..];
    }
    nodes
}

/// Words that a reader does not miss.
const NOISE: [&str; 7] = ["Any", "TypedConfig", "Value", "kind: StringValue", "UInt32Value", "BoolValue", "Duration"];

/// Leaves out what is default and what is only punctuation, and opens each `Any`.
fn tidy(debug: &str) -> String {
    let mut out = String::new();
    let mut lines = debug.lines();
    while let Some(line) = lines.next() {
        let text = line.trim_start();
        if let Some(kind) = text.strip_prefix("type_url: ") {
            let indent = &line[..line.len() - text.len()];
            let bytes: Vec<u8> = match lines.next().map(str::trim) {
                Some("value: [") => lines
                    .by_ref()
                    .take_while(|line| line.trim() != "],")
                    .map(|line| line.trim().trim_end_matches(',').parse().unwrap())
                    .collect(),
                _ => Vec::new(),
            };
            message(kind.trim_matches(&['"', ','][..]), &bytes)
                .lines()
                .for_each(|line| out += &format!("{indent}{line}\n"));
            continue;
        }
        let default = DEFAULTS.iter().any(|end| text.ends_with(end));
        let punctuation = matches!(text, ")" | ")," | "}" | "}," | "]" | "],");
        if !default && !punctuation {
            let line = line.trim_end_matches(&[',', '{', '(', '['][..]).trim_end();
            out += line.strip_suffix("Some").unwrap_or(line).trim_end();
            out.push('\n');
        }
    }
    out
}
