//! Who may call what: intent becomes Cedar policies, policies become decisions.
//!
//! Nothing here does I/O, reads a clock or keeps state between two decisions.

pub mod path;
