//! The certificate authority of a mesh, and who may have what from it.
//!
//! An [`Authority`] (roots, an issuing CA and keys for JWT-SVIDs, kept sealed in the store) behind the gRPC service `weft.v1.Identity`, which checks who
//! asks. Who may have an identity is asked of the mesh, through [`Registrar`]. How one root follows another is [`trust`].

mod advance;
mod agents;
mod authority;
mod bans;
mod error;
mod given;
mod holders;
mod issuer;
mod issuing;
mod join_tokens;
mod jwt_keys;
mod keys;
mod lives;
mod machines;
mod outside;
mod own_roots;
mod proofs;
mod records;
mod service;
mod signer;
pub mod trust;

pub use authority::{Authority, Issued, IssuedJwt, KeyProof};
pub use bans::{BanError, BanList};
pub use error::AuthorityError;
pub use holders::Certificate;
pub use issuer::{Admission, Registrar};
pub use join_tokens::{JoinTokens, TokenError};
pub use keys::Published;
pub use lives::Lives;
pub use machines::{By, MachineError, Machines};
pub use outside::UpstreamProblem;
pub use proofs::Proofs;
pub use records::{Event, Record, Records};
pub use service::IdentityService;
