//! Whether a service also takes callers that are not in the mesh yet, and what such a caller is called.

/// The caller who calls in plain text, of whom nothing is known: in `access`, in `Test` documents, on the command line, and in Cedar as
/// `Service::"plain-text"`. It is no name of a service: those have a namespace before them.
pub const PLAIN_TEXT: &str = "plain-text";

/// `Service.mtls`: what the service's ingress takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mtls {
    /// Mutual TLS alone. The default.
    #[default]
    Strict,
    /// Plain text too, on the same port: for the time in which not all callers are in the mesh.
    Permissive,
}
