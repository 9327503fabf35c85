//! Certificates made by openssl, for peers that are not of the mesh.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::run;

/// Basic constraints and key usage of a leaf.
const LEAF: (&str, &str) = ("CA:FALSE", "digitalSignature");

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate, then its issuers.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// The root under which it was issued.
    pub bundle: PathBuf,
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
        let certificate = folder.join(format!("{name}.pem"));
        let own = Pair { bundle: certificate.clone(), certificate, key: folder.join(format!("{name}.key")) };
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
        let names = format!("critical,URI:{spiffe_id}");
        self.sign(name, &names, LEAF, "serverAuth,clientAuth", days)
    }

    /// Issues what is no X.509-SVID: a leaf with several identities.
    pub fn issue_several(&self, name: &str, spiffe_ids: &[&str]) -> Pair {
        let names: Vec<_> = spiffe_ids.iter().map(|id| format!("URI:{id}")).collect();
        self.sign(name, &format!("critical,{}", names.join(",")), LEAF, "serverAuth,clientAuth", 1)
    }

    /// Issues what is no leaf: a certificate of this identity with these basic constraints and this key usage.
    pub fn issue_as(&self, name: &str, spiffe_id: &str, constraints: &str, usage: &str) -> Pair {
        self.sign(name, &format!("critical,URI:{spiffe_id}"), (constraints, usage), "serverAuth,clientAuth", 1)
    }

    /// Issues the certificate of a web server on this machine.
    pub fn server(&self, name: &str) -> Pair {
        self.sign(name, "DNS:localhost,IP:127.0.0.1", LEAF, "serverAuth", 2)
    }

    /// Issues the certificate of a machine, for clients, with these names as openssl writes them.
    pub fn node(&self, name: &str, names: &str) -> Pair {
        self.sign(name, names, LEAF, "clientAuth", 2)
    }

    fn sign(&self, name: &str, names: &str, (constraints, usage): (&str, &str), extended: &str, days: u32) -> Pair {
        let file = |end: &str| self.folder.join(format!("{name}.{end}"));
        let pair = Pair { certificate: file("pem"), key: file("key"), bundle: self.own.certificate.clone() };
        run(Command::new("openssl")
            .args([
                "req",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-subj",
                "/O=weft",
                "-keyout",
            ])
            .arg(&pair.key)
            .arg("-out")
            .arg(file("csr")));
        let extensions = file("ext");
        let text = format!(
            "subjectAltName={names}\nbasicConstraints=critical,{constraints}\n\
             keyUsage=critical,{usage}\nextendedKeyUsage={extended}\n"
        );
        std::fs::write(&extensions, text).expect("the folder can be written");
        run(Command::new("openssl")
            .args(["x509", "-req", "-days", &days.to_string(), "-CAcreateserial"])
            .arg("-in")
            .arg(file("csr"))
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
