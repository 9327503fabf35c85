//! What a policy is for: workloads there, services here.
//!
//! A workload is taken to be the service of the name that one of its labels has. Labels that tell workloads of one name apart
//! (`version: v1`) cannot be said.

use weft_model::{ServiceName, Span};

use super::policy::{Action, Policy, Selection, TargetRef};
use super::world::World;
use crate::report::short;

/// What is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Resource {
    Any,
    Service(String),
    Namespace(String),
    /// What a policy may not name: a service or namespace that the mesh does not have yet, or a name in every namespace.
    Absent {
        namespace: Option<String>,
        name: Option<String>,
    },
}

/// What a policy is for.
#[derive(Clone, Debug, Default)]
pub(super) struct Target {
    /// Not less than the original: for a rule that denies.
    pub(super) resources: Vec<Resource>,
    /// What cannot be said, with its field and place. If anything, a rule that allows must not be written.
    pub(super) lost: Vec<Lost>,
    /// For people.
    pub(super) text: String,
}

/// Something to say of a selection.
#[derive(Clone, Debug)]
pub(super) struct Lost {
    /// Whether only a part of the workloads of a service is meant.
    pub(super) is_part: bool,
    pub(super) field: String,
    pub(super) span: Span,
    pub(super) problem: String,
    pub(super) hint: String,
}

/// What `policy` is for.
pub(super) fn of(policy: &Policy, world: &World<'_>) -> Target {
    let is_root = policy.namespace == world.options.root_namespace;
    let mut target = Target::default();
    match &policy.selection {
        Selection::All => {
            target.resources = vec![everything(policy, is_root, world)];
            target.text = if is_root {
                "every workload of the mesh".to_owned()
            } else {
                format!("every workload of namespace {}", policy.namespace)
            };
        }
        Selection::Labels { labels, span } => {
            let all = labels.iter().map(|(label, value)| format!("{}={}", short(label), short(&value.text)));
            let place = if is_root { "any namespace".to_owned() } else { format!("namespace {}", policy.namespace) };
            target.text = format!("workloads of {place} with {}", all.collect::<Vec<_>>().join(", "));
            let naming = world.options.service_labels.iter();
            let name = naming.filter_map(|known| labels.iter().find(|(label, _)| label == known)).next();
            match name {
                Some((_, name)) if is_root => named_anywhere(&name.text, world, &mut target, span),
                Some((_, name)) => named(&policy.namespace, &name.text, "selector", span, world, &mut target),
                None => target.resources.push(everything(policy, is_root, world)),
            }
            for (label, value) in labels {
                if name.is_some_and(|(_, name)| name.text == value.text && world.options.service_labels.contains(label))
                {
                    continue;
                }
                target.lost.push(Lost {
                    is_part: name.is_some(),
                    field: format!("selector.matchLabels.{}", short(label)),
                    span: value.span.clone(),
                    problem: "Weft has policies for services, and this label does not name one".to_owned(),
                    hint: format!(
                        "make a service of its own of these workloads and write the rules for that; or, if the label is the service's \
                         name, say so: --service-label {}",
                        short(label)
                    ),
                });
            }
        }
        Selection::Targets(targets) => {
            let all = targets.iter().map(|target| format!("{} {}", short(&target.kind), short(&target.name)));
            target.text = all.collect::<Vec<_>>().join(", ");
            targets.iter().for_each(|reference| referenced(reference, &policy.namespace, world, &mut target));
        }
    }
    let taken = target.resources.iter().map(Resource::text).collect::<Vec<_>>().join(", ");
    if !matches!(policy.selection, Selection::All) && !taken.is_empty() {
        target.text = format!("{}, taken to be {taken}", target.text);
    }
    target
}

/// Whether an ALLOW policy for a part of a service's workloads may be for all of them: Istio lets everyone call the other part, if every
/// other ALLOW policy that could be for the service is for the same part.
pub(super) fn may_be_whole(policy: &Policy, all: &[Policy], world: &World<'_>) -> bool {
    let target = of(policy, world);
    let services: Option<Vec<ServiceName>> = target.resources.iter().map(Resource::service).collect();
    let Some(services) = services.filter(|_| target.lost.iter().all(|lost| lost.is_part)) else { return false };
    let others = all.iter().filter(|other| other.action == Action::Allow && !other.dry_run);
    let mut others = others.filter(|other| !is_same(policy, other)).map(|other| of(other, world));
    !others.any(|other| {
        let covers = |service| other.resources.iter().any(|called| called.covers(service));
        other.resources.is_empty() || services.iter().any(covers)
    })
}

/// Whether two policies are for the same workloads.
fn is_same(one: &Policy, other: &Policy) -> bool {
    let labels = |policy: &Policy| match &policy.selection {
        Selection::Labels { labels, .. } => {
            let labels = labels.iter().map(|(label, value)| (label.clone(), value.text.clone()));
            Some(labels.collect::<std::collections::BTreeMap<_, _>>())
        }
        _ => None,
    };
    one.namespace == other.namespace && labels(one).is_some() && labels(one) == labels(other)
}

fn everything(policy: &Policy, is_root: bool, world: &World<'_>) -> Resource {
    if is_root {
        return Resource::Any;
    }
    let namespace = policy.namespace.clone();
    if world.has_namespace(&namespace) {
        Resource::Namespace(namespace)
    } else {
        Resource::Absent { namespace: Some(namespace), name: None }
    }
}

/// The services that a workload of one namespace is.
fn named(namespace: &str, name: &str, field: &str, span: &Span, world: &World<'_>, target: &mut Target) {
    for service in world.services(namespace, name) {
        if world.has_service(&service) {
            target.resources.push(Resource::Service(service));
            continue;
        }
        let (space, name) = service.split_once('/').unwrap_or((namespace, &service));
        let problem = match world.mesh {
            Some(_) => format!("the mesh has no service {}", short(&service)),
            None => format!("no service of Weft can be called {}", short(&service)),
        };
        let hint = format!("if it is called otherwise here, say so: --rename {}=NAMESPACE/NAME", short(&service));
        target.resources.push(Resource::Absent { namespace: Some(space.to_owned()), name: Some(name.to_owned()) });
        target.lost.push(Lost { is_part: false, field: field.to_owned(), span: span.clone(), problem, hint });
    }
}

/// Workloads of one name in every namespace.
fn named_anywhere(name: &str, world: &World<'_>, target: &mut Target, span: &Span) {
    let renamed =
        world.options.renamed.iter().filter(|(from, _)| from.split_once('/').is_some_and(|(_, from)| from == name));
    let renamed = renamed.flat_map(|(_, services)| services).filter(|service| service.name() != name);
    target.resources.extend(renamed.map(|service| Resource::Service(service.to_string())));
    target.resources.push(Resource::Absent { namespace: None, name: Some(name.to_owned()) });
    let known = |service: &ServiceName| service.name() == name;
    if world.mesh.is_some_and(|mesh| !mesh.services.keys().any(known)) && target.resources.len() == 1 {
        target.lost.push(Lost {
            is_part: false,
            field: "selector".to_owned(),
            span: span.clone(),
            problem: format!("the mesh has no service called {} in any namespace", short(name)),
            hint: "if it is called otherwise here, say so: --rename NAMESPACE/NAME=NAMESPACE/NAME".to_owned(),
        });
    }
}

fn referenced(reference: &TargetRef, namespace: &str, world: &World<'_>, target: &mut Target) {
    let TargetRef { kind, group, name, path, span } = reference;
    if kind == "Service" && (group.is_empty() || group == "core") && !name.is_empty() {
        return named(namespace, name, path, span, world, target);
    }
    let (problem, hint) = match kind.as_str() {
        "Gateway" | "GatewayClass" => (
            "Weft has no gateways: a policy is for the services behind them, and which these are does not stand here",
            "write the rules by hand for the services that are called through it",
        ),
        "ServiceEntry" => (
            "what is outside of the mesh is no service of Weft",
            "make a service of it with endpoints, and write the rules for that",
        ),
        _ => ("this is nothing that an AuthorizationPolicy can hang on", "name a Service by its kind and name"),
    };
    target.lost.push(Lost {
        is_part: false,
        field: path.clone(),
        span: span.clone(),
        problem: problem.to_owned(),
        hint: hint.to_owned(),
    });
}

impl Resource {
    /// For people.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Any => "every service".to_owned(),
            Self::Service(name) => format!("service {}", short(name)),
            Self::Namespace(name) => format!("every service of {}", short(name)),
            Self::Absent { namespace: Some(namespace), name: Some(name) } => {
                format!("service {}/{}", short(namespace), short(name))
            }
            Self::Absent { namespace: Some(namespace), name: None } => format!("every service of {}", short(namespace)),
            Self::Absent { namespace: None, name: Some(name) } => format!("services called {}", short(name)),
            Self::Absent { namespace: None, name: None } => "every service".to_owned(),
        }
    }

    /// The service that it is, if it is one that may be named.
    fn service(&self) -> Option<ServiceName> {
        match self {
            Self::Service(name) => name.parse().ok(),
            _ => None,
        }
    }

    /// Whether it may be this service.
    pub(super) fn covers(&self, service: &ServiceName) -> bool {
        match self {
            Self::Any => true,
            Self::Service(name) => name == service.as_str(),
            Self::Namespace(namespace) => namespace == service.namespace(),
            Self::Absent { namespace, name } => {
                namespace.as_ref().is_none_or(|namespace| namespace == service.namespace())
                    && name.as_ref().is_none_or(|name| name == service.name())
            }
        }
    }
}
