//! What a policy compares things of the call with, as far as that is written in it: read from Cedar's JSON form.

use serde_json::Value;

/// Something of the call, and what it is compared with.
#[derive(Clone)]
pub(crate) struct Comparison {
    /// Behind `context.`, like `time.berlin.hour`.
    pub(crate) attribute: String,
    /// As written with the attribute on the left: `==`, `!=`, `<`, `<=`, `>`, `>=` or `like`.
    pub(crate) operator: &'static str,
    pub(crate) with: With,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum With {
    Text(String),
    /// A pattern of `like`; `None` is a wildcard.
    Pattern(Vec<Option<String>>),
    Number(i64),
    /// Of `ip("...")`.
    Address(String),
}

/// Whether a number passes a comparison with another.
pub(crate) fn holds(value: i64, operator: &str, number: i64) -> bool {
    match operator {
        "==" => value == number,
        "!=" => value != number,
        "<" => value < number,
        "<=" => value <= number,
        ">" => value > number,
        _ => value >= number,
    }
}

impl Comparison {
    /// Where it stands in the text of the policy, as well as that can be told.
    pub(crate) fn place(&self, policy: &str) -> usize {
        let last = self.attribute.rsplit('.').next().unwrap_or_default();
        let literal = match &self.with {
            With::Text(text) | With::Address(text) => policy.find(&format!("{text:?}")),
            With::Pattern(pieces) => pieces.iter().flatten().next().and_then(|piece| policy.find(&**piece)),
            With::Number(_) => None,
        };
        literal.or_else(|| policy.find(last)).unwrap_or(0)
    }
}

/// All comparisons within an expression, in Cedar's JSON form.
pub(crate) fn collect(expression: &Value, out: &mut Vec<Comparison>) {
    match expression {
        Value::Array(items) => items.iter().for_each(|item| collect(item, out)),
        Value::Object(members) => {
            for (operator, operands) in members {
                compared(operator, operands, out);
                collect(operands, out);
            }
        }
        _ => {}
    }
}

/// Those that one operation makes; `contains` of a list makes one for each of its items.
pub(crate) fn compared(operator: &str, operands: &Value, out: &mut Vec<Comparison>) {
    let (left, right) = (&operands["left"], &operands["right"]);
    match operator {
        "like" => {
            let Some(attribute) = of_context(left) else { return };
            let mut pieces: Vec<Option<String>> = Vec::new();
            for piece in operands["pattern"].as_array().into_iter().flatten() {
                // Cedar has a piece for each character.
                match (piece["Literal"].as_str(), pieces.last_mut()) {
                    (Some(more), Some(Some(text))) => text.push_str(more),
                    (literal, _) => pieces.push(literal.map(str::to_owned)),
                }
            }
            out.push(Comparison { attribute, operator: "like", with: With::Pattern(pieces) });
        }
        "contains" => {
            let Some(attribute) = of_context(right) else { return };
            let items = [&left["Set"], &left["Value"]].into_iter().filter_map(Value::as_array).flatten();
            let values = items.filter_map(|item| with(item).or_else(|| literal(item)));
            out.extend(values.map(|with| Comparison { attribute: attribute.clone(), operator: "==", with }));
        }
        _ => {
            let sides = [(left, right, operator), (right, left, mirrored(operator))];
            out.extend(sides.into_iter().filter_map(|(one, other, operator)| {
                Some(Comparison { attribute: of_context(one)?, operator: known(operator)?, with: with(other)? })
            }));
        }
    }
}

fn with(expression: &Value) -> Option<With> {
    let address = || expression["ip"][0]["Value"].as_str().map(|text| With::Address(text.to_owned()));
    literal(&expression["Value"]).or_else(address)
}

fn literal(value: &Value) -> Option<With> {
    value.as_i64().map(With::Number).or_else(|| value.as_str().map(|text| With::Text(text.to_owned())))
}

fn known(operator: &str) -> Option<&'static str> {
    ["==", "!=", "<", "<=", ">", ">="].into_iter().find(|known| *known == operator)
}

/// The operator between the same operands the other way round.
fn mirrored(operator: &str) -> &str {
    match operator {
        "<" => ">",
        "<=" => ">=",
        ">" => "<",
        ">=" => "<=",
        same => same,
    }
}

/// What is behind `context.`, with dots between.
fn of_context(expression: &Value) -> Option<String> {
    let access = &expression["."];
    let attribute = access["attr"].as_str()?;
    if access["left"]["Var"] == "context" {
        return Some(attribute.to_owned());
    }
    Some(format!("{}.{attribute}", of_context(&access["left"])?))
}
