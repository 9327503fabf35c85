//! The decision log: what was decided about a call, why, and on what grounds; one JSON object a line.
//!
//! Written by whoever decides ([`DecisionLog`]): every denial, and of what is allowed as much as is wanted ([`Allowed`]). Read by whoever asks
//! later ([`Tail`]): `weft logs`, and `weft policy replay`, which decides again. And who still calls in plain text ([`plain_text`]).

mod allowed;
mod entry;
mod log;
mod otlp;
pub mod plain_text;
mod tail;

pub use allowed::Allowed;
pub use entry::{Entry, Outcome, Place, Shadow};
pub use log::{DecisionLog, Line, Made, Recorder, Settings};
pub use otlp::{Exporter, Source};
pub use plain_text::{PlainCall, PlainText};
pub use tail::{LogError, Tail, since};
