//! Whether somebody may become a subject by what he has from elsewhere: the entries of `Mesh.identity.nodes`, one after the other.

use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use weft_identity::foreign_jwt::{Unverified, validate};
use weft_identity::{ForeignJwt, IssuerKeys};
use weft_model::Subject;
use weft_model::intent::{NodeEntry, NodeProof, Oidc, Star};
use weft_store::{Store, StoreError};

use crate::certificates::{self, described, hex};
use crate::claims::{self, claim};
use crate::keys::Keys;
use crate::used::UsedTokens;

/// The most reasons of one refusal.
const MOST_REASONS: usize = 3;

/// Somebody who may become what was asked for.
#[derive(Debug)]
pub struct Attested {
    /// By which way: `x509pop` or `oidc`.
    pub way: &'static str,
    /// What was proved, for the records.
    pub by: String,
    /// Who it was that proved it, as far as that can be told: the key of a certificate, or issuer, subject and pod of a token. Whoever proves it
    /// again is the same one.
    pub node: String,
    /// A token, which serves one machine.
    token: Option<ForeignJwt>,
}

/// Why somebody may not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No.
    #[error("{0}")]
    Denied(String),
    /// It cannot be told at present.
    #[error("{0}")]
    Unavailable(String),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// See the module.
pub struct Nodes {
    keys: Keys,
    used: UsedTokens,
}

impl Nodes {
    /// With what tokens have served in `store`.
    pub fn new(store: Store) -> Self {
        Self { keys: Keys::default(), used: UsedTokens::new(store) }
    }

    /// By a certificate whose key its sender has proved to hold.
    ///
    /// # Errors
    /// No entry holds.
    pub fn by_certificate(
        &self,
        entries: &[NodeEntry],
        subject: &Subject,
        chain: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Result<Attested, Refusal> {
        let of_certificates = entries.iter().filter_map(|entry| match &entry.proof {
            NodeProof::X509pop(x509) => Some((entry, x509, entry.star_for(subject)?)),
            NodeProof::Oidc(_) => None,
        });
        let mut reasons = Vec::new();
        for (entry, x509, star) in of_certificates {
            match certificates::judge(x509, &star, chain, now) {
                Ok(()) => {
                    let (text, node) = described(&chain[0]).map_err(Refusal::Denied)?;
                    return Ok(Attested {
                        way: "x509pop",
                        by: format!("x509pop: {text}"),
                        node: format!("x509pop:{node}"),
                        token: None,
                    });
                }
                Err(why) => reasons.push(format!("{why} (the entry at {})", entry.span)),
            }
        }
        Err(denied(subject, "a certificate (`x509pop`)", reasons))
    }

    /// By a token. It is not used up yet: see [`Nodes::use_up`].
    ///
    /// # Errors
    /// No entry holds, or the keys of its issuer cannot be had.
    pub async fn by_jwt(
        &self,
        entries: &[NodeEntry],
        subject: &Subject,
        token: &str,
        now: SystemTime,
    ) -> Result<Attested, Refusal> {
        let unverified = Unverified::read(token).map_err(|error| Refusal::Denied(error.to_string()))?;
        let of_issuer = entries.iter().filter_map(|entry| match &entry.proof {
            NodeProof::Oidc(oidc) if *oidc.issuer == *unverified.issuer => {
                Some((entry, oidc, entry.star_for(subject)?))
            }
            _ => None,
        });
        let (mut reasons, mut unavailable) = (Vec::new(), None);
        for (entry, oidc, star) in of_issuer {
            let keys = match self.keys.of(oidc, &unverified.kid).await {
                Ok(keys) => keys,
                Err(why) => {
                    unavailable = Some(why);
                    continue;
                }
            };
            match judge(oidc, &star, token, &keys, now) {
                Ok(jwt) => return Ok(attested(&unverified.issuer, jwt)),
                Err(why) => reasons.push(format!("{why} (the entry at {})", entry.span)),
            }
        }
        if let Some(why) = unavailable {
            return Err(Refusal::Unavailable(why));
        }
        let issuer: String = unverified.issuer.chars().filter(|c| !c.is_control()).take(200).collect();
        Err(denied(subject, &format!("a token of {issuer} (`oidc`)"), reasons))
    }

    /// Has what was proved serve the machine with this key: a token serves no other one until its end.
    ///
    /// # Errors
    /// It has served another one, or that cannot be told at present.
    pub async fn use_up(&self, attested: &Attested, machine: &[u8], now: SystemTime) -> Result<(), Refusal> {
        let Some(token) = &attested.token else { return Ok(()) };
        match self.used.take(&token.digest, machine, token.expires, now).await? {
            None => Ok(()),
            Some(ago) => Err(Refusal::Denied(format!(
                "the token was used {ago} s ago by another machine; each needs a token of its own. If nobody here did that, the token leaked"
            ))),
        }
    }
}

fn judge(oidc: &Oidc, star: &Star, token: &str, keys: &IssuerKeys, now: SystemTime) -> Result<ForeignJwt, String> {
    let jwt = validate(token, &oidc.issuer, &oidc.audience, keys, now).map_err(|error| error.to_string())?;
    claims::judge(oidc, star, &jwt.claims)?;
    Ok(jwt)
}

fn attested(issuer: &str, jwt: ForeignJwt) -> Attested {
    let text = |name: &str| claim(&jwt.claims, name).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
    let (subject, pod) = (text("sub"), text("kubernetes.io/pod/uid"));
    let mut hash = Sha256::new();
    for part in [issuer, &subject, &pod] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let shown: String = subject.chars().filter(|c| !c.is_control()).take(200).collect();
    Attested {
        way: "oidc",
        by: format!("oidc: {issuer}, sub {shown}"),
        node: format!("oidc:{}", hex(&hash.finalize()[..16])),
        token: Some(jwt),
    }
}

fn denied(subject: &Subject, what: &str, mut reasons: Vec<String>) -> Refusal {
    reasons.dedup();
    let more = reasons.len().saturating_sub(MOST_REASONS);
    reasons.truncate(MOST_REASONS);
    Refusal::Denied(match (reasons.is_empty(), more) {
        (true, _) => format!(
            "no entry of `Mesh.identity.nodes` lets anybody become {subject} by {what}; add one to the intent, or use a join token"
        ),
        (false, 0) => reasons.join("; "),
        (false, more) => format!("{}; and {more} more entries do not hold", reasons.join("; ")),
    })
}
