//! The subcommands that fit on a page each.

mod asked;
pub(crate) mod check;
pub(crate) mod explain;
pub(crate) mod identity;
pub(crate) mod logs;
pub(crate) mod policy;
pub(crate) mod server;
pub(crate) mod status;
mod upstream;
