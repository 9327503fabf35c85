//! What is asked for, beside the path: method, host, address, port, headers, SNI.

use std::net::IpAddr;

use weft_policy::host;

use super::bounds::Bounds;
use super::pattern::{self, Pattern};
use super::policy::Text;
use super::world::World;
use crate::cedar::expr::{Attr, Compare, Expr, and, context, equal, or};
use crate::report::short;

const HOST_NOTE: &str = "a port or a dot at the end of a host does not count in Weft: `x:8080` is `x`";
const LATER: &str = "write the rule by hand when Weft has a word for it, or import again then";

/// `methods`.
pub(super) fn methods(value: &str) -> Bounds {
    noting_star(Bounds::exact(pattern::read(value).on(context("method"))), value)
}

/// Whether a host is said by another value of its list: `x:*` is `x` with a port, and a port does not count here.
pub(super) fn is_said_without_port(value: &str, others: &[Text]) -> bool {
    value.strip_suffix(":*").is_some_and(|host| others.iter().any(|other| other.text.eq_ignore_ascii_case(host)))
}

/// `hosts`. Istio compares what was sent, in any case; `context.host` has no port, small letters, and no dot at the end.
pub(super) fn hosts(value: &str) -> Bounds {
    let value = value.to_ascii_lowercase();
    let attr = || context("host");
    let with_port = |broad| {
        let problem = format!("`{}` has a port, and the host that a policy reads here has none", short(&value));
        Bounds::between(Expr::False, broad, problem, "write the host without the port too, if that is meant")
    };
    let bounds = match pattern::read(&value) {
        Pattern::Present => return Bounds::exact(Expr::True),
        Pattern::Exact(whole) => {
            let host = host::normalize(whole);
            let is = equal(attr(), host.clone());
            if whole.trim_end_matches('.') == host { Bounds::exact(is) } else { with_port(is) }
        }
        Pattern::Prefix(start) => match start.rsplit_once(':') {
            Some((host, _)) if !host.contains(['[', ':']) => with_port(equal(attr(), host::normalize(host))),
            _ if start.ends_with('.') => {
                let below = pattern::read(&value).on(attr());
                let broad = or([below.clone(), equal(attr(), host::normalize(start))]);
                Bounds { narrow: below, broad, remark: None }
            }
            _ => Bounds::exact(Pattern::Prefix(start).on(attr())),
        },
        Pattern::Suffix(end) => match end.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => {
                let host = host.trim_end_matches('.');
                with_port(if host.is_empty() { Expr::True } else { Pattern::Suffix(host).on(attr()) })
            }
            _ if end.bytes().all(|byte| byte.is_ascii_digit()) => with_port(Expr::True),
            _ => Bounds::exact(Pattern::Suffix(end.trim_end_matches('.')).on(attr())),
        },
    };
    noting_star(bounds, &value).noting(HOST_NOTE)
}

/// `ipBlocks` and `source.ip`. Guarded by the caller: not every connection has an address.
pub(super) fn source_ips(value: &str) -> Bounds {
    match range(value) {
        Some(range) => Bounds::exact(Expr::InRange(context("sourceIp"), range)),
        None => {
            let problem = format!("Istio refuses `{}`: it is no IP address and no range like 10.0.0.0/8", short(value));
            Bounds::refused(problem)
        }
    }
}

/// An address, or a range without the bits that do not count.
fn range(value: &str) -> Option<String> {
    let Some((address, length)) = value.split_once('/') else {
        return value.parse::<IpAddr>().ok().map(|address| address.to_string());
    };
    let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    let length: u32 = length.parse().ok().filter(|_| digits)?;
    match address.parse().ok()? {
        IpAddr::V4(address) if length <= 32 => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            Some(format!("{}/{length}", std::net::Ipv4Addr::from_bits(address.to_bits() & mask)))
        }
        IpAddr::V6(address) if length <= 128 => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            Some(format!("{}/{length}", std::net::Ipv6Addr::from_bits(address.to_bits() & mask)))
        }
        _ => None,
    }
}

/// `ports` and `destination.port`: a service has one port, on which its app listens.
pub(super) fn ports(value: &str, world: &World<'_>) -> Bounds {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse::<u16>().ok().filter(|_| digits) {
        None => {
            let problem = format!("Istio refuses `{}`: a port is a number up to 65535", short(value));
            Bounds::refused(problem)
        }
        Some(_) if !world.words.port => Bounds::unknown("policies of this version of Weft do not read the port", LATER),
        Some(port) => Bounds::exact(Expr::Number(context("port"), Compare::Equal, port.into())),
    }
}

/// `request.headers[name]`. A policy can read those that the mesh declares.
pub(super) fn headers(name: &str, value: &str, world: &World<'_>) -> Bounds {
    let name = name.to_ascii_lowercase();
    if !world.words.headers.contains(&name) {
        let problem =
            format!("policies read only the headers that the mesh declares, and {} is not one of them", short(&name));
        let given = if world.mesh.is_some() { "" } else { " of the mesh, give that with --mesh," };
        return Bounds::unknown(problem, format!("name it in Mesh.policy.headers{given} and import again"));
    }
    let attr = Attr { of: "context", path: vec!["headers".to_owned(), name] };
    noting_star(Bounds::exact(and([Expr::Has(attr.clone()), pattern::read(value).on(attr)])), value)
}

/// `connection.sni`.
pub(super) fn snis(value: &str, world: &World<'_>) -> Bounds {
    if !world.words.sni {
        return Bounds::unknown(
            "policies of this version of Weft do not read the name in the TLS handshake (SNI)",
            LATER,
        );
    }
    let attr = Attr { of: "context", path: vec!["tls".to_owned(), "sni".to_owned()] };
    let has = [Expr::Has(context("tls")), Expr::Has(attr.clone())];
    noting_star(Bounds::exact(and(has.into_iter().chain([pattern::read(value).on(attr)]))), value)
}

/// What Weft's policies have no word for.
pub(super) fn unsayable(what: &str) -> Bounds {
    Bounds::unknown(format!("policies of this version of Weft do not read {what}"), LATER)
}

fn noting_star(bounds: Bounds, value: &str) -> Bounds {
    if pattern::read(value).has_star() { bounds.noting(pattern::star_note(value)) } else { bounds }
}
