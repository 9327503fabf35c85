//! The issuing CA of one server, in the store.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use weft_identity::ca::{Ca, CaError};
use weft_identity::schedule;
use weft_store::Store;
use zeroize::Zeroizing;

use crate::error::AuthorityError;
use crate::keys::{KEY_ID_LENGTH, Published, key_id, seconds};
use crate::trust::{KeyId, Phase};

/// Begins what is stored of one that has others above it. No [`KeyId`] begins so, with which it begins otherwise.
const WITH_OTHERS: u8 = 2;

/// An issuing CA, and what is above it.
pub(crate) struct Issuing {
    pub(crate) ca: Ca,
    /// CAs between it and the root, the nearest first: part of what each workload shows.
    pub(crate) above: Vec<CertificateDer<'static>>,
    /// The root that it leads to.
    pub(crate) under: KeyId,
}

impl Issuing {
    pub(crate) fn new(ca: Ca, above: Vec<CertificateDer<'static>>, under: KeyId) -> Self {
        Self { ca, above, under }
    }

    /// Which it is, as [`KeyId`].
    pub(crate) fn id(&self) -> KeyId {
        key_id(&self.ca.pin())
    }

    /// When it is to be replaced.
    pub(crate) fn half_life(&self) -> SystemTime {
        schedule::half_life(self.ca.not_before, self.ca.not_after)
    }

    /// Whether its time is over in which it may go on without another to follow. One that was made by a clock that has been set back since
    /// is not valid yet.
    pub(crate) fn is_old(&self, now: SystemTime) -> bool {
        now >= self.half_life() || now < self.ca.not_before
    }

    /// Whether the root that it leads to is the one that signs.
    pub(crate) fn is_of_active(&self, published: &Published) -> bool {
        published.trust.x509.active().is_some_and(|root| root.id == self.under)
    }

    /// Whether what it issues can be verified: it lives, and its root is published and has been for long enough.
    pub(crate) fn serves(&self, published: &Published, now: SystemTime) -> bool {
        let root = published.trust.x509.keys().iter().find(|root| root.id == self.under);
        let held = root.is_some_and(|root| !matches!(root.phase, Phase::Published { .. }));
        held && (self.ca.not_before..self.ca.not_after).contains(&now)
    }

    /// Reads what is kept under `key`.
    pub(crate) async fn read(store: &Store, key: &str) -> Result<Option<Self>, AuthorityError> {
        Ok(store.get_sealed(key).await?.map(|bytes| Self::from_bytes(&bytes)).transpose()?)
    }

    /// Keeps it under `key`, sealed.
    pub(crate) async fn write(&self, store: &Store, key: &str) -> Result<(), AuthorityError> {
        store.put_sealed(key, &self.to_bytes()).await?;
        Ok(())
    }

    /// The root's id, then the CA. Where there are CAs above it: a mark, the root's id, the end of the first of all of them that ends (8 bytes), how
    /// many are above (1 byte), each with its length (4 bytes), then the CA. Numbers are big-endian.
    fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let ca = self.ca.to_bytes();
        let above: usize = self.above.iter().map(|certificate| 4 + certificate.len()).sum();
        // Of one piece, so that no copy stays behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(1 + KEY_ID_LENGTH + 9 + above + ca.len()));
        if !self.above.is_empty() {
            bytes.push(WITH_OTHERS);
        }
        bytes.extend_from_slice(self.under.as_bytes());
        if !self.above.is_empty() {
            bytes.extend_from_slice(&seconds(self.ca.not_after).to_be_bytes());
            bytes.push(self.above.len() as u8);
            for certificate in &self.above {
                bytes.extend_from_slice(&(certificate.len() as u32).to_be_bytes());
                bytes.extend_from_slice(certificate);
            }
        }
        bytes.extend_from_slice(&ca);
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, CaError> {
        let short = || CaError::Stored("the issuing CA is cut short".into());
        let (with_others, bytes) = match bytes {
            [WITH_OTHERS, rest @ ..] => (true, rest),
            all => (false, all),
        };
        let (under, mut rest) = bytes.split_at_checked(KEY_ID_LENGTH).ok_or_else(short)?;
        let under = String::from_utf8(under.to_vec()).map_err(|_| CaError::Stored("it names no root".into()))?;
        if !with_others {
            return Ok(Self::new(Ca::from_bytes(rest)?, Vec::new(), under));
        }
        let (end, after) = rest.split_first_chunk().ok_or_else(short)?;
        let (count, after) = after.split_first().ok_or_else(short)?;
        rest = after;
        let mut above = Vec::new();
        for _ in 0..*count {
            let (length, after) = rest.split_first_chunk().ok_or_else(short)?;
            let (certificate, after) =
                after.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or_else(short)?;
            above.push(CertificateDer::from(certificate.to_vec()));
            rest = after;
        }
        let mut ca = Ca::from_bytes(rest)?;
        ca.not_after = ca.not_after.min(UNIX_EPOCH + Duration::from_secs(u64::from_be_bytes(*end)));
        Ok(Self::new(ca, above, under))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuing_ca_survives_its_bytes_with_and_without_others_above() {
        let domain = "acme.internal".parse().unwrap();
        let (now, day) = (SystemTime::now(), Duration::from_secs(24 * 3600));
        let root = Ca::root(&domain, now, 10 * day).unwrap();
        let middle = root.certificate().clone();
        for above in [vec![], vec![middle.clone()], vec![middle.clone(), middle]] {
            let mut ca = root.issuing(&domain, now, 5 * day).unwrap();
            if !above.is_empty() {
                ca.not_after = now + day; // one above ends earlier
            }
            let issuing = Issuing::new(ca, above, "0123456789abcdef".to_owned());
            let bytes = issuing.to_bytes();
            let again = Issuing::from_bytes(&bytes).unwrap();
            assert_eq!((again.id(), &again.above, &again.under), (issuing.id(), &issuing.above, &issuing.under));
            assert_eq!(seconds(again.ca.not_after), seconds(issuing.ca.not_after));
            for cut in [0, 1, 15, 17, 25, 30, bytes.len() - 1] {
                assert!(Issuing::from_bytes(&bytes[..cut]).is_err(), "cut at {cut}");
            }
        }
    }
}
