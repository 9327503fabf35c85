//! One field of a rule as a condition, from the side that the rule needs.

use super::bounds::{Bounds, Remark};
use super::known::only_known;
use super::policy::{Attribute, Match, Text};
use super::world::World;
use super::{path, principal, request};
use crate::cedar::expr::{Attr, Expr, and, context, not, or};

/// From which side a meaning is taken where it cannot be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// A rule that allows must not allow more.
    Narrow,
    /// A rule that denies must not deny less.
    Broad,
}

/// What is to be said of one value of a field.
#[derive(Clone, Debug)]
pub(super) struct Said<'a> {
    pub(super) of: &'a Match,
    pub(super) value: &'a Text,
    pub(super) remark: Remark,
}

/// The condition of a field; `namespace` is that of its policy.
pub(super) fn of<'a>(
    field: &'a Match,
    side: Side,
    namespace: &str,
    world: &World<'_>,
    said: &mut Vec<Said<'a>>,
) -> Expr {
    let mut any = Vec::new();
    for value in &field.values {
        if field.attribute == Attribute::Host && request::is_said_without_port(&value.text, &field.values) {
            continue;
        }
        let Bounds { narrow, broad, remark } = bounds(&field.attribute, &value.text, namespace, world);
        said.extend(remark.map(|remark| Said { of: field, value, remark }));
        any.push(if (side == Side::Narrow) == field.negated { broad } else { narrow });
    }
    let any = if field.negated { not(or(any)) } else { or(any) };
    match guard(&field.attribute) {
        Some(attr) if any != Expr::True && any != Expr::False => guarded(any, attr, side),
        _ => any,
    }
}

fn bounds(attribute: &Attribute, value: &str, namespace: &str, world: &World<'_>) -> Bounds {
    if value.is_empty() && !matches!(attribute, Attribute::Refused(_)) {
        return Bounds::refused("an empty value, which Istio refuses");
    }
    match attribute {
        Attribute::Principal => only_known(principal::principals(value, world)),
        Attribute::Namespace => only_known(principal::namespaces(value, world)),
        Attribute::ServiceAccount => only_known(principal::service_accounts(value, namespace, world)),
        Attribute::TrustDomain => only_known(principal::trust_domains(value, world)),
        Attribute::SourceIp => request::source_ips(value),
        Attribute::Host => request::hosts(value),
        Attribute::Method => request::methods(value),
        Attribute::Path => path::paths(value),
        Attribute::Port => request::ports(value, world),
        Attribute::Header(name) => request::headers(name, value, world),
        Attribute::Sni => request::snis(value, world),
        Attribute::RemoteIp => request::unsayable("the client's address from X-Forwarded-For or the PROXY protocol"),
        Attribute::RequestPrincipal | Attribute::Audiences | Attribute::Presenter | Attribute::Claim => {
            request::unsayable("a user's token (JWT)")
        }
        Attribute::DestinationIp => request::unsayable("the address that was called"),
        Attribute::EnvoyFilter => request::unsayable("the metadata of Envoy's filters"),
        Attribute::Unknown(name) => Bounds::unknown(
            format!("`{}` is not known to this importer", crate::report::short(name)),
            "look for a typing mistake, or write the rule by hand",
        ),
        Attribute::Refused(why) => Bounds::refused(*why),
    }
}

/// What a request may lack in Weft and never lacks in Istio.
fn guard(attribute: &Attribute) -> Option<Attr> {
    match attribute {
        Attribute::SourceIp => Some(context("sourceIp")),
        _ => None,
    }
}

/// Without the attribute nothing is allowed, and everything denied.
fn guarded(condition: Expr, attr: Attr, side: Side) -> Expr {
    let known = and([Expr::Has(attr.clone()), condition]);
    match side {
        Side::Narrow => known,
        Side::Broad => or([not(Expr::Has(attr)), known]),
    }
}
