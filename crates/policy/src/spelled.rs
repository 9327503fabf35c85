//! Rules on paths that hold of one spelling, where the app takes several for the same: what `weft check` points at.

use cedar_policy::Effect;
use serde_json::Value;
use weft_model::intent::{Case, Intent, Slashes};
use weft_model::{Finding, Severity};

use crate::scope::Universe;
use crate::source::Source;
use crate::{context, path};

/// Adds the warnings.
pub(crate) fn warn(intent: &Intent, universe: &Universe, sources: &[Source], findings: &mut Vec<Finding>) {
    kept_slashes(intent, universe, sources, findings);
    for source in sources.iter().filter(|source| source.origin.is_some()) {
        let conditions = source.conditions();
        one_path(source, &conditions, findings);
        capitals(intent, universe, source, &conditions, findings);
    }
}

/// A service that tells `//x` from `/x`, and has rules on paths: whoever wrote those may not have thought of both.
fn kept_slashes(intent: &Intent, universe: &Universe, sources: &[Source], findings: &mut Vec<Finding>) {
    if intent.services.values().all(|service| service.paths.slashes == Slashes::Merge) {
        return;
    }
    let reads_path = |source: &&Source| context::reads(&source.policy, &intent.mesh.policy).has_path();
    let rules: Vec<_> =
        sources.iter().filter(reads_path).map(|rule| (rule, universe.resources(&rule.policy))).collect();
    for (index, service) in intent.services.values().enumerate() {
        if service.paths.slashes == Slashes::Merge {
            continue;
        }
        let Some((rule, _)) = rules.iter().find(|(_, callees)| callees.contains(index)) else { continue };
        findings.push(Finding {
            code: "WEFT0210",
            severity: Severity::Warning,
            message: format!(
                "{} keeps `//` in paths, and {}:{} is a rule on paths",
                service.name, rule.file, rule.line
            ),
            hint: "a call is allowed only if its path is allowed as it is and with one `/` for several; see \
                   docs/reference/paths.md"
                .to_owned(),
            span: Some(service.span.clone()),
        });
    }
}

/// A `forbid` of single paths: many an app has more than one for the same.
fn one_path(source: &Source, conditions: &Value, findings: &mut Vec<Finding>) {
    if source.policy.effect() != Effect::Forbid {
        return;
    }
    let mut paths = Vec::new();
    for condition in conditions.as_array().into_iter().flatten().filter(|condition| condition["kind"] == "when") {
        demanded(&condition["body"], &mut paths);
    }
    // What else is said of the path may well be what is missing.
    let Some(path) = paths.first().filter(|_| paths.len() == mentions(conditions)) else { return };
    findings.push(Finding {
        code: "WEFT0218",
        severity: Severity::Warning,
        message: format!(
            "this forbid is for `{path}` alone, and not for what an app may take for the same or has below it"
        ),
        hint: format!("forbid all of it: {}; see docs/reference/paths.md", below(path)),
        span: Some(source.span(source.text.find(&format!("\"{path}\"")).unwrap_or(0))),
    });
}

/// The condition that holds for a path and all that has more segments.
fn below(path: &str) -> String {
    let depth = path.matches('/').count();
    match path.trim_end_matches('/') {
        trimmed if (1..=8).contains(&depth) && trimmed.len() == path.len() => {
            format!("`context has first{depth} && context.first{depth} == \"{path}\"`")
        }
        trimmed => format!("`context.path like \"{trimmed}*\"`"),
    }
}

/// The paths that a condition asks for, where it is true for no other: reached by `&&` and `||` alone.
fn demanded<'a>(expression: &'a Value, out: &mut Vec<&'a str>) {
    for (operator, operands) in expression.as_object().into_iter().flatten() {
        let (left, right) = (&operands["left"], &operands["right"]);
        match operator.as_str() {
            "&&" | "||" => [left, right].into_iter().for_each(|side| demanded(side, out)),
            "==" => {
                for (one, other) in [(left, right), (right, left)] {
                    out.extend(other["Value"].as_str().filter(|_| of_context(one) == Some("path")));
                }
            }
            _ => {}
        }
    }
}

/// How often a policy mentions the path, in whatever form.
fn mentions(expression: &Value) -> usize {
    let own = usize::from(of_context(expression).is_some_and(is_of_path));
    let has =
        expression["has"]["left"]["Var"] == "context" && expression["has"]["attr"].as_str().is_some_and(is_of_path);
    let inner: usize = match expression {
        Value::Array(items) => items.iter().map(mentions).sum(),
        Value::Object(members) => members.values().map(mentions).sum(),
        _ => 0,
    };
    own + usize::from(has) + inner
}

/// Where paths are asked about in lower case, and a rule has capitals.
fn capitals(intent: &Intent, universe: &Universe, source: &Source, conditions: &Value, findings: &mut Vec<Finding>) {
    let callees = universe.resources(&source.policy);
    let mut ignoring = intent.services.values().enumerate().filter(|(_, service)| service.paths.case == Case::Ignore);
    let Some((_, service)) = ignoring.find(|(index, _)| callees.contains(*index)) else { return };
    let mut texts = Vec::new();
    compared(conditions, &mut texts);
    let Some(text) = texts.iter().find(|text| path::lower_case(text) != **text) else { return };
    findings.push(Finding {
        code: "WEFT0219",
        severity: Severity::Warning,
        message: format!(
            "{} ignores case, so its paths are asked about in lower case, and this rule has `{text}`",
            service.name
        ),
        hint: format!("write `{}`", path::lower_case(text)),
        span: Some(source.span(source.text.find(&**text).unwrap_or(0))),
    });
}

/// Texts that something of the path is compared with.
fn compared(expression: &Value, out: &mut Vec<String>) {
    match expression {
        Value::Array(items) => items.iter().for_each(|item| compared(item, out)),
        Value::Object(members) => {
            for (operator, operands) in members {
                let (left, right) = (&operands["left"], &operands["right"]);
                let about = |side: &Value| of_context(side).is_some_and(is_of_path);
                match operator.as_str() {
                    "==" | "!=" => {
                        for (one, other) in [(left, right), (right, left)] {
                            out.extend(other["Value"].as_str().filter(|_| about(one)).map(str::to_owned));
                        }
                    }
                    "contains" if about(right) => {
                        let items = [&left["Set"], &left["Value"]].into_iter().filter_map(Value::as_array).flatten();
                        out.extend(
                            items.filter_map(|item| item["Value"].as_str().or(item.as_str())).map(str::to_owned),
                        );
                    }
                    "like" if about(left) => {
                        let pieces = operands["pattern"].as_array().into_iter().flatten();
                        out.push(pieces.map(|piece| piece["Literal"].as_str().unwrap_or("*")).collect());
                    }
                    _ => {}
                }
                compared(operands, out);
            }
        }
        _ => {}
    }
}

fn of_context(expression: &Value) -> Option<&str> {
    let access = &expression["."];
    access["attr"].as_str().filter(|_| access["left"]["Var"] == "context")
}

fn is_of_path(attribute: &str) -> bool {
    attribute == "path" || attribute.starts_with("first") || attribute.starts_with("segment") || attribute == "depth"
}

#[cfg(test)]
mod tests {
    use weft_model::intent::Caller;

    use super::*;
    use crate::check::check;
    use crate::testing;

    fn told(policy: &str, case: Case) -> Vec<String> {
        let mut intent = testing::intent(&["prod/web", "prod/board"]);
        intent.services.get_mut(&testing::name("prod/board")).expect("it is there").paths.case = case;
        testing::allow(&mut intent, "prod/board", Caller::Anyone, Vec::new());
        testing::policies(&mut intent, policy);
        check(&intent).iter().map(|finding| format!("{finding} {}", finding.hint)).collect()
    }

    #[test]
    fn a_forbid_of_single_paths_is_pointed_at() {
        let with =
            |conditions: &str| told(&format!("forbid(principal, action, resource) {conditions};"), Case::Sensitive);
        for alone in [
            "when { context.path == \"/admin/users\" }",
            "when { context.method == \"GET\" && (context.path == \"/a\" || \"/b\" == context.path) }",
            "when { context.path == \"/a\" } unless { principal.name == \"web\" }",
        ] {
            let told = with(alone);
            assert!(told.len() == 1 && told[0].contains("WEFT0218"), "{alone}: {told:?}");
        }
        assert!(with("when { context.path == \"/admin/users\" }")[0].contains("context.first2 == \"/admin/users\""));
        for more in [
            "unless { context.path == \"/open\" }",
            "when { !(context.path == \"/open\") }",
            "when { context.path != \"/open\" }",
            "when { context.path == \"/admin\" || context.path like \"/admin/*\" }",
            "when { context has first1 && context.first1 == \"/admin\" }",
            "when { context.path == \"/x\" && context has first1 }",
            "when { context.method == \"PUT\" }",
        ] {
            assert_eq!(with(more), [""; 0], "{more}");
        }
        let permit = "permit(principal == Service::\"prod/web\", action, resource) when { context.path == \"/a\" };";
        assert!(told(permit, Case::Sensitive).iter().all(|told| !told.contains("WEFT0218")));
    }

    #[test]
    fn capitals_are_pointed_at_where_case_is_ignored() {
        let rule = |condition: &str| format!("forbid(principal, action, resource) when {{ {condition} }};");
        for capital in [
            "context.path like \"/Admin/*\"",
            "context has first1 && [\"/a\", \"/B\"].contains(context.first1)",
            "context has segment1 && context.segment1 == \"X\"",
        ] {
            let ignored = told(&rule(capital), Case::Ignore);
            assert!(ignored.len() == 1 && ignored[0].contains("WEFT0219"), "{capital}: {ignored:?}");
            assert_eq!(told(&rule(capital), Case::Sensitive), [""; 0]);
        }
        let other = told(&rule("context.path like \"/a%2Fb/*\" && context.host == \"X\""), Case::Ignore);
        assert!(other.iter().all(|told| !told.contains("WEFT0219")), "{other:?}");
    }
}
