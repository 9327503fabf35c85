//! What a policy can read of a request: the attributes of Cedar's `context`, and which of them a policy mentions.
//!
//! A decision builds only what some policy reads (`live` for our evaluator, `build` for Cedar), and a caller may keep a
//! decision for requests that agree in what is read (`key`).

mod build;
mod clock;
mod key;
mod live;
mod shown;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use cedar_policy::Policy;
use weft_model::intent::PolicyInputs;

pub(crate) use build::{Surroundings, build, build_for_glass, parameters};
pub(crate) use clock::{Clock, minute};
pub(crate) use key::write as write_key;
pub(crate) use live::{Live, NAMES, field, words};
pub use shown::REDACTED;
pub(crate) use shown::shown;

/// How many leading segments of a path `first1` .. `first8` and `segment1` .. `segment8` give.
pub(crate) const MAX_SEGMENTS: u8 = 8;
/// The time zone that is always there.
pub(crate) const UTC: &str = "utc";

/// One thing that policies can read of a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Attribute {
    Method,
    Path,
    /// How many `/` the path has.
    Depth,
    /// The first `n` segments of the path.
    First(u8),
    /// The `n`th segment alone.
    Segment(u8),
    Host,
    Port,
    Protocol,
    SourceIp,
    /// Of `context.headers`.
    Header(Arc<str>),
    /// Of `context.query`.
    Query(Arc<str>),
    Grpc,
    /// Whether there is TLS.
    Tls,
    /// What the handshake named.
    ServerName,
    User,
    /// Of `context.time`.
    Zone(Arc<str>),
    Now,
    BreakGlass,
}

impl Attribute {
    /// It follows from the path.
    pub(crate) fn is_of_path(&self) -> bool {
        matches!(self, Self::Path | Self::Depth | Self::First(_) | Self::Segment(_) | Self::Grpc)
    }

    /// It changes while nothing else does.
    pub(crate) fn is_of_time(&self) -> bool {
        matches!(self, Self::Zone(_) | Self::Now)
    }
}

/// As policies write it behind `context.`.
impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method => f.write_str("method"),
            Self::Path => f.write_str("path"),
            Self::Depth => f.write_str("depth"),
            Self::First(n) => write!(f, "first{n}"),
            Self::Segment(n) => write!(f, "segment{n}"),
            Self::Host => f.write_str("host"),
            Self::Port => f.write_str("port"),
            Self::Protocol => f.write_str("protocol"),
            Self::SourceIp => f.write_str("sourceIp"),
            Self::Header(name) => write!(f, "headers.{name}"),
            Self::Query(name) => write!(f, "query.{name}"),
            Self::Grpc => f.write_str("grpc"),
            Self::Tls => f.write_str("tls"),
            Self::ServerName => f.write_str("tls.sni"),
            Self::User => f.write_str("user"),
            Self::Zone(name) => write!(f, "time.{name}"),
            Self::Now => f.write_str("now"),
            Self::BreakGlass => f.write_str("breakGlass"),
        }
    }
}

/// A set of attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reads(BTreeSet<Attribute>);

impl Reads {
    /// All that there is to read.
    pub(crate) fn all(inputs: &PolicyInputs) -> Self {
        use Attribute as A;
        let plain = [
            A::Method,
            A::Path,
            A::Depth,
            A::Host,
            A::Port,
            A::Protocol,
            A::SourceIp,
            A::Grpc,
            A::Tls,
            A::ServerName,
            A::User,
            A::Now,
            A::BreakGlass,
        ];
        let segments = (1..=MAX_SEGMENTS).flat_map(|n| [A::First(n), A::Segment(n)]);
        let records = ["headers", "query", "time"].into_iter().flat_map(|record| all_of(record, inputs));
        Self(plain.into_iter().chain(segments).chain(records).collect())
    }

    pub(crate) fn union(mut self, other: &Self) -> Self {
        self.add(other);
        self
    }

    /// None of it.
    pub(crate) const fn nothing() -> Self {
        Self(BTreeSet::new())
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.0.extend(other.0.iter().cloned());
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Attribute> {
        self.0.iter()
    }

    pub(crate) fn has(&self, attribute: &Attribute) -> bool {
        self.0.contains(attribute)
    }

    /// The path, or something that follows from it.
    pub(crate) fn has_path(&self) -> bool {
        self.iter().any(Attribute::is_of_path)
    }

    /// A parameter of the query.
    pub(crate) fn has_query(&self) -> bool {
        self.iter().any(|attribute| matches!(attribute, Attribute::Query(_)))
    }

    /// What of `inputs` is read.
    pub(crate) fn inputs(&self, inputs: &PolicyInputs) -> PolicyInputs {
        let is_read = |attribute: Attribute| self.has(&attribute);
        let of = |names: &[Arc<str>], attribute: fn(Arc<str>) -> Attribute| {
            names.iter().filter(|name| is_read(attribute((*name).clone()))).cloned().collect()
        };
        PolicyInputs {
            headers: of(&inputs.headers, Attribute::Header),
            query: of(&inputs.query, Attribute::Query),
            claims: if is_read(Attribute::User) { inputs.claims.clone() } else { Vec::new() },
            redact: inputs.redact.iter().filter(|name| self.mentions(name, inputs)).cloned().collect(),
            time_zones: inputs
                .time_zones
                .iter()
                .filter(|(name, _)| is_read(Attribute::Zone((*name).clone())))
                .map(|(name, zone)| (name.clone(), zone.clone()))
                .collect(),
        }
    }

    /// A header field, a parameter or a claim of this name.
    fn mentions(&self, name: &Arc<str>, inputs: &PolicyInputs) -> bool {
        self.has(&Attribute::Header(name.clone()))
            || self.has(&Attribute::Query(name.clone()))
            || self.has(&Attribute::User) && inputs.claims.contains(name)
    }

    /// An attribute of `context` by its name, or all of a record's.
    fn named(name: &str, inputs: &PolicyInputs) -> Self {
        use Attribute as A;
        let plain = match name {
            "method" => A::Method,
            "path" => A::Path,
            "depth" => A::Depth,
            "host" => A::Host,
            "port" => A::Port,
            "protocol" => A::Protocol,
            "sourceIp" => A::SourceIp,
            "grpc" => A::Grpc,
            "tls" => A::Tls,
            "user" => A::User,
            "now" => A::Now,
            "breakGlass" => A::BreakGlass,
            "headers" | "query" | "time" => return Self(all_of(name, inputs).collect()),
            // A name that the schema does not have: it cannot be told what it will mean.
            _ => match numbered(name) {
                Some(attribute) => attribute,
                None => return Self::all(inputs),
            },
        };
        Self(BTreeSet::from([plain]))
    }

    /// `context.<record>.<name>`.
    fn within(record: &str, name: &str, inputs: &PolicyInputs) -> Self {
        let known = |names: &[Arc<str>]| names.iter().any(|known| **known == *name);
        let attribute = match record {
            "headers" if known(&inputs.headers) => Attribute::Header(name.into()),
            "query" if known(&inputs.query) => Attribute::Query(name.into()),
            "tls" if name == "sni" => Attribute::ServerName,
            "time" if name == UTC || inputs.time_zones.contains_key(name) => Attribute::Zone(name.into()),
            _ => return Self::named(record, inputs),
        };
        Self(BTreeSet::from([attribute]))
    }
}

fn all_of<'a>(record: &'a str, inputs: &'a PolicyInputs) -> impl Iterator<Item = Attribute> + 'a {
    let only = move |name: &str| record == name;
    let headers = inputs.headers.iter().filter(move |_| only("headers")).cloned().map(Attribute::Header);
    let query = inputs.query.iter().filter(move |_| only("query")).cloned().map(Attribute::Query);
    let zones = inputs.time_zones.keys().cloned().chain([UTC.into()]);
    headers.chain(query).chain(zones.filter(move |_| only("time")).map(Attribute::Zone))
}

/// `first3` or `segment3`.
fn numbered(name: &str) -> Option<Attribute> {
    let (make, digits): (fn(u8) -> Attribute, &str) = match (name.strip_prefix("first"), name.strip_prefix("segment")) {
        (Some(digits), _) => (Attribute::First, digits),
        (_, Some(digits)) => (Attribute::Segment, digits),
        _ => return None,
    };
    match digits.as_bytes() {
        [digit @ b'1'..=b'8'] => Some(make(digit - b'0')),
        _ => None,
    }
}

/// How many `/` a path has.
pub(crate) fn depth(path: &str) -> usize {
    path.bytes().filter(|byte| *byte == b'/').count()
}

/// The first `n` segments of a path with the slash before each (`/a/b` of `/a/b/c` for 2), if it has as many.
pub(crate) fn first(path: &str, n: u8) -> Option<&str> {
    let mut slashes = path.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(at, _)| at);
    slashes.nth(usize::from(n) - 1)?;
    Some(&path[..slashes.next().unwrap_or(path.len())])
}

/// The `n`th segment of a path (`b` of `/a/b/c` for 2), if it has as many.
pub(crate) fn segment(path: &str, n: u8) -> Option<&str> {
    path.strip_prefix('/')?.split('/').nth(usize::from(n) - 1)
}

/// The context attributes that a policy mentions; all of them if `context` is used as a whole.
pub(crate) fn reads(policy: &Policy, inputs: &PolicyInputs) -> Reads {
    let mut reads = Reads::default();
    weft_policy_eval::reads(policy.as_ref(), |way, only_has| {
        let more = match way {
            [] => Reads::all(inputs),
            ["tls"] if !only_has => Reads(BTreeSet::from([Attribute::Tls, Attribute::ServerName])),
            [name] => Reads::named(name, inputs),
            [record, name, ..] => Reads::within(record, name, inputs),
        };
        reads.add(&more);
    });
    reads
}

#[cfg(test)]
mod tests;
