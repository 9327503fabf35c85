//! Services, roles and namespaces as Cedar entities: `Service::"prod/web"` in `Namespace::"prod"` and in its `Role`s.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::sync::Arc;

use cedar_policy::{Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression};
use weft_model::{ServiceName, SpiffeId, TrustDomain};

/// What policies can read of a service.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceFacts {
    /// Namespace and name.
    pub name: ServiceName,
    /// Attribute -> value, from the mesh's vocabulary.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<Arc<str>, Arc<str>>,
    /// Roles that it has, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<Arc<str>>,
}

impl ServiceFacts {
    /// The entity, with its attributes and its groups.
    pub(crate) fn entity(&self, trust_domain: &TrustDomain) -> Result<Entity, String> {
        let text = |value: &str| RestrictedExpression::new_string(value.to_owned());
        let id = SpiffeId::for_service(trust_domain, &self.name);
        let own = self.attributes.iter().map(|(name, value)| (name.to_string(), text(value)));
        let built_in = [
            ("name", text(self.name.name())),
            ("namespace", text(self.name.namespace())),
            ("serviceAccount", text(self.name.name())),
            ("trustDomain", text(trust_domain.as_str())),
            ("spiffeId", text(id.as_str())),
        ];
        let attributes = own.chain(built_in.map(|(name, value)| (name.to_owned(), value))).collect();
        let parents: HashSet<EntityUid> = parents(&self.name, &self.roles).collect();
        Entity::new(service(&self.name), attributes, parents).map_err(|error| error.to_string())
    }
}

fn uid(kind: &str, id: &str) -> EntityUid {
    let kind: EntityTypeName = kind.parse().expect("an identifier");
    EntityUid::from_type_name_and_id(kind, EntityId::new(id))
}

/// `Service::"prod/web"`.
pub(crate) fn service(name: &ServiceName) -> EntityUid {
    uid("Service", name.as_str())
}

/// The namespace and the roles of a service.
pub(crate) fn parents(name: &ServiceName, roles: &[Arc<str>]) -> impl Iterator<Item = EntityUid> {
    [uid("Namespace", name.namespace())].into_iter().chain(roles.iter().map(|role| uid("Role", role)))
}

/// `Action::"call"`.
pub(crate) fn call() -> EntityUid {
    uid("Action", "call")
}

pub(crate) fn is_service(kind: &EntityTypeName) -> bool {
    kind.namespace().is_empty() && kind.basename() == "Service"
}
