//! Istio's rules, read by the letter: a small interpreter that knows nothing of Cedar.

/// The one service without HTTP.
pub(super) const TCP: &str = "prod/db";

/// A field with its values; of `when` it is the key.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) not: bool,
    pub(super) values: Vec<&'static str>,
}

#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) from: Vec<Vec<Field>>,
    pub(super) to: Vec<Vec<Field>>,
    pub(super) when: Vec<Field>,
}

#[derive(Clone, Debug)]
pub(super) struct Document {
    pub(super) namespace: &'static str,
    pub(super) action: &'static str,
    pub(super) dry_run: bool,
    pub(super) labels: &'static [(&'static str, &'static str)],
    pub(super) rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
pub(super) struct Call {
    /// Empty: nobody shows who calls.
    pub(super) caller: &'static str,
    pub(super) callee: &'static str,
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) host: &'static str,
    pub(super) ip: &'static str,
    /// What policies do not read here.
    pub(super) token: bool,
    /// Of the workload that is called.
    pub(super) version: &'static str,
    pub(super) team: Option<&'static str>,
    pub(super) sni: Option<&'static str>,
    pub(super) client: &'static str,
}

/// What Istio decides. Its control plane and Envoy's RBAC filter are where the rules were read.
pub(super) fn istio(documents: &[Document], call: &Call) -> bool {
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
            "request.headers[X-Team]",
            "request.headers[X-Other]",
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
pub(super) fn is_broken(field: &Field, value: &str) -> bool {
    match field.name {
        "paths" | "notPaths" => ["/a/{*}.x", "/a/x{*}", "/a/{**}/{*}"].contains(&value),
        "serviceAccounts" | "notServiceAccounts" | "source.serviceAccount" => value.contains('*'),
        _ => value.ends_with("/33"),
    }
}

fn is(field: &Field, value: &str, own: &str, call: &Call) -> bool {
    let (namespace, account) = call.caller.split_once('/').unwrap_or_default();
    let id = if call.caller.is_empty() { String::new() } else { format!("cluster.local/ns/{namespace}/sa/{account}") };
    let ip = |ip: &str| in_range(ip.parse().expect("an address"), value);
    match field.name {
        "principals" | "notPrincipals" | "source.principal" => text(value, &id),
        "namespaces" | "notNamespaces" | "source.namespace" => regex(&format!("*/ns/{value}/*"), &id),
        "serviceAccounts" | "notServiceAccounts" | "source.serviceAccount" => {
            let (space, name) = value.split_once('/').unwrap_or((own, value));
            (space, name) == (namespace, account)
        }
        "trustDomains" | "notTrustDomains" | "source.trustDomain" => {
            !call.caller.is_empty() && text(value, "cluster.local")
        }
        "ipBlocks" | "notIpBlocks" | "source.ip" => ip(call.ip),
        "remoteIpBlocks" | "notRemoteIpBlocks" | "remote.ip" => ip(call.client),
        "requestPrincipals" | "notRequestPrincipals" | "request.auth.principal" => call.token,
        "methods" | "notMethods" => text(value, call.method),
        "hosts" | "notHosts" => text(&value.to_lowercase(), call.host),
        // The port of every service of the test.
        "ports" | "notPorts" | "destination.port" => value == "8080",
        "request.headers[X-Team]" => call.team.is_some_and(|team| value == "*" || text(value, team)),
        "request.headers[X-Other]" => false,
        "connection.sni" => text(value, call.sni.unwrap_or_default()),
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
