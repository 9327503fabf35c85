#!/bin/bash
# rcgen 0.14.10: `Issuer::from_ca_cert_pem` reads the name of an existing CA into a map with one place for each kind of attribute. Of
# `DC=com, DC=example` or of two organizational units, which directories and enterprise CAs write every day, the last is left, and what the CA
# signs names an issuer that does not exist. Nothing fails when it signs; every verifier refuses the result. (A part of a name that has several
# attributes, `CN=x+OU=y`, is refused with an error.)
#
# The good guess that fails: a CA that is loaded from its certificate signs what verifies under that certificate.
#
# Seen:
#   CN alone:    issuer CN = finding;                              openssl verify OK
#   two DC, CN:  issuer DC = example, CN = finding (one DC is lost); "unable to get local issuer certificate"
#
# Exits with 1 if that changes. Needs cargo, crates.io, a C compiler and openssl 3.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat > "$folder/Cargo.toml" <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
rcgen = { version = "=0.14.10", default-features = false, features = ["pem", "ring", "x509-parser"] }
TOML
cat > "$folder/src/main.rs" <<'RUST'
use rcgen::{CertificateParams, Issuer, KeyPair};

fn main() {
    for name in ["plain", "two"] {
        let read = |end: &str| std::fs::read_to_string(format!("{name}.{end}")).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&read("pem"), KeyPair::from_pem(&read("key")).unwrap()).unwrap();
        let leaf = CertificateParams::new(vec!["leaf.example".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
        std::fs::write(format!("{name}.leaf"), leaf.pem()).unwrap();
    }
}
RUST
cd "$folder"
make_ca() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "$2" \
    -addext keyUsage=critical,keyCertSign -keyout "$1.key" -out "$1.pem" 2>/dev/null
}
make_ca plain /CN=finding
make_ca two /DC=com/DC=example/CN=finding
cargo run --quiet
verdict() { (openssl verify "$@" 2>&1 || true) | sed -n 's/^error [0-9]* at [0-9]* depth lookup: //p; s/^.*: OK$/OK/p'; }
issuer() { openssl x509 -in "$1" -noout -issuer -nameopt RFC2253 | sed 's/^issuer=//'; }
seen="plain: $(issuer plain.leaf); $(verdict -CAfile plain.pem plain.leaf)
two: $(issuer two.leaf); $(verdict -CAfile two.pem two.leaf)"
expected='plain: CN=finding; OK
two: CN=finding,DC=example; unable to get local issuer certificate'
echo "$seen"
if [ "$seen" != "$expected" ]; then
  echo "this has changed; it was:"
  echo "$expected"
  exit 1
fi
