//! Random policies, for tests of this crate and of those behind it. Not for anything that serves.
//!
//! Most make sense, some do not: types that do not fit, attributes that are not there, numbers that pass their bounds.

use crate::shape::Kind;

/// Where a generator takes its choices from: when they run out, each is the first.
pub struct Choices<'a>(std::slice::Iter<'a, u8>);

impl<'a> Choices<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes.iter())
    }

    /// One of `count` numbers.
    pub fn below(&mut self, count: usize) -> usize {
        let byte = self.0.next().copied().unwrap_or(0);
        usize::from(byte) % count
    }

    /// One of several things.
    pub fn pick<'t, T>(&mut self, of: &'t [T]) -> &'t T {
        &of[self.below(of.len())]
    }

    /// Once in so many times.
    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == count - 1
    }
}

/// What policies can be about.
pub struct Vocabulary {
    /// Like `Service::"prod/web"`.
    pub entities: &'static [&'static str],
    /// Like `Role::"ops"`.
    pub groups: &'static [&'static str],
    /// Attributes of entities. All are strings; the last few not every entity has.
    pub attributes: &'static [&'static str],
    /// Attributes of the context from its root, like `user.scopes`, and whether they may be missing.
    pub context: &'static [(&'static str, Kind, bool)],
    /// Values of strings, and patterns of `like`.
    pub texts: &'static [&'static str],
    pub patterns: &'static [&'static str],
}

const LONGS: [&str; 8] =
    ["2", "0", "1", "3", "-1", "9223372036854775807", "9223372036854775806", "-9223372036854775808"];
const IPS: [&str; 7] = ["10.0.0.0/8", "10.0.0.1", "127.0.0.1", "::1", "fe80::/10", "224.0.0.0/4", "no address"];

impl Vocabulary {
    /// A whole policy.
    pub fn policy(&self, choices: &mut Choices<'_>) -> String {
        let effect = choices.pick(&["permit", "forbid", "permit"]);
        let principal = self.scope(choices);
        let action = choices.pick(&[
            "",
            "",
            " == Action::\"call\"",
            " in [Action::\"call\"]",
            " in Action::\"call\"",
            " == Action::\"x\"",
        ]);
        let resource = if choices.one_in(3) { self.scope(choices) } else { String::new() };
        let mut text = format!("{effect}(principal{principal}, action{action}, resource{resource})");
        for _ in 0..choices.below(3) {
            let kind = choices.pick(&["when", "when", "unless"]);
            let condition =
                if choices.one_in(3) { self.rule(choices) } else { self.expression(Kind::Bool, 4, choices) };
            text += &format!(" {kind} {{ {condition} }}");
        }
        text + ";"
    }

    fn scope(&self, choices: &mut Choices<'_>) -> String {
        match choices.below(8) {
            0..3 => String::new(),
            3 => format!(" == {}", choices.pick(self.entities)),
            4 => format!(" in {}", choices.pick(self.groups)),
            5 => format!(" in {}", choices.pick(self.entities)),
            6 => " is Service".to_owned(),
            _ => format!(" is Service in {}", choices.pick(self.groups)),
        }
    }

    /// An expression that should be of a type, and seldom is not.
    pub fn expression(&self, kind: Kind, depth: usize, choices: &mut Choices<'_>) -> String {
        let kinds = [Kind::Text, Kind::Bool, Kind::Long, Kind::Entity, Kind::Ip, Kind::Set, Kind::Record];
        let kind = if choices.one_in(24) { *choices.pick(&kinds) } else { kind };
        if depth == 0 {
            return self.leaf(kind, choices);
        }
        if choices.one_in(16) {
            let test = self.expression(Kind::Bool, depth - 1, choices);
            let (then, otherwise) =
                (self.expression(kind, depth - 1, choices), self.expression(kind, depth - 1, choices));
            return format!("(if {test} then {then} else {otherwise})");
        }
        match kind {
            Kind::Bool => format!("({})", self.condition(depth - 1, choices)),
            Kind::Long => self.number(depth - 1, choices),
            Kind::Set => self.set(depth - 1, choices),
            Kind::Record if choices.one_in(2) => {
                let (a, b) = (choices.pick(&kinds), choices.pick(&kinds));
                let (a, b) = (self.expression(*a, depth - 1, choices), self.expression(*b, depth - 1, choices));
                format!("{{a: {a}, \"b c\": {b}}}")
            }
            _ => self.leaf(kind, choices),
        }
    }

    fn number(&self, depth: usize, choices: &mut Choices<'_>) -> String {
        let operand = |choices: &mut Choices<'_>| self.expression(Kind::Long, depth, choices);
        match choices.below(6) {
            0 => format!("({} + {})", operand(choices), operand(choices)),
            1 => format!("({} - {})", operand(choices), operand(choices)),
            2 => format!("({} * {})", operand(choices), operand(choices)),
            3 => format!("(-({}))", operand(choices)),
            _ => self.leaf(Kind::Long, choices),
        }
    }

    fn set(&self, depth: usize, choices: &mut Choices<'_>) -> String {
        let kind =
            *choices.pick(&[Kind::Text, Kind::Entity, Kind::Long, Kind::Ip, Kind::Bool, Kind::Set, Kind::Record]);
        match choices.below(4) {
            0 => self.leaf(Kind::Set, choices),
            _ => {
                let depth = if choices.one_in(3) { depth.min(1) } else { 0 };
                let items: Vec<String> = (0..choices.below(4)).map(|_| self.expression(kind, depth, choices)).collect();
                format!("[{}]", items.join(", "))
            }
        }
    }

    fn condition(&self, depth: usize, choices: &mut Choices<'_>) -> String {
        let of = |kind, choices: &mut Choices<'_>| self.expression(kind, depth, choices);
        match choices.below(25) {
            0 => format!("{} == {}", of(Kind::Text, choices), of(Kind::Text, choices)),
            1 | 2 => format!("({} && {})", of(Kind::Bool, choices), of(Kind::Bool, choices)),
            3 | 4 => format!("({} || {})", of(Kind::Bool, choices), of(Kind::Bool, choices)),
            5 => format!("!({})", of(Kind::Bool, choices)),
            6 | 7 => format!("{} like \"{}\"", of(Kind::Text, choices), choices.pick(self.patterns)),
            8 => {
                let operator = choices.pick(&["<", "<=", ">", ">="]);
                format!("({}) {operator} ({})", of(Kind::Long, choices), of(Kind::Long, choices))
            }
            9 => format!("{} in {}", of(Kind::Entity, choices), choices.pick(self.groups)),
            10 => format!("{} in ({})", of(Kind::Entity, choices), of(Kind::Set, choices)),
            11 => format!("{} is {}", of(Kind::Entity, choices), choices.pick(&["Service", "Role", "Other::Kind"])),
            12 => format!("{} is Service in {}", of(Kind::Entity, choices), of(Kind::Entity, choices)),
            13 => format!("({}).contains({})", of(Kind::Set, choices), of(Kind::Text, choices)),
            14 => format!("({}).containsAll({})", of(Kind::Set, choices), of(Kind::Set, choices)),
            15 => format!("({}).containsAny({})", of(Kind::Set, choices), of(Kind::Set, choices)),
            16 => format!("({}).isEmpty()", of(Kind::Set, choices)),
            17 => format!("({}).isInRange({})", of(Kind::Ip, choices), of(Kind::Ip, choices)),
            18 => format!(
                "({}).{}()",
                of(Kind::Ip, choices),
                choices.pick(&["isIpv4", "isIpv6", "isLoopback", "isMulticast"])
            ),
            19 => {
                let kind = *choices.pick(&[Kind::Set, Kind::Entity, Kind::Long, Kind::Ip, Kind::Record, Kind::Bool]);
                format!("({}) {} ({})", of(kind, choices), choices.pick(&["==", "!="]), of(kind, choices))
            }
            20 => format!("{} has {}", of(Kind::Entity, choices), choices.pick(self.attributes)),
            21 => {
                // Guarded, as the validator wants it.
                let entity = choices.pick(&["principal", "resource"]);
                let attribute = choices.pick(self.attributes);
                let text = choices.pick(self.texts);
                format!("({entity} has {attribute} && {entity}.{attribute} == \"{text}\")")
            }
            22 | 23 => self.guarded(choices),
            _ => {
                let (path, _, _) = choices.pick(self.context);
                format!("context has {path}")
            }
        }
    }

    /// What people write most: alternatives, each of a few comparisons, and perhaps one that has nothing to do with the others.
    fn rule(&self, choices: &mut Choices<'_>) -> String {
        let mut alternatives = Vec::new();
        for _ in 0..1 + choices.below(3) {
            let comparisons: Vec<String> = (0..1 + choices.below(2)).map(|_| self.guarded(choices)).collect();
            alternatives.push(format!("({})", comparisons.join(" && ")));
        }
        let rule = format!("({})", alternatives.join(" || "));
        match choices.below(4) {
            0 => format!("{rule} && {}", self.expression(Kind::Bool, 1, choices)),
            1 => format!("{} && {rule}", self.expression(Kind::Bool, 1, choices)),
            _ => rule,
        }
    }

    /// A comparison of something that the context may lack.
    fn guarded(&self, choices: &mut Choices<'_>) -> String {
        let (path, kind, optional) = *choices.pick(self.context);
        let guard = if optional { format!("context has {path} && ") } else { String::new() };
        let text = choices.pick(self.texts);
        match kind {
            Kind::Text if choices.one_in(2) => {
                format!("({guard}context.{path} like \"{}\")", choices.pick(self.patterns))
            }
            Kind::Text if choices.one_in(4) => {
                format!("({guard}[\"{text}\", \"{}\"].contains(context.{path}))", choices.pick(self.texts))
            }
            Kind::Text => format!("({guard}context.{path} == \"{text}\")"),
            Kind::Set => format!("({guard}context.{path}.contains(\"{text}\"))"),
            Kind::Ip => format!("({guard}context.{path}.isInRange(ip(\"{}\")))", choices.pick(&IPS)),
            Kind::Long => format!("({guard}context.{path} < {})", choices.pick(&LONGS)),
            _ => format!("({guard}context.{path} == true)"),
        }
    }

    fn leaf(&self, kind: Kind, choices: &mut Choices<'_>) -> String {
        let of_kind: Vec<&str> = self.context.iter().filter(|(_, of, _)| *of == kind).map(|(path, ..)| *path).collect();
        if !of_kind.is_empty() && choices.one_in(3) {
            return format!("context.{}", choices.pick(&of_kind));
        }
        match kind {
            Kind::Bool => choices.pick(&["true", "false", "(context has x)", "(principal has name)"]).to_string(),
            Kind::Long => format!("({})", choices.pick(&LONGS)),
            Kind::Text if choices.one_in(3) => {
                let entity = choices.pick(&["principal", "resource", "principal"]);
                format!("{entity}.{}", choices.pick(self.attributes))
            }
            Kind::Text => format!("\"{}\"", choices.pick(self.texts)),
            Kind::Entity => match choices.below(6) {
                0..2 => "principal".to_owned(),
                2 => "resource".to_owned(),
                3 => "action".to_owned(),
                4 => choices.pick(self.groups).to_string(),
                _ => choices.pick(self.entities).to_string(),
            },
            Kind::Ip => format!("ip(\"{}\")", choices.pick(&IPS)),
            Kind::Set => choices.pick(&["[]", "[principal]", "[1, \"a\"]", "[\"a\", \"GET\"]"]).to_string(),
            Kind::Record | Kind::Any => choices.pick(&["{}", "{a: 1}", "context"]).to_string(),
        }
    }
}
