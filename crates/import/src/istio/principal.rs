//! Who calls: principals, service accounts, namespaces and trust domains.
//!
//! An identity of Istio is `<trust domain>/ns/<namespace>/sa/<service account>`, and one of Weft has the same shape, with the name of
//! the service for the service account. So every pattern on it is one on the namespace and the name.

use super::bounds::Bounds;
use super::pattern::{self, Pattern};
use super::world::World;
use crate::cedar::expr::{Expr, Kind, Piece, and, equal, like, namespace, not, or, principal, service};
use crate::report::short;

const NEVER: &str = "no identity has this form: in Istio it matches nobody, and so it does here";

/// `principals` and `source.principal`.
pub(super) fn principals(value: &str, world: &World<'_>) -> Bounds {
    let pattern = pattern::read(value);
    if pattern.has_star() {
        return Bounds::exact(Expr::False).noting(format!("{}: it matches nobody", pattern::star_note(value)));
    }
    let bounds = match pattern {
        Pattern::Present => Some(Bounds::exact(Expr::True)),
        Pattern::Exact(whole) => exactly(whole, world),
        Pattern::Prefix(start) => starting(start, world),
        Pattern::Suffix(end) => ending(end, world),
    };
    bounds.unwrap_or_else(|| Bounds::exact(Expr::False).noting(NEVER))
}

fn exactly(whole: &str, world: &World<'_>) -> Option<Bounds> {
    match whole.split('/').collect::<Vec<_>>()[..] {
        [domain, "ns", space, "sa", account] => {
            Some(of_domain(callers(space, account, world), domain, world.is_own(domain)))
        }
        _ => None,
    }
}

fn starting(start: &str, world: &World<'_>) -> Option<Bounds> {
    let (domain, rest) = start.split_once('/').map_or((start, None), |(domain, rest)| (domain, Some(rest)));
    let Some(rest) = rest else {
        let own = world.domains().iter().all(|own| own.starts_with(domain));
        return Some(of_domain(Bounds::exact(Expr::True), domain, own));
    };
    let bounds = match rest.split('/').collect::<Vec<_>>()[..] {
        [word] => Bounds::exact("ns".starts_with(word).then_some(Expr::True)?),
        ["ns", space] => by_name(Pattern::Prefix(space), Pattern::Prefix(""), world),
        ["ns", space, word] if "sa".starts_with(word) => by_name(Pattern::Exact(space), Pattern::Prefix(""), world),
        ["ns", space, "sa", account] => by_name(Pattern::Exact(space), Pattern::Prefix(account), world),
        _ => return None,
    };
    Some(of_domain(bounds, domain, world.is_own(domain)))
}

fn ending(end: &str, world: &World<'_>) -> Option<Bounds> {
    let bounds = match end.split('/').collect::<Vec<_>>()[..] {
        [account] => by_name(Pattern::Suffix(""), Pattern::Suffix(account), world),
        [word, account] if "sa".ends_with(word) => by_name(Pattern::Suffix(""), Pattern::Exact(account), world),
        [space, "sa", account] => by_name(Pattern::Suffix(space), Pattern::Exact(account), world),
        [word, space, "sa", account] if "ns".ends_with(word) => callers(space, account, world),
        [domain, "ns", space, "sa", account] => {
            let own = world.domains().iter().any(|own| own.ends_with(domain)) || "cluster.local".ends_with(domain);
            of_domain(callers(space, account, world), domain, own)
        }
        _ => return None,
    };
    Some(bounds)
}

/// A caller of another trust domain is nobody here, unless that is Istio's own by another name.
fn of_domain(bounds: Bounds, domain: &str, own: bool) -> Bounds {
    if own {
        return bounds;
    }
    let domain = short(domain);
    let problem =
        format!("`{domain}` is not known as a trust domain of the mesh, and Weft knows no callers of another");
    let hint = format!("if it is Istio's trust domain, or an alias of it, say so: --trust-domain {domain}");
    Bounds::between(Expr::False, bounds.broad, problem, hint)
}

/// The services that run under one service account.
fn callers(space: &str, account: &str, world: &World<'_>) -> Bounds {
    let names = world.callers(space, account);
    if names.is_empty() {
        let note = format!(
            "the service {space}/{account} is said to run under another account, so nobody runs under this one"
        );
        return Bounds::exact(Expr::False).noting(note);
    }
    let (known, others): (Vec<String>, Vec<String>) = names.into_iter().partition(|name| world.has_service(name));
    let known = or(known.into_iter().map(service));
    let Some(first) = others.first().map(|name| short(name)) else { return Bounds::exact(known) };
    // By its attributes, as a policy may not name what does not exist.
    let absent = others.iter().filter_map(|name| name.split_once('/'));
    let absent =
        or(absent.map(|(space, name)| and([equal(principal("namespace"), space), equal(principal("name"), name)])));
    let problem = match world.mesh {
        Some(_) => format!("the mesh has no service {first}"),
        None => {
            format!("no service of Weft can be called {first}: a name has 1 to 63 small letters, digits and dashes")
        }
    };
    let hint = format!("if it is called otherwise here, say so: --rename {first}=NAMESPACE/NAME");
    Bounds::absent(known.clone(), or([known, absent]), problem, hint)
}

/// Callers by their namespace and name.
fn by_name(space: Pattern<'_>, account: Pattern<'_>, world: &World<'_>) -> Bounds {
    let is_any = |pattern| matches!(pattern, Pattern::Prefix("") | Pattern::Suffix(""));
    let in_namespace = match space {
        space if is_any(space) => Expr::True,
        Pattern::Exact(space) if world.has_namespace(space) => namespace(space),
        space => space.on(principal("namespace")),
    };
    let name = if is_any(account) { Expr::True } else { account.on(principal("name")) };
    Bounds::exact(renamed(and([in_namespace, name]), |s, a| space.matches(s) && account.matches(a), world))
}

/// A condition on names as Istio has them, as one on the names here: services that are called otherwise are told one by one.
fn renamed(by_names: Expr, matches: impl Fn(&str, &str) -> bool, world: &World<'_>) -> Expr {
    let is_meant = |name: &str| name.split_once('/').is_some_and(|(space, name)| matches(space, name));
    let (mut gained, mut lost) = (Vec::new(), Vec::new());
    for to in world.options.renamed.values().flatten() {
        let accounts = world.options.renamed.iter().filter(|(_, services)| services.contains(to));
        let meant = accounts.clone().any(|(account, _)| is_meant(account));
        if meant != is_meant(to.as_str()) && world.has_service(to.as_str()) {
            if meant { &mut gained } else { &mut lost }.push(service(to));
        }
    }
    or([and([by_names, not(or(lost))]), or(gained)])
}

/// `namespaces` and `source.namespace`: Istio looks for `/ns/<value>/` anywhere in the identity, with `*` for anything, slashes too.
pub(super) fn namespaces(value: &str, world: &World<'_>) -> Bounds {
    // Where a namespace is called `ns`, "sa" would be found behind it too.
    if !value.contains('*') && value != "sa" {
        let bounds = by_name(Pattern::Exact(value), Pattern::Prefix(""), world);
        let absent = || format!("the mesh has no service in the namespace {}", short(value));
        return if world.has_namespace(value) { bounds } else { bounds.noting(absent()) };
    }
    if value.bytes().all(|byte| byte == b'*') {
        return Bounds::exact(Expr::True);
    }
    let mut pieces = vec![Piece::Any, Piece::Text("/ns/".to_owned())];
    for (at, text) in value.split('*').enumerate() {
        if at > 0 && pieces.last() != Some(&Piece::Any) {
            pieces.push(Piece::Any);
        }
        add(&mut pieces, text);
    }
    add(&mut pieces, "/");
    pieces.push(Piece::Any);
    let matches = |space: &str, account: &str| wildcard(&pieces, &format!("x/ns/{space}/sa/{account}"));
    Bounds::exact(renamed(like(principal("spiffeId"), pieces.clone()), matches, world))
}

fn add(pieces: &mut Vec<Piece>, text: &str) {
    match pieces.last_mut() {
        _ if text.is_empty() => {}
        Some(Piece::Text(before)) => before.push_str(text),
        _ => pieces.push(Piece::Text(text.to_owned())),
    }
}

/// Whether a text matches a pattern of `like`.
pub(super) fn wildcard(pieces: &[Piece], text: &str) -> bool {
    match pieces.split_first() {
        None => text.is_empty(),
        Some((Piece::Text(start), rest)) => text.strip_prefix(&**start).is_some_and(|text| wildcard(rest, text)),
        Some((Piece::Any, [])) => true,
        Some((Piece::Any, rest)) => text.char_indices().any(|(at, _)| wildcard(rest, &text[at..])),
    }
}

/// `serviceAccounts` and `source.serviceAccount`: `namespace/name`, or a name in the namespace of the policy.
pub(super) fn service_accounts(value: &str, own_namespace: &str, world: &World<'_>) -> Bounds {
    let (space, account) = value.split_once('/').unwrap_or((own_namespace, value));
    if value.contains('*') || space.is_empty() || account.is_empty() || account.contains('/') {
        let problem =
            format!("Istio refuses `{}`: a service account is written namespace/name, without `*`", short(value));
        return Bounds::refused(problem);
    }
    callers(space, account, world)
}

/// `trustDomains` and `source.trustDomain`.
pub(super) fn trust_domains(value: &str, world: &World<'_>) -> Bounds {
    let pattern = pattern::read(value);
    if pattern.has_star() || value.contains('/') {
        let problem =
            format!("Istio refuses `{}`: a trust domain has no `/`, and one `*` at most, at an end", short(value));
        return Bounds::refused(problem);
    }
    let domains = world.domains();
    let own = match pattern {
        Pattern::Exact(domain) => domains.contains(&domain),
        pattern => domains.iter().all(|domain| pattern.matches(domain)),
    };
    of_domain(Bounds::exact(Expr::True), value, own)
}

/// Whether a condition names callers in a way that a policy's scope can, and which: services one by one, or namespaces.
pub(super) fn scope_of(expr: &Expr) -> Option<(Kind, &[String])> {
    match expr {
        Expr::In(kind, names) => Some((*kind, names)),
        _ => None,
    }
}
