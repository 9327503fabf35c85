//! The data plane: listeners, the request phases, connection pools, and the configuration that they run on.

pub mod balance;
pub mod config;
