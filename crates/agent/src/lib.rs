//! The agent of a machine: it proves to the control plane which machine it is on, finds out by the kernel's word what the processes are
//! that ask it, and gives each the identity that the intent has for it.
//!
//! From the call of a process to its identity: [`attestor`] looks at it, `matching` says which services it is (pure), `workloads` has their
//! certificates, `watched` keeps an eye on it for as long as it listens, and [`Agent`] is what stands behind the SPIFFE Workload API. Beside
//! it `secrets` says the same to an Envoy. The agent never decides what a process may be called: that is the intent's, and its bounds are the
//! control plane's.

mod agent;
pub mod attestor;
mod cgroup;
mod digest;
mod facts;
mod matching;
mod metrics;
mod renewal;
mod secrets;
mod stored;
mod watched;
mod workload;
mod workloads;

pub use agent::{Agent, AgentError};
pub use facts::Facts;
