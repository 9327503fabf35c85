//! The endpoint's side of a request: one connection each, over HTTP/1.1 to an app and over HTTP/2 to another sidecar. Which
//! connection a request takes is the proxy's to say.

mod duplex;
mod grpc;
mod h1;
mod h2;
mod upload;

pub use h1::{H1Body, H1Connection};
pub use h2::{H2Body, H2Connection, StreamCount};
