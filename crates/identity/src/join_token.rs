//! Join tokens: how a workload proves at first contact which service it is.
//!
//! A token also carries the pin of the root, so the workload knows the server from the first byte.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use sha2::{Digest, Sha256};
use weft_model::TrustDomain;
use zeroize::Zeroize;

use crate::certificate::hex;

const PREFIX: &str = "weft.";

/// Not the text of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no join token: a token is `weft.` and 107 characters, and perhaps a dot and a trust domain, copied whole"
)]
pub struct MalformedToken;

/// A join token: 16 bytes id, 32 bytes secret, 32 bytes pin, and the trust domain where the root does not tell it. `Debug` shows the id only; [`text`](Self::text) shows it whole.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    id: [u8; 16],
    secret: [u8; 32],
    pin: [u8; 32],
    domain: Option<TrustDomain>,
}

impl JoinToken {
    /// A token for the server whose root has this pin.
    pub fn new(pin: [u8; 32]) -> Self {
        Self { id: rand::random(), secret: rand::random(), pin, domain: None }
    }

    /// The same for a root that others have too: the server must be the control plane of this trust domain.
    pub fn of(mut self, domain: TrustDomain) -> Self {
        self.domain = Some(domain);
        self
    }

    /// The trust domain, if it is not the one that the root names.
    pub fn trust_domain(&self) -> Option<&TrustDomain> {
        self.domain.as_ref()
    }

    /// SHA-256 of the SubjectPublicKeyInfo of the root under which the server must prove itself.
    pub fn pin(&self) -> [u8; 32] {
        self.pin
    }

    /// Which token it is, upper-case hexadecimal. No secret.
    pub fn id(&self) -> String {
        hex(&self.id)
    }

    /// SHA-256 of the secret, upper-case hexadecimal: what may be kept of it.
    pub fn secret_hash(&self) -> String {
        hex(&Sha256::digest(self.secret))
    }

    /// What users copy. A secret: print it once, to the person who asked for it.
    pub fn text(&self) -> String {
        let mut text = PREFIX.to_owned() + &BASE64.encode([&self.id[..], &self.secret, &self.pin].concat());
        if let Some(domain) = &self.domain {
            text.push('.');
            text.push_str(domain.as_str());
        }
        text
    }
}

impl FromStr for JoinToken {
    type Err = MalformedToken;

    fn from_str(text: &str) -> Result<Self, MalformedToken> {
        let body = text.trim().strip_prefix(PREFIX).ok_or(MalformedToken)?;
        let (body, domain) = match body.split_once('.') {
            Some((body, domain)) => (body, Some(domain.parse().map_err(|_| MalformedToken)?)),
            None => (body, None),
        };
        let bytes = BASE64.decode(body).map_err(|_| MalformedToken)?;
        let whole: &[u8; 80] = bytes.as_slice().try_into().map_err(|_| MalformedToken)?;
        let mut token = Self { id: [0; 16], secret: [0; 32], pin: [0; 32], domain };
        token.id.copy_from_slice(&whole[..16]);
        token.secret.copy_from_slice(&whole[16..48]);
        token.pin.copy_from_slice(&whole[48..]);
        Ok(token)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({})", hex(&self.id))
    }
}

impl Drop for JoinToken {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_round_trips_and_nothing_else_parses() {
        let token = JoinToken::new([7; 32]);
        let text = token.text();
        assert_eq!(text.len(), "weft.".len() + 107);
        assert_eq!(format!(" {text}\n").parse::<JoinToken>(), Ok(token.clone()));
        assert_eq!(token.pin(), [7; 32]);
        let naming = token.clone().of("acme.internal".parse().unwrap());
        assert_eq!(naming.text(), format!("{text}.acme.internal"));
        assert_eq!(naming.text().parse::<JoinToken>(), Ok(naming));
        for bad in ["", "ACME", "a/b", "acme internal"] {
            assert!(format!("{text}.{bad}").parse::<JoinToken>().is_err(), "{bad}");
        }
        assert!(!format!("{token:?}").contains(&text[30..40]));
        for bad in ["", "weft.", &text[..text.len() - 1], &text[1..], &format!("{text}A"), "weft.%%%%"] {
            assert!(bad.parse::<JoinToken>().is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,200}") {
            let _ = text.parse::<JoinToken>();
            let _ = format!("weft.{text}").parse::<JoinToken>();
        }
    }
}
