//! The control plane: Git -> check -> compile -> snapshot -> stream, and what became of every change.
//!
//! It never sits on the request path: when it is away, sidecars go on with what they have.
//!
//! A change walks through [`git`], [`check`], `change` and `hub`; a proxy comes in through `directory`, is judged by [`node`] and
//! followed by [`tracker`] and [`registry`]; `api` tells people about all of it.

pub mod admin;
mod api;
mod change;
pub mod check;
mod directory;
mod engines;
pub mod glass;
mod hub;
mod identities;
mod issued;
mod metrics;
pub mod node;
mod own_name;
mod plain_text;
mod registrar;
pub mod registry;
pub mod routes;
mod saved;
mod server;
mod shared;
pub mod status;
mod text;
pub mod tracker;

pub use directory::MeshDirectory;
pub use engines::Engines;
pub use server::{BundleEndpoint, ControlError, ControlPlane, Etcd, ServerConfig, Serving};
pub use weft_git as git;
