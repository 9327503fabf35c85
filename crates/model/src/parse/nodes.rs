//! `Mesh.identity.nodes`: by which proof, other than a join token, a machine becomes whom.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::declared::Declared;
use super::fields::{Field, Fields, Shape, short};
use super::report::Report;
use super::yaml::Value;
use crate::code;
use crate::id::{ServiceName, is_dns_label};
use crate::intent::{NodeEntry, NodeProof, Oidc, OidcKeys, WebUrl, Wildcard, X509pop};

const NODE: Shape = Shape {
    what: "an entry of `nodes`",
    fields: &["x509pop", "oidc", "services", "agent"],
    later: &["tpm", "svidTtl"],
};
const X509POP: Shape = Shape { what: "`x509pop`", fields: &["ca", "match"], later: &["crl", "ocsp"] };
const MATCH: Shape = Shape {
    what: "`match`",
    fields: &["commonName", "dnsName", "uri", "fingerprint"],
    later: &["organization", "serialNumber"],
};
const OIDC: Shape =
    Shape { what: "`oidc`", fields: &["issuer", "audience", "jwks", "ca", "claims"], later: &["algorithms", "maxAge"] };

const MOST_ENTRIES: usize = 256;
const MOST_CLAIMS: usize = 32;
/// Of certificates or keys: a few of each.
const MOST_KEY_BYTES: usize = 64 << 10;
/// Of a value, or of the name of a claim.
const MOST_TEXT: usize = 1024;

pub(super) fn read(field: Field<'_>, declared: &Declared, report: &mut Report) -> Vec<NodeEntry> {
    let mut entries: Vec<NodeEntry> = Vec::new();
    for item in field.items(report).into_iter().flatten() {
        if entries.len() == MOST_ENTRIES {
            let message = format!("`nodes` has more than {MOST_ENTRIES} entries");
            report.error(code::LIMIT, item.span(), message, "put what differs in one value alone into one entry");
            break;
        }
        entries.extend(entry(item, declared, report));
    }
    entries
}

fn entry(item: Field<'_>, declared: &Declared, report: &mut Report) -> Option<NodeEntry> {
    let fields = NODE.read(item.node, report)?;
    let proof = match (fields.optional("x509pop"), fields.optional("oidc")) {
        (Some(field), None) => x509pop(field, report).map(NodeProof::X509pop),
        (None, Some(field)) => oidc(field, report).map(NodeProof::Oidc),
        _ => {
            let hint = "write `x509pop: {ca: …, match: …}`, or `oidc: {issuer: …, audience: …, claims: …}`";
            report.error(code::BAD_NODE, item.span(), "an entry of `nodes` must have one of the two proofs", hint);
            None
        }
    };
    let services = services(&fields, declared, report);
    let agent = fields.optional("agent").and_then(|field| agent(field, report));
    if fields.optional("services").is_none() && fields.optional("agent").is_none() {
        let hint = "name what it may become, like `services: [prod/board]` or `agent: m1`";
        report.error(code::MISSING_FIELD, item.span(), "nobody can become anything by this entry", hint);
    }
    let proof = proof?;
    if let Some(field) = fields.optional("agent")
        && agent.as_ref().is_some_and(|agent| agent.stars() == 1)
        && stars(&proof) != 1
    {
        let message =
            "the `*` in `agent` stands for what one `*` among the values of the proof does, and there must be one";
        let hint = "write one, like `dnsName: \"*.machines.acme.example\"`, and no second";
        report.error(code::BAD_NODE, field.span(), message, hint);
    }
    Some(NodeEntry { proof, services, agent, span: item.span().clone() })
}

fn services(fields: &Fields<'_>, declared: &Declared, report: &mut Report) -> Vec<ServiceName> {
    let mut services = Vec::new();
    for item in fields.optional("services").and_then(|field| field.items(report)).into_iter().flatten() {
        let Some(text) = item.text(report) else { continue };
        match text.parse::<ServiceName>() {
            Ok(name) if services.contains(&name) => {
                report.error(code::REPEATED, item.span(), format!("{name} stands here a second time"), "keep one");
            }
            Ok(name) => {
                if declared.check_service(&name, item.span(), report) {
                    services.push(name);
                }
            }
            Err(error) => {
                report.error(code::BAD_NAME, item.span(), error.to_string(), "write it like prod/board");
            }
        }
    }
    services
}

/// A name, or one with a star for a part of it.
fn agent(field: Field<'_>, report: &mut Report) -> Option<Wildcard> {
    let text = field.text(report)?;
    let agent = Wildcard(text.into());
    if agent.stars() <= 1 && is_dns_label(&text.replace('*', "a")) {
        return Some(agent);
    }
    let message = format!("`{}` is no name of an agent", short(text));
    let hint = "write lower-case letters, digits and dashes, and one `*` at the most, like m1 or dc1-*";
    report.error(code::BAD_NAME, field.span(), message, hint);
    None
}

/// How many stars there are among the values of a proof.
fn stars(proof: &NodeProof) -> usize {
    let of = |values: &[Wildcard]| values.iter().map(Wildcard::stars).sum::<usize>();
    match proof {
        NodeProof::X509pop(x509) => of(&x509.common_name) + of(&x509.dns_name) + of(&x509.uri),
        NodeProof::Oidc(oidc) => oidc.claims.values().map(|values| of(values)).sum(),
    }
}

fn x509pop(field: Field<'_>, report: &mut Report) -> Option<X509pop> {
    let fields = X509POP.read(field.node, report)?;
    let ca_field = fields.required("ca", "|, and below it the PEM text", report);
    let ca = ca_field.and_then(|field| keys(field, report));
    let values = fields.required("match", "{dnsName: \"*.dc1.acme.example\"}", report)?;
    let before = report.len();
    let matches = MATCH.read(values.node, report)?;
    let mut wildcards = |key| matches.optional(key).map(|field| self::wildcards(field, report)).unwrap_or_default();
    let (common_name, dns_name, uri) = (wildcards("commonName"), wildcards("dnsName"), wildcards("uri"));
    let fingerprint = matches.optional("fingerprint").map(|field| fingerprints(field, report)).unwrap_or_default();
    if ["commonName", "dnsName", "uri", "fingerprint"].iter().all(|key| matches.optional(key).is_none())
        && report.len() == before
    {
        let hint = "say which certificates are meant, like `dnsName: \"*.dc1.acme.example\"`";
        report.error(code::BAD_NODE, values.span(), "this would hold of every certificate of the CA", hint);
        return None;
    }
    let ca_span = ca_field?.span().clone();
    Some(X509pop { ca: ca?, ca_span, common_name, dns_name, uri, fingerprint })
}

fn oidc(field: Field<'_>, report: &mut Report) -> Option<Oidc> {
    let fields = OIDC.read(field.node, report)?;
    let issuer_field = fields.required("issuer", "https://token.actions.githubusercontent.com", report);
    let issuer = issuer_field.and_then(|field| issuer(field, report));
    let audience = fields.required("audience", "weft.acme.internal", report);
    let audience = audience.and_then(|field| plain(field, report));
    let (inline, ca) = (fields.optional("jwks"), fields.optional("ca"));
    if let (Some(_), Some(ca)) = (inline, ca) {
        let hint = "leave out one: `jwks` are the keys themselves, `ca` is for fetching them";
        report.error(code::BAD_NODE, ca.span(), "keys that stand here are not fetched", hint);
    }
    let keys_of = match (inline, ca) {
        (Some(field), _) => keys(field, report).map(|jwks| OidcKeys::Inline { jwks, span: field.span().clone() }),
        (None, Some(field)) => {
            keys(field, report).map(|ca| OidcKeys::Discovered { ca: Some(ca), span: field.span().clone() })
        }
        (None, None) => issuer_field.map(|field| OidcKeys::Discovered { ca: None, span: field.span().clone() }),
    };
    let field = fields.required("claims", "{sub: \"repo:acme/board:*\"}", report)?;
    let (mut claims, before) = (BTreeMap::new(), report.len());
    for claim in field.entries(report)? {
        if claim.key.is_empty() || claim.key.len() > MOST_TEXT || claim.key.split('/').any(str::is_empty) {
            let hint = "write its name, or the way to it with slashes, like kubernetes.io/serviceaccount/name";
            report.error(code::BAD_NODE, claim.key_span, format!("`{}` is no claim", short(claim.key)), hint);
            continue;
        }
        claims.insert(claim.key.into(), wildcards(claim, report));
    }
    if claims.len() > MOST_CLAIMS {
        let message = format!("more than {MOST_CLAIMS} claims are asked for");
        report.error(code::LIMIT, field.span(), message, "leave out those that follow from others");
    }
    if !claims.values().any(|values: &Vec<Wildcard>| values.iter().any(says_something)) && report.len() == before {
        let hint = "name the subject or what else tells yours from those of others, like `sub: \"repo:acme/board:*\"`";
        report.error(code::BAD_NODE, field.span(), "this would hold of everybody whom the issuer knows", hint);
    }
    Some(Oidc { issuer: issuer?, audience: audience?, keys: keys_of?, claims })
}

/// Whether it is more than stars.
fn says_something(value: &Wildcard) -> bool {
    value.0.bytes().any(|byte| byte != b'*')
}

fn issuer(field: Field<'_>, report: &mut Report) -> Option<Arc<str>> {
    let text = field.text(report)?;
    let url = if text.contains('?') { Err(("it has a query", "leave it out")) } else { WebUrl::parse(text) };
    if let Err((problem, hint)) = url {
        let message = format!("`{}` is no issuer of tokens: {problem}", short(text));
        report.error(code::BAD_NODE, field.span(), message, hint);
        return None;
    }
    Some(text.into())
}

/// Certificates or keys, which whoever knows their form judges later.
fn keys(field: Field<'_>, report: &mut Report) -> Option<Arc<str>> {
    let text = field.text(report)?;
    if text.len() > MOST_KEY_BYTES {
        let message = format!("`{}` has {} bytes, more than {MOST_KEY_BYTES}", field.key, text.len());
        report.error(code::LIMIT, field.span(), message, "leave out what no machine was issued under");
        return None;
    }
    Some(text.into())
}

/// Text that is no pattern.
fn plain(field: Field<'_>, report: &mut Report) -> Option<Arc<str>> {
    let text = field.text(report)?;
    if text.is_empty() || text.len() > MOST_TEXT || text.chars().any(char::is_control) {
        let message = format!("`{}` must be 1 to {MOST_TEXT} letters", field.key);
        report.error(code::BAD_VALUE, field.span(), message, "write it as it stands in the token");
        return None;
    }
    Some(text.into())
}

/// One text or several.
fn texts<'a>(field: Field<'a>, report: &mut Report) -> Vec<Field<'a>> {
    match &field.node.value {
        Value::List(items) if items.is_empty() => {
            let hint = "name one at least, or leave the field out";
            report.error(code::BAD_VALUE, field.span(), format!("`{}` has no value that could hold", field.key), hint);
            Vec::new()
        }
        Value::List(_) => field.items(report).into_iter().flatten().collect(),
        _ => vec![field],
    }
}

fn wildcards(field: Field<'_>, report: &mut Report) -> Vec<Wildcard> {
    texts(field, report).into_iter().filter_map(|field| plain(field, report).map(Wildcard)).collect()
}

fn fingerprints(field: Field<'_>, report: &mut Report) -> Vec<Arc<str>> {
    let mut fingerprints = Vec::new();
    for field in texts(field, report) {
        let Some(text) = field.text(report) else { continue };
        // As `openssl x509 -fingerprint -sha256` prints it, or `sha256sum` of the DER.
        let digits: String = text.chars().filter(|c| *c != ':').collect::<String>().to_ascii_lowercase();
        if digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            fingerprints.push(digits.into());
        } else {
            let message = format!("`{}` is no SHA-256 of a certificate", short(text));
            let hint = "write the 64 hexadecimal digits that `openssl x509 -noout -fingerprint -sha256` prints";
            report.error(code::BAD_VALUE, field.span(), message, hint);
        }
    }
    fingerprints
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;
    use crate::intent::Star;
    use crate::source::SourceFile;

    const DIGEST: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn read(nodes: &str) -> Result<Vec<NodeEntry>, Vec<(&'static str, String, String)>> {
        let text = format!(
            "kind: Mesh\nname: acme\ntrustDomain: acme.internal\nidentity:\n  nodes: {nodes}\n---\nkind: Service\nname: web\n\
             namespace: prod\nport: 80\nprotocol: http\n"
        );
        let (intent, findings) = parse(&[SourceFile::new("mesh.yaml", text.as_bytes())]);
        let nodes = intent.map(|intent| intent.mesh.identity.nodes.to_vec());
        nodes.ok_or_else(|| findings.into_iter().map(|f| (f.code, f.message, f.hint)).collect())
    }

    #[test]
    fn both_proofs_are_read_with_what_they_are_good_for() {
        let all = format!(
            "[{{x509pop: {{ca: PEM, match: {{dnsName: [\"*.dc1.example\", x.example], commonName: web, uri: \"spiffe://x/*\", \
             fingerprint: \"{}\"}}}}, services: [prod/web]}}, {{oidc: {{issuer: https://issuer.example/x, audience: weft, claims: \
             {{\"kubernetes.io/node/name\": \"*\", sub: agent}}}}, agent: \"dc1-*\"}}, {{oidc: {{issuer: \"http://127.0.0.1:80\", \
             audience: weft, jwks: '{{}}', claims: {{sub: [a, b]}}}}, services: [prod/web], agent: m1}}]",
            DIGEST.to_uppercase()
        );
        let [x509, found, inline] = &read(&all).expect("it is good")[..] else { panic!("three") };
        let NodeProof::X509pop(proof) = &x509.proof else { panic!("{x509:?}") };
        assert_eq!((&*proof.ca, proof.dns_name.len(), &*proof.fingerprint[0]), ("PEM", 2, DIGEST));
        let NodeProof::Oidc(oidc) = &found.proof else { panic!("{found:?}") };
        assert!(matches!(oidc.keys, OidcKeys::Discovered { ca: None, .. }));
        let NodeProof::Oidc(oidc) = &inline.proof else { panic!("{inline:?}") };
        assert!(matches!(&oidc.keys, OidcKeys::Inline { jwks, .. } if **jwks == *"{}"));
        let subject = |text: &str| text.parse().expect("legal");
        assert_eq!(x509.star_for(&subject("prod/web")), Some(Star::Any));
        assert_eq!(x509.star_for(&subject("agent:m1")), None);
        assert_eq!(found.star_for(&subject("agent:dc1-m1")), Some(Star::Is("m1".into())));
        assert_eq!(inline.star_for(&subject("agent:m1")), Some(Star::Any));
        assert_eq!(inline.star_for(&subject("prod/board")), None);
    }

    #[test]
    fn what_is_wrong_is_told_with_what_to_write() {
        let oidc = |inner: &str| {
            format!(
                "[{{oidc: {{issuer: https://i.example, audience: weft, claims: {{sub: x}}, {inner}}}, services: [prod/web]}}]"
            )
        };
        let claims = |claims: &str, agent: &str| {
            format!("[{{oidc: {{issuer: https://i.example, audience: weft, claims: {claims}}}, agent: \"{agent}\"}}]")
        };
        let x509 = |inner: &str| format!("[{{x509pop: {{{inner}}}, services: [prod/web]}}]");
        for (wrong, code, hint) in [
            ("[{services: [prod/web]}]".to_owned(), "WEFT0151", "x509pop"),
            ("[{x509pop: {ca: x, match: {uri: x}}}]".to_owned(), "WEFT0108", "services: [prod/board]"),
            (x509("ca: x, match: {}"), "WEFT0151", "which certificates"),
            (x509("ca: x"), "WEFT0108", "match: {dnsName"),
            (x509("match: {uri: x}"), "WEFT0108", "PEM"),
            (x509("ca: x, match: {fingerprint: ab}"), "WEFT0111", "openssl x509"),
            (x509("ca: x, match: {uri: []}"), "WEFT0111", "name one"),
            (x509("ca: x, match: {cn: x}"), "WEFT0106", "commonName"),
            (oidc("ca: x, jwks: y"), "WEFT0151", "leave out one"),
            (oidc("keys: y"), "WEFT0106", "its fields"),
            (oidc("jwks: y").replace("https://i.example", "http://i.example"), "WEFT0151", "https://"),
            (oidc("jwks: y").replace("https://i.example", "\"https://i.example?x\""), "WEFT0151", "leave it out"),
            (oidc("jwks: y").replace("sub: x", "\"a//b\": x"), "WEFT0151", "slashes"),
            (oidc("jwks: y").replace("sub: x", "sub: \"*\""), "WEFT0151", "tells yours"),
            (oidc("jwks: y").replace("sub: x", ""), "WEFT0151", "tells yours"),
            (oidc("jwks: y").replace("prod/web", "prod/wbe"), "WEFT0130", "prod/web"),
            (oidc("jwks: y").replace("prod/web", "web"), "WEFT0113", "prod/board"),
            (claims("{sub: x}", "*"), "WEFT0151", "write one"),
            (claims("{sub: \"x*\", y: \"*\"}", "*"), "WEFT0151", "write one"),
            (claims("{sub: \"x*\"}", "M*"), "WEFT0113", "dc1-*"),
            (claims("{sub: \"x*\"}", "*-*"), "WEFT0113", "dc1-*"),
        ] {
            let findings = read(&wrong).expect_err(&wrong);
            assert_eq!((findings.len(), findings[0].0), (1, code), "{wrong}: {findings:?}");
            assert!(findings[0].2.contains(hint), "{wrong}: {findings:?}");
        }
    }
}
