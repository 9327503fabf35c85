#!/bin/bash
# rcgen 0.14.10: without `serial_number` in the parameters, a certificate's number is made from its public key alone. A CA that certifies
# one key twice, as at a renewal that keeps the key, gives out two certificates of one number: RFC 5280 s.4.1.2.2 wants each to be
# unique for its CA, and whoever bans or logs by issuer and number means both.
#
# The good guess that fails: a library that fills in the serial number fills in a random one, or a counter.
#
# Seen:
#   one key, two certificates, default: one number, though they end at different times
#   another key:                        another number
#
# Exits with 1 if that changes. Needs cargo, crates.io, a C compiler and openssl.
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
use rcgen::{date_time_ymd, BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

fn main() {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "finding CA");
    let issuer = Issuer::new(ca, ca_key);
    let (one, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    for (file, key, year) in [("first.pem", &one, 2030), ("second.pem", &one, 2031), ("other.pem", &other, 2030)] {
        let mut leaf = CertificateParams::new(vec!["leaf.example".to_owned()]).unwrap();
        leaf.not_after = date_time_ymd(year, 1, 1);
        std::fs::write(file, leaf.signed_by(key, &issuer).unwrap().pem()).unwrap();
    }
}
RUST
cd "$folder"
cargo run --quiet || exit 2
number() { openssl x509 -in "$1" -noout -serial; }
same() { if [ "$1" = "$2" ]; then echo "the same"; else echo "different"; fi; }
seen="numbers of one key: $(same "$(number first.pem)" "$(number second.pem)"), certificates: $(same "$(cat first.pem)" "$(cat second.pem)")
numbers of two keys: $(same "$(number first.pem)" "$(number other.pem)")"
expected='numbers of one key: the same, certificates: different
numbers of two keys: different'
echo "$seen"
if [ "$seen" != "$expected" ]; then
  echo "this has changed; it was:"
  echo "$expected"
  exit 1
fi
