//! Certificates made by openssl, for peers that are not of the mesh.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::run;

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate, then its issuers.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// A certificate authority that no mesh trusts unless told so.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    own: Pair,
}

impl Authority {
    /// Makes one of the trust domain, in `folder`.
    pub fn create(folder: &Path, name: &str, trust_domain: &str) -> Self {
        let own = Pair { certificate: folder.join(format!("{name}.pem")), key: folder.join(format!("{name}.key")) };
        run(Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
            .args(["-subj", &format!("/CN={name}"), "-addext", &format!("subjectAltName=URI:spiffe://{trust_domain}")])
            .args(["-addext", "keyUsage=critical,keyCertSign,cRLSign"])
            .arg("-keyout")
            .arg(&own.key)
            .arg("-out")
            .arg(&own.certificate));
        Self { folder: folder.to_owned(), own }
    }

    /// Its certificate.
    pub fn certificate(&self) -> &Path {
        &self.own.certificate
    }

    /// Issues an X.509-SVID of `spiffe_id` for `days`.
    pub fn issue(&self, name: &str, spiffe_id: &str, days: u32) -> Pair {
        let pair = request(&self.folder, name);
        let extensions = self.folder.join(format!("{name}.ext"));
        let text = format!(
            "subjectAltName=critical,URI:{spiffe_id}\nbasicConstraints=critical,CA:FALSE\n\
             keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n"
        );
        std::fs::write(&extensions, text).expect("the folder can be written");
        run(Command::new("openssl")
            .args(["x509", "-req", "-days", &days.to_string(), "-CAcreateserial"])
            .arg("-in")
            .arg(self.folder.join(format!("{name}.csr")))
            .arg("-CA")
            .arg(&self.own.certificate)
            .arg("-CAkey")
            .arg(&self.own.key)
            .arg("-extfile")
            .arg(&extensions)
            .arg("-out")
            .arg(&pair.certificate));
        pair
    }
}

/// A new key and a request for a certificate (`<name>.csr`); the certificate file is still to come.
pub fn request(folder: &Path, name: &str) -> Pair {
    let file = |end: &str| folder.join(format!("{name}.{end}"));
    run(Command::new("openssl")
        .args(["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/O=weft"])
        .arg("-keyout")
        .arg(file("key"))
        .arg("-out")
        .arg(file("csr")));
    Pair { certificate: file("pem"), key: file("key") }
}
