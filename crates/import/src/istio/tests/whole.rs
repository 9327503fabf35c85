//! Documents as a whole: what is read, what is refused, what is told.

use weft_policy::testing;

use super::file;
use crate::istio::{Options, import};
use crate::{Import, Outcome};

fn policy(meta: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{{meta}}}\nspec: {{{spec}}}\n"
    )
}

fn done(text: impl Into<String>) -> Import {
    import(&file(text), &Options::default(), None).unwrap_or_else(|findings| panic!("{findings:#?}"))
}

fn refused(text: impl Into<String>) -> Vec<String> {
    let findings = import(&file(text), &Options::default(), None).expect_err("refused");
    findings.iter().map(ToString::to_string).collect()
}

#[test]
fn what_kubernetes_would_refuse_is_told_with_its_place() {
    let one = |spec: &str| refused(policy("name: x", spec)).join("\n");
    insta::assert_snapshot!(
        [
            refused("kind: AuthorizationPolicy\nmetadata: {name: x}\n").join("\n"),
            refused("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n").join("\n"),
            refused(policy("name: ../x", "")).join("\n"),
            refused(policy("name: \"a\\nb\"", "")).join("\n"),
            one("action: PERMIT"),
            one("rules: {}"),
            one("rules: [null]"),
            one("rules: [{from: [{source: {principals: x}}]}]"),
            one("rules: [{from: [{source: {principals: [x], principals: [y]}}]}]"),
            one("rules: [{from: [{source: {principals: [[x]]}}]}]"),
            one("rules: [{when: [{values: [x]}]}]"),
            one("selector: {matchLabels: {app: x}}, targetRefs: [{kind: Service, name: x}]"),
            one("selector: {matchExpressions: []}"),
            one("targetRefs: [{kind: Service, name: x, namespace: y}]"),
            refused(format!("{}{}", policy("name: x", ""), policy("name: x", "action: DENY"))).join("\n"),
            refused("a: [").join("\n"),
        ]
        .join("\n")
    );
}

#[test]
fn other_kinds_are_passed_over_and_lists_are_opened() {
    let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: security.istio.io/v1beta1\n  kind: AuthorizationPolicy\n  metadata: {name: a}\n- {apiVersion: v1, kind: ConfigMap}\n---\nkind: PeerAuthentication\n---\nx: 1\n";
    let import = done(list);
    assert_eq!(import.report.policies.len(), 1);
    let kinds: Vec<_> = import.report.passed_over.iter().map(|other| (&*other.kind, other.span.line)).collect();
    assert_eq!(kinds, [("ConfigMap", 7), ("PeerAuthentication", 9), ("document without a kind", 11)]);
}

#[test]
fn files_have_names_of_their_own() {
    let names: Vec<_> = done(format!(
        "{}{}{}",
        policy("name: c, namespace: a-b", ""),
        policy("name: b-c, namespace: a", ""),
        policy("name: allow, namespace: default", "")
    ))
    .files
    .iter()
    .map(|file| file.name.to_string())
    .collect();
    assert_eq!(names, ["a-b-c.cedar", "a-b-c-2.cedar", "default-allow-2.cedar"]);
}

/// What decides nothing in Istio must decide nothing here.
#[test]
fn audits_and_dry_runs_are_left_out() {
    let rules = "rules: [{}]";
    for (meta, spec) in [
        ("name: x", format!("action: AUDIT, {rules}")),
        ("name: x, annotations: {istio.io/dry-run: 'true'}", rules.to_owned()),
        ("name: x, annotations: {istio.io/dry-run: 'T'}", format!("action: DENY, {rules}")),
        ("name: x, annotations: {istio.io/dry-run: '1'}", format!("action: CUSTOM, provider: {{name: y}}, {rules}")),
    ] {
        let import = done(policy(meta, &spec));
        assert_eq!(import.report.policies[0].outcome, Outcome::Not);
        assert!(
            !import.files[0].text.contains("permit") && !import.files[0].text.contains("forbid"),
            "{}",
            import.files[0].text
        );
    }
    let enforced = done(policy("name: x, annotations: {istio.io/dry-run: 'false'}", rules));
    assert!(enforced.files[0].text.contains("permit"));
}

/// An authorizer that is not asked must not be one that says yes.
#[test]
fn what_an_authorizer_would_be_asked_about_is_denied() {
    let spec = "action: CUSTOM, provider: {name: opa}, rules: [{to: [{operation: {paths: ['/admin*']}}]}]";
    let import = done(policy("name: x", spec));
    assert_eq!(import.report.policies[0].outcome, Outcome::Part);
    assert!(
        import.files[0].text.contains("forbid") && import.files[0].text.contains("/admin*"),
        "{}",
        import.files[0].text
    );
}

/// A part of the workloads of one name has no name here.
#[test]
fn labels_that_name_no_service() {
    let of = |action: &str, labels: &str, namespace: &str| {
        let spec = format!("action: {action}, selector: {{matchLabels: {{{labels}}}}}, rules: [{{}}]");
        let import = done(policy(&format!("name: x, namespace: {namespace}"), &spec));
        let text = import.files[0].text.lines().filter(|line| !line.starts_with("//")).collect::<String>();
        (text, import.report.policies[0].outcome)
    };
    let service = "resource == Service::\"prod/x\"";
    assert_eq!(
        of("ALLOW", "app: x", "prod"),
        (format!("permit (principal, action == Action::\"call\", {service});"), Outcome::Full)
    );
    let alone = of("ALLOW", "app: x, version: v1", "prod");
    assert_eq!(
        of("DENY", "app: x, version: v1", "prod"),
        (format!("forbid (principal, action == Action::\"call\", {service});"), Outcome::Part)
    );
    assert!(
        alone.0.contains(service) && alone.1 == Outcome::Part,
        "the other versions are open to everyone: {alone:?}"
    );
    assert_eq!(of("ALLOW", "version: v1", "prod").1, Outcome::Not);
    let (text, outcome) = of("DENY", "version: v1", "prod");
    assert!(text.contains("resource in Namespace::\"prod\"") && outcome == Outcome::Part, "{text}");
    let (text, outcome) = of("DENY", "app: x", "istio-system");
    assert!(text.contains("resource.name == \"x\"") && outcome == Outcome::Full, "{text}");
    let (text, outcome) = of("DENY", "version: v1", "istio-system");
    assert!(
        text.starts_with("forbid (principal, action == Action::\"call\", resource);") && outcome == Outcome::Part,
        "{text}"
    );
    assert_eq!(of("ALLOW", "app: x, app.kubernetes.io/name: x", "prod").1, Outcome::Full);
    assert_eq!(of("ALLOW", "app: x, app.kubernetes.io/name: y", "prod").1, Outcome::Part);
}

/// Another ALLOW policy closes the other part of the workloads, and then the rules for one part would open the other.
#[test]
fn a_part_of_a_service_is_all_of_it_only_where_the_rest_is_open() {
    let one = |name: &str, namespace: &str, selector: &str| {
        policy(&format!("name: {name}, namespace: {namespace}"), &format!("{selector} rules: [{{}}]"))
    };
    let v1 = |name: &str| one(name, "prod", "selector: {matchLabels: {app: x, version: v1}},");
    let outcome = |other: String| done(format!("{}{other}", v1("a"))).report.policies[0].outcome;
    assert_eq!(outcome(String::new()), Outcome::Part);
    assert_eq!(outcome(v1("b")), Outcome::Part);
    assert_eq!(outcome(one("b", "prod", "selector: {matchLabels: {app: y}},")), Outcome::Part);
    assert_eq!(outcome(one("b", "dev", "")), Outcome::Part);
    assert_eq!(outcome(one("b", "prod", "action: DENY,")), Outcome::Part);
    for labels in ["", "app: x", "app: x, version: v2", "tier: z"] {
        let closing = format!("selector: {{matchLabels: {{{labels}}}}},");
        assert_eq!(outcome(one("b", "prod", &closing)), Outcome::Not, "{closing}");
        assert_eq!(outcome(one("b", "istio-system", &closing)), Outcome::Not, "{closing}");
    }
    assert_eq!(outcome(one("b", "istio-system", "targetRefs: [{kind: GatewayClass, name: w}],")), Outcome::Not);
}

#[test]
fn targets_are_services_or_told() {
    let of = |action: &str, target: &str| {
        let import = done(policy(
            "name: x, namespace: prod",
            &format!("action: {action}, targetRefs: [{target}], rules: [{{}}]"),
        ));
        let written = import.files[0].text.contains("Service::\"prod/x\"");
        (written, import.report.policies[0].outcome)
    };
    assert_eq!(of("ALLOW", "{kind: Service, group: '', name: x}"), (true, Outcome::Full));
    assert_eq!(of("DENY", "{kind: Service, group: core, name: x}"), (true, Outcome::Full));
    for target in [
        "{kind: Gateway, group: gateway.networking.k8s.io, name: g}",
        "{kind: ServiceEntry, name: e}",
        "{kind: Service, group: x, name: x}",
    ] {
        assert_eq!(of("ALLOW", target), (false, Outcome::Not), "{target}");
        assert_eq!(of("DENY", target), (false, Outcome::Not), "{target}");
        assert_eq!(of("ALLOW", &format!("{{kind: Service, name: x}}, {target}")), (false, Outcome::Not), "{target}");
        assert_eq!(of("DENY", &format!("{{kind: Service, name: x}}, {target}")), (true, Outcome::Part), "{target}");
    }
}

/// Only where TCP can be, it is thought of.
#[test]
fn rules_of_http_and_connections_of_tcp() {
    let mut intent = testing::intent(&["prod/x", "prod/y"]);
    let text = |spec: &str, intent: Option<&weft_model::Intent>| {
        let import =
            import(&file(policy("name: p, namespace: prod", spec)), &Options::default(), intent).expect("imported");
        import.files[0].text.clone()
    };
    let not_paths = "rules: [{to: [{operation: {notPaths: [/admin]}}]}]";
    let methods = "action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]";
    assert!(!text(not_paths, Some(&intent)).contains("TCP"));
    assert!(!text(methods, Some(&intent)).contains("TCP"));
    assert!(text(not_paths, None).contains("context.protocol != \"TCP\""));
    assert!(text(methods, None).contains("context.protocol == \"TCP\" || context.method == \"GET\""));
    intent.services.get_mut(&testing::name("prod/y")).expect("there").protocol = weft_model::intent::Protocol::Tcp;
    assert!(text(not_paths, Some(&intent)).contains("context.protocol != \"TCP\""));
    assert!(text(methods, Some(&intent)).contains("context.protocol == \"TCP\" || context.method == \"GET\""));
    // Without a method no method is matched, so nothing has to be said.
    assert!(!text("rules: [{to: [{operation: {methods: [GET]}}]}]", None).contains("TCP"));
}

#[test]
fn hundreds_of_patterns_are_several_policies() {
    let paths = |count: usize| (0..count).map(|n| format!("'/p{n}/*'")).collect::<Vec<_>>().join(", ");
    let many = done(policy(
        "name: x",
        &format!("rules: [{{to: [{{operation: {{methods: [GET], paths: [{}]}}}}]}}]", paths(700)),
    ));
    assert_eq!(many.report.policies[0].outcome, Outcome::Full);
    assert_eq!(many.files[0].text.matches("permit (").count(), 4);
    let not = |action| {
        done(policy(
            "name: x",
            &format!("action: {action}, rules: [{{to: [{{operation: {{notPaths: [{}]}}}}]}}]", paths(700)),
        ))
    };
    assert_eq!(not("ALLOW").report.policies[0].outcome, Outcome::Not);
    let deny = not("DENY");
    assert_eq!(deny.report.policies[0].outcome, Outcome::Part);
    assert!(
        deny.files[0]
            .text
            .ends_with("forbid (principal, action == Action::\"call\", resource in Namespace::\"default\");\n")
    );
}

/// Names of files go into comments, and a comment ends with its line.
#[test]
fn a_comment_stays_a_comment() {
    let input = crate::Input {
        path: "a\npermit(principal, action, resource);\u{85}.yaml".into(),
        text: policy(
            "name: x",
            "selector: {matchLabels: {\"a\\npermit(principal, action, resource);\": b}}, action: DENY, rules: [{\"c\\npermit(principal,action,resource);\": 1}]",
        ),
    };
    let import = import(&[input], &Options::default(), None).expect("imported");
    let code: Vec<_> =
        import.files[0].text.lines().filter(|line| !line.starts_with("//") && !line.is_empty()).collect();
    assert_eq!(code, ["forbid (principal, action == Action::\"call\", resource in Namespace::\"default\");"]);
    assert!(!import.report.to_text().contains('\u{85}'));
}

#[test]
fn what_is_open_in_istio_is_told_and_written_if_wanted() {
    let text = format!(
        "{}{}{}{}",
        policy("name: a, namespace: one", "action: DENY, rules: [{to: [{operation: {methods: [PUT]}}]}]"),
        policy("name: b, namespace: two", "selector: {matchLabels: {app: x}}, rules: [{}]"),
        policy("name: c, namespace: three", ""),
        policy("name: d, namespace: four", "selector: {matchLabels: {version: v1}}"),
    );
    let told = done(text.clone());
    assert!(
        told.report.notes[0].starts_with("no ALLOW policy is for the services of one, two (but x): "),
        "{:?}",
        told.report.notes
    );
    assert_eq!(told.files.len(), 4);
    let options = Options { default_allow: true, ..Options::default() };
    let written = import(&file(text.clone()), &options, None).expect("imported");
    insta::assert_snapshot!(written.files[4].text);
    let root = format!("{text}{}", policy("name: e, namespace: istio-system", ""));
    assert_eq!(import(&file(root), &options, None).expect("imported").files.len(), 5, "everything has an ALLOW policy");
    let intent = testing::intent(&["one/a", "two/x", "five/z"]);
    let told = import(&file(text), &Options::default(), Some(&intent)).expect("imported");
    assert!(
        told.report.notes[0].starts_with("no ALLOW policy is for the services of five, one: "),
        "{:?}",
        told.report.notes
    );
}
