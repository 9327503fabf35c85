//! Trust across trust domains (SPIFFE Federation): this one's bundle is published, those of others are fetched and kept.
//!
//! Who a peer is judged by is the crate `identity`'s; here it is only decided which bundle of another trust domain is the newest. Files in
//! their order: `endpoint.rs` (publishes), `taken.rs` (whether it counts; pure), `keeper.rs` (when, and
//! where it is kept).

pub mod endpoint;
mod keeper;
mod taken;

pub use endpoint::{Certificate, Endpoint};
pub use keeper::{Keeper, State};
pub use taken::{interval, spread};
pub use weft_fetch::{FetchError, WebRoots};
