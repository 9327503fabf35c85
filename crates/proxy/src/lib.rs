//! The data plane: listeners, the phases of a request, pools of connections.
//!
//! It never decides what the mesh looks like (that is compiled elsewhere and arrives as Envoy v3 resources, which
//! `weft-proxy-config` reads) and never reads Git. HTTP as bytes is `weft-proxy-http`. `request.rs` tells the story of a request,
//! phase by phase; `runtime.rs` that of a process.

mod admin;
mod attempts;
mod authorize;
pub mod balance;
mod call;
mod carry;
mod connection;
mod deadline;
mod exchange;
mod ext_authz;
mod forward;
mod handle;
mod identity;
mod listen;
mod log_line;
mod mutation;
mod record;
mod request;
mod response;
mod runtime;
mod serve;
mod stop;
mod tcp;
mod tunnel;
mod undecided;
mod upstream;
mod worker;

pub use handle::ProxyHandle;
pub use listen::is_free;
pub use runtime::{Proxy, ProxyConfig, ProxySink, StartError};
pub use undecided::Undecided;
