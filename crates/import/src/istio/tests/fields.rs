//! What becomes of each field, in a rule that allows and in one that denies.

use std::fmt::Write;

use weft_policy::testing;

use super::file;
use crate::istio::{Options, import};

/// The policies of a rule as text, and what is said of it.
fn rule(action: &str, rule: &str, options: &Options) -> String {
    let text = format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: x, namespace: prod}}\nspec:\n  action: {action}\n  \
         selector: {{matchLabels: {{app: board}}}}\n  rules: [{rule}]\n"
    );
    let mut intent = testing::intent(&["prod/board", "prod/web", "dev/web"]);
    intent.mesh.policy.headers = vec!["x-team".into()];
    let imported = import(&file(text), options, Some(&intent)).unwrap_or_else(|findings| panic!("{findings:#?}"));
    let lines = imported.files[0].text.lines().filter(|line| !line.starts_with("//") && !line.is_empty());
    let mut out: String = lines.map(|line| format!("{line}\n")).collect();
    for issue in &imported.report.policies[0].issues {
        let _ = writeln!(out, "{:?}: {}: {}; {}", issue.level, issue.field, issue.problem, issue.effect);
    }
    if out.is_empty() { "nothing\n".to_owned() } else { out }
}

fn both(rules: &[&str], options: &Options) -> String {
    let mut out = String::new();
    for text in rules {
        let _ = write!(out, "### {text}\n{}---\n{}\n", rule("ALLOW", text, options), rule("DENY", text, options));
    }
    out
}

#[test]
fn callers() {
    let source = |fields: &str| format!("{{from: [{{source: {{{fields}}}}}]}}");
    let fields = [
        "principals: [cluster.local/ns/prod/sa/web, cluster.local/ns/dev/sa/web]",
        "principals: ['*']",
        "principals: ['cluster.local/ns/prod/*', 'cluster.local/ns/dev/sa/w*']",
        "principals: ['cluster.local/ns/d*']",
        "principals: ['*/web', '*b/sa/web', '*/ns/dev/sa/web']",
        "principals: ['cluster.local/ns/*/sa/web']",
        "principals: ['spiffe://cluster.local/ns/prod/sa/web']",
        "principals: [other.domain/ns/prod/sa/web]",
        "principals: [cluster.local/ns/prod/sa/gone]",
        "principals: [cluster.local/ns/prod/sa/Not.Ours]",
        "notPrincipals: [cluster.local/ns/prod/sa/web, cluster.local/ns/prod/sa/gone, other.domain/ns/dev/sa/web]",
        "namespaces: [prod, dev]",
        "namespaces: ['d*', '*-qa', sa, gone]",
        "namespaces: ['*']",
        "notNamespaces: [dev]",
        "serviceAccounts: [web, dev/web]",
        "serviceAccounts: ['dev/*']",
        "notServiceAccounts: [dev/web]",
        "trustDomains: [cluster.local]",
        "trustDomains: ['other.*']",
        "ipBlocks: [10.1.2.3/8, '2001:db8::1', 192.168.0.0/16]",
        "notIpBlocks: [10.0.0.0/8]",
        "ipBlocks: [10.0.0.0/33]",
        "remoteIpBlocks: [10.0.0.0/8]",
        "requestPrincipals: ['*']",
        "notRequestPrincipals: ['*']",
        "namespaces: [prod], principals: [cluster.local/ns/prod/sa/web]",
        "colour: [red]",
        "",
    ];
    let rules: Vec<String> = fields.iter().map(|field| source(field)).collect();
    insta::assert_snapshot!(both(&rules.iter().map(String::as_str).collect::<Vec<_>>(), &Options::default()));
}

#[test]
fn operations() {
    let operation = |fields: &str| format!("{{to: [{{operation: {{{fields}}}}}]}}");
    let fields = [
        "methods: [GET]",
        "methods: [GET, HEAD, 'P*']",
        "notMethods: [GET, HEAD]",
        "methods: ['*']",
        "paths: [/info, '/api/*', '*.png', '*/x']",
        "paths: ['*']",
        "notPaths: [/admin, '/admin/*']",
        "paths: ['/a/*/b']",
        "paths: ['/a/{*}/b', '/a/{*}/{**}', '/{**}', '/x/{**}/z', '/x/{*}/']",
        "paths: ['/a/{*}.txt', '/a/{b}', '/a{*}/b', '/{**}/x/{*}']",
        "paths: ['/1/2/3/4/5/6/7/8/{*}/{**}']",
        "paths: ['/a//b', '/a/../b', '/%61', '/a\\b', '/a b', '/a%2']",
        "paths: ['/a%2*', '/A%2f*', '*..']",
        "hosts: [Example.com, 'example.com:*']",
        "hosts: ['*.example.com', 'www.*']",
        "hosts: ['example.com:8080', '*:8080', 'x:*']",
        "notHosts: ['example.com:8080']",
        "ports: ['8080', '9090']",
        "notPorts: ['8080'], methods: [GET]",
        "ports: ['70000']",
        "methods: [GET], notPaths: [/x]",
        "methods: ['']",
    ];
    let rules: Vec<String> = fields.iter().map(|field| operation(field)).collect();
    insta::assert_snapshot!(both(&rules.iter().map(String::as_str).collect::<Vec<_>>(), &Options::default()));
}

#[test]
fn conditions() {
    let rules = [
        "{when: [{key: source.namespace, values: [prod]}]}",
        "{when: [{key: source.principal, notValues: [cluster.local/ns/dev/sa/web]}]}",
        "{when: [{key: source.serviceAccount, values: [web]}]}",
        "{when: [{key: source.trustDomain, values: [cluster.local]}]}",
        "{when: [{key: source.ip, values: [10.0.0.0/8], notValues: [10.1.0.0/16]}]}",
        "{when: [{key: remote.ip, values: [10.0.0.0/8]}]}",
        "{when: [{key: destination.port, values: ['8080']}]}",
        "{when: [{key: destination.ip, values: [10.0.0.1]}]}",
        "{when: [{key: connection.sni, values: [www.example.com]}]}",
        "{when: [{key: 'request.headers[User-Agent]', values: ['Mozilla/*']}]}",
        "{when: [{key: 'request.headers[X-Team]', values: [blue, 're*']}]}",
        "{when: [{key: 'request.headers[X-Team]', notValues: ['*']}]}",
        "{when: [{key: request.auth.principal, values: ['*']}]}",
        "{when: [{key: request.auth.audiences, values: [me]}]}",
        "{when: [{key: request.auth.presenter, values: [me]}]}",
        "{when: [{key: 'request.auth.claims[groups]', values: [admins]}]}",
        "{when: [{key: 'experimental.envoy.filters.a[b]', values: [x]}]}",
        "{when: [{key: source.colour, values: [red]}]}",
        "{when: [{key: source.ip}]}",
        "{from: []}",
        "{until: [x]}",
        "{}",
    ];
    insta::assert_snapshot!(both(&rules, &Options::default()));
}

#[test]
fn what_is_called_otherwise_here_is_named_as_it_is_here() {
    let mut options = Options::default();
    options.renamed.insert("prod/acme-web".to_owned(), vec![testing::name("prod/web")]);
    options.trust_domains = vec!["td1".to_owned()];
    let rules = [
        "{from: [{source: {principals: [td1/ns/prod/sa/acme-web]}}]}",
        "{from: [{source: {principals: [td1/ns/prod/sa/web]}}]}",
        "{from: [{source: {principals: ['td1/ns/prod/sa/acme-*']}}]}",
        "{from: [{source: {principals: ['*/web']}}]}",
        "{from: [{source: {principals: ['td1/*']}}]}",
        "{from: [{source: {trustDomains: [cluster.local]}}]}",
    ];
    insta::assert_snapshot!(both(&rules, &options));
}
