//! The messages of `weft.v1.Identity` to and from what they mean.

use rustls::pki_types::CertificateDer;

use crate::bans::{Ban, Banned, Bans};
use crate::federated::Federated;
use crate::jwk::JwtKey;
use crate::proto;
use crate::svid::TrustBundle;

/// How far the news of a withdrawn endpoint has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Withdrawal {
    /// Subscribers that have acknowledged.
    pub acknowledged: u32,
    /// Subscribers that had not when the bound passed.
    pub waiting: u32,
}

/// A bundle as it goes over the wire.
pub fn bundle_to_proto(bundle: &TrustBundle) -> proto::Bundle {
    proto::Bundle {
        trust_domain: bundle.trust_domain().to_string(),
        roots: bundle.roots().iter().map(|root| root.to_vec()).collect(),
        sequence: bundle.sequence(),
        jwt_keys: bundle.jwt().keys().iter().map(key_to_proto).collect(),
    }
}

/// A bundle as it came, checked.
///
/// # Errors
/// In words, what is wrong with it.
pub fn bundle_from_proto(bundle: proto::Bundle) -> Result<TrustBundle, String> {
    let domain = bundle.trust_domain.parse().map_err(|error: weft_model::NameError| error.to_string())?;
    let roots = bundle.roots.into_iter().map(CertificateDer::from).collect();
    let keys = bundle.jwt_keys.into_iter().map(|key| JwtKey::from_spki(&key.kid, key.public_key));
    let whole = TrustBundle::new(domain, roots).map_err(|error| error.to_string())?;
    let whole = whole.with_jwt_keys(keys.collect::<Result<_, _>>()?).map_err(|error| error.to_string())?;
    Ok(whole.with_sequence(bundle.sequence))
}

/// The bundles of other trust domains as they go over the wire.
pub fn federated_to_proto(federated: &Federated) -> proto::Federation {
    proto::Federation { all: federated.iter().map(|bundle| bundle_to_proto(bundle)).collect() }
}

/// The same as they came. One that is of no use leaves its trust domain without a bundle, and the others as they are.
pub fn federated_from_proto(federation: proto::Federation) -> Federated {
    let one = |bundle: proto::Bundle| {
        let domain = bundle.trust_domain.clone();
        bundle_from_proto(bundle).map_err(|why| {
            tracing::error!(domain, why, "the bundle of another trust domain is of no use: nobody of it is trusted");
        })
    };
    Federated::new(federation.all.into_iter().filter_map(|bundle| one(bundle).ok()))
}

/// Bans as they go over the wire.
pub fn bans_to_proto(bans: &Bans) -> proto::Bans {
    let one = |(banned, ban): (&Banned, &Ban)| proto::Ban {
        banned: banned.to_string(),
        reason: ban.reason.clone(),
        since: ban.since,
    };
    proto::Bans { all: bans.iter().map(one).collect() }
}

/// Bans as they came. One of a kind that a later version may know is none to this one.
pub fn bans_from_proto(bans: proto::Bans) -> Bans {
    let one = |ban: proto::Ban| match ban.banned.parse::<Banned>() {
        Ok(banned) => Some((banned, Ban { reason: ban.reason, since: ban.since })),
        Err(why) => {
            tracing::error!(banned = ban.banned, why, "the control plane bans somebody that this version cannot tell");
            None
        }
    };
    Bans::new(bans.all.into_iter().filter_map(one))
}

fn key_to_proto(key: &JwtKey) -> proto::JwtKey {
    proto::JwtKey { kid: key.kid().to_owned(), public_key: key.spki().to_vec() }
}
