//! Weft's engine on what was imported decides as Istio does on the original, read by the letter by a small interpreter.

use std::collections::HashMap;

use proptest::collection::vec;
use proptest::prelude::*;
use weft_model::intent::{PolicyFile, Protocol};
use weft_policy::{CallRequest, Engine, testing};

use super::file;
use crate::istio::{Options, import};

/// Names that hide in each other, and one service without HTTP.
const SERVICES: [&str; 9] =
    ["prod/web", "prod/board", "dev/web", "dev/webby", "ns/sa", "prod/db", "dev/board", "dev/db", "istio-system/web"];
const TCP: &str = "prod/db";

/// A field with its values; of `when` it is the key.
#[derive(Clone, Debug)]
struct Field {
    name: &'static str,
    not: bool,
    values: Vec<&'static str>,
}

#[derive(Clone, Debug)]
struct Rule {
    from: Vec<Vec<Field>>,
    to: Vec<Vec<Field>>,
    when: Vec<Field>,
}

#[derive(Clone, Debug)]
struct Document {
    namespace: &'static str,
    action: &'static str,
    dry_run: bool,
    labels: &'static [(&'static str, &'static str)],
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Call {
    caller: &'static str,
    callee: &'static str,
    method: &'static str,
    path: &'static str,
    host: &'static str,
    ip: &'static str,
    /// What policies do not read here.
    token: bool,
    /// Of the workload that is called.
    version: &'static str,
    port: &'static str,
    client: &'static str,
}

/// Fields of a source: what each may say, and the key of `when` that is the same.
const SOURCE: [(&str, &str, &str, &[&str]); 7] = [
    (
        "principals",
        "notPrincipals",
        "source.principal",
        &[
            "*",
            "cluster.local/ns/prod/sa/web",
            "cluster.local/ns/dev/sa/webby",
            "cluster.local/ns/ns/sa/sa",
            "*/web",
            "*web",
            "*a/web",
            "*/ns/dev/sa/web",
            "*v/sa/web",
            "cluster.local/*",
            "cluster*",
            "cluster.local/ns/d*",
            "cluster.local/ns/prod/*",
            "cluster.local/ns/dev/s*",
            "cluster.local/ns/dev/sa/web*",
            "cluster.local/ns/*/sa/web",
            "*.local/ns/prod/sa/db",
            "other/ns/prod/sa/web",
            "cluster.local/ns/prod",
            "spiffe://cluster.local/ns/prod/sa/web",
            "*/ns/*/sa/web",
            "cluster.local/ns/prod/x*",
            "*x/ns/prod/sa/web",
        ],
    ),
    (
        "namespaces",
        "notNamespaces",
        "source.namespace",
        &["prod", "dev", "ns", "*", "d*", "*v", "*a", "s*", "sa", "p*d", "**", "n*/sa"],
    ),
    ("serviceAccounts", "notServiceAccounts", "source.serviceAccount", &["web", "dev/web", "ns/sa", "prod/*"]),
    ("trustDomains", "notTrustDomains", "source.trustDomain", &["cluster.local", "*", "cluster*", "other", "*x"]),
    (
        "ipBlocks",
        "notIpBlocks",
        "source.ip",
        &["10.1.2.3", "10.9.9.9/8", "10.1.2.0/24", "::/0", "0.0.0.0/0", "10.0.0.0/33"],
    ),
    ("remoteIpBlocks", "notRemoteIpBlocks", "remote.ip", &["1.1.1.1", "2.2.2.2"]),
    ("requestPrincipals", "notRequestPrincipals", "request.auth.principal", &["*"]),
];
const OPERATION: [(&str, &str, &[&str]); 4] = [
    ("methods", "notMethods", &["GET", "PUT", "*", "P*", "*T", "get"]),
    (
        "paths",
        "notPaths",
        &[
            "/",
            "/a",
            "/a/b",
            "*",
            "/a*",
            "/a/*",
            "*/b",
            "*b",
            "/a/*/c",
            "/a/{*}",
            "/a/{*}/",
            "/{*}/b",
            "/{**}",
            "/a/{**}",
            "/a/{**}/b",
            "/{*}/{**}",
            "/{*}/{**}/b",
            "/{*}/b/{**}",
            "/a//b",
            "/a/../b",
            "/%61*",
            "/a/{*}.x",
            "*.",
            "/a/x{*}",
            "/a/{**}/{*}",
        ],
    ),
    ("hosts", "notHosts", &["Board.prod", "*.prod", "b*", "*", "board.prod:*", "board.prod:8080", "*od:80"]),
    ("ports", "notPorts", &["80", "8080"]),
];

fn any_values(values: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    vec(proptest::sample::select(values), 1..3)
}

fn any_source() -> impl Strategy<Value = Field> {
    (proptest::sample::select(&SOURCE[..]), any::<bool>()).prop_flat_map(|((plain, negated, _, values), not)| {
        any_values(values).prop_map(move |values| Field { name: if not { negated } else { plain }, not, values })
    })
}

fn any_operation() -> impl Strategy<Value = Field> {
    (proptest::sample::select(&OPERATION[..]), any::<bool>()).prop_flat_map(|((plain, negated, values), not)| {
        any_values(values).prop_map(move |values| Field { name: if not { negated } else { plain }, not, values })
    })
}

fn any_when() -> impl Strategy<Value = Field> {
    (proptest::sample::select(&SOURCE[..]), any::<bool>()).prop_flat_map(|((_, _, key, values), not)| {
        any_values(values).prop_map(move |values| Field { name: key, not, values })
    })
}

/// Each field once, as in a mapping.
fn some(field: impl Strategy<Value = Field>, most: usize) -> impl Strategy<Value = Vec<Field>> {
    vec(field, 1..=most).prop_map(|mut fields| {
        let mut seen = Vec::new();
        fields.retain(|field| {
            !seen.contains(&field.name) && {
                seen.push(field.name);
                true
            }
        });
        fields
    })
}

fn any_rule() -> impl Strategy<Value = Rule> {
    (vec(some(any_source(), 2), 0..3), vec(some(any_operation(), 2), 0..3), vec(any_when(), 0..2))
        .prop_map(|(from, to, when)| Rule { from, to, when })
}

fn any_document() -> impl Strategy<Value = Document> {
    let labels: [&'static [(&str, &str)]; 9] = [
        &[],
        &[],
        &[("app", "board")],
        &[("app", "board")],
        &[("app", "web")],
        &[("app", "db")],
        &[("version", "v1")],
        &[("app", "board"), ("version", "v1")],
        &[("app", "board"), ("version", "v2")],
    ];
    let labels = proptest::sample::select(labels.to_vec());
    let namespace = prop_oneof![5 => Just("prod"), 1 => Just("dev"), 1 => Just("istio-system")];
    let action = prop_oneof![4 => Just("ALLOW"), 3 => Just("DENY"), 1 => Just("AUDIT")];
    (namespace, action, proptest::bool::weighted(0.1), labels, vec(any_rule(), 0..3))
        .prop_map(|(namespace, action, dry_run, labels, rules)| Document { namespace, action, dry_run, labels, rules })
}

fn any_call() -> impl Strategy<Value = Call> {
    let pick = |of: &'static [&'static str]| proptest::sample::select(of);
    (
        (
            pick(&SERVICES),
            prop_oneof![3 => Just("prod/board"), 1 => Just("prod/web"), 1 => Just("dev/web"), 2 => Just(TCP)],
        ),
        pick(&["GET", "PUT", "POST", "DELETE"]),
        pick(&[
            "/", "/a", "/ab", "/b", "/a/b", "/a/", "/a/x/b", "/a/x/c", "/x/b", "/x/y/b", "/a.", "/a/b/c/b", "/a/*/c",
            "/a/x=y", "/a/x*", "/a=b/c",
        ]),
        pick(&["board.prod", "x", "web.dev"]),
        pick(&["10.1.2.3", "10.1.2.9", "192.168.0.1", "::1"]),
        any::<bool>(),
        pick(&["80", "8080"]),
        pick(&["1.1.1.1", "2.2.2.2", "3.3.3.3"]),
        pick(&["v1", "v2"]),
    )
        .prop_map(|((caller, callee), method, path, host, ip, token, port, client, version)| {
            let tcp = callee == TCP;
            let only = |text| if tcp { "" } else { text };
            Call {
                caller,
                callee,
                method: only(method),
                path: only(path),
                host: only(host),
                ip,
                token: token && !tcp,
                version,
                port,
                client,
            }
        })
}

fn yaml(documents: &[Document]) -> String {
    let list = |values: &[&str]| values.iter().map(|value| format!("'{value}'")).collect::<Vec<_>>().join(", ");
    let fields = |fields: &[Field]| {
        fields.iter().map(|field| format!("{}: [{}]", field.name, list(&field.values))).collect::<Vec<_>>().join(", ")
    };
    let mut text = String::new();
    for (at, document) in documents.iter().enumerate() {
        let rules = document.rules.iter().map(|rule| {
            let part = |name: &str, inner: &str, all: &[Vec<Field>]| {
                let all: Vec<String> = all.iter().map(|one| format!("{{{inner}: {{{}}}}}", fields(one))).collect();
                if all.is_empty() { String::new() } else { format!("{name}: [{}], ", all.join(", ")) }
            };
            let when = rule.when.iter().map(|field| {
                let values = if field.not { "notValues" } else { "values" };
                format!("{{key: '{}', {values}: [{}]}}", field.name, list(&field.values))
            });
            let when = when.collect::<Vec<_>>().join(", ");
            let when = if when.is_empty() { when } else { format!("when: [{when}]") };
            format!("{{{}{}{when}}}", part("from", "source", &rule.from), part("to", "operation", &rule.to))
        });
        let labels =
            document.labels.iter().map(|(label, value)| format!("{label}: {value}")).collect::<Vec<_>>().join(", ");
        let label = if labels.is_empty() { labels } else { format!("selector: {{matchLabels: {{{labels}}}}}, ") };
        let rules = rules.collect::<Vec<_>>().join(", ");
        text.push_str(&format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p{at}, namespace: {}, annotations: \
             {{istio.io/dry-run: '{}'}}}}\nspec: {{action: {}, {label}rules: [{rules}]}}\n",
            document.namespace, document.dry_run, document.action
        ));
    }
    text
}

/// What Istio decides. Its control plane and Envoy's RBAC filter are where the rules were read.
fn istio(documents: &[Document], call: &Call) -> bool {
    let (namespace, name) = call.callee.split_once('/').expect("a name");
    let applies = |document: &&Document| {
        let has = |(label, value): &(&str, &str)| match *label {
            "app" => *value == name,
            _ => *value == call.version,
        };
        let selected = document.labels.iter().all(has);
        !document.dry_run && selected && [namespace, "istio-system"].contains(&document.namespace)
    };
    let of = |action| documents.iter().filter(applies).filter(move |document| document.action == action);
    let any = |action| {
        of(action).any(|document| document.rules.iter().any(|rule| holds(rule, action, document.namespace, call)))
    };
    if any("DENY") {
        return false;
    }
    of("ALLOW").next().is_none() || any("ALLOW")
}

fn holds(rule: &Rule, action: &str, own: &str, call: &Call) -> bool {
    let is_http = |field: &Field| {
        [
            "methods",
            "notMethods",
            "paths",
            "notPaths",
            "hosts",
            "notHosts",
            "requestPrincipals",
            "notRequestPrincipals",
            "request.auth.principal",
        ]
        .contains(&field.name)
    };
    let tcp = call.callee == TCP;
    let mut all = rule.from.iter().flatten().chain(rule.to.iter().flatten()).chain(&rule.when);
    // Istio's own errors: a rule that allows is dropped whole, from one that denies the condition is.
    let broken = |field: &Field| tcp && is_http(field) || field.values.iter().any(|value| is_broken(field, value));
    if action == "ALLOW" && all.any(broken) {
        return false;
    }
    let one = |field: &Field| {
        let values: Vec<&&str> =
            field.values.iter().filter(|value| !(is_broken(field, value) || tcp && is_http(field))).collect();
        values.is_empty() || values.iter().any(|value| is(field, value, own, call)) != field.not
    };
    let list = |list: &[Vec<Field>]| list.is_empty() || list.iter().any(|all| all.iter().all(one));
    list(&rule.from) && list(&rule.to) && rule.when.iter().all(one)
}

/// What Istio refuses; with its admission webhook switched off it does what `holds` says.
fn is_broken(field: &Field, value: &str) -> bool {
    match field.name {
        "paths" | "notPaths" => ["/a/{*}.x", "/a/x{*}", "/a/{**}/{*}"].contains(&value),
        "serviceAccounts" | "notServiceAccounts" | "source.serviceAccount" => value.contains('*'),
        _ => value.ends_with("/33"),
    }
}

fn is(field: &Field, value: &str, own: &str, call: &Call) -> bool {
    let (namespace, account) = call.caller.split_once('/').expect("a name");
    let id = format!("cluster.local/ns/{namespace}/sa/{account}");
    let ip = |ip: &str| in_range(ip.parse().expect("an address"), value);
    match field.name {
        "principals" | "notPrincipals" | "source.principal" => text(value, &id),
        "namespaces" | "notNamespaces" | "source.namespace" => regex(&format!("*/ns/{value}/*"), &id),
        "serviceAccounts" | "notServiceAccounts" | "source.serviceAccount" => {
            let (space, name) = value.split_once('/').unwrap_or((own, value));
            (space, name) == (namespace, account)
        }
        "trustDomains" | "notTrustDomains" | "source.trustDomain" => text(value, "cluster.local"),
        "ipBlocks" | "notIpBlocks" | "source.ip" => ip(call.ip),
        "remoteIpBlocks" | "notRemoteIpBlocks" | "remote.ip" => ip(call.client),
        "requestPrincipals" | "notRequestPrincipals" | "request.auth.principal" => call.token,
        "methods" | "notMethods" => text(value, call.method),
        "hosts" | "notHosts" => text(&value.to_lowercase(), call.host),
        "ports" | "notPorts" => value == call.port,
        "paths" | "notPaths" if value.contains('{') => template(value.as_bytes(), call.path.as_bytes()),
        "paths" | "notPaths" => text(value, call.path),
        other => panic!("{other}"),
    }
}

fn text(value: &str, text: &str) -> bool {
    if value == "*" {
        !text.is_empty()
    } else if let Some(end) = value.strip_prefix('*') {
        text.ends_with(end)
    } else if let Some(start) = value.strip_suffix('*') {
        text.starts_with(start)
    } else {
        text == value
    }
}

/// A regular expression of which only `.*` is one, written `*`.
fn regex(pattern: &str, text: &str) -> bool {
    match pattern.chars().next() {
        None => text.is_empty(),
        Some('*') => (0..=text.len()).any(|at| regex(&pattern[1..], &text[at..])),
        Some(c) => text.starts_with(c) && regex(&pattern[1..], &text[1..]),
    }
}

/// Envoy's: `{*}` is one or more characters of a segment, `{**}` any number of those and slashes.
fn template(pattern: &[u8], path: &[u8]) -> bool {
    let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=*".contains(byte);
    let run = |from: usize, slash: bool| {
        path.iter().take_while(|byte| legal(byte) || slash && **byte == b'/').count() + 1 - from
    };
    if let Some(rest) = pattern.strip_prefix(b"{**}") {
        return (0..run(0, true)).any(|at| template(rest, &path[at..]));
    }
    if let Some(rest) = pattern.strip_prefix(b"{*}") {
        return (1..=run(1, false)).any(|at| template(rest, &path[at..]));
    }
    match (pattern.split_first(), path.split_first()) {
        (None, None) => true,
        (Some((want, rest)), Some((have, path))) => want == have && template(rest, path),
        _ => false,
    }
}

fn in_range(ip: std::net::IpAddr, range: &str) -> bool {
    let (address, length) =
        range.split_once('/').map_or((range, None), |(address, length)| (address, length.parse::<u32>().ok()));
    match (ip, address.parse().expect("an address")) {
        (std::net::IpAddr::V4(ip), std::net::IpAddr::V4(of)) => {
            (ip.to_bits() ^ of.to_bits()).leading_zeros() >= length.unwrap_or(32)
        }
        (std::net::IpAddr::V6(ip), std::net::IpAddr::V6(of)) => {
            (ip.to_bits() ^ of.to_bits()).leading_zeros() >= length.unwrap_or(128)
        }
        _ => false,
    }
}

/// What Weft decides on the imported policies, whether nothing was lost, and their text.
fn weft(documents: &[Document], calls: &[Call], with_mesh: bool) -> (Vec<bool>, bool, String) {
    let mut intent = testing::intent(&SERVICES);
    intent.services.get_mut(&testing::name(TCP)).expect("there").protocol = Protocol::Tcp;
    let options = Options { default_allow: true, ..Options::default() };
    let imported = import(&file(yaml(documents)), &options, with_mesh.then_some(&intent));
    let imported = imported.unwrap_or_else(|findings| panic!("{findings:#?}\n{}", yaml(documents)));
    let file = |file: &crate::CedarFile| PolicyFile { path: file.name.clone(), text: file.text.as_str().into() };
    intent.policies = imported.files.iter().map(file).collect();
    let model = weft_policy::compile(&intent, "c0ffee").unwrap_or_else(|findings| panic!("{findings:#?}"));
    let mut engines = HashMap::new();
    let mut decide = |call: &Call| {
        let engine = engines.entry(call.callee).or_insert_with(|| {
            Engine::new(&model.bundle_for(&testing::name(call.callee))).expect("a bundle that was just made")
        });
        let id = testing::id(call.caller);
        let request = CallRequest {
            principal: Some(&id),
            method: call.method,
            path: call.path,
            host: call.host,
            protocol: if call.callee == TCP { "TCP" } else { "HTTP/1.1" },
            source_ip: call.ip.parse().ok(),
        };
        engine.decide(&request).allowed
    };
    let allowed = calls.iter().map(&mut decide).collect();
    let texts = imported.files.iter().map(|file| file.text.as_str()).collect::<Vec<_>>().join("\n");
    (allowed, imported.report.is_whole(), texts)
}

/// Every path of up to four short segments, with and without a slash at its end.
fn short_paths() -> Vec<&'static str> {
    let mut paths = vec![String::new()];
    let mut all = vec!["/".to_owned()];
    for _ in 0..4 {
        paths = paths.iter().flat_map(|path| ["a", "b", "x"].map(|word| format!("{path}/{word}"))).collect();
        all.extend(paths.iter().flat_map(|path| [path.clone(), format!("{path}/")]));
    }
    // A test may leak what it needs to its end.
    all.into_iter().map(|path| &*path.leak()).collect()
}

/// Each kind of pattern alone, so that no other rule hides what it does.
#[test]
fn a_path_matches_here_where_it_does_in_istio() {
    let calls = short_paths().into_iter().map(|path| Call {
        caller: "prod/web",
        callee: "prod/board",
        method: "GET",
        path,
        host: "x",
        ip: "10.1.2.3",
        token: false,
        version: "v1",
        port: "80",
        client: "1.1.1.1",
    });
    let calls: Vec<Call> = calls.collect();
    let (plain, negated, values) = OPERATION[1];
    for (name, not) in [(plain, false), (negated, true)] {
        for value in values.iter().filter(|value| !is_broken(&Field { name, not, values: Vec::new() }, value)) {
            let to = vec![vec![Field { name, not, values: vec![value] }]];
            let rules = vec![Rule { from: Vec::new(), to, when: Vec::new() }];
            let document = Document { namespace: "prod", action: "ALLOW", dry_run: false, labels: &[], rules };
            let documents = [document];
            let (allowed, whole, text) = weft(&documents, &calls, true);
            for (call, allowed) in calls.iter().zip(allowed) {
                let original = istio(&documents, call);
                assert!(
                    if whole { allowed == original } else { original || !allowed },
                    "{name} {value} {}\n{text}",
                    call.path
                );
            }
        }
    }
}

/// A run of a few seconds, or as long as PROPTEST_CASES says.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(150)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    /// Never more than Istio allows, whatever cannot be said; and where all can be said, exactly that.
    #[test]
    fn imported_policies_decide_as_the_originals(
        documents in vec(any_document(), 1..4),
        calls in vec(any_call(), 24),
        with_mesh in any::<bool>(),
    ) {
        let (allowed, whole, text) = weft(&documents, &calls, with_mesh);
        for (call, allowed) in calls.iter().zip(allowed) {
            let original = istio(&documents, call);
            prop_assert!(original || !allowed, "Istio denies and Weft allows {call:?}\n{}\n{text}", yaml(&documents));
            // Without a mesh only the namespaces of the documents are known to be open.
            let of = |document: &Document| call.callee.starts_with(&format!("{}/", document.namespace));
            let known = with_mesh || documents.iter().any(of) && !call.callee.starts_with("istio-system/");
            if whole && known {
                prop_assert_eq!(allowed, original, "{:?}\n{}\n{}", call, yaml(&documents), text);
            }
        }
    }
}
