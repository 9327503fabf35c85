//! What a machine proves by that it has from elsewhere: a certificate (x509pop) or a token (OIDC), judged by the entries of
//! `Mesh.identity.nodes`.
//!
//! Here it is only decided whether somebody may become this subject by this proof; nothing is issued. Files in their order: `certificates.rs`
//! (a chain and an entry; pure), `claims.rs` (a token's claims and an entry; pure), `keys.rs` (the keys of issuers, fetched and kept for a
//! while), `used.rs` (which machine a token has served), `nodes.rs` (the whole), `check.rs` (what is wrong with an entry; pure).

mod certificates;
pub mod check;
mod claims;
mod keys;
mod nodes;
mod used;

pub use keys::Keys;
pub use nodes::{Attested, Nodes, Refusal};
