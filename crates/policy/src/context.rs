//! What a policy can read of a request: the attributes of Cedar's `context`, and which of them a policy mentions.
//!
//! A decision builds only what some policy reads, and a caller may keep a decision for requests that agree in what is read.

use cedar_policy::Policy;

/// How many leading segments of a path `first1` .. `first8` give.
pub(crate) const MAX_FIRST: usize = 8;

/// Names of the attributes; the position is the bit in an [`Reads`].
pub(crate) const NAMES: [&str; 6 + MAX_FIRST] = [
    "method", "path", "depth", "host", "protocol", "sourceIp", "first1", "first2", "first3", "first4", "first5",
    "first6", "first7", "first8",
];

/// What decisions can depend on beside the principal. `path` stands for all that follows from it (`depth`, `first1` ..) too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttributeSet {
    /// `context.method`.
    pub method: bool,
    /// `context.path`, `depth`, `first1` .. `first8`.
    pub path: bool,
    /// `context.host`.
    pub host: bool,
    /// `context.protocol`.
    pub protocol: bool,
    /// `context.sourceIp`.
    pub source_ip: bool,
}

/// A set of context attributes, one by one.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reads(u16);

impl Reads {
    pub(crate) const ALL: Self = Self((1 << NAMES.len()) - 1);
    pub(crate) const NOTHING: Self = Self(0);

    pub(crate) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// True if the attribute of this name is read.
    pub(crate) fn has(self, name: &str) -> bool {
        self.0 & Self::named(name).0 != 0
    }

    /// The numbers `n` for which `first<n>` is read.
    pub(crate) fn firsts(self) -> impl Iterator<Item = usize> {
        (1..=MAX_FIRST).filter(move |n| self.0 & (1 << (5 + n)) != 0)
    }

    /// Grouped by what a request gives.
    pub(crate) fn attributes(self) -> AttributeSet {
        AttributeSet {
            method: self.has("method"),
            path: self.has("path") || self.has("depth") || self.firsts().next().is_some(),
            host: self.has("host"),
            protocol: self.has("protocol"),
            source_ip: self.has("sourceIp"),
        }
    }

    /// A name that the schema does not have reads everything: it cannot be told what it will mean.
    fn named(name: &str) -> Self {
        NAMES.iter().position(|known| *known == name).map_or(Self::ALL, |bit| Self(1 << bit))
    }

    fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.iter().enumerate().filter(move |(bit, _)| self.0 & (1 << bit) != 0).map(|(_, name)| *name)
    }
}

impl std::fmt::Debug for Reads {
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

/// The context attributes that a policy mentions; all of them if `context` is used as a whole.
pub(crate) fn reads(policy: &Policy) -> Reads {
    let mut reads = Reads::NOTHING;
    weft_policy_eval::reads(policy.as_ref(), |path| {
        reads = reads.union(path.first().map_or(Reads::ALL, |name| Reads::named(name)));
    });
    reads
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads_of(conditions: &str) -> Vec<&'static str> {
        let text = format!("permit(principal, action, resource) {conditions};");
        let policy = Policy::parse(None, text).expect("parses");
        reads(&policy).names().collect()
    }

    #[test]
    fn a_policy_reads_what_it_mentions() {
        assert!(reads_of("").is_empty());
        assert!(reads_of("when { principal.name == \"context\" && resource has path }").is_empty());
        assert_eq!(
            reads_of("when { context.path like \"/a*\" } unless { context.method == \"GET\" }"),
            ["method", "path"]
        );
        assert_eq!(reads_of("when { context has sourceIp }"), ["sourceIp"]);
        assert_eq!(reads_of("when { context[\"host\"] == \"x\" || [context.depth].contains(3) }"), ["depth", "host"]);
        assert_eq!(reads_of("when { if context has first2 then context.first2 == \"/a/b\" else false }"), ["first2"]);
        assert_eq!(reads_of("when { {\"Var\": context.host} == {\"Var\": \"x\"} }"), ["host"]);
        assert_eq!(reads_of("when { context has host.name }"), ["host"]);
        assert_eq!(reads_of("when { ip(\"1.2.3.4\") == context.sourceIp }"), ["sourceIp"]);
    }

    #[test]
    fn context_as_a_whole_reads_everything() {
        for whole in [
            "when { context == {\"path\": \"/\"} }",
            "when { {a: context}.a.path == \"/\" }",
            "when { context.what == 1 }",
        ] {
            assert_eq!(reads_of(whole), NAMES, "{whole}");
        }
        assert_eq!(Reads::ALL.firsts().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7, 8]);
        let path = AttributeSet { path: true, ..AttributeSet::default() };
        for name in ["path", "depth", "first1", "first8"] {
            assert_eq!(Reads::named(name).attributes(), path, "{name}");
        }
        assert_eq!(Reads::named("sourceIp").attributes(), AttributeSet { source_ip: true, ..AttributeSet::default() });
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
