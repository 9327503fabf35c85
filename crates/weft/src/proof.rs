//! By what a sidecar or an agent proves at first contact who it is: options of both.

use std::path::PathBuf;

use anyhow::Result;
use weft_identity::{NodeProof, NodeProofFiles, Proof};

use crate::command::identity::parse_token;
use crate::output::hinted;

/// By what it proves at first contact who it is.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ProofArgs {
    /// One-time token for the first start, from `weft identity join-token`
    #[arg(long, value_name = "TOKEN", env = "WEFT_JOIN_TOKEN", hide_env_values = true)]
    join_token: Option<String>,
    /// Instead of a join token: this machine's certificate (PEM) of a CA that `Mesh.identity.nodes` names
    #[arg(long, value_name = "FILE", env = "WEFT_ATTEST_CERT", requires = "attest_key", requires = "server_ca")]
    attest_cert: Option<PathBuf>,
    /// The key of --attest-cert (PEM)
    #[arg(long, value_name = "FILE", env = "WEFT_ATTEST_KEY", requires = "attest_cert")]
    attest_key: Option<PathBuf>,
    /// Instead of a join token: a JWT of an issuer that `Mesh.identity.nodes` names; read again each time that it is needed
    #[arg(long, value_name = "FILE", env = "WEFT_ATTEST_JWT", requires = "server_ca", conflicts_with = "attest_cert")]
    attest_jwt: Option<PathBuf>,
    /// With --attest-cert or --attest-jwt: the mesh's roots, by which the control plane is known at first contact (PEM, or what `weft identity bundle` prints)
    #[arg(long, value_name = "FILE", env = "WEFT_SERVER_CA")]
    server_ca: Option<PathBuf>,
}

impl ProofArgs {
    /// The proof, if there is one.
    pub(crate) fn proof(&self) -> Result<Option<Proof>> {
        // Unit files and compose files often set an empty variable: it counts as none.
        let token = self.join_token.as_deref().filter(|text| !text.trim().is_empty());
        let by = match (&self.attest_cert, &self.attest_key, &self.attest_jwt) {
            (Some(chain), Some(key), _) => NodeProofFiles::Certificate { chain: chain.clone(), key: key.clone() },
            (_, _, Some(jwt)) => NodeProofFiles::Jwt(jwt.clone()),
            _ => return token.map(parse_token).transpose().map(|token| token.map(Proof::Token)),
        };
        if token.is_some() {
            let hint = "leave --join-token (WEFT_JOIN_TOKEN) away, or --attest-cert and --attest-jwt";
            return Err(hinted("there are two ways to prove who this is", hint));
        }
        let server_ca = self.server_ca.clone();
        let server_ca = server_ca.ok_or_else(|| hinted("--server-ca is missing", "give the mesh's roots with it"))?;
        Ok(Some(Proof::Node(NodeProof { by, server_ca })))
    }

    /// What helps somebody whom the control plane has refused, or who has nothing to prove by. `option` is that of `weft identity join-token`.
    pub(crate) fn hint(&self, option: &str) -> String {
        if self.attest_cert.is_some() || self.attest_jwt.is_some() {
            let what = if self.attest_cert.is_some() { "x509pop" } else { "oidc" };
            return format!(
                "see `{what}` of `Mesh.identity.nodes` in the intent, and `weft identity log` on the control plane's machine"
            );
        }
        format!("weft identity join-token {option} makes one, on the control plane's machine")
    }
}
