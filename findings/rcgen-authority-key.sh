#!/bin/bash
# rcgen 0.14.10: a leaf that a CA signs has no authority key identifier unless it is asked for
# (`use_authority_key_identifier_extension`, false by default), though RFC 5280 s.4.2.1.1 has it in every certificate that is
# not self-signed. `openssl verify` accepts the chain, so it looks right; with `-x509_strict` it does not, and that is what
# Python has switched on by default since 3.13 (ssl.create_default_context), so only some clients refuse the server.
#
# The good guess that fails: a CA that is told nothing special issues certificates that every verifier takes.
#
# Seen:
#   default:   openssl verify OK;  -x509_strict: "Missing Authority Key Identifier"
#   asked for: openssl verify OK;  -x509_strict: OK
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
rcgen = { version = "=0.14.10", default-features = false, features = ["pem", "ring"] }
TOML
cat > "$folder/src/main.rs" <<'RUST'
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

fn main() {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "finding CA");
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    std::fs::write("ca.pem", ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    for (file, asked) in [("default.pem", None), ("asked.pem", Some(true))] {
        let mut leaf = CertificateParams::new(vec!["leaf.example".to_owned()]).unwrap();
        if let Some(asked) = asked {
            leaf.use_authority_key_identifier_extension = asked;
        }
        std::fs::write(file, leaf.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().pem()).unwrap();
    }
}
RUST
cd "$folder"
cargo run --quiet
verdict() { (openssl verify "$@" 2>&1 || true) | sed -n 's/^error [0-9]* at [0-9]* depth lookup: //p; s/^.*: OK$/OK/p'; }
seen="default: $(verdict -CAfile ca.pem default.pem); strict: $(verdict -x509_strict -CAfile ca.pem default.pem)
asked for: $(verdict -CAfile ca.pem asked.pem); strict: $(verdict -x509_strict -CAfile ca.pem asked.pem)"
expected='default: OK; strict: Missing Authority Key Identifier
asked for: OK; strict: OK'
echo "$seen"
if [ "$seen" != "$expected" ]; then
  echo "this has changed; it was:"
  echo "$expected"
  exit 1
fi
