//! Which words this version of Weft has for what other meshes decide on: the one place where a new word is switched on.

use weft_model::Intent;

/// What a policy can read beside the caller, the callee, method, path, host and address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vocabulary {
    /// `context.port`, which every request has.
    pub(crate) port: bool,
    /// `context.tls.sni`, which not every connection has.
    pub(crate) sni: bool,
    /// `context.headers`: the names, in lower case, of those that the mesh declares. Each is a String that a request may lack.
    pub(crate) headers: Vec<String>,
}

impl Vocabulary {
    /// The words of a mesh, or those that every mesh has.
    pub(crate) fn of(mesh: Option<&Intent>) -> Self {
        let headers = mesh.into_iter().flat_map(|intent| &intent.mesh.policy.headers).map(ToString::to_string);
        Self { port: true, sni: true, headers: headers.collect() }
    }
}
