//! CAs of an organization, made by openssl: nothing in them says that there is a mesh.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::run;

/// What a CA's certificate says beside that it is one.
#[derive(Clone, Copy, Debug)]
pub struct Kind<'a> {
    /// Its name, as openssl takes it.
    pub subject: &'a str,
    /// As openssl takes it: `CA:TRUE,pathlen:1`.
    pub constraints: &'a str,
    /// Further lines of its extensions.
    pub extensions: &'a str,
    /// When it ends.
    pub days: u32,
}

impl Default for Kind<'_> {
    fn default() -> Self {
        Self {
            subject: "/DC=com/DC=example/O=Example/CN=Example CA",
            constraints: "CA:TRUE",
            extensions: "",
            days: 400,
        }
    }
}

/// A CA in files.
#[derive(Clone, Debug)]
pub struct Ca {
    /// Its certificate, and after it those above it but for the root, PEM.
    pub chain: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Its root, PEM.
    pub root: PathBuf,
    /// Where those below it are made.
    pub folder: PathBuf,
}

impl Ca {
    /// A root in `folder`.
    pub fn root(folder: &Path, name: &str, kind: Kind<'_>) -> Self {
        let chain = folder.join(format!("{name}.pem"));
        let ca =
            Self { root: chain.clone(), chain, key: folder.join(format!("{name}.key")), folder: folder.to_owned() };
        ca.make(name, kind, None);
        ca
    }

    /// A CA below this one.
    pub fn below(&self, name: &str, kind: Kind<'_>) -> Self {
        let chain = self.folder.join(format!("{name}.pem"));
        let key = self.folder.join(format!("{name}.key"));
        let ca = Self { chain, key, root: self.root.clone(), folder: self.folder.clone() };
        ca.make(name, kind, Some(self));
        if self.chain != self.root {
            let both = [std::fs::read(&ca.chain), std::fs::read(&self.chain)].map(|it| it.expect("it was made"));
            std::fs::write(&ca.chain, both.concat()).expect("the folder can be written");
        }
        ca
    }

    /// Puts this CA in the place of another, each file at once.
    pub fn replace(&self, other: &Self) {
        // The key first: a key that is not the certificate's is said to be so, and looked at again.
        for (from, to) in [(&self.key, &other.key), (&self.chain, &other.chain)] {
            let beside = to.with_extension("new");
            std::fs::copy(from, &beside).expect("it was made"); // with its mode
            std::fs::rename(&beside, to).expect("the folder can be written");
        }
    }

    fn make(&self, name: &str, kind: Kind<'_>, by: Option<&Self>) {
        let file = |end: &str| self.folder.join(format!("{name}.{end}"));
        run(Command::new("openssl")
            .args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-nodes"])
            .args(["-subj", kind.subject, "-keyout"])
            .arg(&self.key)
            .arg("-out")
            .arg(file("csr")));
        let usage = if kind.constraints.contains("CA:TRUE") { "keyCertSign,cRLSign" } else { "digitalSignature" };
        let text = format!(
            "basicConstraints=critical,{}\nkeyUsage=critical,{usage}\nsubjectKeyIdentifier=hash\n\
             authorityKeyIdentifier=keyid\n{}\n",
            kind.constraints, kind.extensions
        );
        std::fs::write(file("ext"), text).expect("the folder can be written");
        let mut sign = Command::new("openssl");
        sign.args(["x509", "-req", "-sha384", "-days", &kind.days.to_string(), "-in"]).arg(file("csr"));
        match by {
            Some(by) => sign.arg("-CA").arg(&by.chain).arg("-CAkey").arg(&by.key).arg("-CAcreateserial"),
            None => sign.arg("-signkey").arg(&self.key),
        };
        run(sign.arg("-extfile").arg(file("ext")).arg("-out").arg(&self.chain));
    }
}
