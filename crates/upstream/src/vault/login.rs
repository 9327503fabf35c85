//! How a Vault is told who asks: by a token in a file, by AppRole, or by a certificate.

use std::path::{Path, PathBuf};

use serde_json::json;
use zeroize::Zeroizing;

use super::call::Caller;
use crate::error::UpstreamError;

/// As whom a Vault is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// By the token in this file, which somebody else keeps alive. Read each time.
    Token(PathBuf),
    /// By an AppRole.
    AppRole {
        /// Its role id.
        role: String,
        /// The file with its secret id. Read each time.
        secret: PathBuf,
        /// Where the method is mounted.
        mount: String,
    },
    /// By a certificate, over TLS.
    Certificate {
        /// Chain, PEM. Read each time.
        certificate: PathBuf,
        /// Key, PEM. Read each time.
        key: PathBuf,
        /// The role to log in as; by default whichever fits.
        role: Option<String>,
        /// Where the method is mounted.
        mount: String,
    },
}

impl Login {
    pub(super) fn certificate(&self) -> Option<(&Path, &Path)> {
        match self {
            Self::Certificate { certificate, key, .. } => Some((certificate, key)),
            _ => None,
        }
    }

    /// A token, and whether it was made for this and is to be given back.
    pub(super) async fn token(&self, caller: &Caller) -> Result<(Zeroizing<String>, bool), UpstreamError> {
        let (path, body) = match self {
            Self::Token(file) => return Ok((secret(file)?, false)),
            Self::AppRole { role, secret: file, mount } => {
                (format!("auth/{mount}/login"), json!({"role_id": role, "secret_id": *secret(file)?}))
            }
            Self::Certificate { role, mount, .. } => {
                let body = role.as_ref().map_or_else(|| json!({}), |role| json!({"name": role}));
                (format!("auth/{mount}/login"), body)
            }
        };
        let answer = caller.post(&path, None, &body, "log in").await?;
        match answer["auth"]["client_token"].as_str() {
            Some(token) => Ok((Zeroizing::new(token.to_owned()), true)),
            None => Err(caller.refused("log in", "its answer has no token")),
        }
    }
}

/// A file of one line.
fn secret(file: &Path) -> Result<Zeroizing<String>, UpstreamError> {
    let text = std::fs::read_to_string(file).map(Zeroizing::new).map_err(|error| UpstreamError::file(file, error))?;
    let line = text.trim();
    if line.is_empty() || line.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err(UpstreamError::file(file, "it should have one line, the token or secret id alone"));
    }
    Ok(Zeroizing::new(line.to_owned()))
}
