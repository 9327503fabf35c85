//! What is wrong with the entries of a commit that only shows when their certificates and keys are read. Pure.

use weft_identity::IssuerKeys;
use weft_model::Span;
use weft_model::intent::{NodeEntry, NodeProof, OidcKeys};

use crate::certificates::authorities;

/// What is wrong with the certificates or keys of an entry, where they stand, and what to write.
pub fn problem(entry: &NodeEntry) -> Option<(Span, String, &'static str)> {
    match &entry.proof {
        NodeProof::X509pop(x509) => {
            let why = authorities(&x509.ca).err()?;
            let hint = "write the certificates of the CA in PEM below `ca: |`, each from -----BEGIN to -----END";
            Some((x509.ca_span.clone(), format!("`ca` cannot be used: {why}"), hint))
        }
        NodeProof::Oidc(oidc) => match &oidc.keys {
            OidcKeys::Inline { jwks, span } => {
                let why = match IssuerKeys::read(jwks.as_bytes()) {
                    Ok(keys) if keys.is_empty() => "it has no key of a kind that is taken, with a `kid`".to_owned(),
                    Ok(_) => return None,
                    Err(why) => why,
                };
                let hint =
                    "write the JWK Set of the issuer in quotes, like '{\"keys\": [{\"kty\": \"RSA\", \"kid\": …}]}'";
                Some((span.clone(), format!("`jwks` cannot be used: {why}"), hint))
            }
            OidcKeys::Discovered { ca: Some(ca), span } => {
                let why = authorities(ca).err()?;
                let hint = "write the certificates of the CA in PEM below `ca: |`, each from -----BEGIN to -----END";
                Some((span.clone(), format!("`ca` cannot be used: {why}"), hint))
            }
            OidcKeys::Discovered { ca: None, .. } => None,
        },
    }
}
