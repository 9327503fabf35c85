//! What is said of certificates: how long they live (`svidTtl`), and `Service.identity`.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::fields::{Field, Shape, short};
use super::report::Report;
use crate::code;
use crate::id::is_dns_label;
use crate::intent::ServiceIdentity;

const IDENTITY: Shape =
    Shape { what: "`identity`", fields: &["svidTtl", "dnsNames"], later: &["keyType", "ipAddresses", "tokenTtl"] };

const SVID_TTL: RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(24 * 3_600);
/// All of them are in every certificate of the service, and so in every handshake.
const MOST_NAMES: usize = 32;

/// The life of a certificate.
pub(super) fn ttl(field: Field<'_>, report: &mut Report) -> Option<Duration> {
    let ttl = field.duration(report)?;
    if SVID_TTL.contains(&ttl) {
        return Some(ttl);
    }
    let message = "`svidTtl` must be from 10s to 24h";
    let hint = "short lives limit what a stolen key is worth; below 10s there is no time to renew";
    report.error(code::DURATION, field.span(), message, hint);
    None
}

/// `Service.identity`.
pub(super) fn read(field: Field<'_>, report: &mut Report) -> ServiceIdentity {
    let Some(fields) = IDENTITY.read(field.node, report) else { return ServiceIdentity::default() };
    let svid_ttl = fields.optional("svidTtl").and_then(|field| ttl(field, report));
    let mut dns_names: Vec<Arc<str>> = Vec::new();
    for item in fields.optional("dnsNames").and_then(|field| field.items(report)).into_iter().flatten() {
        let Some(name) = item.text(report) else { continue };
        if let Some((problem, hint)) = problem(name) {
            let message = format!("`{}` cannot stand in a certificate: {problem}", short(name));
            report.error(code::BAD_NAME, item.span(), message, hint);
        } else if dns_names.iter().any(|known| **known == *name) {
            report.error(code::REPEATED, item.span(), format!("the name {name} stands here a second time"), "keep one");
        } else if dns_names.len() == MOST_NAMES {
            let message = format!("a service has at most {MOST_NAMES} DNS names");
            report.error(code::LIMIT, item.span(), message, "leave out those that no client calls it by");
            break;
        } else {
            dns_names.push(name.into());
        }
    }
    ServiceIdentity { svid_ttl, dns_names }
}

/// What is wrong with a DNS name for a certificate, and what to write (RFC 5280 s.4.2.1.6, RFC 9525 s.6.3).
fn problem(name: &str) -> Option<(&'static str, String)> {
    let like = || "write it like board.acme.example".to_owned();
    if name.contains('*') {
        return Some(("it would be every name at once", "write each name out: wildcards are not issued".to_owned()));
    }
    if name.parse::<std::net::IpAddr>().is_ok() {
        return Some(("it is an address", "write a name; who calls an address checks the SPIFFE ID".to_owned()));
    }
    if name.ends_with('.') {
        return Some(("it has a dot at its end", format!("write {}", short(name.trim_end_matches('.')))));
    }
    let lower = name.to_ascii_lowercase();
    if lower != name && is_host(&lower) {
        return Some(("it has upper-case letters", format!("write {lower}")));
    }
    if !is_host(name) {
        return Some(("it is no host name of two words or more", like()));
    }
    None
}

/// Two DNS labels at the least, 253 letters at the most, the last label not a number (RFC 1123 s.2.1).
fn is_host(name: &str) -> bool {
    let last_is_number = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    name.len() <= 253 && name.contains('.') && !last_is_number && name.split('.').all(is_dns_label)
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;
    use crate::source::SourceFile;

    fn read(identity: &str) -> Result<ServiceIdentity, Vec<(&'static str, String, String)>> {
        let text = format!(
            "kind: Mesh\nname: acme\ntrustDomain: acme.internal\n---\nkind: Service\nname: web\nnamespace: prod\nport: 80\n\
             protocol: http\nidentity: {identity}\n"
        );
        let (intent, findings) = parse(&[SourceFile::new("mesh.yaml", text.as_bytes())]);
        let read = intent.and_then(|intent| Some(intent.services.into_values().next()?.identity));
        read.ok_or_else(|| findings.into_iter().map(|f| (f.code, f.message, f.hint)).collect())
    }

    #[test]
    fn a_service_has_a_life_and_names_of_its_own() {
        let read_all =
            read("{svidTtl: 30m, dnsNames: [board.acme.example, xn--bcher-kva.example]}").expect("it is good");
        assert_eq!(read_all.svid_ttl, Some(Duration::from_secs(1_800)));
        assert_eq!(read_all.dns_names, ["board.acme.example".into(), Arc::from("xn--bcher-kva.example")]);
        assert_eq!(read("{}").expect("nothing is said"), ServiceIdentity::default());
    }

    #[test]
    fn what_is_no_name_is_told_with_what_to_write() {
        for (wrong, code, hint) in [
            ("{svidTtl: 5s}", "WEFT0112", "short lives"),
            ("{svidTtl: 25h}", "WEFT0112", "short lives"),
            ("{dnsNames: [\"*.acme.example\"]}", "WEFT0113", "each name out"),
            ("{dnsNames: [Board.acme.example]}", "WEFT0113", "write board.acme.example"),
            ("{dnsNames: [board]}", "WEFT0113", "like board.acme.example"),
            ("{dnsNames: [board.acme.example.]}", "WEFT0113", "write board.acme.example"),
            ("{dnsNames: [10.0.0.7]}", "WEFT0113", "SPIFFE ID"),
            ("{dnsNames: [\"::1\"]}", "WEFT0113", "SPIFFE ID"),
            ("{dnsNames: [a_b.example]}", "WEFT0113", "like board"),
            ("{dnsNames: [a.7]}", "WEFT0113", "like board"),
            ("{dnsNames: [a.example, a.example]}", "WEFT0115", "keep one"),
            ("{dnsNames: a.example}", "WEFT0109", "[a.example]"),
            ("{names: [a.example]}", "WEFT0106", "dnsNames"),
            ("{keyType: rsa}", "WEFT0107", "remove it"),
        ] {
            let findings = read(wrong).expect_err(wrong);
            assert_eq!((findings.len(), findings[0].0), (1, code), "{wrong}: {findings:?}");
            assert!(findings[0].2.contains(hint), "{wrong}: {findings:?}");
        }
        let many = (0..40).map(|n| format!("n{n}.example")).collect::<Vec<_>>().join(", ");
        assert_eq!(read(&format!("{{dnsNames: [{many}]}}")).expect_err("too many")[0].0, code::LIMIT);
    }
}
