//! Weft's engine on what was imported decides as Istio does on the original ([`super::original`]).

use std::borrow::Cow;
use std::collections::HashMap;

use proptest::collection::vec;
use proptest::prelude::*;
use weft_model::Mtls;
use weft_model::intent::{PolicyFile, Protocol};
use weft_policy::{CallRequest, Engine, Headers, Principal, TlsFacts, testing};

use super::file;
use super::original::{Call, Document, Field, Rule, TCP, is_broken, istio};
use crate::istio::{Options, import};

/// Names that hide in each other.
const SERVICES: [&str; 9] =
    ["prod/web", "prod/board", "dev/web", "dev/webby", "ns/sa", "prod/db", "dev/board", "dev/db", "istio-system/web"];

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

/// Keys of `when` that no field of a source is.
const OTHERS: [(&str, &[&str]); 4] = [
    ("request.headers[X-Team]", &["blue", "b*", "*e", "*", "*u*"]),
    ("request.headers[X-Other]", &["blue", "*"]),
    ("connection.sni", &["board.prod", "*.prod", "b*", "*"]),
    ("destination.port", &["80", "8080"]),
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
    let of_source = SOURCE.iter().map(|(_, _, key, values)| (*key, *values));
    let keys: Vec<(&str, &[&str])> = of_source.chain(OTHERS).collect();
    (proptest::sample::select(keys), any::<bool>()).prop_flat_map(|((key, values), not)| {
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
            prop_oneof![8 => pick(&SERVICES), 2 => Just("")],
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
        proptest::option::of(pick(&["blue", "red,blue", ""])),
        proptest::option::of(pick(&["board.prod", "x"])),
        pick(&["1.1.1.1", "2.2.2.2", "3.3.3.3"]),
        pick(&["v1", "v2"]),
    )
        .prop_map(|((caller, callee), method, path, host, ip, token, team, sni, client, version)| {
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
                team: team.filter(|_| !tcp),
                sni,
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

/// A head with one field.
#[derive(Debug)]
struct Team(Option<&'static str>);

impl Headers for Team {
    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0.filter(|_| name == "x-team").map(Cow::Borrowed)
    }
}

/// What Weft decides on the imported policies, whether nothing was lost, and their text.
fn weft(documents: &[Document], calls: &[Call], with_mesh: bool) -> (Vec<bool>, bool, String) {
    let mut intent = testing::intent(&SERVICES);
    intent.services.get_mut(&testing::name(TCP)).expect("there").protocol = Protocol::Tcp;
    intent.mesh.policy.headers = vec!["x-team".into()];
    intent.services.values_mut().for_each(|service| service.mtls = Mtls::Permissive);
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
        let id = testing::id(if call.caller.is_empty() { "prod/web" } else { call.caller });
        let request = CallRequest {
            principal: if call.caller.is_empty() { Principal::PlainText } else { Principal::Id(&id) },
            method: call.method,
            path: call.path,
            host: call.host,
            protocol: if call.callee == TCP { "TCP" } else { "HTTP/1.1" },
            source_ip: call.ip.parse().ok(),
            headers: &Team(call.team),
            tls: Some(TlsFacts { server_name: call.sni }),
            ..testing::request(&id)
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
        team: None,
        sni: None,
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

/// Who may call in plain text, and who is denied for it.
#[test]
fn callers_in_plain_text_are_those_without_a_principal() {
    let rule =
        |name, not, values| Rule { from: vec![vec![Field { name, not, values }]], to: Vec::new(), when: Vec::new() };
    let document =
        |action, rule| Document { namespace: "prod", action, dry_run: false, labels: &[], rules: vec![rule] };
    let any = || Rule { from: Vec::new(), to: Vec::new(), when: Vec::new() };
    let call = |caller| Call {
        caller,
        callee: "prod/board",
        method: "GET",
        path: "/",
        host: "x",
        ip: "10.1.2.3",
        token: false,
        version: "v1",
        team: None,
        sni: None,
        client: "1.1.1.1",
    };
    let calls = ["prod/web", ""].map(call);
    let (with, without) = ("principals", "notPrincipals");
    for (documents, expected) in [
        (vec![document("ALLOW", rule(without, true, vec!["*"]))], [false, true]),
        (vec![document("ALLOW", rule(with, false, vec!["*"]))], [true, false]),
        (vec![document("ALLOW", rule("notNamespaces", true, vec!["*"]))], [false, true]),
        (
            vec![
                document("ALLOW", rule("notTrustDomains", true, vec!["*"])),
                document("DENY", rule("ipBlocks", false, vec!["10.9.9.9/32"])),
            ],
            [false, true],
        ),
        (vec![document("ALLOW", rule(without, true, vec!["*"])), document("ALLOW", any())], [true, true]),
        (
            vec![
                document("ALLOW", any()),
                document("ALLOW", rule(without, true, vec!["*"])),
                document("DENY", rule(without, true, vec!["*"])),
            ],
            [true, false],
        ),
        (
            vec![
                document("ALLOW", any()),
                document("ALLOW", rule(without, true, vec!["*"])),
                document("DENY", rule(with, false, vec!["*"])),
            ],
            [false, true],
        ),
        (
            vec![
                document("ALLOW", any()),
                document("ALLOW", rule(without, true, vec!["*"])),
                document("DENY", rule(without, true, vec!["*t"])),
            ],
            [false, false],
        ),
        (
            vec![
                document("ALLOW", any()),
                document("ALLOW", rule(without, true, vec!["*"])),
                document("DENY", rule("trustDomains", false, vec!["*"])),
            ],
            [false, true],
        ),
    ] {
        let (allowed, whole, text) = weft(&documents, &calls, true);
        let original: Vec<bool> = calls.iter().map(|call| istio(&documents, call)).collect();
        assert_eq!((&allowed[..], &original[..], whole), (&expected[..], &expected[..], true), "{documents:?}\n{text}");
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
            // In plain text, too, nobody gets in who does not in Istio; but a permit that names nobody means them there alone.
            if whole && known && !call.caller.is_empty() {
                prop_assert_eq!(allowed, original, "{:?}\n{}\n{}", call, yaml(&documents), text);
            }
        }
    }
}
