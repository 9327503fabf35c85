//! Cedar as it is written for people: conditions as typed pieces ([`expr`]), their text ([`print`]), and what is too much for
//! one policy as several ([`split`]). Nothing here knows where the conditions come from.

pub(crate) mod expr;
pub(crate) mod print;
pub(crate) mod split;
#[cfg(test)]
mod tests;
