//! CAs outside of the mesh that sign the issuing CAs of its servers: one whose key is in a file, the PKI of an OpenBao or Vault, or one that
//! is kept apart and signs by hand.
//!
//! This crate gets a certificate and says which roots are to be trusted for it. It never decides when a root is in force: that is
//! the authority's. The key of an issuing CA is made by the server and never leaves it.

mod error;
mod files;
mod fitness;
mod kept;
mod offline;
mod pem;
mod upstream;
mod vault;

pub use error::UpstreamError;
pub use files::{Files, FilesConfig};
pub use fitness::path_from;
pub use kept::{KeptRoot, is_sealed, kept_files, key_name};
pub use offline::{Offline, OfflineConfig};
pub use pem::{certificates, certificates_in, private_key, text as pem_text};
pub use upstream::{Signed, Upstream, UpstreamConfig};
pub use vault::{Login, Vault, VaultConfig, VaultUrl};
