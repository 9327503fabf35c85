//! What is wrong with the policies of an intent, all of it at once: syntax, types against the schema, names that do not exist,
//! values outside of the vocabulary.

use std::collections::{BTreeSet, HashMap, HashSet};

use cedar_policy::{EntityUid, PolicySet, Schema, ValidationMode, Validator};
use miette::Diagnostic;
use serde_json::Value;
use weft_model::intent::{Intent, Mesh};
use weft_model::{Finding, PLAIN_TEXT, Severity, SpiffeId, TrustDomain};

use crate::scope::Universe;
use crate::source::{SHADOW, Source};
use crate::{bound, covered, entities, never, plain_text, read, schema, scope, spelled, together, unheard, users};

/// What Cedar says to whoever compares a number with a text, and what helps.
const CEDAR_ON_TYPES: &str = "Types must be exactly equal to be compatible";
const OUR_WORDS: &str = "docs/reference/policy.md lists what has which type";

/// Everything that a check finds in the policies: `.cedar` files and `access` entries.
pub fn check(intent: &Intent) -> Vec<Finding> {
    bound::with_stack(|| read_and_check_here(intent, true)).1
}

/// The policies and the findings, but for mere advice.
pub(crate) fn read_and_check(intent: &Intent) -> (Vec<Source>, Vec<Finding>) {
    bound::with_stack(|| read_and_check_here(intent, false))
}

fn read_and_check_here(intent: &Intent, with_advice: bool) -> (Vec<Source>, Vec<Finding>) {
    let mut findings = Vec::new();
    let sources = read::policies(intent, &mut findings);
    // A policy made from an `access` entry is valid by construction (a property test says so).
    let written: Vec<&Source> = sources.iter().filter(|source| source.origin.is_some()).collect();
    let mut told = HashSet::new();
    if reserved_attributes(&intent.mesh, &mut findings) {
        let (of_glass, of_calls): (Vec<_>, Vec<_>) =
            written.iter().copied().partition(|source| scope::concerns_break_glass(&source.policy));
        told = validate(schema::of(&intent.mesh), &of_calls, &mut findings);
        told.extend(validate(schema::of_glass(&intent.mesh), &of_glass, &mut findings));
    }
    let names = Names::of(intent);
    for source in written {
        names.check(source, &mut findings);
        shadow_is_said(source, &mut findings);
        vocabulary(&intent.mesh, source, &mut findings);
    }
    if with_advice {
        advise(intent, &sources, &told, &mut findings);
    }
    findings.sort_by(|a, b| (a.severity, &a.span).cmp(&(b.severity, &b.span)));
    (sources, findings)
}

/// What is legal, and hardly meant. `told` are the policies of which Cedar has something to say.
fn advise(intent: &Intent, sources: &[Source], told: &HashSet<String>, findings: &mut Vec<Finding>) {
    let roles = scope::roles_of_services(intent);
    let services: Vec<_> =
        intent.services.keys().map(|name| (name, roles.get(name).map_or(&[][..], |roles| &roles[..]))).collect();
    let foreign = scope::foreign_callers(sources.iter().map(|source| &source.policy));
    let universe = Universe::new(services.iter().copied(), &foreign);
    unheard::warn(intent, &universe, sources, findings);
    together::warn(sources, findings);
    let of_calls: Vec<Source> =
        sources.iter().filter(|source| !scope::concerns_break_glass(&source.policy)).cloned().collect();
    let sources = &of_calls[..];
    spelled::warn(intent, &universe, sources, findings);
    plain_text::warn(intent, &universe, sources, findings);
    users::warn(sources, findings);
    // Where something is wrong, it says too little of what it is for.
    if findings.iter().all(|finding| finding.severity != Severity::Error) {
        never::warn(intent, &roles, &universe, &foreign, sources, told, findings);
        covered::warn(&services, sources, findings);
    }
}

/// False if an attribute of the mesh has the name of one that every service has.
fn reserved_attributes(mesh: &Mesh, findings: &mut Vec<Finding>) -> bool {
    let reserved = mesh.attributes.keys().filter(|name| schema::BUILT_IN.contains(&&***name));
    let before = findings.len();
    findings.extend(reserved.map(|name| Finding {
        code: "WEFT0206",
        severity: Severity::Error,
        message: format!("the attribute `{name}` has the name of an attribute that every service has"),
        hint: format!("choose a name other than {}", schema::BUILT_IN.join(", ")),
        span: Some(mesh.span.clone()),
    }));
    findings.len() == before
}

/// Cedar's word on the policies, and the ids of those that it has something to say of.
fn validate(schema: Schema, written: &[&Source], findings: &mut Vec<Finding>) -> HashSet<String> {
    let by_id: HashMap<&str, &Source> = written.iter().map(|source| (&*source.id, *source)).collect();
    let set = PolicySet::from_policies(written.iter().map(|source| source.policy.clone())).expect("ids are unique");
    let result = Validator::new(schema).validate(&set, ValidationMode::Strict);
    let report = |code, severity, id: &cedar_policy::PolicyId, diagnostic: &dyn Diagnostic| {
        let source = by_id.get(AsRef::<str>::as_ref(id))?;
        let plain = |text: String| text.strip_prefix(&format!("for policy `{id}`, ")).unwrap_or(&text).to_owned();
        let hint = diagnostic.help().map(|help| plain(help.to_string()).replace(CEDAR_ON_TYPES, OUR_WORDS));
        Some(Finding {
            code,
            severity,
            message: plain(diagnostic.to_string()),
            hint: hint
                .unwrap_or_else(|| "docs/reference/policy.md lists what a policy can read, with types".to_owned()),
            span: Some(source.span(read::label(diagnostic).unwrap_or(0).saturating_sub(source.parsed_at))),
        })
    };
    let wrong: HashSet<_> = result.validation_errors().map(|error| error.policy_id()).collect();
    findings.extend(
        result.validation_errors().filter_map(|error| report("WEFT0202", Severity::Error, error.policy_id(), error)),
    );
    // A policy that is wrong is often impossible for the same reason; once is enough.
    let warnings = result.validation_warnings().filter(|warning| !wrong.contains(warning.policy_id()));
    findings.extend(warnings.filter_map(|warning| report("WEFT0208", Severity::Warning, warning.policy_id(), warning)));
    let told = result.validation_errors().map(|error| error.policy_id());
    told.chain(result.validation_warnings().map(|warning| warning.policy_id())).map(ToString::to_string).collect()
}

/// Every entity that a policy may name.
struct Names {
    trust_domains: BTreeSet<TrustDomain>,
    own_domain: TrustDomain,
    known: HashMap<&'static str, BTreeSet<String>>,
}

impl Names {
    fn of(intent: &Intent) -> Self {
        let services = intent.services.keys();
        Self {
            trust_domains: intent.trust_domains.keys().cloned().collect(),
            own_domain: intent.mesh.trust_domain.clone(),
            known: HashMap::from([
                ("Service", services.clone().map(ToString::to_string).chain([PLAIN_TEXT.to_owned()]).collect()),
                ("Namespace", services.map(|name| name.namespace().to_owned()).collect()),
                ("Role", intent.roles.keys().map(ToString::to_string).collect()),
                ("Operator", intent.operators.keys().map(ToString::to_string).collect()),
                ("Mesh", BTreeSet::from([intent.mesh.name.to_string()])),
            ]),
        }
    }

    /// A name that does not exist makes a policy that never applies, which nobody means to write.
    fn check(&self, source: &Source, findings: &mut Vec<Finding>) {
        let unknown: BTreeSet<EntityUid> =
            source.policy.entity_literals().into_iter().filter(|uid| !self.knows(uid)).collect();
        for uid in unknown {
            let (kind, name) = (uid.type_name().to_string(), uid.id().unescaped());
            if let Some(id) = entities::as_foreign(&uid) {
                findings.push(self.foreign(source, &id));
                continue;
            }
            let hint = match self.known.get(kind.as_str()).and_then(|known| nearest(name, known)) {
                Some(near) => format!("did you mean {kind}::\"{near}\"?"),
                None => format!(
                    "declare a {} document for it, or remove the policy",
                    if ["Role", "Operator"].contains(&&*kind) { &*kind } else { "Service" }
                ),
            };
            findings.push(Finding {
                code: "WEFT0204",
                severity: Severity::Error,
                message: format!("{uid} does not exist in this mesh"),
                hint,
                span: Some(source.span(place_of(source, name))),
            });
        }
    }

    /// What to say of an identity that is none of another trust domain, or of one that nobody declares.
    fn foreign(&self, source: &Source, id: &SpiffeId) -> Finding {
        let domain = id.trust_domain();
        let hint = match (domain == self.own_domain, id.service()) {
            (true, Some(service)) => format!("write Service::\"{service}\": services of the mesh have their names"),
            (true, None) => "name a service of the mesh, like Service::\"prod/web\"".to_owned(),
            (false, _) => format!("declare it with `kind: TrustDomain`, `name: {domain}`, or remove the policy"),
        };
        Finding {
            code: "WEFT0204",
            severity: Severity::Error,
            message: format!("Service::\"{id}\" does not exist in this mesh"),
            hint,
            span: Some(source.span(place_of(source, id.as_str()))),
        }
    }

    fn knows(&self, uid: &EntityUid) -> bool {
        if let Some(id) = entities::as_foreign(uid) {
            return self.trust_domains.contains(&id.trust_domain());
        }
        // Types and actions are the validator's business.
        self.known.get(uid.type_name().to_string().as_str()).is_none_or(|known| known.contains(uid.id().unescaped()))
    }
}

/// `@shadow` has no value, and what is almost its name is meant to be it: Cedar itself takes any annotation, and the policy would be enforced.
fn shadow_is_said(source: &Source, findings: &mut Vec<Finding>) {
    for (name, value) in source.policy.annotations() {
        let is_it = name == SHADOW;
        let is_meant = is_it || is_almost_shadow(&name.to_ascii_lowercase());
        if !is_meant || is_it && value.is_empty() {
            continue;
        }
        findings.push(Finding {
            code: "WEFT0217",
            severity: Severity::Error,
            message: match is_it {
                true => format!("`@shadow` has no value, and this one has \"{value}\""),
                false => format!("`@{name}` is almost `@shadow`, and the policy is enforced"),
            },
            hint: "write `@shadow` for a policy that is only logged, and nothing for one that is enforced".to_owned(),
            span: Some(source.span(source.text.find(&format!("@{name}")).unwrap_or(0))),
        });
    }
}

/// A letter too many, too few or another one, letters in another order, or a form of the word.
fn is_almost_shadow(name: &str) -> bool {
    let sorted = |text: &str| {
        let mut letters: Vec<char> = text.chars().collect();
        letters.sort_unstable();
        letters
    };
    distance(name, SHADOW) <= 1 || name.starts_with(SHADOW) || sorted(name) == sorted(SHADOW)
}

/// Comparisons of an attribute with a value that no service can have.
fn vocabulary(mesh: &Mesh, source: &Source, findings: &mut Vec<Finding>) {
    let (form, mut comparisons) = (source.conditions(), BTreeSet::new());
    compared(&form, &mut comparisons);
    for (attribute, value) in comparisons {
        let Some(legal) = mesh.attributes.get(attribute) else { continue };
        if !legal.iter().any(|known| **known == *value) {
            findings.push(Finding {
                code: "WEFT0205",
                severity: Severity::Warning,
                message: format!("`{attribute}` is never \"{value}\""),
                hint: format!("Mesh.attributes lists its values: {}", legal.join(", ")),
                span: Some(source.span(place_of(source, value))),
            });
        }
    }
}

/// Pairs of an attribute of a service and a string that it is compared with.
fn compared<'a>(expression: &'a Value, out: &mut BTreeSet<(&'a str, &'a str)>) {
    match expression {
        Value::Array(items) => items.iter().for_each(|item| compared(item, out)),
        Value::Object(members) => {
            for (operator, operands) in members {
                let (left, right) = (&operands["left"], &operands["right"]);
                match operator.as_str() {
                    "==" | "!=" => {
                        for (one, other) in [(left, right), (right, left)] {
                            out.extend(attribute_of_service(one).zip(other["Value"].as_str()));
                        }
                    }
                    "contains" => {
                        let values =
                            left["Set"].as_array().into_iter().flatten().filter_map(|item| item["Value"].as_str());
                        let plain = left["Value"].as_array().into_iter().flatten().filter_map(Value::as_str);
                        out.extend(
                            attribute_of_service(right)
                                .into_iter()
                                .flat_map(|name| values.clone().chain(plain.clone()).map(move |value| (name, value))),
                        );
                    }
                    _ => {}
                }
                compared(operands, out);
            }
        }
        _ => {}
    }
}

fn attribute_of_service(expression: &Value) -> Option<&str> {
    let access = &expression["."];
    access["attr"].as_str().filter(|_| access["left"]["Var"] != "context")
}

/// Where a string literal stands in the policy's text; its start if it is written with escapes.
fn place_of(source: &Source, literal: &str) -> usize {
    source.text.find(&format!("\"{literal}\"")).unwrap_or(0)
}

/// The known name that differs in at most two letters, if there is one.
fn nearest<'a>(name: &str, known: &'a BTreeSet<String>) -> Option<&'a String> {
    known
        .iter()
        .map(|candidate| (distance(name, candidate), candidate))
        .min()
        .filter(|(far, _)| *far <= 2)
        .map(|(_, near)| near)
}

/// Levenshtein distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use weft_model::intent::{Allow, Caller, Slashes};

    use super::*;
    use crate::testing;

    fn findings(policies: &str) -> String {
        let mut intent = testing::intent(&["prod/web", "prod/board", "staging/web"]);
        intent.mesh = testing::mesh(&[("sensitivity", &["low", "high"])]);
        let web = intent.services.get_mut(&testing::name("prod/web")).expect("it is there");
        web.attributes.insert("sensitivity".into(), "low".into());
        testing::policies(&mut intent, policies);
        check(&intent)
            .iter()
            .map(|finding| format!("{:?} {finding}\n    {}\n", finding.severity, finding.hint))
            .collect()
    }

    #[test]
    fn a_good_file_has_no_findings() {
        let good = r#"
            // Comments; stay.
            @id("x") permit(principal in Namespace::"prod", action == Action::"call", resource == Service::"prod/board")
            when { principal has sensitivity && principal.sensitivity == "low" && context.path like "/api/*" }
            unless { context has sourceIp && context.sourceIp.isInRange(ip("10.0.0.0/8")) };
            forbid(principal is Service, action, resource) when { principal.namespace != resource.namespace };
        "#;
        assert_eq!(findings(good), "");
    }

    #[test]
    fn every_mistake_is_found_at_its_place() {
        insta::assert_snapshot!(findings(
            r#"permit(principal, action == Action::"call", resource) when { principal.colour == "red" };
permit(principal, action, resource) when { context.path = "/x" };
  forbid(principal == ?principal, action, resource);
permit(principal == Service::"prod/wbe", action == Action::"call", resource in Role::"nobody");
permit(principal, action == Action::"cal", resource);
forbid(principal, action == Action::"call", resource)
  when { resource.sensitivity == "high" };
forbid(principal, action == Action::"call", resource)
  when { resource has sensitivity && ["hihg", "low"].contains(resource.sensitivity) };
permit(principal, action == Action::"call", resource) when { context.depth == "3" };
permit(principal, action == Action::"call", resource) when { context.sourceIp.isInRange(ip("10.0.0.0/8")) };
permit(principal, action == Action::"call", resource) when { context.depth == 1 && context.depth == "é" }; forbid(principle, action, resource);
permit(principal, action, resource)"#
        ));
    }

    #[test]
    fn a_wrong_access_entry_is_found_with_the_others() {
        let mut intent = testing::intent(&["prod/web", "prod/board"]);
        let allow = |path: &str| Allow { method: None, path: path.into() };
        testing::allow(&mut intent, "prod/board", Caller::Anyone, vec![allow("/a*"), allow("/ok"), allow("/**/x")]);
        testing::policies(&mut intent, "permit(principal, action, resource) when { 1 };");
        let codes: Vec<_> = check(&intent).iter().map(|finding| finding.code).collect();
        assert_eq!(codes, ["WEFT0202", "WEFT0207", "WEFT0207"]);
    }

    #[test]
    fn rules_on_paths_of_a_service_that_keeps_slashes_are_pointed_at() {
        let codes = |policy: &str, entry: Option<&str>| {
            let mut intent = testing::intent(&["prod/web", "prod/board", "prod/other"]);
            intent.services.get_mut(&testing::name("prod/board")).expect("it is there").paths.slashes = Slashes::Keep;
            testing::policies(&mut intent, policy);
            let allow = |path: &str| Allow { method: None, path: path.into() };
            testing::allow(&mut intent, "prod/board", Caller::Anyone, entry.map(allow).into_iter().collect());
            check(&intent).iter().map(|finding| finding.code).collect::<Vec<_>>()
        };
        let on_path =
            |resource: &str| format!("permit(principal, action, {resource}) when {{ context.path like \"/a*\" }};");
        assert_eq!(codes("", None), [""; 0]);
        assert_eq!(codes("", Some("/**")), [""; 0]);
        assert_eq!(codes("", Some("/a/**")), ["WEFT0210"]);
        assert_eq!(codes(&on_path("resource"), None), ["WEFT0210"]);
        assert_eq!(codes(&on_path("resource == Service::\"prod/other\""), None), [""; 0]);
        assert_eq!(codes("forbid(principal, action, resource) when { context.method == \"PUT\" };", None), [""; 0]);
    }

    #[test]
    fn an_attribute_cannot_take_a_built_in_name() {
        let mut intent = testing::intent(&["prod/web"]);
        intent.mesh = testing::mesh(&[("namespace", &["x"])]);
        assert_eq!(check(&intent)[0].code, "WEFT0206");
    }
}
