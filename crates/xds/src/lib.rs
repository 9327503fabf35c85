//! xDS v3: what a control plane sends, how it is sent, and how it is received.
//!
//! - [`Resource`] and [`Snapshot`] are the values: encoded once, shared by every stream.
//! - [`DeltaSession`] and [`SotwSession`] are one [`Session`] in two protocols, a plain state machine: no I/O, no clock.
//! - [`AdsServer`] drives them over gRPC for whatever a [`Directory`] lets in.
//! - [`Client`] is the other end: it keeps a [`Sink`] up to date and remembers the last good state on disk.
//! - [`Relay`] joins the two, so that a local Envoy is fed by the agent and its refusals travel upstream.
//!
//! This crate never looks at intent, policy or certificates: it moves named, versioned bytes.

mod client;
mod directory;
pub mod references;
mod relay;
mod resource;
mod server;
mod session;
mod sink;
pub mod type_url;

pub use client::Client;
#[doc(hidden)]
pub use client::replay;
pub use directory::{ConnectPeer, Directory, Nack, Observer, Subscription};
pub use relay::Relay;
pub use resource::{Resource, Resources, Snapshot};
pub use server::{AdsServer, client_endpoint, server_builder};
pub use session::{Delta, DeltaSession, Event, Protocol, Session, Sotw, SotwSession};
pub use sink::{ClientStatus, Rejection, Sink, TakenBack, Update};

/// `envoy.config.core.v3.Node`, how a client introduces itself.
pub use envoy_types::pb::envoy::config::core::v3::Node;
/// `google.protobuf.Any`, the envelope of every resource.
pub use envoy_types::pb::google::protobuf::Any;
