//! Comparisons with what nothing in a call ever is: `context.method == "delete"`, `weekday == "Saturday"`, `hour >= 24`. Cedar has no
//! objection, and a `forbid` that says it stops nobody.

use std::collections::BTreeSet;

use jiff::civil::Date;
use weft_model::intent::{Intent, Paths};
use weft_model::{Finding, Severity};

use crate::comparison::{Comparison, With, collect, holds};
use crate::scope::Universe;
use crate::source::Source;
use crate::{host, path};

/// Methods that HTTP knows (RFC 9110 s.9, RFC 5789). Callers may send others.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
const PROTOCOLS: [&str; 4] = ["HTTP/1.0", "HTTP/1.1", "HTTP/2", "TCP"];
const WEEKDAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// Adds the warnings, of `access` entries too.
pub(crate) fn warn(intent: &Intent, universe: &Universe, sources: &[Source], findings: &mut Vec<Finding>) {
    let services: Vec<_> = intent.services.values().collect();
    let ports: BTreeSet<i64> = services.iter().map(|service| i64::from(service.port)).collect();
    for source in sources {
        let mut comparisons = Vec::new();
        collect(&source.conditions(), &mut comparisons);
        if comparisons.is_empty() {
            continue;
        }
        let callees = universe.resources(&source.policy);
        let paths =
            services.iter().enumerate().filter(|(at, _)| callees.contains(*at)).map(|(_, service)| service.paths);
        let known = Known { ports: &ports, paths: paths.collect() };
        let mut told = BTreeSet::new();
        for comparison in comparisons {
            let Some(Wrong { problem, hint }) = known.wrong(&comparison) else { continue };
            if told.insert(problem.clone()) {
                let at = comparison.place(&source.text);
                let span = Some(source.span(at));
                findings.push(Finding { code: "WEFT0223", severity: Severity::Warning, message: problem, hint, span });
            }
        }
    }
}

struct Wrong {
    problem: String,
    hint: String,
}

impl Wrong {
    fn new(problem: String, hint: impl Into<String>) -> Option<Self> {
        Some(Self { problem, hint: hint.into() })
    }
}

/// What is true of the services that a policy is for.
struct Known<'a> {
    ports: &'a BTreeSet<i64>,
    paths: Vec<Paths>,
}

impl Known<'_> {
    fn wrong(&self, comparison: &Comparison) -> Option<Wrong> {
        let attribute = &*comparison.attribute;
        match &comparison.with {
            With::Text(text) => self.wrong_text(attribute, text),
            With::Pattern(pieces) => self.wrong_pattern(attribute, pieces),
            With::Number(number) => self.wrong_number(attribute, comparison.operator, *number),
            With::Address(text) => wrong_address(attribute, comparison.operator, text),
        }
    }

    fn wrong_text(&self, attribute: &str, text: &str) -> Option<Wrong> {
        let one_of = |what: &str, all: &[&str]| {
            let hint =
                format!("it is one of {}", all.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(", "));
            if all.contains(&text) { None } else { Wrong::new(format!("no call has the {what} {text:?}"), hint) }
        };
        match attribute {
            "method" => {
                let capitals = text.to_ascii_uppercase();
                let is_other = capitals != text && METHODS.contains(&&*capitals);
                is_other.then(|| Wrong {
                    problem: format!("{text:?} is not the method {capitals}: methods are told apart by case"),
                    hint: format!("write {capitals:?}"),
                })
            }
            "protocol" => one_of("protocol", &PROTOCOLS),
            "host" => match host::normalize(text) {
                normal if normal == text => None,
                normal => Wrong::new(
                    format!(
                        "no call has the host {text:?}: it is in lower case, without a port and without a dot at its end"
                    ),
                    format!("write {normal:?}"),
                ),
            },
            "path" => self.wrong_path(text, text),
            "grpc.service" | "grpc.method" if text.contains('/') => Wrong::new(
                format!("no {attribute} has a slash, as {text:?} has"),
                "write it like \"acme.Board\" and \"Get\"",
            ),
            _ if is_weekday(attribute) => one_of("weekday", &WEEKDAYS),
            _ if attribute.starts_with("time.") && attribute.ends_with(".date") => match text.parse::<Date>() {
                Ok(date) if date.to_string() == text => None,
                _ => Wrong::new(format!("{text:?} is no date"), "write it like \"2026-11-27\""),
            },
            _ => self.wrong_segments(attribute, text),
        }
    }

    /// `first3` has three segments, and `segment3` is one.
    fn wrong_segments(&self, attribute: &str, text: &str) -> Option<Wrong> {
        if attribute.strip_prefix("segment").is_some_and(is_number) {
            let problem = || format!("no {attribute} has a slash, as {text:?} has: it is one segment alone");
            return if text.contains('/') { Wrong::new(problem(), "write the segment without slashes") } else { None };
        }
        let count: usize = attribute.strip_prefix("first").filter(|count| is_number(count))?.parse().ok()?;
        let slashes = text.matches('/').count();
        if !text.starts_with('/') || slashes != count {
            let problem =
                format!("no {attribute} is {text:?}: it is the first {count} segments of a path, each with its `/`");
            return Wrong::new(problem, format!("write a text with {count} `/`, or ask for `first{}`", slashes.max(1)));
        }
        self.wrong_path(text, text)
    }

    fn wrong_pattern(&self, attribute: &str, pieces: &[Option<String>]) -> Option<Wrong> {
        let shown: String = pieces.iter().map(|piece| piece.as_deref().unwrap_or("*")).collect();
        match attribute {
            "host" => {
                let lower = shown.to_ascii_lowercase();
                let problem = || format!("no call has a host like {shown:?}: hosts are in lower case");
                if lower == shown { None } else { Wrong::new(problem(), format!("write {lower:?}")) }
            }
            "path" => {
                // A wildcard may be the rest of `%2F`.
                let cut = |piece: &str| piece.bytes().rev().take(2).any(|byte| byte == b'%');
                if pieces.iter().flatten().any(|piece| cut(piece)) {
                    return None;
                }
                // A letter is what makes the least of what it stands beside.
                let mut example: String = pieces.iter().map(|piece| piece.as_deref().unwrap_or("x")).collect();
                if matches!(pieces.first(), Some(None)) {
                    example.insert(0, '/');
                }
                self.wrong_path(&example, &shown)
            }
            _ => None,
        }
    }

    /// That no service sees a path like `example`.
    fn wrong_path(&self, example: &str, shown: &str) -> Option<Wrong> {
        if example.is_empty() || example == "*" || self.paths.is_empty() {
            return None; // TCP, and `OPTIONS *`
        }
        let problem = |why: &str| format!("no call has the path {shown:?}: {why}");
        if example.contains('?') {
            let hint = "policies decide on the path alone; parameters are in `context.query`";
            return Wrong::new(problem("the query is no part of it"), hint);
        }
        let mut first = None;
        for paths in &self.paths {
            match path::normalize(example, *paths) {
                Ok(normal) if normal == example => return None,
                Ok(normal) => first = first.or(Some(format!("calls have it as {normal:?}"))),
                Err(error) => first = first.or(Some(format!("{error}, and such calls are refused"))),
            }
        }
        Wrong::new(problem(&first?), "write the path as it is when it is normalised: docs/reference/paths.md")
    }

    fn wrong_number(&self, attribute: &str, operator: &str, number: i64) -> Option<Wrong> {
        if attribute == "port" {
            let is_other = matches!(operator, "==" | "!=") && !self.ports.contains(&number);
            let hint = "`context.port` is `Service.port` of who is called";
            return if is_other { Wrong::new(format!("no service has the port {number}"), hint) } else { None };
        }
        let (least, most) = range(attribute)?;
        let holds = |value: i64| holds(value, operator, number);
        // What is asked of a number changes at that number alone.
        let beside = [least, most, number.clamp(least, most)];
        let (always, never) = (beside.iter().all(|value| holds(*value)), !beside.iter().any(|value| holds(*value)));
        let how = if always { "always" } else { "never" };
        let range = if most == i64::MAX { format!("{least} or more") } else { format!("{least} to {most}") };
        let problem = || format!("`context.{attribute} {operator} {number}` is {how} true: it is {range}");
        if always || never { Wrong::new(problem(), "leave it out, or ask for what can be") } else { None }
    }
}

/// The least and the greatest number that it can be, where there are such bounds.
pub(crate) fn range(attribute: &str) -> Option<(i64, i64)> {
    match attribute.rsplit('.').next().unwrap_or_default() {
        "hour" if attribute.starts_with("time.") => Some((0, 23)),
        "minute" if attribute.starts_with("time.") => Some((0, 59)),
        "minuteOfDay" if attribute.starts_with("time.") => Some((0, 1439)),
        "depth" if attribute == "depth" => Some((0, i64::MAX)),
        _ => None,
    }
}

/// A call comes from one address, which is no network.
fn wrong_address(attribute: &str, operator: &str, text: &str) -> Option<Wrong> {
    let (address, length) = text.split_once('/')?;
    let whole = if address.contains(':') { "128" } else { "32" };
    if length == whole {
        return None;
    }
    let how = if operator == "!=" { "always" } else { "never" };
    let problem = format!(
        "`context.{attribute} {operator} ip({text:?})` is {how} true: it is one address, and that is a network"
    );
    Wrong::new(problem, format!("write `context.{attribute}.isInRange(ip({text:?}))`"))
}

fn is_weekday(attribute: &str) -> bool {
    attribute.starts_with("time.") && attribute.ends_with(".weekday")
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use weft_model::intent::{Allow, Caller, EscapedSlashes, Slashes};

    use super::*;
    use crate::check::check;
    use crate::testing;

    fn mesh() -> Intent {
        let mut intent = testing::intent(&["prod/web", "prod/board"]);
        testing::allow(&mut intent, "prod/board", Caller::Anyone, Vec::new());
        intent
    }

    fn told(condition: &str) -> Vec<String> {
        let mut intent = mesh();
        testing::policies(&mut intent, &format!("forbid(principal, action, resource) when {{ {condition} }};"));
        told_of(&intent)
    }

    fn told_of(intent: &Intent) -> Vec<String> {
        let findings = check(intent).into_iter().filter(|finding| finding.code == "WEFT0223");
        findings.map(|finding| format!("{finding} {}", finding.hint)).collect()
    }

    #[test]
    fn what_no_call_has_is_pointed_at() {
        for (condition, says) in [
            ("context.method == \"delete\"", "write \"DELETE\""),
            ("\"Post\" == context.method", "write \"POST\""),
            ("[\"GET\", \"head\"].contains(context.method)", "write \"HEAD\""),
            ("context.method != \"get\"", "write \"GET\""),
            ("context.time.utc.weekday == \"Saturday\"", "\"saturday\", \"sunday\""),
            ("context.time.utc.date == \"27.11.2026\"", "like \"2026-11-27\""),
            ("context.time.utc.date == \"2026-02-30\"", "no date"),
            ("context.time.utc.hour >= 24", "never true: it is 0 to 23"),
            ("24 <= context.time.utc.hour", "`context.time.utc.hour >= 24` is never true"),
            ("context.time.utc.hour <= 23", "always true"),
            ("context.time.utc.minute == 60", "0 to 59"),
            ("context.time.utc.minuteOfDay > 1439", "0 to 1439"),
            ("context.depth < 0", "0 or more"),
            ("context has sourceIp && context.sourceIp == ip(\"10.0.0.1/8\")", "isInRange(ip(\"10.0.0.1/8\"))"),
            ("context has sourceIp && context.sourceIp != ip(\"fd00::/8\")", "always true"),
            ("context has sourceIp && [ip(\"10.0.0.0/8\")].contains(context.sourceIp)", "is a network"),
            ("context.port == 1", "no service has the port 1"),
            ("context.host == \"Board.Prod:80\"", "write \"board.prod\""),
            ("context.host like \"*.Prod\"", "write \"*.prod\""),
            ("context.protocol == \"h2\"", "\"HTTP/2\""),
            ("context.path == \"admin\"", "does not start with /"),
            ("context.path == \"/a//b\"", "calls have it as \"/a/b\""),
            ("context.path like \"/a//*\"", "calls have it as \"/a/x\""),
            ("context.path == \"/a/../b\"", "calls have it as \"/b\""),
            ("context.path == \"/a?x=1\"", "context.query"),
            ("context.path like \"admin/*\"", "does not start with /"),
            ("context.path like \"/a%2fb*\"", "encoded slash"),
            ("context has first2 && context.first2 == \"/admin\"", "ask for `first1`"),
            ("context has segment1 && context.segment1 == \"/admin\"", "without slashes"),
            ("context has grpc && context.grpc.service == \"/acme.Board\"", "no grpc.service has a slash"),
        ] {
            let told = told(condition);
            assert!(told.len() == 1 && told[0].contains(says), "{condition}: {told:#?}");
        }
    }

    #[test]
    fn what_a_call_may_have_is_not() {
        for condition in [
            "context.method == \"PURGE\"",
            "context.method == \"purge\"",
            "context.time.utc.weekday == \"saturday\" && context.time.utc.date != \"2026-11-27\"",
            "context.time.utc.hour >= 23 && context.time.utc.hour < 24 - 1 && context.time.utc.minute != 0",
            "context.depth > 1 && context.port == 8080",
            "context has sourceIp && [ip(\"10.0.0.1\"), ip(\"10.0.0.2/32\"), ip(\"::1/128\")].contains(context.sourceIp)",
            "context has sourceIp && context.sourceIp.isInRange(ip(\"10.0.0.1/8\"))",
            "context.host == \"board.prod\" || context.host == \"[::1]\" || context.host like \"*.prod\"",
            "context.path == \"*\" || context.path == \"/\" || context.path like \"*.php\" || context.path like \"/a%*\"",
            "context.path like \"*/admin/*\" || context.path like \"/a/.*\" || context.path like \"*\"",
            "context has first2 && context.first2 == \"/a/b\" && context.segment1 == \"a\"",
            "principal.name == \"Web\"",
        ] {
            assert_eq!(told(condition), [""; 0], "{condition}");
        }
    }

    #[test]
    fn what_one_callee_may_see_is_not() {
        let mut intent = mesh();
        testing::policies(&mut intent, "forbid(principal, action, resource) when { context.path like \"/a//*%2F*\" };");
        assert_eq!(told_of(&intent).len(), 1);
        let board = intent.services.get_mut(&testing::name("prod/board")).expect("it is there");
        board.paths.slashes = Slashes::Keep;
        board.paths.escaped_slashes = EscapedSlashes::Keep;
        assert_eq!(told_of(&intent), [""; 0]);
    }

    #[test]
    fn an_entry_of_access_is_looked_at_too() {
        let mut intent = mesh();
        let get = Allow { method: Some("get".into()), path: "/api/**".into() };
        testing::allow(&mut intent, "prod/board", Caller::Anyone, vec![get]);
        let told = told_of(&intent);
        assert!(told.len() == 1 && told[0].contains("services/prod-board.yaml"), "{told:#?}");
    }
}
