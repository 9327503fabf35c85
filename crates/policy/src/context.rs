//! What a policy can read of a request: the attributes of Cedar's `context`, and which of them a policy mentions.
//!
//! A decision builds only what some policy reads, and a caller may keep a decision for requests that agree in what is read.

use serde_json::Value;

/// How many leading segments of a path `first1` .. `first8` give.
pub(crate) const MAX_FIRST: usize = 8;

/// Names of the attributes; the position is the bit in an [`AttributeSet`].
pub(crate) const NAMES: [&str; 6 + MAX_FIRST] = [
    "method", "path", "depth", "host", "protocol", "sourceIp", "first1", "first2", "first3", "first4", "first5", "first6",
    "first7", "first8",
];

/// A set of context attributes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct AttributeSet(u16);

impl AttributeSet {
    /// `context.method`.
    pub const METHOD: Self = Self(1);
    /// `context.path` itself.
    const PATH: Self = Self(1 << 1);
    /// `context.depth`, how many `/` the path has.
    const DEPTH: Self = Self(1 << 2);
    /// `context.host`.
    pub const HOST: Self = Self(1 << 3);
    /// `context.protocol`.
    pub const PROTOCOL: Self = Self(1 << 4);
    /// `context.sourceIp`.
    pub const SOURCE_IP: Self = Self(1 << 5);
    /// `context.path` and all that follows from the path: `depth`, `first1` .. `first8`.
    pub const ANY_OF_PATH: Self = Self(Self::PATH.0 | Self::DEPTH.0 | !0 << 6);
    /// Every attribute.
    pub const ALL: Self = Self((1 << NAMES.len()) - 1);

    /// True if the two have an attribute in common.
    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// True if nothing is read: a decision holds for every request of the principal.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The attributes of either.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The names, in the order of the schema.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.iter().enumerate().filter(move |(bit, _)| self.0 & (1 << bit) != 0).map(|(_, name)| *name)
    }

    fn named(name: &str) -> Self {
        match NAMES.iter().position(|known| *known == name) {
            Some(bit) => Self(1 << bit),
            None => Self::ALL,
        }
    }

    pub(crate) fn path(self) -> bool {
        self.intersects(Self::PATH)
    }

    pub(crate) fn depth(self) -> bool {
        self.intersects(Self::DEPTH)
    }

    /// The numbers `n` for which `first<n>` is read.
    pub(crate) fn firsts(self) -> impl Iterator<Item = usize> {
        (1..=MAX_FIRST).filter(move |n| self.0 & (1 << (5 + n)) != 0)
    }
}

impl std::fmt::Debug for AttributeSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// How many `/` a path has.
pub(crate) fn depth(path: &str) -> usize {
    path.bytes().filter(|byte| *byte == b'/').count()
}

/// The first `n` segments of a path with the slash before each (`/a/b` of `/a/b/c` for 2), if it has as many.
pub(crate) fn first(path: &str, n: usize) -> Option<&str> {
    let mut slashes = path.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(at, _)| at);
    slashes.nth(n - 1)?;
    Some(&path[..slashes.next().unwrap_or(path.len())])
}

/// The context attributes that a policy (in Cedar's JSON form) mentions; all of them if `context` is used as a whole.
pub(crate) fn reads(policy: &Value) -> AttributeSet {
    match policy {
        Value::Array(items) => items.iter().map(reads).fold(AttributeSet::default(), AttributeSet::union),
        Value::Object(members) => {
            if members.get("Var").is_some_and(|variable| variable == "context") {
                return AttributeSet::ALL;
            }
            let access = members.get(".").or_else(|| members.get("has")).filter(|access| is_context(&access["left"]));
            if let Some(access) = access {
                return match &access["attr"] {
                    Value::String(name) => AttributeSet::named(name),
                    // `context has a.b`
                    Value::Array(names) => names.first().and_then(Value::as_str).map_or(AttributeSet::ALL, AttributeSet::named),
                    _ => AttributeSet::ALL,
                };
            }
            members.values().map(reads).fold(AttributeSet::default(), AttributeSet::union)
        }
        _ => AttributeSet::default(),
    }
}

fn is_context(expression: &Value) -> bool {
    expression["Var"] == "context"
}

#[cfg(test)]
mod tests {
    use cedar_policy::Policy;

    use super::*;

    fn reads_of(conditions: &str) -> Vec<&'static str> {
        let text = format!("permit(principal, action, resource) {conditions};");
        let policy = Policy::parse(None, text).expect("parses");
        reads(&policy.to_json().expect("has a JSON form")).names().collect()
    }

    #[test]
    fn a_policy_reads_what_it_mentions() {
        assert!(reads_of("").is_empty());
        assert!(reads_of("when { principal.name == \"context\" && resource has path }").is_empty());
        assert_eq!(reads_of("when { context.path like \"/a*\" } unless { context.method == \"GET\" }"), ["method", "path"]);
        assert_eq!(reads_of("when { context has sourceIp }"), ["sourceIp"]);
        assert_eq!(reads_of("when { context[\"host\"] == \"x\" || [context.depth].contains(3) }"), ["depth", "host"]);
        assert_eq!(reads_of("when { if context has first2 then context.first2 == \"/a/b\" else false }"), ["first2"]);
        assert_eq!(reads_of("when { {\"Var\": context.host} == {\"Var\": \"x\"} }"), ["host"]);
        assert_eq!(reads_of("when { context has host.name }"), ["host"]);
        assert_eq!(reads_of("when { ip(\"1.2.3.4\") == context.sourceIp }"), ["sourceIp"]);
    }

    #[test]
    fn context_as_a_whole_reads_everything() {
        for whole in ["when { context == {\"path\": \"/\"} }", "when { {a: context}.a.path == \"/\" }", "when { context.what == 1 }"] {
            assert_eq!(reads_of(whole), NAMES, "{whole}");
        }
        assert_eq!(AttributeSet::ALL.firsts().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert!(!AttributeSet::named("host").intersects(AttributeSet::ANY_OF_PATH));
        for name in ["path", "depth", "first1", "first8"] {
            assert!(AttributeSet::named(name).intersects(AttributeSet::ANY_OF_PATH), "{name}");
        }
    }

    #[test]
    fn segments_are_counted_by_their_slashes() {
        assert_eq!(first("/a/b/c", 1), Some("/a"));
        assert_eq!(first("/a/b/c", 3), Some("/a/b/c"));
        assert_eq!(first("/a/b/c", 4), None);
        assert_eq!(first("/", 1), Some("/"));
        assert_eq!(first("//x", 1), Some("/"));
        assert_eq!(first("*", 1), None);
        assert_eq!((depth("/"), depth("/a/b"), depth("/a/"), depth("*")), (1, 2, 2, 0));
    }
}
