//! An identity as PEM files, for programs that read nothing else: proxyless gRPC clients, `openssl`, `curl`.

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::client::{IdentityError, Obtained, attest};
use crate::join_token::JoinToken;
use crate::saved::write_private;
use crate::svid::{Svid, TrustBundle};
use weft_model::ServiceName;

/// The files that hold an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// `cert.pem`: leaf, then issuing CA.
    pub cert: PathBuf,
    /// `key.pem`: PKCS#8, mode 0600.
    pub key: PathBuf,
    /// `bundle.pem`: the roots.
    pub bundle: PathBuf,
}

/// Attests with a join token and writes the identity to `folder` as PEM. Nothing renews it: it is for one TTL.
pub async fn fetch_to_files(
    server: &str,
    service: &ServiceName,
    token: &JoinToken,
    folder: &Path,
) -> Result<(IdentityFiles, Obtained), IdentityError> {
    let obtained = attest(server, service, token).await?;
    let files = write_files(folder, &obtained.svid, &obtained.bundle)
        .map_err(|source| IdentityError::Save { folder: folder.to_owned(), source })?;
    Ok((files, obtained))
}

/// Writes an identity to `folder` as PEM, each file atomically and with mode 0600.
pub fn write_files(folder: &Path, svid: &Svid, bundle: &TrustBundle) -> io::Result<IdentityFiles> {
    let files =
        IdentityFiles { cert: folder.join("cert.pem"), key: folder.join("key.pem"), bundle: folder.join("bundle.pem") };
    write_private(&files.key, private_key_pem(svid).as_bytes())?;
    write_private(&files.cert, certificates_pem(svid.chain()).as_bytes())?;
    write_private(&files.bundle, certificates_pem(bundle.roots()).as_bytes())?;
    Ok(files)
}

/// Certificates one after the other (RFC 7468).
pub fn certificates_pem(certificates: &[CertificateDer<'_>]) -> String {
    certificates.iter().map(|der| pem("CERTIFICATE", der)).collect()
}

/// The private key (RFC 7468 s.10). Wiped from memory when dropped.
pub fn private_key_pem(svid: &Svid) -> Zeroizing<String> {
    Zeroizing::new(pem("PRIVATE KEY", svid.private_key_der()))
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = Zeroizing::new(BASE64.encode(der));
    let mut text = String::with_capacity(body.len() + body.len() / 64 + 64 + 2 * label.len());
    text += &format!("-----BEGIN {label}-----\n");
    for start in (0..body.len()).step_by(64) {
        text += &body[start..body.len().min(start + 64)]; // base64 is ASCII
        text.push('\n');
    }
    text += &format!("-----END {label}-----\n");
    text
}
