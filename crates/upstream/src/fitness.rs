//! Whether a CA may sign issuing CAs of a trust domain, by what its certificate and those above it say. Pure.

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use weft_identity::certificate::{check_signing, parse, validity};
use weft_model::TrustDomain;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, GeneralSubtree};

/// The way from a CA up to its root: the CA itself first, the root last. A CA that is its own root is the whole way.
///
/// # Errors
/// In words: somebody on the way is missing, or cannot be read.
pub fn path_from(
    ca: &CertificateDer<'static>,
    known: &[CertificateDer<'static>],
    roots: &[CertificateDer<'static>],
) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut path = vec![ca.clone()];
    loop {
        let last = path.last().unwrap_or(ca);
        if roots.contains(last) || roots.is_empty() && is_self_issued(last)? {
            return Ok(path);
        }
        let parsed = parse(last).map_err(|error| error.to_string())?;
        let next = roots.iter().chain(known).find(|one| {
            !path.contains(one)
                && parse(one).is_ok_and(|one| {
                    one.subject().as_raw() == parsed.issuer().as_raw()
                        && parsed.verify_signature(Some(one.public_key())).is_ok()
                })
        });
        match next {
            Some(next) => path.push(next.clone()),
            None => {
                let issuer = parsed.issuer();
                return Err(format!(
                    "`{issuer}`, which signed it, is missing: add its certificate, and name the roots with --upstream-bundle"
                ));
            }
        }
    }
}

/// Whether its issuer is itself.
pub(crate) fn is_self_issued(certificate: &CertificateDer<'_>) -> Result<bool, String> {
    let parsed = parse(certificate).map_err(|error| error.to_string())?;
    Ok(parsed.subject().as_raw() == parsed.issuer().as_raw())
}

/// Whether the first of this path may sign a CA of the trust domain that issues leaves, and everybody above lets it.
///
/// # Errors
/// In words, who does not, and why.
pub(crate) fn check(path: &[CertificateDer<'_>], domain: &TrustDomain, now: SystemTime) -> Result<(), String> {
    for (below, certificate) in path.iter().enumerate() {
        let parsed = parse(certificate).map_err(|error| error.to_string())?;
        let of = |why: String| format!("`{}` {why}", parsed.subject());
        check_signing(&parsed, domain)
            .map_err(|why| of(format!("is no signing certificate (SPIFFE X.509-SVID s.3.2): {why}")))?;
        check_length(&parsed, below).map_err(of)?;
        let (not_before, not_after) = validity(&parsed);
        if now < not_before {
            return Err(of("is not valid yet: look at the clock".to_owned()));
        }
        if now > not_after {
            return Err(of("has expired: give its successor".to_owned()));
        }
        check_constraints(&parsed, domain).map_err(of)?;
    }
    Ok(())
}

/// `below`: CAs between it and the issuing CA.
fn check_length(certificate: &X509Certificate<'_>, below: usize) -> Result<(), String> {
    let constraints = certificate.basic_constraints().ok().flatten();
    match constraints.and_then(|constraints| constraints.value.path_len_constraint) {
        Some(length) if (length as usize) <= below => Err(format!(
            "has path length {length}, and there {} below it: issue it again with a path length of {} or none",
            match below + 1 {
                1 => "is 1 CA".to_owned(),
                several => format!("are {several} CAs"),
            },
            below + 1
        )),
        _ => Ok(()),
    }
}

fn check_constraints(certificate: &X509Certificate<'_>, domain: &TrustDomain) -> Result<(), String> {
    let constraints = certificate.name_constraints().map_err(|error| error.to_string())?;
    let Some(constraints) = constraints.map(|extension| extension.value) else { return Ok(()) };
    let (permitted, excluded) = (constraints.permitted_subtrees.as_deref(), constraints.excluded_subtrees.as_deref());
    let uris = |trees: Option<&[GeneralSubtree<'_>]>| -> Vec<String> {
        let uri = |tree: &GeneralSubtree<'_>| match &tree.base {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        };
        trees.unwrap_or_default().iter().filter_map(uri).collect()
    };
    let (allowed, denied) = (uris(permitted), uris(excluded));
    let host = domain.as_str();
    if !allowed.is_empty() && !allowed.iter().any(|base| covers(base, host))
        || denied.iter().any(|base| covers(base, host))
    {
        return Err(format!("has name constraints that exclude the trust domain {domain}"));
    }
    let names = |trees: Option<&[GeneralSubtree<'_>]>| {
        trees.unwrap_or_default().iter().any(|tree| matches!(tree.base, GeneralName::DirectoryName(_)))
    };
    let kind = match () {
        () if !allowed.is_empty() || !denied.is_empty() => "URIs",
        () if names(permitted) || names(excluded) => "directory names",
        () => return Ok(()),
    };
    Err(format!(
        "has name constraints on {kind}, and sidecars refuse everything below such a CA (rustls-webpki does not read them): \
         use a CA without them"
    ))
}

/// RFC 5280 s.4.2.1.10: a base that begins with a period is for the hosts below it, any other for that host alone.
fn covers(base: &str, host: &str) -> bool {
    match base.strip_prefix('.') {
        Some(_) => host.len() > base.len() && host.ends_with(base),
        None => host.eq_ignore_ascii_case(base),
    }
}
#[cfg(test)]
mod tests;
