//! One spelling for hosts and paths, so that routes, policies and apps mean the same; and the other ways in which an app may read a path.

pub mod host;
pub mod path;
