//! The client's side of a request: HTTP/1.1 from apps, HTTP/2 from other sidecars and from apps that speak it.
//!
//! Both read requests, have them answered by a [`Service`], and write the answers; neither knows what is in them.

pub mod h1;
pub mod h2;
mod interim;
mod request;
mod service;
mod wire;

pub use interim::Interim;
pub use request::{ClientBody, ClientRequest};
pub use service::Service;
