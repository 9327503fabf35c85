//! The subcommands that fit on a page each.

pub(crate) mod check;
pub(crate) mod identity;
pub(crate) mod policy;
pub(crate) mod server;
pub(crate) mod status;
