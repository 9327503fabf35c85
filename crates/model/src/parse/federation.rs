//! `kind: TrustDomain`: another trust domain, where its bundle is, and which of its services are called from here.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::declared::Declared;
use super::fields::{Field, Shape, short};
use super::report::Report;
use super::yaml::{Node, Value};
use crate::code;
use crate::finding::Span;
use crate::id::{ServiceName, SpiffeId, TrustDomain};
use crate::intent::{EndpointUrl, ForeignDomain, ForeignService, Profile};

const TRUST_DOMAIN: Shape = Shape {
    what: "a TrustDomain",
    fields: &["kind", "name", "endpoint", "profile", "services"],
    later: &["refreshInterval", "namespaces"],
};
const PROFILE: Shape = Shape { what: "`profile`", fields: &["https_spiffe", "https_web"], later: &[] };
const WEB: Shape = Shape { what: "`https_web`", fields: &[], later: &["ca"] };
const SPIFFE: Shape = Shape { what: "`https_spiffe`", fields: &["spiffeId", "bundle"], later: &["bundleFile"] };
const SERVICE: Shape = Shape {
    what: "a service of another trust domain",
    fields: &["host", "port", "addresses", "spiffeId"],
    later: &["protocol", "from", "subsets", "routes", "timeout"],
};

/// A first bundle has a few certificates.
const MAX_BUNDLE_BYTES: usize = 256 << 10;

/// Reads the document. `None` without a legal name.
pub(super) fn read(root: &Node, declared: &Declared, report: &mut Report) -> Option<ForeignDomain> {
    let fields = TRUST_DOMAIN.read(root, report)?;
    let name = fields.required("name", "other.example", report).and_then(|field| name(field, declared, report));
    let endpoint = fields.required("endpoint", "https://mesh.other.example:8443/", report);
    let endpoint = endpoint.and_then(|field| endpoint_url(field, report));
    let profile = fields.required("profile", "{https_web: {}}", report);
    let profile = profile.and_then(|field| self::profile(field, name.as_ref(), declared, report));
    let services = fields.optional("services").and_then(|field| field.items(report)).into_iter().flatten();
    let services = services.filter_map(|item| service(item, name.as_ref(), declared, report)).collect();
    Some(ForeignDomain { name: name?, endpoint: endpoint?, profile: profile?, services, span: root.span.clone() })
}

fn name(field: Field<'_>, declared: &Declared, report: &mut Report) -> Option<TrustDomain> {
    let text = field.text(report)?;
    let Ok(name) = text.parse::<TrustDomain>() else {
        let lower = text.trim_start_matches("spiffe://").trim_end_matches('/').to_lowercase();
        let hint = match lower.parse::<TrustDomain>() {
            Ok(_) => format!("write `{lower}`"),
            Err(_) => "use 1 to 255 lower-case letters, digits, dots, dashes and underscores".to_owned(),
        };
        report.error(code::BAD_NAME, field.span(), format!("`{}` is not a trust domain", short(text)), hint);
        return None;
    };
    if declared.own_domain.as_ref() == Some(&name) {
        let hint = "a mesh needs no document for its own; name the other one";
        let message = format!("{name} is the trust domain of this mesh itself");
        report.error(code::DUPLICATE_TRUST_DOMAIN, field.span(), message, hint);
        return None;
    }
    Some(name)
}

fn endpoint_url(field: Field<'_>, report: &mut Report) -> Option<EndpointUrl> {
    let text = field.text(report)?;
    match EndpointUrl::read(text) {
        Ok(url) => Some(url),
        Err((problem, hint)) => {
            let message = format!("`{}` is no bundle endpoint: {problem}", short(text));
            report.error(code::BAD_FEDERATION, field.span(), message, hint);
            None
        }
    }
}

fn profile(
    field: Field<'_>,
    domain: Option<&TrustDomain>,
    declared: &Declared,
    report: &mut Report,
) -> Option<Profile> {
    let fields = PROFILE.read(field.node, report)?;
    // `https_web:` without a value says all that there is to say.
    let is_web = matches!(&field.node.value, Value::Map(entries) if entries.iter().any(|(key, _)| key.as_text() == Some("https_web")));
    match (is_web, fields.optional("https_spiffe")) {
        (true, None) => {
            if let Some(web) = fields.optional("https_web") {
                WEB.read(web.node, report)?;
            }
            Some(Profile::Web)
        }
        (false, Some(spiffe)) => {
            let fields = SPIFFE.read(spiffe.node, report)?;
            let id = fields.required("spiffeId", "spiffe://other.example/ns/weft/sa/server", report)?;
            let (span, id) = (id.span().clone(), foreign_id(id, None, report)?);
            if domain.is_some_and(|domain| id.trust_domain() != *domain) {
                let bundle = fields.optional("bundle");
                return of_a_third(id, bundle, span, declared, report);
            }
            let field = fields.required("bundle", "'{\"keys\": […]}'", report)?;
            let text = field.text(report)?;
            if text.len() > MAX_BUNDLE_BYTES {
                let message = format!("the bundle has {} bytes, more than {MAX_BUNDLE_BYTES}", text.len());
                report.error(code::LIMIT, field.span(), message, "write the document that the other side publishes");
                return None;
            }
            Some(Profile::Spiffe { id, bundle: Some(text.into()), span: field.span().clone() })
        }
        _ => {
            let hint = "write `{https_web: {}}`, or `{https_spiffe: {spiffeId: …, bundle: …}}`: neither is guessed";
            report.error(code::BAD_FEDERATION, field.span(), "`profile` must be one of the two profiles", hint);
            None
        }
    }
}

/// An endpoint that is of another trust domain than the one whose bundle it serves: that one is configured by itself (SPIFFE Federation
/// s.5.2.2.2), or it is the mesh's own.
fn of_a_third(
    id: SpiffeId,
    bundle: Option<Field<'_>>,
    span: Span,
    declared: &Declared,
    report: &mut Report,
) -> Option<Profile> {
    let domain = id.trust_domain();
    if let Some(field) = bundle {
        let message = format!("the endpoint {id} is judged by the bundle of {domain}, and not by one given here");
        let hint = format!("leave `bundle` out; the bundle of {domain} comes from its own document");
        report.error(code::BAD_FEDERATION, field.span(), message, hint);
        return None;
    }
    let is_own = declared.own_domain.as_ref() == Some(&domain);
    (is_own || declared.check_foreign(&id, &span, report)).then_some(Profile::Spiffe { id, bundle: None, span })
}

/// A SPIFFE ID, of the trust domain itself if that is given.
fn foreign_id(field: Field<'_>, domain: Option<&TrustDomain>, report: &mut Report) -> Option<SpiffeId> {
    let text = field.text(report)?;
    let id = match text.parse::<SpiffeId>() {
        Ok(id) => id,
        Err(error) => {
            let hint = "write one like spiffe://other.example/ns/prod/sa/board";
            report.error(code::BAD_NAME, field.span(), error.to_string(), hint);
            return None;
        }
    };
    if let Some(domain) = domain.filter(|domain| id.trust_domain() != **domain) {
        let message = format!("{id} is not of the trust domain {domain}");
        report.error(code::BAD_FEDERATION, field.span(), message, format!("write an identity of {domain}"));
        return None;
    }
    Some(id)
}

fn service(
    item: Field<'_>,
    domain: Option<&TrustDomain>,
    declared: &Declared,
    report: &mut Report,
) -> Option<ForeignService> {
    let fields = SERVICE.read(item.node, report)?;
    let name = fields.required("host", "board.other", report).and_then(|field| host(field, declared, report));
    let port = fields.required("port", "8080", report).and_then(|field| field.number(1, 65_535, report));
    let addresses = fields.required("addresses", "[192.0.2.7:15006]", report);
    let addresses = addresses.and_then(|field| addresses_of(field, report));
    let id = fields.required("spiffeId", "spiffe://other.example/ns/prod/sa/board", report);
    let id = id.and_then(|field| foreign_id(field, domain, report));
    Some(ForeignService {
        name: name?,
        id: id?,
        port: u16::try_from(port?).ok()?,
        addresses: addresses?,
        span: item.span().clone(),
    })
}

/// `board.other`: two labels, like the hosts of the mesh's own services, and none of those.
fn host(field: Field<'_>, declared: &Declared, report: &mut Report) -> Option<ServiceName> {
    let text = field.text(report)?;
    let parts = text.split_once('.');
    let Some(name) = parts.and_then(|(name, namespace)| ServiceName::new(namespace, name).ok()) else {
        let message = format!("`{}` is no host of a service", short(text));
        let hint = "write two words of lower-case letters, digits and dashes with a dot between them, like board.other";
        report.error(code::BAD_NAME, field.span(), message, hint);
        return None;
    };
    // With `.mesh` behind it, or without its namespace, it would be another host of the mesh's own.
    let taken = declared.namespaces.contains(name.namespace()) || ["mesh", "weft"].contains(&name.namespace());
    if taken {
        let message = format!("the host {text} would be in the mesh's own namespace {}", name.namespace());
        report.error(code::RESERVED, field.span(), message, "choose another second word, like that of the other mesh");
        return None;
    }
    Some(name)
}

fn addresses_of(field: Field<'_>, report: &mut Report) -> Option<Vec<SocketAddr>> {
    let mut addresses = Vec::new();
    for item in field.items(report)? {
        let text = item.text(report)?;
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() > 0 => addresses.push(address),
            _ => {
                let message = format!("`{}` is no address", short(text));
                let hint = "write an IP address and the port of the other sidecar's ingress, like 192.0.2.7:15006";
                report.error(code::BAD_VALUE, item.span(), message, hint);
            }
        }
    }
    if addresses.is_empty() {
        let hint = "name where the ingress of one of its sidecars, or a load balancer before them, is";
        report.error(code::BAD_VALUE, field.span(), "the service has no address", hint);
        return None;
    }
    Some(addresses)
}

/// Reports trust domains whose endpoints are judged in a ring, each by the bundle of the next: none of them ever gets a first one.
pub(super) fn without_rings(domains: &BTreeMap<TrustDomain, ForeignDomain>, report: &mut Report) {
    let judge = |domain: &TrustDomain| match &domains.get(domain)?.profile {
        Profile::Spiffe { id, bundle: None, .. } => Some(id.trust_domain()),
        _ => None,
    };
    for (name, domain) in domains {
        let mut next = judge(name);
        for _ in 0..domains.len() {
            if next.as_ref() == Some(name) {
                let message = format!("the endpoint of {name} is judged, in the end, by the bundle that it serves");
                let hint = format!("give a first `bundle` of {name}, with a `spiffeId` of its own");
                report.error(code::BAD_FEDERATION, &domain.span, message, hint);
                break;
            }
            next = next.as_ref().and_then(judge);
        }
    }
}

/// Reports hosts that two services of other trust domains have.
pub(super) fn distinct_hosts(domains: &BTreeMap<TrustDomain, ForeignDomain>, report: &mut Report) {
    let mut known: BTreeMap<Arc<str>, &ForeignService> = BTreeMap::new();
    for service in domains.values().flat_map(|domain| &domain.services) {
        if let Some(first) = known.insert(service.name.host().into(), service) {
            let message = format!("the host {} is that of another service already", service.name.host());
            let hint = format!("the first is at {}; rename one", first.span);
            report.error(code::DUPLICATE_SERVICE, &service.span, message, hint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Finding;
    use crate::parse::parse;
    use crate::source::SourceFile;

    const MESH: &str = "kind: Mesh\nname: acme\ntrustDomain: acme.internal\n---\nkind: Service\nname: board\nnamespace: prod\n\
        port: 8080\nprotocol: http\n---\n";

    fn findings(document: &str) -> Vec<Finding> {
        parse(&[SourceFile::new("mesh.yaml", format!("{MESH}{document}").as_bytes())]).1
    }

    #[test]
    fn a_trust_domain_document_names_url_profile_and_domain() {
        let text = "kind: TrustDomain\nname: west.test\nendpoint: https://[::1]:8443/bundle\nprofile:\n  https_spiffe:\n    spiffeId: \
            spiffe://west.test/ns/weft/sa/server\n    bundle: '{\"keys\": []}'\nservices:\n- {host: board.west, port: 8080, addresses: \
            [\"127.0.0.1:15006\"], spiffeId: spiffe://west.test/ns/prod/sa/board}\n---\nkind: TrustDomain\nname: east.test\nendpoint: \
            https://east.test\nprofile: {https_web: {}}\n";
        let (intent, found) = parse(&[SourceFile::new("mesh.yaml", format!("{MESH}{text}").as_bytes())]);
        let domains = intent.unwrap_or_else(|| panic!("{found:?}")).trust_domains;
        let [east, west] = &domains.into_values().collect::<Vec<_>>()[..] else { panic!("two") };
        assert_eq!((east.endpoint.to_string().as_str(), &east.profile), ("https://east.test:443/", &Profile::Web));
        assert_eq!(west.endpoint.to_string(), "https://[::1]:8443/bundle");
        assert!(
            matches!(&west.profile, Profile::Spiffe { bundle: Some(bundle), .. } if **bundle == *r#"{"keys": []}"#)
        );
        assert_eq!(west.services[0].name.host(), "board.west");
        for missing in ["name", "endpoint", "profile"] {
            let without: String = text[text.rfind("kind").expect("two")..]
                .lines()
                .filter(|line| !line.starts_with(missing))
                .map(|line| format!("{line}\n"))
                .collect();
            let found = findings(&without);
            assert!(
                found.iter().any(|found| found.code == code::MISSING_FIELD && found.message.contains(missing)),
                "{found:?}"
            );
        }
    }

    #[test]
    fn each_wrong_bundle_url_is_told_why() {
        for (wrong, why) in [
            ("http://west.test/", "scheme"),
            ("west.test", "scheme"),
            ("https://", "no host"),
            ("https://u:p@west.test/", "user information"),
            ("https://west.test/?a=b", "query"),
            ("https://west.test:0/", "port"),
            ("https://west.test:x/", "port"),
            ("https://[::1/", "`]`"),
            ("https://[west]/", "no host"),
            ("https://we st/", "character"),
        ] {
            assert!(EndpointUrl::read(wrong).expect_err(wrong).0.contains(why), "{wrong}");
        }
        assert_eq!(
            EndpointUrl::read("https://127.0.0.1:8443/x/y").expect("legal").to_string(),
            "https://127.0.0.1:8443/x/y"
        );
    }

    #[test]
    fn every_other_mistake_has_its_place() {
        let with = |change: (&str, &str)| {
            let text = "kind: TrustDomain\nname: west.test\nendpoint: https://west.test\nprofile: {https_web: {}}\nservices:\n- {host: \
                board.west, port: 8080, addresses: [\"127.0.0.1:15006\"], spiffeId: spiffe://west.test/ns/prod/sa/board}\n";
            assert!(text.contains(change.0), "{change:?}");
            findings(&text.replace(change.0, change.1))
        };
        for (from, to, code) in [
            ("name: west.test", "name: acme.internal", code::DUPLICATE_TRUST_DOMAIN),
            ("name: west.test", "name: West.test", code::BAD_NAME),
            ("https_web: {}", "", code::BAD_FEDERATION),
            ("https_web: {}", "https_web: {}, https_spiffe: {}", code::BAD_FEDERATION),
            ("https_web: {}", "https_spiffe: {spiffeId: spiffe://west.test/x}", code::MISSING_FIELD),
            ("https_web: {}", "https_spiffe: {spiffeId: spiffe://acme.internal/x, bundle: x}", code::BAD_FEDERATION),
            ("https_web: {}", "https_spiffe: {spiffeId: spiffe://east.test/x, bundle: x}", code::BAD_FEDERATION),
            ("https_web: {}", "https_spiffe: {spiffeId: spiffe://east.test/x}", code::UNKNOWN_TRUST_DOMAIN),
            ("https_web: {}", "https_spiffe: {spiffeId: west.test, bundle: x}", code::BAD_NAME),
            ("board.west", "board.prod", code::RESERVED),
            ("board.west", "board", code::BAD_NAME),
            ("127.0.0.1:15006", "west.test:15006", code::BAD_VALUE),
            ("[\"127.0.0.1:15006\"]", "[]", code::BAD_VALUE),
            ("spiffe://west.test/ns", "spiffe://east.test/ns", code::BAD_FEDERATION),
            ("services:", "federatesWith:", code::UNKNOWN_FIELD),
        ] {
            let found = with((from, to));
            assert!(found.iter().any(|found| found.code == code && found.span.is_some()), "{to}: {found:?}");
        }
        let twice = "kind: TrustDomain\nname: west.test\nendpoint: https://west.test\nprofile: {https_web: {}}\n---\n"
            .repeat(2);
        assert!(findings(&twice).iter().any(|found| found.code == code::DUPLICATE_TRUST_DOMAIN));
    }

    /// SPIFFE Federation s.5.2.2.2.
    #[test]
    fn an_endpoint_of_a_third_trust_domain_needs_that_one_to_be_configured() {
        let domain = |name: &str, profile: &str| {
            format!("kind: TrustDomain\nname: {name}\nendpoint: https://{name}\nprofile: {{{profile}}}\n---\n")
        };
        let served_by = |name: &str, by: &str| domain(name, &format!("https_spiffe: {{spiffeId: spiffe://{by}/x}}"));
        let codes = |text: String| findings(&text).iter().map(|found| found.code).collect::<Vec<_>>();
        let (hub, west) = (domain("hub.test", "https_web: {}"), served_by("west.test", "hub.test"));
        assert_eq!(codes(west.clone()), [code::UNKNOWN_TRUST_DOMAIN]);
        assert!(codes(hub.clone() + &west).is_empty(), "{:?}", findings(&(hub.clone() + &west)));
        assert!(codes(served_by("west.test", "acme.internal")).is_empty(), "the mesh's own");
        let chain = served_by("east.test", "west.test");
        assert!(codes(hub + &west + &chain).is_empty());
        let ring = codes(chain + &served_by("west.test", "east.test"));
        assert_eq!(ring, [code::BAD_FEDERATION; 2]);
        // A ring that others only lead to is told of once for each of its own.
        let aside = served_by("a.test", "b.test") + &served_by("b.test", "c.test") + &served_by("c.test", "b.test");
        assert_eq!(codes(aside), [code::BAD_FEDERATION; 2]);
    }

    #[test]
    fn an_identity_of_another_trust_domain_is_a_caller_if_that_is_declared() {
        let domain = "kind: TrustDomain\nname: west.test\nendpoint: https://west.test\nprofile: {https_web: {}}\n---\n";
        let service = |from: &str| {
            format!(
                "kind: Service\nname: web\nnamespace: prod\nport: 80\nprotocol: http\naccess: [{{from: [\"{from}\"]}}]\n"
            )
        };
        let codes = |text: String| findings(&text).iter().map(|found| found.code).collect::<Vec<_>>();
        assert!(codes(format!("{domain}{}", service("spiffe://west.test/ns/prod/sa/web"))).is_empty());
        assert_eq!(codes(service("spiffe://west.test/ns/prod/sa/web")), [code::UNKNOWN_TRUST_DOMAIN]);
        assert_eq!(codes(service("spiffe://acme.internal/ns/prod/sa/board")), [code::BAD_CALLER]);
        let role = "---\nkind: Role\nname: partners\nmembers: [\"spiffe://west.test/ns/prod/sa/web\"]\n";
        assert_eq!(codes(format!("{domain}{}{role}", service("prod/board"))), [code::BAD_CALLER]);
    }
}
