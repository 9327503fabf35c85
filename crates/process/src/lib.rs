//! Programs that `weft` runs, signals that it gets, and memory that nobody is to see: nothing that was started outlives who started it, however that ends.
//!
//! A [`child::Guarded`] program stands under a [`guard`], which is `weft` again by another name, and becomes itself by [`exec`].

pub mod child;
pub mod core_dumps;
pub mod descriptors;
pub mod exec;
pub mod guard;
pub mod signal;
