//! The two sidecars of a call, and the listeners by which a call comes into each.

/// Name of the listener that the app calls, and of its route configuration.
pub const EGRESS: &str = "egress";
/// Name of the listener that other sidecars call.
pub const INGRESS: &str = "ingress";

/// Which of the two sidecars of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    /// The caller's.
    Egress,
    /// The callee's.
    Ingress,
}

impl Hop {
    pub(crate) fn listener(self) -> &'static str {
        match self {
            Hop::Egress => EGRESS,
            Hop::Ingress => INGRESS,
        }
    }
}
