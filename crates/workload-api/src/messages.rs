//! What was granted, as the messages of the API: each complete, as if nothing had been sent before (Workload API s.4.3).

use std::fmt;
use std::time::SystemTime;

use prost_types::{ListValue, Struct, Value, value::Kind};
use tonic::Status;
use weft_identity::{Svid, TrustBundle};

use crate::proto;
use crate::workloads::{Grant, hinted};

/// The private key is not shown.
impl fmt::Debug for proto::X509svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509svid").field("spiffe_id", &self.spiffe_id).finish_non_exhaustive()
    }
}

/// The X.509-SVIDs that have not run out.
///
/// # Errors
/// All of them have: that is `UNAVAILABLE`, because the identity was not taken away.
pub(crate) fn x509_svids(grant: &Grant) -> Result<proto::X509svidResponse, Status> {
    let living = hinted(grant.living(SystemTime::now()));
    let svids: Vec<_> = living.map(|(granted, hint)| x509_svid(&granted.svid, hint, &grant.bundle)).collect();
    if svids.is_empty() {
        return Err(Status::unavailable("the identity has expired and was not renewed; the agent's log says why"));
    }
    let federated_bundles = grant.federated.iter().map(|bundle| (bundle.trust_domain().id(), roots(bundle))).collect();
    Ok(proto::X509svidResponse { svids, crl: Vec::new(), federated_bundles })
}

fn x509_svid(svid: &Svid, hint: &str, bundle: &TrustBundle) -> proto::X509svid {
    proto::X509svid {
        spiffe_id: svid.id().to_string(),
        x509_svid: svid.chain().iter().flat_map(|certificate| certificate.iter().copied()).collect(),
        x509_svid_key: svid.private_key_der().to_vec(),
        bundle: roots(bundle),
        hint: hint.to_owned(),
    }
}

/// The certificates by which X.509-SVIDs are judged.
#[allow(clippy::unnecessary_wraps)] // one of the three that streams are made of
pub(crate) fn x509_bundles(grant: &Grant) -> Result<proto::X509BundlesResponse, Status> {
    let bundles = grant.bundles().map(|bundle| (bundle.trust_domain().id(), roots(bundle))).collect();
    Ok(proto::X509BundlesResponse { crl: Vec::new(), bundles })
}

/// The keys by which JWT-SVIDs are judged; a trust domain without any has an empty set.
#[allow(clippy::unnecessary_wraps)] // as above
pub(crate) fn jwt_bundles(grant: &Grant) -> Result<proto::JwtBundlesResponse, Status> {
    let bundles = grant.bundles().map(|bundle| (bundle.trust_domain().id(), bundle.jwt().jwks().into_bytes()));
    Ok(proto::JwtBundlesResponse { bundles: bundles.collect() })
}

fn roots(bundle: &TrustBundle) -> Vec<u8> {
    bundle.roots().iter().flat_map(|root| root.iter().copied()).collect()
}

/// Claims as `google.protobuf.Struct`.
pub(crate) fn claims(claims: &serde_json::Map<String, serde_json::Value>) -> Struct {
    Struct { fields: claims.iter().map(|(name, claim)| (name.clone(), value(claim))).collect() }
}

/// As deep as JSON was read, which is bounded by serde_json at 128.
fn value(json: &serde_json::Value) -> Value {
    let kind = match json {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(is) => Kind::BoolValue(*is),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        serde_json::Value::String(text) => Kind::StringValue(text.clone()),
        serde_json::Value::Array(values) => Kind::ListValue(ListValue { values: values.iter().map(value).collect() }),
        serde_json::Value::Object(fields) => Kind::StructValue(claims(fields)),
    };
    Value { kind: Some(kind) }
}
