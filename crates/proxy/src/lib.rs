//! The data plane: listeners, the phases of a request, pools of connections, and the configuration that they run on.
//!
//! It never decides what the mesh looks like (that is compiled elsewhere and arrives as Envoy v3 resources) and never reads
//! Git. `request.rs` tells the story of a request, phase by phase; `runtime.rs` that of a process.

mod admin;
mod authorize;
pub mod balance;
pub mod config;
mod downstream;
mod exchange;
mod forward;
mod h1;
mod h2_stream;
mod headers;
mod heads;
mod identity;
mod listen;
mod log_line;
mod request;
mod response;
mod runtime;
mod serve;
mod stop;
mod tcp;
mod tunnel;
mod upstream;
mod worker;

#[doc(hidden)]
pub use h1::fuzz;
pub use listen::is_free;
pub use runtime::{Proxy, ProxyConfig, ProxyHandle, ProxySink, StartError};
