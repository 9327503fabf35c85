//! The way to an endpoint: pools of connections, HTTP/2 to other sidecars, HTTP/1.1 to the app.
//!
//! Each worker has its own pools. A request that finds a connection takes no lock, no channel, and no task of its own unless
//! it has a body.

mod connect;
mod pool;

pub(crate) use pool::{ActiveCount, EndpointPool, Leased, Pools};
