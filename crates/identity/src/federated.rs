//! The bundles of the trust domains that this one is federated with: each by its own name, and never merged (SPIFFE Federation s.4.2).

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use weft_model::TrustDomain;

use crate::document::{self, Document};
use crate::saved::write_private;
use crate::svid::TrustBundle;

/// Beside the saved identity: trust domain -> bundle document.
const FILE: &str = "federated.json";

/// Bundles by trust domain.
#[derive(Clone, Debug, Default)]
pub struct Federated(BTreeMap<TrustDomain, Arc<TrustBundle>>);

impl Federated {
    /// Of several of one trust domain the last one counts.
    pub fn new(bundles: impl IntoIterator<Item = TrustBundle>) -> Self {
        Self(bundles.into_iter().map(|bundle| (bundle.trust_domain().clone(), Arc::new(bundle))).collect())
    }

    /// That of a trust domain; without one nobody of it is trusted.
    pub fn get(&self, domain: &TrustDomain) -> Option<&Arc<TrustBundle>> {
        self.0.get(domain)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<TrustBundle>> {
        self.0.values()
    }

    /// Kept for the next start, which may be without a control plane.
    pub(crate) fn save(&self, folder: &Path) -> io::Result<()> {
        let documents: BTreeMap<&str, String> =
            self.iter().map(|bundle| (bundle.trust_domain().as_str(), document::write(bundle, None))).collect();
        write_private(&folder.join(FILE), &serde_json::to_vec(&documents)?)
    }

    /// What was kept; nothing if there is nothing to be read.
    pub fn load(folder: &Path) -> Self {
        let path = folder.join(FILE);
        let Ok(text) = std::fs::read(&path) else { return Self::default() };
        Self::decode(&text).unwrap_or_else(|why| {
            let path = path.display();
            tracing::warn!(%path, why, "the saved bundles of other trust domains cannot be read; the control plane tells of them anew");
            Self::default()
        })
    }

    fn decode(text: &[u8]) -> Result<Self, String> {
        let documents: BTreeMap<String, String> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let one = |(domain, text): (String, String)| {
            let domain: TrustDomain = domain.parse().map_err(|error: weft_model::NameError| error.to_string())?;
            Document::read(&domain, text.as_bytes()).map(|document| document.bundle)
        };
        Ok(Self::new(documents.into_iter().map(one).collect::<Result<Vec<_>, String>>()?))
    }
}

impl PartialEq for Federated {
    fn eq(&self, other: &Self) -> bool {
        let same = |(one, other): (&Arc<TrustBundle>, &Arc<TrustBundle>)| {
            one.sequence() == other.sequence() && one.says_the_same(other)
        };
        self.0.len() == other.0.len() && self.iter().zip(other.iter()).all(same)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::ca::Ca;

    #[test]
    fn a_restart_knows_the_bundles_of_before() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(Federated::load(folder.path()).is_empty());
        let bundle = |domain: &str, sequence| {
            let domain: TrustDomain = domain.parse().expect("legal");
            let root = Ca::root(&domain, SystemTime::now(), Duration::from_secs(3600)).expect("a root");
            TrustBundle::new(domain, vec![root.certificate().clone()]).expect("a bundle").with_sequence(sequence)
        };
        let federated = Federated::new([bundle("west.test", 3), bundle("east.test", 1)]);
        federated.save(folder.path()).expect("saved");
        assert!(Federated::load(folder.path()) == federated);
        assert!(Federated::new([bundle("west.test", 3), bundle("east.test", 1)]) != federated, "other roots");
        std::fs::write(folder.path().join(FILE), "{").expect("written");
        assert!(Federated::load(folder.path()).is_empty());
    }
}
