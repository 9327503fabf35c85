//! How a message is read without ignoring anything: supported fields are taken out of it, and what is left must be
//! empty.

use std::fmt::{self, Debug, Display};
use std::time::Duration;

use envoy_types::pb::google::protobuf;
use prost::{Message, Name};

use super::wire;

/// A field that this proxy cannot honour, or a value that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub(crate) struct Refused {
    path: String,
    problem: String,
}

/// What is said about a field that is set and must not be.
pub(crate) const NOT_SUPPORTED: &str = "not supported by this proxy";

/// Where in a resource the reader stands. A chain of borrows: it costs nothing until an error is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    part: Part<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Part<'a> {
    Root { package: &'a str, name: &'a str },
    Field(&'a str),
    Index(usize),
    Key(&'a str),
    Type(&'a str),
}

impl<'a> Path<'a> {
    /// The resource itself.
    pub(crate) fn root<M: Name>() -> Path<'static> {
        Path { parent: None, part: Part::Root { package: M::PACKAGE, name: M::NAME } }
    }

    /// One of Weft's own types, which are not protobuf.
    pub(crate) fn own(name: &'static str) -> Path<'static> {
        let package = if name == "Bundle" { "weft.policy.v1" } else { "weft.mesh.v1" };
        Path { parent: None, part: Part::Root { package, name } }
    }

    /// A field of this message.
    pub(crate) fn field(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), part: Part::Field(name) }
    }

    /// An entry of this list.
    pub(crate) fn index(&'a self, at: usize) -> Path<'a> {
        Path { parent: Some(self), part: Part::Index(at) }
    }

    /// An entry of this map.
    pub(crate) fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), part: Part::Key(key) }
    }

    /// Inside the `Any` that stands here.
    fn inside(&'a self, type_name: &'a str) -> Path<'a> {
        Path { parent: Some(self), part: Part::Type(type_name) }
    }

    /// The refusal of what stands here.
    pub(crate) fn refuse(&self, problem: impl Into<String>) -> Refused {
        Refused { path: self.to_string(), problem: problem.into() }
    }

    /// Requires that nothing is left in a message from which all that is supported was taken.
    pub(crate) fn rest<M: Default + PartialEq + Debug>(&self, left: &M) -> Result<(), Refused> {
        let empty = M::default();
        if *left == empty {
            return Ok(());
        }
        let field = first_difference(&format!("{left:#?}"), &format!("{empty:#?}"));
        Err(field.map_or_else(|| self.refuse(NOT_SUPPORTED), |name| self.field(&name).refuse(NOT_SUPPORTED)))
    }

    /// Decodes bytes that should be an `M`; fields that `M` does not have (of a newer Envoy) are refused as well.
    pub(crate) fn decode<M: Message + Default>(&self, bytes: &[u8]) -> Result<M, Refused> {
        let message = M::decode(bytes).map_err(|error| self.refuse(error.to_string()))?;
        match wire::dropped_field(bytes, &message.encode_to_vec()) {
            None => Ok(message),
            Some(numbers) => {
                Err(self.refuse(format!("field number {numbers} is newer than this proxy and not supported by it")))
            }
        }
    }

    /// Decodes an `Any` that holds an `M` and reads it with `read`, if that is what it holds.
    pub(crate) fn any<M, T>(
        &self,
        any: &protobuf::Any,
        read: impl FnOnce(M, &Path<'_>) -> Result<T, Refused>,
    ) -> Result<Option<T>, Refused>
    where
        M: Message + Name + Default,
    {
        if !holds::<M>(any) {
            return Ok(None);
        }
        let inside = self.inside(M::NAME);
        let message = inside.decode::<M>(&any.value)?;
        read(message, &inside).map(Some)
    }

    /// The refusal of an `Any` of a type that is not supported here.
    pub(crate) fn refuse_type(&self, any: &protobuf::Any) -> Refused {
        let name = any.type_url.rsplit('/').next().unwrap_or_default();
        self.inside(name.rsplit('.').next().unwrap_or_default()).refuse(NOT_SUPPORTED)
    }
}

/// Whether an `Any` says that it holds an `M`.
pub(crate) fn holds<M: Name>(any: &protobuf::Any) -> bool {
    any.type_url.rsplit('/').next().is_some_and(|name| {
        name.strip_suffix(M::NAME).and_then(|rest| rest.strip_suffix('.')).is_some_and(|package| package == M::PACKAGE)
    })
}

impl Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            Display::fmt(parent, f)?;
        }
        match self.part {
            Part::Root { package, name } => write!(f, "{package}.{name}"),
            Part::Field(name) => write!(f, ".{name}"),
            Part::Index(at) => write!(f, "[{at}]"),
            Part::Key(key) => write!(f, "[{key:?}]"),
            Part::Type(name) => write!(f, "({name})"),
        }
    }
}

/// The name of the first top-level field in which two pretty `Debug` texts of the same struct differ; for a `oneof`,
/// the name of the member that is set.
fn first_difference(left: &str, empty: &str) -> Option<String> {
    let mut lines = Vec::new();
    let mut other = empty.lines();
    for line in left.lines() {
        lines.push(line);
        if other.next() != Some(line) {
            break;
        }
    }
    let is_top = |line: &&&str| line.starts_with("    ") && !line.starts_with("     ") && line.contains(": ");
    let top = lines.iter().rev().find(is_top)?;
    let (name, value) = top.trim().split_once(": ")?;
    let inner = left.lines().nth(lines.iter().rposition(|line| line == top)? + 1).map_or("", str::trim);
    match inner.strip_suffix('(') {
        Some(member) if value == "Some(" && member.starts_with(|c: char| c.is_ascii_uppercase()) => Some(snake(member)),
        _ => Some(name.trim_start_matches("r#").to_owned()),
    }
}

/// `WeightedClusters` -> `weighted_clusters`.
fn snake(camel: &str) -> String {
    let mut text = String::new();
    for (at, c) in camel.char_indices() {
        if c.is_ascii_uppercase() && at > 0 {
            text.push('_');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

/// A duration that is not negative; `None` if not given.
pub(crate) fn duration(given: Option<protobuf::Duration>, at: &Path<'_>) -> Result<Option<Duration>, Refused> {
    let Some(given) = given else { return Ok(None) };
    match (u64::try_from(given.seconds), u32::try_from(given.nanos)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Ok(Some(Duration::new(seconds, nanos))),
        _ => Err(at.refuse("not a duration of zero or more")),
    }
}

/// A bound in time: `default` if not given, `None` (for ever) if zero.
pub(crate) fn bound(
    given: Option<protobuf::Duration>,
    default: Duration,
    at: &Path<'_>,
) -> Result<Option<Duration>, Refused> {
    let bound = duration(given, at)?.unwrap_or(default);
    Ok((!bound.is_zero()).then_some(bound))
}

/// A bound in time that the data plane does not keep: only "for ever" can be asked for, and holds where nothing is.
pub(crate) fn unbounded(given: Option<protobuf::Duration>, at: &Path<'_>) -> Result<(), Refused> {
    match duration(given, at)? {
        None | Some(Duration::ZERO) => Ok(()),
        Some(_) => Err(at.refuse("only 0, which is for ever, is supported by this proxy")),
    }
}

/// A field that must be given.
pub(crate) fn required<T>(given: Option<T>, at: &Path<'_>) -> Result<T, Refused> {
    given.ok_or_else(|| at.refuse("required"))
}

/// A text that must not be empty.
pub(crate) fn named(text: &mut String, at: &Path<'_>) -> Result<std::sync::Arc<str>, Refused> {
    if text.is_empty() { Err(at.refuse("must not be empty")) } else { Ok(std::mem::take(text).into()) }
}

/// The value of a wrapper, `default` if not given.
pub(crate) fn boolean(given: Option<protobuf::BoolValue>, default: bool) -> bool {
    given.map_or(default, |wrapper| wrapper.value)
}

/// The value of a wrapper.
pub(crate) fn uint32(given: Option<protobuf::UInt32Value>) -> Option<u32> {
    given.map(|wrapper| wrapper.value)
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::cluster::v3::{Cluster, OutlierDetection, cluster};
    use envoy_types::pb::envoy::config::route::v3::{RedirectAction, Route, RouteMatch, route};

    use super::*;

    fn left<M: Default + PartialEq + Debug + Name>(message: &M) -> String {
        Path::root::<M>().rest(message).expect_err("something is left").to_string()
    }

    #[test]
    #[allow(deprecated)]
    fn what_is_left_is_named() {
        let outlier = Cluster { outlier_detection: Some(OutlierDetection::default()), ..Default::default() };
        assert_eq!(left(&outlier), "envoy.config.cluster.v3.Cluster.outlier_detection: not supported by this proxy");
        let respect = Cluster { respect_dns_ttl: true, track_timeout_budgets: true, ..Default::default() };
        assert_eq!(left(&respect), "envoy.config.cluster.v3.Cluster.respect_dns_ttl: not supported by this proxy");
        let list = Cluster { dns_resolvers: vec![Default::default()], ..Default::default() };
        assert_eq!(left(&list), "envoy.config.cluster.v3.Cluster.dns_resolvers: not supported by this proxy");
        let scalar = Cluster { protocol_selection: 1, ..Default::default() };
        assert_eq!(left(&scalar), "envoy.config.cluster.v3.Cluster.protocol_selection: not supported by this proxy");
        let map = Cluster {
            typed_extension_protocol_options: [("a".to_owned(), protobuf::Any::default())].into(),
            ..Default::default()
        };
        let expected = "envoy.config.cluster.v3.Cluster.typed_extension_protocol_options: not supported by this proxy";
        assert_eq!(left(&map), expected);
        assert!(Path::root::<Cluster>().rest(&Cluster::default()).is_ok());
    }

    #[test]
    fn a_member_of_a_oneof_has_its_own_name() {
        let ring =
            Cluster { lb_config: Some(cluster::LbConfig::RingHashLbConfig(Default::default())), ..Default::default() };
        assert_eq!(left(&ring), "envoy.config.cluster.v3.Cluster.ring_hash_lb_config: not supported by this proxy");
        let redirect = Route { action: Some(route::Action::Redirect(RedirectAction::default())), ..Default::default() };
        assert_eq!(left(&redirect), "envoy.config.route.v3.Route.redirect: not supported by this proxy");
        let message = Route { r#match: Some(RouteMatch::default()), ..Default::default() };
        assert_eq!(left(&message), "envoy.config.route.v3.Route.match: not supported by this proxy");
    }

    #[test]
    fn fields_of_a_newer_envoy_are_refused() {
        let mut bytes = Cluster { name: "a".into(), ..Default::default() }.encode_to_vec();
        let root = Path::root::<Cluster>();
        assert!(root.decode::<Cluster>(&bytes).is_ok());
        prost::encoding::uint32::encode(9000, &7, &mut bytes);
        assert_eq!(
            root.decode::<Cluster>(&bytes).expect_err("newer").to_string(),
            "envoy.config.cluster.v3.Cluster: field number 9000 is newer than this proxy and not supported by it"
        );
    }

    #[test]
    fn bounds_of_time() {
        let root = Path::root::<Cluster>();
        let given = |seconds, nanos| bound(Some(protobuf::Duration { seconds, nanos }), Duration::from_secs(5), &root);
        assert_eq!(bound(None, Duration::from_secs(5), &root), Ok(Some(Duration::from_secs(5))));
        assert_eq!(given(0, 0), Ok(None));
        assert_eq!(given(1, 5), Ok(Some(Duration::new(1, 5))));
        assert!(given(-1, 0).is_err());
        assert!(given(0, -1).is_err());
        assert!(given(0, 1_000_000_000).is_err());
    }
}
