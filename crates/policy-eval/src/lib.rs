//! An evaluator of Cedar policies, and what can be told of policies before there is a request.
//!
//! Policies are compiled once, for one action, one resource and a list of principals. What then is left of each is evaluated
//! without allocating; what is certain beforehand says which policies need not be looked at for a request. Where Cedar would
//! end in an error, or where something is not known here, the answer is [`AskCedar`]: true and false are Cedar's, always.
//!
//! Nothing here knows of meshes, does I/O or reads a clock. Decisions (what several policies mean together) are made elsewhere.
//! Files import only from those before them: `ip`, `constant`, `value`, `shape`, `bits`, `like`, `node`, `program`, `evaluate`, `principals`,
//! `builder`, `compile`, `certain`, `keys`, `load`; `reads` stands alone.

mod bits;
mod builder;
mod certain;
mod compile;
mod constant;
mod evaluate;
mod ip;
mod keys;
mod like;
mod load;
mod node;
mod principals;
mod program;
mod reads;
mod shape;
#[doc(hidden)]
pub mod testing;
#[cfg(test)]
mod trial;
mod value;

pub use bits::Bits;
pub use builder::Builder;
pub use constant::EntityId;
pub use ip::Ip;
pub use keys::Key;
pub use load::{Compiled, Loader, Way};
pub use program::{Code, Program};
pub use reads::reads;
pub use shape::{Field, Kind, Lookup, Request, WORDS};
pub use value::{AskCedar, Attributes, Name, Record, Set, Value};
