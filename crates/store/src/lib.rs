//! Where the control plane keeps what must outlive it: a small key-value store with revisions, watches, leases and sealing.
//!
//! Keys are paths like `ca/issuing`; values are bytes. Every write gets the next revision of the whole store, and
//! [`Store::compare_and_swap`] is how several writers agree. Values that are secret go through [`Store::put_sealed`]:
//! AES-256-GCM bound to their key, so the file alone gives nothing away and a value cannot be moved to another key.
//! The store never interprets a value. It is a file of this machine, or an etcd that several servers share; nobody but whoever opens it knows which.

mod embedded;
mod entry;
mod error;
mod etcd;
mod lease;
mod seal;
mod store;
mod watch;

pub use entry::{Entry, Swap};
pub use error::StoreError;
pub use etcd::{BadEtcdAddress, EtcdAddress, EtcdFiles};
pub use lease::Lease;
pub use store::Store;
pub use watch::{Change, Event, Watch};
