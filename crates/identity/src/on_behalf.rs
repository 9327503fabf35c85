//! How an agent gets identities for others: which it may ask for, and each of them. What comes is checked here.

use std::sync::{Arc, Mutex, PoisonError};

use tonic::transport::Channel;
use weft_model::{ServiceName, SpiffeId, Subject};

use crate::assigned::{Assignment, from_proto};
use crate::ca::KeyRequest;
use crate::connect::connect;
use crate::fault::{OwnFault, PeerError};
use crate::jwt_signer::Audience;
use crate::live::LiveIdentity;
use crate::obtain::{CALL_TIMEOUT, IdentityConfig, IdentityError, Obtained, check, of_any, verify_own};
use crate::proto;
use crate::proto::identity_client::IdentityClient;
use crate::svid::{Svid, TrustBundle};
use crate::tokens::{self, Token};

/// The most bytes of what the control plane may tell at once: some thousand services.
const MOST_BYTES: usize = 16 << 20;

/// Whether a certificate is one that peers take who have this bundle.
///
/// # Errors
/// Why not.
pub fn usable(svid: &Svid, bundle: &TrustBundle) -> Result<(), PeerError> {
    verify_own(svid, bundle)
}

/// See the module.
pub struct OnBehalf {
    server: String,
    subject: Subject,
    live: Arc<LiveIdentity>,
    /// One connection for many calls, and the generation of the identity that made it: another certificate has to be shown on another one.
    channel: Mutex<Option<(u64, String, Channel)>>,
}

impl OnBehalf {
    /// As the agent that `live` is.
    pub fn new(config: &IdentityConfig, live: Arc<LiveIdentity>) -> Self {
        Self { server: config.server.clone(), subject: config.subject.clone(), live, channel: Mutex::default() }
    }

    /// Follows which identities may be asked for, until the stream ends or fails. Of the second list another certificate is wanted at once.
    ///
    /// # Errors
    /// There is no valid identity to ask with, the control plane does not answer, or it refuses.
    pub async fn assignments(
        &self,
        mut told: impl FnMut(Vec<Assignment>, Vec<ServiceName>),
    ) -> Result<(), IdentityError> {
        let channel = connect(&self.server, &self.live).await?;
        let mut client = IdentityClient::new(channel).max_decoding_message_size(MOST_BYTES);
        let refused = |status| IdentityError::from_status(&self.subject, &status);
        let mut news = client.assignments(proto::AssignmentsRequest {}).await.map_err(refused)?.into_inner();
        while let Some(assigned) = news.message().await.map_err(refused)? {
            let (all, renew) = from_proto(assigned).map_err(IdentityError::Unusable)?;
            told(all, renew);
        }
        Ok(())
    }

    /// An X.509-SVID of `service`, with a key that is made here. `evidence` says in words what the process is that it is for.
    ///
    /// # Errors
    /// There is no valid identity to ask with, the control plane does not answer, or it refuses.
    pub async fn svid(&self, service: &ServiceName, evidence: &str) -> Result<Obtained, IdentityError> {
        let (id, request) = (self.id(service)?, KeyRequest::new()?);
        let question = proto::IssueForRequest {
            service: service.to_string(),
            csr: request.csr.clone(),
            audience: Vec::new(),
            evidence: evidence.to_owned(),
        };
        let answer = self.ask(&service.clone().into(), &question).await?.svid;
        let answer = answer.ok_or_else(|| IdentityError::Unusable("it is no X.509-SVID".into()))?;
        check(answer, &request, &id)
    }

    /// A JWT-SVID of `service`.
    ///
    /// # Errors
    /// As [`OnBehalf::svid`].
    pub async fn token(&self, service: &ServiceName, audience: &Audience) -> Result<Token, IdentityError> {
        let id = self.id(service)?;
        let question = proto::IssueForRequest {
            service: service.to_string(),
            csr: Vec::new(),
            audience: audience.values().to_vec(),
            evidence: String::new(),
        };
        let answer = self.ask(&service.clone().into(), &question).await?.jwt;
        let answer = answer.ok_or_else(|| IdentityError::Unusable("it is no JWT-SVID".into()))?;
        let bundle = self.live.load().bundle().map(|bundle| bundle.jwt().clone());
        let bundle = bundle.ok_or_else(|| IdentityError::Unavailable(OwnFault::Missing.to_string()))?;
        tokens::check(answer, audience, &id, &bundle)
    }

    fn id(&self, service: &ServiceName) -> Result<SpiffeId, IdentityError> {
        if let Some(fault) = self.live.fault() {
            return Err(IdentityError::Unavailable(fault.to_string()));
        }
        let domain = self.live.load().bundle().map(|bundle| bundle.trust_domain().clone());
        let domain = domain.ok_or_else(|| IdentityError::Unavailable(OwnFault::Missing.to_string()))?;
        Ok(SpiffeId::for_service(&domain, service))
    }

    /// Of one control plane after the other, the one of the last call first.
    async fn ask(
        &self,
        subject: &Subject,
        question: &proto::IssueForRequest,
    ) -> Result<proto::IssueForResponse, IdentityError> {
        if let Some((server, channel)) = self.present() {
            match Self::ask_over(channel, subject, question).await {
                Err(error) if error.is_passing() => {
                    tracing::debug!(%error, server, "asking over another connection");
                    *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = None;
                }
                result => return result,
            }
        }
        of_any(&self.server, |server| async move {
            let generation = self.live.load().generation();
            let channel = connect(server, &self.live).await?;
            let result = Self::ask_over(channel.clone(), subject, question).await;
            if result.as_ref().err().is_none_or(|error| !error.is_passing()) {
                let mut kept = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
                *kept = Some((generation, server.to_owned(), channel));
            }
            result
        })
        .await
    }

    /// The connection of the last call, while it shows the present certificate.
    fn present(&self) -> Option<(String, Channel)> {
        let generation = self.live.load().generation();
        let kept = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().filter(|(of, ..)| *of == generation).map(|(_, server, channel)| (server.clone(), channel.clone()))
    }

    async fn ask_over(
        channel: Channel,
        subject: &Subject,
        question: &proto::IssueForRequest,
    ) -> Result<proto::IssueForResponse, IdentityError> {
        let mut call = tonic::Request::new(question.clone());
        call.set_timeout(CALL_TIMEOUT);
        let answer = IdentityClient::new(channel).issue_for(call).await;
        answer.map(tonic::Response::into_inner).map_err(|status| IdentityError::from_status(subject, &status))
    }
}
