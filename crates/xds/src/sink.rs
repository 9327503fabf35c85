//! What a client does with what it receives, and what can be known about it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::Resource;

/// One response of a server, decoded as far as names and versions.
#[derive(Clone, Debug)]
pub struct Update {
    /// What type; all resources of an update are of one type.
    pub type_url: &'static str,
    /// The revision that the server names for it; for people.
    pub revision: Arc<str>,
    /// New and changed resources.
    pub changed: Vec<Arc<Resource>>,
    /// Resources that no longer exist or are no longer [`wanted`](Sink::wanted), and names that were asked for and do not exist.
    pub removed: Vec<Arc<str>>,
}

/// A resource that could not be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The resource.
    pub name: Arc<str>,
    /// Why, with the path of the field at fault, like `filter_chains[0].filters[1].name: unknown filter`.
    pub reason: String,
}

/// What a sink has accepted and does not keep after all.
#[derive(Clone, Debug)]
pub struct TakenBack {
    /// What type.
    pub type_url: &'static str,
    /// Each name, with what is in force under it again, if anything is.
    pub in_force: Vec<(Arc<str>, Option<Arc<Resource>>)>,
}

/// Where a client puts what it receives.
#[tonic::async_trait]
pub trait Sink: Send + 'static {
    /// Applies what it can; one bad resource does not spoil the others. Rejections become the text of a NACK, and what was in force
    /// under those names stays in force.
    async fn apply(&mut self, update: Update) -> Vec<Rejection>;

    /// The names to subscribe to after what has been applied so far: asked for EDS and RDS, after each update. LDS, CDS, policy
    /// bundle and revision are always followed as a whole.
    fn wanted(&self, type_url: &'static str) -> BTreeSet<Arc<str>>;

    /// Waits until something that was accepted turns out to be bad. The client then asks for it again, and `apply` must refuse it.
    /// Must lose nothing when it is dropped while it waits.
    async fn late(&mut self) -> TakenBack {
        std::future::pending().await
    }
}

/// What a client is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientStatus {
    /// Whether a stream is open and the server has let this node in.
    pub connected: bool,
    /// The commit of the revision resource, else the server's last `system_version_info`. Empty before anything was received.
    pub revision: Arc<str>,
    /// Why the last stream or attempt ended; cleared when the next is open.
    pub last_error: Option<String>,
    /// How many responses have been refused since the start.
    pub nacks: u64,
    /// What is refused now: the rejections of the last response, for each type whose last response was refused.
    pub refused: BTreeMap<&'static str, Vec<Rejection>>,
    /// Whether what is in force came from the disk and no server has been reached yet.
    pub from_cache: bool,
}
