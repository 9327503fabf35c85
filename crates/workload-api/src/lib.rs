//! The SPIFFE Workload API: how an app gets the identity that its agent keeps for it, without a secret of its own.
//!
//! A [`Listener`] says by the kernel's word who calls ([`Caller`]); [`Workloads`] says whose identities those are; [`serve`] speaks the
//! protocol. This crate hands out what it is given: it never issues, renews or decides anything. [`client`] is its other end.

pub mod authority;
mod caller;
pub mod client;
mod endpoint;
mod listen;
mod messages;
mod one;
mod process;
mod service;
mod workloads;

pub use caller::Caller;
pub use endpoint::{Endpoint, EndpointError};
pub use listen::Listener;
pub use one::OneWorkload;
pub use process::Process;
pub use service::{caller, serve, service};
pub use workloads::{Entitlement, Grant, Granted, Workloads, no_identity};

/// The messages and the gRPC service of `proto/workload.proto`.
///
/// Generated, and in the repository; `tests/generated.rs` keeps it true.
#[rustfmt::skip]
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod proto;
