//! Who may call what: intent becomes Cedar policies, policies become decisions.
//!
//! `check` and `compile` run in the control plane on every commit; a [`Bundle`] travels to each sidecar; [`Engine::decide`]
//! runs on every request, or [`Decisions`] remember what it said. Nothing here does I/O, or reads a clock but to time itself.

mod access;
mod ask;
mod bound;
mod break_glass;
mod bundle;
mod check;
mod comparison;
mod context;
mod covered;
mod decision;
mod decisions;
mod engine;
mod entities;
mod glass_rules;
mod index;
mod load;
mod model;
mod never;
mod parse;
mod pattern;
mod plain_text;
mod probe;
mod query;
mod read;
mod request;
pub mod schema;
mod scope;
mod source;
mod spelled;
mod split;
mod table;
#[doc(hidden)]
pub mod testing;
mod tests_of_intent;
mod together;
mod unheard;
mod users;

pub use break_glass::BreakGlass;
pub use bundle::{Bundle, PolicyError, PolicyText, ServiceFacts};
pub use check::check;
pub use context::REDACTED;
pub use decision::{Decision, PolicyRef, Shadow};
pub use decisions::{Decided, Decisions};
pub use engine::{Engine, READ_OTHERWISE};
pub use glass_rules::Breaking;
pub use model::{Concern, PolicyModel, compile};
pub use probe::{Probe, Who};
pub use request::{CallRequest, Headers, NoHeaders, Principal, TlsFacts, User};
pub use tests_of_intent::{Outcome, run_tests};
pub use weft_spelling::{host, path};
