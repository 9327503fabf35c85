//! Identities of workloads: who issues them, how they are obtained and renewed, and how TLS checks them.
//!
//! The workload's side: a client of the gRPC service `weft.v1.Identity` that attests once, with a join token or what its machine has from elsewhere, and renews at half life
//! (the server's side is the crate `authority`). What a process *is* stands in one
//! [`LiveIdentity`], which every TLS configuration reads at each handshake, so a rotation swaps certificates without a new
//! configuration and without touching connections. This crate says who a peer is; it never decides what the peer may do.

pub mod accept;
pub mod assigned;
pub mod bans;
pub mod ca;
pub mod certificate;
pub mod client;
pub mod connect;
mod crypto;
pub mod document;
pub mod fault;
pub mod federated;
pub mod files;
mod follow;
pub mod foreign_jwt;
mod issuer_name;
pub mod issuing;
mod join_token;
pub mod jwk;
pub mod jwt;
pub mod jwt_signer;
pub mod live;
pub mod machine;
mod obtain;
pub mod on_behalf;
mod peer;
pub mod proof;
mod renewal;
pub mod saved;
pub mod schedule;
pub mod sds;
pub mod svid;
pub mod tls;
pub mod tokens;
mod verify;
pub mod wire;
pub mod x509pop;

pub use accept::{TlsIo, serve_tls};
pub use assigned::Assignment;
pub use bans::{Ban, Banned, Bans};
pub use ca::{CaError, Names};
pub use client::{Identity, IdentityConfig, IdentityError, IdentityStatus};
pub use connect::{ConnectError, connect};
pub use document::Document;
pub use fault::{OwnFault, PeerError};
pub use federated::Federated;
pub use foreign_jwt::{ForeignJwt, IssuerKeys};
pub use join_token::{JoinToken, MalformedToken};
pub use jwk::{JwtBundle, JwtKey};
pub use jwt::{JwtError, JwtSvid};
pub use jwt_signer::{Audience, AudienceError, JwtSigner};
pub use live::{IdentityState, LiveIdentity};
pub use machine::MachineId;
pub use on_behalf::OnBehalf;
pub use proof::{NodeProof, NodeProofFiles, Proof};
pub use svid::{Svid, SvidError, TrustBundle};
pub use tls::{ClientAuth, PeerMatch};
pub use tokens::{Token, Tokens};
pub use wire::Withdrawal;

/// The messages and the gRPC service of `proto/weft/v1/identity.proto`.
///
/// Generated, and in the repository: a compiler for it would be a tenth of the whole build. `tests/generated.rs` keeps it true.
#[rustfmt::skip]
#[allow(missing_docs, unreachable_pub)]
pub mod proto;
