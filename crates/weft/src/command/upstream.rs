//! Which CA outside signs the issuing CA of `weft server`, as its command line says.

use std::path::{Path, PathBuf};

use anyhow::Result;
use weft_upstream::{FilesConfig, Login, OfflineConfig, UpstreamConfig, VaultConfig, VaultUrl};

use crate::output::hinted;

/// The CA outside, if there is one.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "The CA above the mesh's [default: roots of its own]")]
pub(crate) struct UpstreamArgs {
    /// Certificate (PEM) of a CA that signs this server's issuing CA, and after it those above it; read again when it changes
    #[arg(long, value_name = "FILE", env = "WEFT_UPSTREAM_CA_CERT", requires = "upstream_ca_key")]
    upstream_ca_cert: Option<PathBuf>,
    /// The key of --upstream-ca-cert (PEM), closed to others
    #[arg(long, value_name = "FILE", env = "WEFT_UPSTREAM_CA_KEY", requires = "upstream_ca_cert")]
    upstream_ca_key: Option<PathBuf>,
    /// The roots (PEM) that are trusted [default: of files those in --upstream-ca-cert, of a Vault the root of its chain]
    #[arg(long, value_name = "FILE", env = "WEFT_UPSTREAM_BUNDLE")]
    upstream_bundle: Option<PathBuf>,
    /// An OpenBao or Vault whose PKI signs this server's issuing CA: https://HOST:8200, or http:// on this machine
    #[arg(long, value_name = "URL", env = "WEFT_UPSTREAM_VAULT", conflicts_with = "upstream_ca_cert")]
    upstream_vault: Option<VaultUrl>,
    /// Where the PKI is mounted
    #[arg(long, value_name = "PATH", default_value = "pki", requires = "upstream_vault")]
    upstream_vault_mount: String,
    /// Certificates (PEM) of the authority of the Vault's own certificate, instead of the system's
    #[arg(long, value_name = "FILE", requires = "upstream_vault")]
    upstream_vault_ca: Option<PathBuf>,
    /// The namespace in the Vault
    #[arg(long, value_name = "NAME", requires = "upstream_vault")]
    upstream_vault_namespace: Option<String>,
    /// A file with a token for the Vault; read each time, so whoever keeps the token alive may replace it
    #[arg(long, value_name = "FILE", requires = "upstream_vault")]
    upstream_vault_token_file: Option<PathBuf>,
    /// The role id of an AppRole to log in with at the Vault
    #[arg(long, value_name = "ID", requires_all = ["upstream_vault", "upstream_vault_approle_secret_file"], conflicts_with = "upstream_vault_token_file")]
    upstream_vault_approle: Option<String>,
    /// A file with the secret id of the AppRole
    #[arg(long, value_name = "FILE", requires = "upstream_vault_approle")]
    upstream_vault_approle_secret_file: Option<PathBuf>,
    /// A certificate (PEM) to log in with at the Vault
    #[arg(long, value_name = "FILE", requires_all = ["upstream_vault", "upstream_vault_cert_key"], conflicts_with_all = ["upstream_vault_token_file", "upstream_vault_approle"])]
    upstream_vault_cert: Option<PathBuf>,
    /// The key of --upstream-vault-cert (PEM)
    #[arg(long, value_name = "FILE", requires = "upstream_vault_cert")]
    upstream_vault_cert_key: Option<PathBuf>,
    /// The role of the certificate login [default: whichever fits]
    #[arg(long, value_name = "NAME", requires = "upstream_vault_cert")]
    upstream_vault_cert_role: Option<String>,
    /// Where the login method is mounted in the Vault [default: approle, or cert]
    #[arg(long, value_name = "PATH", requires = "upstream_vault")]
    upstream_vault_login_mount: Option<String>,
    /// Certificates (PEM) of a root that is kept apart and signs this server's issuing CA by hand: see `weft identity root`
    #[arg(long, value_name = "FILE", env = "WEFT_OFFLINE_ROOT", conflicts_with_all = ["upstream_ca_cert", "upstream_vault", "upstream_bundle"])]
    offline_root: Option<PathBuf>,
}

impl UpstreamArgs {
    /// What it says; a root that is kept apart exchanges files in the state folder.
    pub(crate) fn config(self, state: &Path) -> Result<Option<UpstreamConfig>> {
        if let Some(roots) = self.offline_root {
            let (request, chain) = (state.join("issuing-request.pem"), state.join("issuing-chain.pem"));
            return Ok(Some(UpstreamConfig::Offline(OfflineConfig { roots, request, chain })));
        }
        if let Some((certificate, key)) = self.upstream_ca_cert.clone().zip(self.upstream_ca_key.clone()) {
            let bundle = self.upstream_bundle;
            return Ok(Some(UpstreamConfig::Files(FilesConfig { certificate, key, bundle })));
        }
        let Some(url) = self.upstream_vault.clone() else {
            return match self.upstream_bundle {
                None => Ok(None),
                Some(_) => Err(hinted(
                    "--upstream-bundle has no CA that signs",
                    "name it with --upstream-ca-cert or --upstream-vault",
                )),
            };
        };
        Ok(Some(UpstreamConfig::Vault(VaultConfig {
            url,
            mount: self.upstream_vault_mount.trim_matches('/').to_owned(),
            ca: self.upstream_vault_ca.clone(),
            namespace: self.upstream_vault_namespace.clone(),
            bundle: self.upstream_bundle.clone(),
            login: self.login()?,
        })))
    }

    fn login(self) -> Result<Login> {
        let mount = |default: &str| self.upstream_vault_login_mount.clone().unwrap_or_else(|| default.to_owned());
        if let Some(file) = self.upstream_vault_token_file {
            return Ok(Login::Token(file));
        }
        if let Some((role, secret)) =
            self.upstream_vault_approle.clone().zip(self.upstream_vault_approle_secret_file.clone())
        {
            return Ok(Login::AppRole { role, secret, mount: mount("approle") });
        }
        match self.upstream_vault_cert.clone().zip(self.upstream_vault_cert_key.clone()) {
            Some((certificate, key)) => {
                let role = self.upstream_vault_cert_role.clone();
                Ok(Login::Certificate { certificate, key, role, mount: mount("cert") })
            }
            None => Err(hinted(
                "nothing says who asks the Vault",
                "give --upstream-vault-token-file, --upstream-vault-approle or --upstream-vault-cert",
            )),
        }
    }
}
