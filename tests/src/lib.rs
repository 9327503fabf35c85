//! What the end-to-end tests and the benchmarks share: real processes on free loopback ports, each in its own temporary
//! folder, stopped whatever happens.
//!
//! Nothing here knows how Weft works inside. It starts the `weft` binary and real peers (stock Envoy, curl, openssl, Python's
//! gRPC and WebSocket libraries) and looks at what a user can see. Nothing sleeps for a guessed time: [`wait::until`] waits for
//! a condition, with a bound.

pub mod agent;
pub mod app;
pub mod ca;
pub mod curl;
pub mod etcd;
pub mod family;
pub mod git_server;
pub mod grpc;
pub mod h2_app;
pub mod h2_client;
pub mod issuer;
pub mod load;
pub mod log;
pub mod mesh;
pub mod namespace;
pub mod openbao;
pub mod peers;
pub mod pki;
pub mod ports;
pub mod process;
pub mod repo;
pub mod sidecar;
pub mod suite;
pub mod tls;
pub mod wait;
