//! Comparisons of one thing that are never true at once (`hour >= 22 && hour < 6`), or of which one always is (`hour >= 6 || hour < 22`):
//! mostly what was meant is the other word between them.

use serde_json::Value;
use weft_model::{Finding, Severity};

use crate::comparison::{Comparison, With, compared, holds};
use crate::source::Source;
use crate::unheard::range;

/// Comparisons beside each other that are looked at in pairs, at most.
const PAIRED_MAX: usize = 100;

/// The words between operands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    And,
    Or,
}

/// Adds the warnings.
pub(crate) fn warn(sources: &[Source], findings: &mut Vec<Finding>) {
    for source in sources.iter().filter(|source| source.origin.is_some()) {
        let form = source.conditions();
        let conditions = form.as_array().map_or(&[][..], |conditions| &conditions[..]);
        let mut pairs = Vec::new();
        // Several `when` are one with `&&` between.
        let (when, unless): (Vec<&Value>, Vec<&Value>) =
            conditions.iter().partition(|condition| condition["kind"] == "when");
        let mut operands = Vec::new();
        when.iter().for_each(|condition| flatten(Word::And, &condition["body"], &mut operands));
        look(Word::And, &operands, &mut pairs);
        unless.iter().for_each(|condition| descend(&condition["body"], &mut pairs));
        for (word, one, other) in pairs {
            findings.push(Finding {
                code: "WEFT0223",
                severity: Severity::Warning,
                message: match word {
                    Word::And => format!("`{}` and `{}` are never true at once", written(&one), written(&other)),
                    Word::Or => format!("one of `{}` and `{}` is always true", written(&one), written(&other)),
                },
                hint: match word {
                    Word::And => "write `||` between them, or ask for what can be".to_owned(),
                    Word::Or => "write `&&` between them, or leave them out".to_owned(),
                },
                span: Some(source.span(one.place(&source.text))),
            });
        }
    }
}

type Pair = (Word, Comparison, Comparison);

/// Whatever has operands within an expression.
fn descend(expression: &Value, out: &mut Vec<Pair>) {
    match expression {
        Value::Array(items) => items.iter().for_each(|item| descend(item, out)),
        Value::Object(members) => {
            for (operator, operands) in members {
                let word = match operator.as_str() {
                    "&&" => Word::And,
                    "||" => Word::Or,
                    _ => {
                        descend(operands, out);
                        continue;
                    }
                };
                let mut all = Vec::new();
                flatten(word, expression, &mut all);
                look(word, &all, out);
            }
        }
        _ => {}
    }
}

/// The operands of `a && (b && c)`: three.
fn flatten<'a>(word: Word, expression: &'a Value, out: &mut Vec<&'a Value>) {
    let operands = &expression[if word == Word::And { "&&" } else { "||" }];
    if operands.is_null() {
        out.push(expression);
    } else {
        flatten(word, &operands["left"], out);
        flatten(word, &operands["right"], out);
    }
}

/// Compares them with each other, and looks into each.
fn look(word: Word, operands: &[&Value], out: &mut Vec<Pair>) {
    let mut here = Vec::new();
    for operand in operands {
        let Some((operator, of)) = operand.as_object().and_then(|members| members.iter().next()) else { continue };
        if operator != "contains" {
            compared(operator, of, &mut here);
        }
        descend(operand, out);
    }
    here.truncate(PAIRED_MAX);
    let mut rest = here.into_iter();
    while let Some(one) = rest.next() {
        if let Some(other) = rest.as_slice().iter().find(|other| is_decided(word, &one, other)) {
            out.push((word, one, other.clone()));
        }
    }
}

/// Whether two comparisons are never both true, or one of them always is.
fn is_decided(word: Word, one: &Comparison, other: &Comparison) -> bool {
    if one.attribute != other.attribute {
        return false;
    }
    match (&one.with, &other.with) {
        (With::Number(left), With::Number(right)) => {
            let (least, most) = range(&one.attribute).unwrap_or((i64::MIN, i64::MAX));
            // What is asked of a number changes at that number alone.
            let beside = |number: i64| [number.saturating_sub(1), number, number.saturating_add(1)];
            let all = beside(*left).into_iter().chain(beside(*right)).chain([least, most]);
            let mut all = all.map(|value| value.clamp(least, most));
            let both = |value| (holds(value, one.operator, *left), holds(value, other.operator, *right));
            match word {
                Word::And => all.all(|value| both(value) != (true, true)),
                Word::Or => all.all(|value| both(value) != (false, false)),
            }
        }
        (With::Text(_), With::Text(_)) | (With::Address(_), With::Address(_)) => {
            let operator = if word == Word::And { "==" } else { "!=" };
            one.operator == operator && other.operator == operator && one.with != other.with
        }
        _ => false,
    }
}

fn written(comparison: &Comparison) -> String {
    let Comparison { attribute, operator, with } = comparison;
    match with {
        With::Text(text) => format!("context.{attribute} {operator} {text:?}"),
        With::Address(text) => format!("context.{attribute} {operator} ip({text:?})"),
        With::Number(number) => format!("context.{attribute} {operator} {number}"),
        With::Pattern(_) => format!("context.{attribute} {operator} …"),
    }
}

#[cfg(test)]
mod tests {
    use weft_model::intent::Caller;

    use crate::check::check;
    use crate::testing;

    fn told(policy: &str) -> Vec<String> {
        let mut intent = testing::intent(&["prod/web", "prod/board"]);
        testing::allow(&mut intent, "prod/board", Caller::Anyone, Vec::new());
        testing::policies(&mut intent, policy);
        let findings = check(&intent).into_iter().filter(|finding| finding.code == "WEFT0223");
        findings.map(|finding| finding.message).collect()
    }

    fn told_when(condition: &str) -> Vec<String> {
        told(&format!("forbid(principal, action, resource) when {{ {condition} }};"))
    }

    #[test]
    fn what_cannot_be_true_at_once_is_pointed_at() {
        for condition in [
            "context.time.utc.hour >= 22 && context.time.utc.hour < 6",
            "context.time.utc.hour >= 22 && context.method == \"PUT\" && (6 > context.time.utc.hour)",
            "context.method == \"GET\" && context.method == \"HEAD\"",
            "context.depth == 1 && context.depth == 2",
            "context.depth < 3 && context.depth > 2",
            "!(context.path like \"/a*\" && context.host == \"a.b\" && context.host == \"b.b\")",
        ] {
            let told = told_when(condition);
            assert!(told.len() == 1 && told[0].ends_with("never true at once"), "{condition}: {told:#?}");
        }
        let two = "forbid(principal, action, resource) when { context.depth < 3 } when { context.depth > 4 };";
        assert_eq!(told(two), ["`context.depth < 3` and `context.depth > 4` are never true at once"]);
    }

    #[test]
    fn what_is_always_true_is_pointed_at() {
        for condition in [
            "context.time.utc.hour >= 6 || context.time.utc.hour < 22",
            "context.method != \"GET\" || context.method != \"HEAD\"",
            "context.depth > 2 || context.depth <= 2",
        ] {
            let told = told_when(condition);
            assert!(told.len() == 1 && told[0].ends_with("is always true"), "{condition}: {told:#?}");
        }
    }

    #[test]
    fn what_can_be_is_not() {
        for condition in [
            "context.time.utc.hour >= 22 || context.time.utc.hour < 6",
            "context.time.utc.hour >= 6 && context.time.utc.hour < 22 && context.time.utc.minute != 0",
            "context.method != \"GET\" && context.method != \"HEAD\"",
            "context.method == \"GET\" || context.method == \"HEAD\"",
            "context.depth == 1 && context.depth == 1 && context.depth != 2",
            "context.time.utc.hour == 6 && context.time.utc.minute == 7",
            "context.method == \"GET\" && (context.depth == 1 || context.depth == 2)",
            "(context.depth == 1 && context.method == \"GET\") || (context.depth == 2 && context.method == \"PUT\")",
        ] {
            assert_eq!(told_when(condition), [""; 0], "{condition}");
        }
        let two = "forbid(principal, action, resource) when { context.depth < 3 } unless { context.depth > 4 };";
        assert_eq!(told(two), [""; 0]);
    }
}
