//! All that one service's sidecar needs to decide on the calls to it, as one small document.
//!
//! The bytes depend on the content only: a commit that changes nothing for a service leaves its bundle as it was, so that
//! nothing is sent.

use std::io::{self, BufWriter};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use weft_model::intent::{Paths, PolicyInputs};
use weft_model::{ServiceName, SpiffeId, TrustDomain};

use crate::break_glass::BreakGlass;
pub use crate::entities::ServiceFacts;

/// The version of the document's shape that this code writes and reads.
const FORMAT: u32 = 2;

/// Why policies cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Not a bundle.
    #[error("the policy bundle cannot be read: {0}")]
    Format(String),
    /// Written by another version of Weft.
    #[error(
        "the policy bundle has format {0}, this sidecar reads format {FORMAT}: use the control plane's version of weft"
    )]
    Version(u32),
    /// The content is not what it was when the bundle was made.
    #[error("the policy bundle of {service} is damaged: its content is {found}, its revision says {revision}")]
    Damaged {
        /// Whose bundle.
        service: ServiceName,
        /// What it says.
        revision: String,
        /// What it is.
        found: String,
    },
    /// A policy does not parse or goes too deep; the control plane has validated it, so versions differ.
    #[error("policy {id} cannot be used: {why}")]
    Policy {
        /// The policy, like `policies/x.cedar:3`.
        id: Arc<str>,
        /// What Cedar says.
        why: String,
    },
    /// A service's attributes cannot be used.
    #[error("the attributes of the services cannot be used: {0}")]
    Entities(String),
    /// The control plane's database of time zones knows one that this program's does not.
    #[error("there is no time zone {0} here: use the control plane's version of weft")]
    TimeZone(Arc<str>),
}

/// One policy as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyText {
    /// Unique in the mesh, like `policies/x.cedar:3` or `services/board.yaml:12#prod/web`.
    pub id: Arc<str>,
    /// File in the repository of intent.
    pub file: Arc<str>,
    /// Line of the policy, or of the `access` entry.
    pub line: u32,
    /// Cedar.
    pub text: Arc<str>,
}

/// The policies that can concern calls to one service, and the services that could be allowed to make them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bundle {
    pub(crate) format: u32,
    /// First 16 hexadecimal digits of the SHA-256 of the rest.
    pub revision: String,
    /// Trust domain of the mesh.
    pub trust_domain: TrustDomain,
    /// The callee.
    pub service: ServiceFacts,
    /// Where its `access` is written, like `services/board.yaml:12`; said in denials.
    pub access: Arc<str>,
    /// The callee's port, that of the app.
    pub port: u16,
    /// What the policies read of requests beside what all of them have. Left out of the document where it is nothing.
    #[serde(default, skip_serializing_if = "is_default")]
    pub inputs: PolicyInputs,
    /// How the callee reads paths. Left out of the document where it is the default.
    #[serde(default, skip_serializing_if = "is_default")]
    pub paths: Paths,
    /// Whether the service takes calls in plain text, and so policies know of such callers. Left out of the document where it does not.
    #[serde(default, skip_serializing_if = "is_default")]
    pub plain_text: bool,
    /// Identities of other trust domains that some `permit` could allow, sorted. Left out of the document where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub foreign: Vec<SpiffeId>,
    /// Left out of the document where it is not on, and where no policy asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub break_glass: Option<BreakGlass>,
    /// In the order of the mesh's files.
    pub policies: Vec<PolicyText>,
    /// Those that are evaluated and logged, and not enforced. Left out of the document where there are none; a sidecar too old to know of
    /// them refuses the document rather than enforce them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shadow: Vec<PolicyText>,
    /// Every service that some `permit` could allow, sorted by name. Others are denied.
    pub callers: Vec<ServiceFacts>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Bundle {
    /// With the revision that its content has.
    pub(crate) fn sealed(mut self) -> Self {
        self.revision = self.content_hash();
        self
    }

    /// A bundle that denies everything, to be filled and [sealed](Self::sealed).
    pub(crate) fn denying(trust_domain: TrustDomain, service: ServiceFacts, access: Arc<str>) -> Self {
        Self {
            format: FORMAT,
            revision: String::new(),
            trust_domain,
            service,
            access,
            port: 0,
            inputs: PolicyInputs::default(),
            paths: Paths::default(),
            plain_text: false,
            foreign: Vec::new(),
            break_glass: None,
            policies: Vec::new(),
            shadow: Vec::new(),
            callers: Vec::new(),
        }
    }

    /// The document, JSON in UTF-8. Equal bundles have equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers have a JSON form")
    }

    /// Reads what [`Bundle::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`PolicyError::Format`], [`PolicyError::Version`] or [`PolicyError::Damaged`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PolicyError> {
        #[derive(Deserialize)]
        struct Header {
            format: u32,
        }
        let format = |error: serde_json::Error| PolicyError::Format(error.to_string());
        let header: Header = serde_json::from_slice(bytes).map_err(format)?;
        if header.format != FORMAT {
            return Err(PolicyError::Version(header.format));
        }
        let bundle: Self = serde_json::from_slice(bytes).map_err(format)?;
        let found = bundle.content_hash();
        if found != bundle.revision {
            return Err(PolicyError::Damaged { service: bundle.service.name, revision: bundle.revision, found });
        }
        Ok(bundle)
    }

    fn content_hash(&self) -> String {
        let content = Self { revision: String::new(), ..self.clone() };
        // Not all of the bytes at a time: there are megabytes of them.
        let mut hash = BufWriter::new(Hash(Sha256::new()));
        serde_json::to_writer(&mut hash, &content).expect("strings and numbers have a JSON form");
        let Hash(hash) = hash.into_inner().expect("a hash takes all that is written");
        hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A hash of all that is written.
#[derive(Debug)]
struct Hash(Sha256);

impl io::Write for Hash {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use weft_model::intent::{EscapedSlashes, Slashes};

    use super::*;
    use crate::testing;

    #[test]
    fn a_damaged_or_foreign_bundle_is_refused() {
        let intent = testing::intent(&["prod/web", "prod/board"]);
        let bundle = testing::bundle(&intent, "prod/board");
        let text = String::from_utf8(bundle.to_bytes()).expect("UTF-8");
        assert_eq!(Bundle::from_bytes(text.as_bytes()), Ok(bundle));
        let damaged = text.replace("prod/board", "prod/beard");
        assert!(matches!(Bundle::from_bytes(damaged.as_bytes()), Err(PolicyError::Damaged { .. })));
        let newer = text.replace("\"format\":2", "\"format\":3,\"more\":{}");
        assert_eq!(Bundle::from_bytes(newer.as_bytes()), Err(PolicyError::Version(3)));
        assert!(matches!(Bundle::from_bytes(b"{}"), Err(PolicyError::Format(_))));

        assert!(!text.contains("paths"), "{text}");
        let mut intent = intent;
        let board = intent.services.get_mut(&testing::name("prod/board")).expect("it is there");
        board.paths.escaped_slashes = EscapedSlashes::Keep;
        board.paths.slashes = Slashes::Keep;
        let keeps = testing::bundle(&intent, "prod/board");
        assert_eq!(Bundle::from_bytes(&keeps.to_bytes()), Ok(keeps));
    }
}
