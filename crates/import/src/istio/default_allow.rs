//! What Istio allows without a policy: everything, to a workload that no ALLOW policy is for. Weft allows nothing by default, so this
//! has to be written, if it is wanted.

use std::collections::BTreeSet;

use super::policy::{Action, Policy};
use super::target::{self, Resource};
use super::world::World;
use crate::cedar::expr::{Expr, not, resource};
use crate::cedar::print::{Effect, Policy as Cedar, Scope};

/// The namespaces, or what is left of them, that no ALLOW policy is for.
#[derive(Debug, Default)]
pub(super) struct Open {
    /// Each with the names of its services that some ALLOW policy is for.
    pub(super) namespaces: Vec<(String, BTreeSet<String>)>,
}

/// What is open in Istio: of the mesh's namespaces, or of those that the documents are in.
pub(super) fn open(policies: &[Policy], world: &World<'_>) -> Open {
    let allows: Vec<_> = policies.iter().filter(|policy| policy.action == Action::Allow && !policy.dry_run).collect();
    let covered: Vec<Resource> = allows.iter().flat_map(|policy| covered(policy, world)).collect();
    let namespaces: BTreeSet<&str> = match world.mesh {
        Some(mesh) => mesh.services.keys().map(weft_model::ServiceName::namespace).collect(),
        None => {
            let all = policies.iter().map(|policy| policy.namespace.as_str());
            all.filter(|namespace| *namespace != world.options.root_namespace && world.has_namespace(namespace))
                .collect()
        }
    };
    let mut open = Open::default();
    for namespace in namespaces {
        let mut names = BTreeSet::new();
        let is_covered = covered.iter().any(|covered| match covered {
            Resource::Any => true,
            Resource::Namespace(covered) => covered == namespace,
            Resource::Service(service) => {
                let of_this = service.split_once('/').filter(|(space, _)| *space == namespace);
                names.extend(of_this.map(|(_, name)| name.to_owned()));
                false
            }
            Resource::Absent { namespace: of, name } => {
                let here = of.as_ref().is_none_or(|of| of == namespace);
                names.extend(name.clone().filter(|_| here));
                here && name.is_none()
            }
        });
        // With the mesh at hand it is known whether anything is left.
        let is_left = world.mesh.is_none_or(|mesh| {
            mesh.services.keys().any(|service| service.namespace() == namespace && !names.contains(service.name()))
        });
        if !is_covered && is_left {
            open.namespaces.push((namespace.to_owned(), names));
        }
    }
    open
}

/// What an ALLOW policy is for, rather more than less.
fn covered(policy: &Policy, world: &World<'_>) -> Vec<Resource> {
    let target = target::of(policy, world);
    // A name that does not exist here could be that of any service.
    let is_vague = target.resources.is_empty() || world.mesh.is_some() && !target.lost.is_empty();
    if !is_vague {
        return target.resources;
    }
    if policy.namespace == world.options.root_namespace {
        vec![Resource::Any]
    } else {
        vec![Resource::Namespace(policy.namespace.clone())]
    }
}

impl Open {
    /// Policies that allow everyone everything there.
    pub(super) fn policies(&self) -> Vec<Cedar> {
        let permit = |(namespace, but): &(String, BTreeSet<String>)| Cedar {
            effect: Effect::Permit,
            principal: Scope::Any,
            resource: Scope::Namespace(namespace.clone()),
            when: match but.is_empty() {
                true => Expr::True,
                false => not(Expr::OneOf(resource("name"), but.iter().cloned().collect())),
            },
        };
        self.namespaces.iter().map(permit).collect()
    }

    /// For people, like `foo (but httpbin), bar`.
    pub(super) fn text(&self) -> String {
        let one = |(namespace, but): &(String, BTreeSet<String>)| match but.is_empty() {
            true => namespace.clone(),
            false => format!("{namespace} (but {})", but.iter().cloned().collect::<Vec<_>>().join(", ")),
        };
        self.namespaces.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}
