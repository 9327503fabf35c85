//! Identities of workloads: who issues them, how they are obtained and renewed, and how TLS checks them.
//!
//! The server side is an [`authority::Authority`] (root and issuing CA) behind the gRPC service `weft.v1.Identity`; the
//! workload side is a client that attests once with a join token and renews at half life. What a process *is* stands in one
//! [`LiveIdentity`], which every TLS configuration reads at each handshake, so a rotation swaps certificates without a new
//! configuration and without touching connections. This crate says who a peer is; it never decides what the peer may do.

pub mod accept;
pub mod authority;
mod ca;
mod certificate;
pub mod client;
pub mod connect;
mod crypto;
pub mod fault;
pub mod files;
pub mod live;
mod obtain;
mod peer;
mod renewal;
mod saved;
mod schedule;
pub mod sds;
pub mod service;
pub mod svid;
pub mod tls;
pub mod token;
mod verify;

pub use accept::{TlsIo, serve_tls};
pub use authority::{Authority, AuthorityError, Issued, KeyProof, Lives};
pub use ca::{CaError, Names};
pub use client::{Identity, IdentityConfig, IdentityError, IdentityStatus};
pub use connect::{ConnectError, connect};
pub use fault::{OwnFault, PeerError};
pub use live::{IdentityState, LiveIdentity};
pub use service::{Admission, IdentityService, Registrar, Withdrawal};
pub use svid::{Svid, SvidError, TrustBundle};
pub use tls::{ClientAuth, PeerMatch};
pub use token::{JoinToken, JoinTokens, TokenError};

/// The messages and the gRPC service of `proto/weft/v1/identity.proto`.
///
/// Generated, and in the repository: a compiler for it would be a tenth of the whole build. `tests/generated.rs` keeps it true.
#[rustfmt::skip]
#[allow(missing_docs, unreachable_pub)]
pub mod proto;
