//! Who signs this server's issuing CA: the seam behind which a root in the store and a CA outside look the same.

use std::sync::Arc;
use std::time::SystemTime;

use weft_upstream::Upstream;

use crate::advance::{Roots, advance};
use crate::error::AuthorityError;
use crate::issuing::Issuing;
use crate::keys::Published;
use crate::outside::{Outside, UpstreamProblem};
use crate::own_roots::{self, Grounds};
use crate::trust::KeyId;

/// See the module.
pub(crate) enum Signer {
    /// Roots of the trust domain's own.
    Own,
    /// A CA outside, and its roots.
    Outside(Box<Outside>),
}

impl Signer {
    pub(crate) fn new(upstream: Option<Arc<Upstream>>) -> Self {
        upstream.map_or(Self::Own, |upstream| Self::Outside(Box::new(Outside::new(upstream))))
    }

    /// Takes every step that is due, up to one that has another root sign. `issuing` is the server's present issuing CA.
    pub(crate) async fn advance(
        &self,
        on: &Grounds<'_>,
        present: Published,
        issuing: Option<&Issuing>,
        now: SystemTime,
    ) -> Result<Published, AuthorityError> {
        match self {
            Self::Own => advance(on, Roots::Own, present, now).await,
            Self::Outside(outside) => {
                outside.ask_if_due(on, &present, issuing, now).await?;
                let given = outside.given();
                advance(on, Roots::Given(&given), present, now).await
            }
        }
    }

    /// The issuing CA that is to be put in force in place of the present one, if that is not to go on.
    pub(crate) async fn issuing(
        &self,
        on: &Grounds<'_>,
        published: &Published,
        present: Option<&Issuing>,
        now: SystemTime,
    ) -> Result<Option<Issuing>, AuthorityError> {
        match self {
            Self::Own => match present {
                Some(present) if present.is_of_active(published) && !present.is_old(now) => Ok(None),
                // Of a CA outside, from before: the first root of the trust domain's own waits for everybody.
                Some(present) if present.serves(published, now) && is_from_outside(published) => Ok(None),
                _ => own_roots::sign(on, published, now).await.map(Some),
            },
            Self::Outside(outside) => Ok(outside.take(published, present)),
        }
    }

    /// The root of an issuing CA that waits until that may sign.
    pub(crate) fn waits_for(&self) -> Option<KeyId> {
        match self {
            Self::Own => None,
            Self::Outside(outside) => outside.given().wanted,
        }
    }

    /// Wakes up when something of it has changed that it would not be asked for otherwise.
    pub(crate) async fn changed(&self) {
        match self {
            Self::Own => std::future::pending().await,
            Self::Outside(outside) => outside.changed().await,
        }
    }

    /// Has it sign anew, whatever the age of the present issuing CA. `false`: its roots are the trust domain's own, and something else is meant.
    pub(crate) fn ask(&self) -> bool {
        match self {
            Self::Own => false,
            Self::Outside(outside) => {
                outside.ask();
                true
            }
        }
    }

    /// A CA outside, and why it has not signed what is due, since when.
    pub(crate) fn outside(&self) -> Option<(&Arc<Upstream>, Option<UpstreamProblem>)> {
        match self {
            Self::Own => None,
            Self::Outside(outside) => Some((outside.upstream(), outside.problem())),
        }
    }
}

fn is_from_outside(published: &Published) -> bool {
    published.trust.x509.active().is_some_and(|root| root.source.is_some())
}
