//! Named, versioned, encoded resources and the set of them that one proxy should have.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use envoy_types::pb::google::protobuf::Any;
use sha2::{Digest, Sha256};

use crate::type_url;

/// One xDS resource, encoded once. Equal bytes have equal versions, so an unchanged resource is never sent twice.
#[derive(Clone, PartialEq)]
pub struct Resource {
    /// The name that clients subscribe to.
    pub name: Arc<str>,
    /// First 16 hex digits of the SHA-256 of the encoded bytes.
    pub version: Arc<str>,
    /// Type URL and encoded message.
    pub any: Any,
}

impl Resource {
    /// Encodes `message` under `name`.
    pub fn new<M: prost::Message>(type_url: &'static str, name: &str, message: &M) -> Arc<Self> {
        Self::from_bytes(type_url, name, message.encode_to_vec())
    }

    /// From an encoded message (or, for Weft's own types, any bytes).
    pub fn from_bytes(type_url: &'static str, name: &str, value: Vec<u8>) -> Arc<Self> {
        let version = version_of(&value);
        Arc::new(Self { name: name.into(), version, any: Any { type_url: type_url.to_owned(), value } })
    }

    /// With the version that a server gave; a client must hand that back, whatever it means to the server.
    pub fn received(name: &str, version: &str, any: Any) -> Arc<Self> {
        Arc::new(Self { name: name.into(), version: version.into(), any })
    }

    /// The message inside. Whether `M` is the right type is the caller's knowledge.
    pub fn decode<M: prost::Message + Default>(&self) -> Result<M, prost::DecodeError> {
        M::decode(self.any.value.as_slice())
    }
}

impl fmt::Debug for Resource {
    /// Without the bytes: a secret is a resource too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}@{}", type_url::short(&self.any.type_url), self.name, self.version)
    }
}

fn version_of(bytes: &[u8]) -> Arc<str> {
    hex(&Sha256::digest(bytes)[..8]).into()
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The start of a text, at most `max` bytes, cut between characters.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    let end = (0..=max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

/// The resources of one type, by name.
pub type Resources = BTreeMap<Arc<str>, Arc<Resource>>;

static NONE: Resources = BTreeMap::new();

/// Everything that one proxy should have, at one revision of the intent. Cheap to clone; maps are shared between snapshots.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// The commit (or other name) that this state comes from. It is told to clients.
    pub revision: Arc<str>,
    /// Counts states within a revision (endpoints come and go without a commit), if whoever makes them wants to tell them apart when
    /// they settle. It is not sent.
    pub serial: u64,
    /// Types of which not everything is known yet: what is missing is then not reported as missing.
    partial: BTreeSet<&'static str>,
    types: BTreeMap<&'static str, Arc<Resources>>,
}

impl Snapshot {
    /// An empty state of a revision.
    pub fn new(revision: &str) -> Self {
        Self { revision: revision.into(), ..Self::default() }
    }

    /// The resources of a type; an empty map if there are none.
    pub fn get(&self, type_url: &str) -> &Resources {
        self.types.get(type_url).map_or(&NONE, |shared| shared)
    }

    /// The shared map of a type, for another snapshot to [`set`](Self::set).
    pub fn shared(&self, type_url: &str) -> Option<Arc<Resources>> {
        self.types.get(type_url).cloned()
    }

    /// The types that have resources.
    pub fn types(&self) -> impl Iterator<Item = (&'static str, &Resources)> {
        self.types.iter().map(|(type_url, resources)| (*type_url, &**resources))
    }

    /// How many resources of all types.
    pub fn len(&self) -> usize {
        self.types.values().map(|resources| resources.len()).sum()
    }

    /// Whether there is no resource at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a resource, or replaces the one of its name. The type is the resource's own; an unknown type is not stored.
    pub fn insert(&mut self, resource: Arc<Resource>) {
        let Some(type_url) = type_url::intern(&resource.any.type_url) else {
            debug_assert!(false, "unknown type {}", resource.any.type_url);
            return;
        };
        Arc::make_mut(self.types.entry(type_url).or_default()).insert(resource.name.clone(), resource);
    }

    /// Takes a resource away.
    pub fn remove(&mut self, type_url: &str, name: &str) -> Option<Arc<Resource>> {
        let shared = self.types.get_mut(type_url)?;
        if !shared.contains_key(name) {
            return None;
        }
        let removed = Arc::make_mut(shared).remove(name);
        if shared.is_empty() {
            self.types.remove(type_url);
        }
        removed
    }

    /// Replaces all resources of a type by a map that may be shared with other snapshots.
    pub fn set(&mut self, type_url: &'static str, resources: Arc<Resources>) {
        if resources.is_empty() {
            self.types.remove(type_url);
        } else {
            self.types.insert(type_url, resources);
        }
    }

    /// The same with one more resource, for building in one expression.
    pub fn with(mut self, resource: Arc<Resource>) -> Self {
        self.insert(resource);
        self
    }

    /// The same under another revision.
    pub fn at(mut self, revision: &str) -> Self {
        self.revision = revision.into();
        self
    }

    /// Says whether the resources of a type may still be incomplete. While they are, a name that is missing, or an empty set, is not
    /// reported to clients: they go on waiting. [`Relay`](crate::Relay) uses it before it has heard from upstream.
    pub fn set_partial(&mut self, type_url: &'static str, partial: bool) {
        if partial {
            self.partial.insert(type_url);
        } else {
            self.partial.remove(type_url);
        }
    }

    /// Whether a type may still be incomplete.
    pub fn is_partial(&self, type_url: &str) -> bool {
        self.partial.contains(type_url)
    }

    /// Replaces maps and resources that equal those of `previous` by the previous ones, so that equality is a pointer comparison
    /// from then on and the memory is held once.
    pub fn share_with(&mut self, previous: &Snapshot) {
        for (type_url, resources) in &mut self.types {
            let Some(before) = previous.types.get(type_url) else { continue };
            if Arc::ptr_eq(resources, before) {
                continue;
            }
            if **resources == **before {
                *resources = before.clone();
                continue;
            }
            for (name, resource) in Arc::make_mut(resources) {
                if let Some(same) = before.get(name).filter(|old| old.version == resource.version) {
                    *resource = same.clone();
                }
            }
        }
    }

    /// Whether a type is certainly the same in both, by pointer only.
    pub(crate) fn same_map(&self, other: &Snapshot, type_url: &str) -> bool {
        if self.is_partial(type_url) != other.is_partial(type_url) {
            return false;
        }
        match (self.types.get(type_url), other.types.get(type_url)) {
            (None, None) => true,
            (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
            _ => false,
        }
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        map.entry(&"revision", &self.revision);
        for (type_url, resources) in self.types() {
            map.entry(&type_url::short(type_url), &resources.values().collect::<Vec<_>>());
        }
        map.finish()
    }
}

impl FromIterator<Arc<Resource>> for Snapshot {
    fn from_iter<I: IntoIterator<Item = Arc<Resource>>>(resources: I) -> Self {
        resources.into_iter().fold(Self::default(), Self::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(name: &str, body: &str) -> Arc<Resource> {
        Resource::from_bytes(type_url::CLUSTER, name, body.as_bytes().to_vec())
    }

    #[test]
    fn a_version_follows_the_bytes_and_nothing_else() {
        assert_eq!(cluster("a", "x").version, cluster("b", "x").version);
        assert_ne!(cluster("a", "x").version, cluster("a", "y").version);
        assert_eq!(&*cluster("a", "").version, "e3b0c44298fc1c14");
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!((cut("aäb", 4), cut("aäb", 3), cut("aäb", 2), cut("ä", 1), cut("", 0)), ("aäb", "aä", "a", "", ""));
    }

    #[test]
    fn equal_maps_and_resources_are_shared() {
        let first = Snapshot::new("1").with(cluster("a", "x")).with(cluster("b", "x"));
        let mut same = Snapshot::new("2").with(cluster("a", "x")).with(cluster("b", "x"));
        same.share_with(&first);
        assert!(same.same_map(&first, type_url::CLUSTER));
        let mut changed = Snapshot::new("3").with(cluster("a", "x")).with(cluster("b", "y"));
        changed.share_with(&first);
        assert!(!changed.same_map(&first, type_url::CLUSTER));
        let (a, was) = (&changed.get(type_url::CLUSTER)["a"], &first.get(type_url::CLUSTER)["a"]);
        assert!(Arc::ptr_eq(a, was));
    }

    #[test]
    fn inserting_into_a_shared_map_leaves_the_other_snapshot_alone() {
        let first = Snapshot::new("1").with(cluster("a", "x"));
        let mut second = first.clone().at("2");
        second.insert(cluster("b", "x"));
        assert!(second.remove(type_url::CLUSTER, "a").is_some());
        assert_eq!(first.len(), 1);
        assert!(first.get(type_url::CLUSTER).contains_key("a"));
        assert!(second.remove(type_url::CLUSTER, "b").is_some());
        assert!(second.is_empty());
        assert!(second.shared(type_url::CLUSTER).is_none());
    }

    #[test]
    fn debug_output_never_holds_the_bytes() {
        let text = format!("{:?}", Snapshot::new("1").with(cluster("a", "top secret")));
        assert!(!text.contains("top secret") && !text.contains("116"), "{text}");
    }
}
