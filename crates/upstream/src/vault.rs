//! The PKI secrets engine of an OpenBao or Vault as the CA above.
//!
//! A token is wanted only for the moment in which something is signed, a few times a month: one from a file is read then, and one that
//! was got by logging in is given back.

mod call;
mod login;
mod url;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use serde_json::{Value, json};
use weft_identity::issuing::IssuingRequest;

use crate::error::UpstreamError;
use crate::fitness::{is_self_issued, path_from};
use crate::pem::{certificates, certificates_in};
use crate::upstream::Signed;
use call::Caller;
pub use login::Login;
pub use url::VaultUrl;

/// Between two looks at which CA signs there.
const LOOK: Duration = Duration::from_secs(30);

/// Where it is, and as whom it is asked.
#[derive(Clone, Debug)]
pub struct VaultConfig {
    /// Its address.
    pub url: VaultUrl,
    /// Where the secrets engine is mounted.
    pub mount: String,
    /// PEM file of the CAs of its own certificate; by default the system's.
    pub ca: Option<PathBuf>,
    /// The namespace, where there are any.
    pub namespace: Option<String>,
    /// How it is told who asks.
    pub login: Login,
    /// The roots, PEM; by default the last CA of its chain, which has signed itself.
    pub bundle: Option<PathBuf>,
}

/// See the module.
pub struct Vault {
    config: VaultConfig,
    /// The chain that it signed with last, as it shows it to anybody; none before it has signed for this process.
    seen: Mutex<Option<Vec<u8>>>,
}

impl Vault {
    /// Nothing is asked yet.
    pub fn new(config: VaultConfig) -> Self {
        Self { config, seen: Mutex::new(None) }
    }

    pub(crate) fn name(&self) -> String {
        format!("{}/v1/{}", self.config.url, self.config.mount)
    }

    pub(crate) async fn sign(&self, request: &IssuingRequest, life: Duration) -> Result<Signed, UpstreamError> {
        let caller = Caller::new(&self.config, self.config.login.certificate())?;
        let (token, borrowed) = self.config.login.token(&caller).await?;
        let chain = match self.chain(&caller).await {
            Err(away @ UpstreamError::Away { .. }) => return Err(away), // and not after as long a wait again
            chain => chain.unwrap_or_default(),
        };
        let signed = self.sign_with(&caller, &token, request, life).await;
        if borrowed {
            // It runs out by itself if this fails.
            let _ = caller.post("auth/token/revoke-self", Some(&token), &json!({}), "give a token back").await;
        }
        let signed = signed?;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(chain);
        Ok(signed)
    }

    async fn sign_with(
        &self,
        caller: &Caller,
        token: &str,
        request: &IssuingRequest,
        life: Duration,
    ) -> Result<Signed, UpstreamError> {
        let csr = BASE64.encode(request.csr());
        let wanted = json!({
            "csr": format!("-----BEGIN CERTIFICATE REQUEST-----\n{csr}\n-----END CERTIFICATE REQUEST-----\n"),
            "use_csr_values": true, // name and URI SAN; path length and life are not among them
            "max_path_length": 0,
            "ttl": format!("{}s", life.as_secs()),
            "format": "pem",
        });
        let path = format!("{}/root/sign-intermediate", self.config.mount);
        let answer = caller.post(&path, Some(token), &wanted, "sign an issuing CA").await?;
        self.read(&answer["data"]).map_err(|why| UpstreamError::Unfit { what: self.name(), why })
    }

    fn read(&self, answer: &Value) -> Result<Signed, String> {
        let text = |value: &Value| value.as_str().map(str::to_owned).ok_or("its answer has no certificate");
        let [issuing] = &certificates_in(text(&answer["certificate"])?.as_bytes())?[..] else {
            return Err("its answer has several certificates in place of one".to_owned());
        };
        let mut known = Vec::new();
        let chain = answer["ca_chain"].as_array().into_iter().flatten().chain([&answer["issuing_ca"]]);
        for pem in chain.filter(|pem| pem.as_str().is_some_and(|pem| !pem.is_empty())) {
            known.extend(certificates_in(text(pem)?.as_bytes())?);
        }
        known.retain(|one| one != issuing); // OpenBao names what it has signed among those who signed it
        let mut roots = match &self.config.bundle {
            Some(file) => certificates(file).map_err(|error| error.to_string())?,
            None => Vec::new(),
        };
        let path = path_from(issuing, &known, &roots)?;
        let (root, above) = match &path[1..] {
            [above @ .., root] => (root.clone(), above.to_vec()),
            [] => return Err("it does not say who signed".to_owned()),
        };
        if !is_self_issued(&root)? && roots.is_empty() {
            return Err("its chain has no root: name the roots with --upstream-bundle".to_owned());
        }
        roots.retain(|other| *other != root);
        Ok(Signed { issuing: issuing.clone(), above, roots: std::iter::once(root).chain(roots).collect() })
    }

    /// Waits until another CA signs there than at the last time, or it has not been asked in this process. While it cannot be asked, nothing has changed.
    pub(crate) async fn changed(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let Ok(caller) = Caller::new(&self.config, None) else { continue };
            if let Ok(now) = self.chain(&caller).await
                && seen.is_none_or(|seen| seen != now)
            {
                return;
            }
        }
    }

    /// The chain of the CA that signs, PEM: for anybody to read.
    async fn chain(&self, caller: &Caller) -> Result<Vec<u8>, UpstreamError> {
        caller.get(&format!("{}/ca_chain", self.config.mount)).await
    }
}

#[cfg(test)]
mod tests;
