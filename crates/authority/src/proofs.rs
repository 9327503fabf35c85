//! By what somebody proves at first contact who it is: a join token, a certificate or a token that its machine has from elsewhere. The machine
//! is then enrolled by the key that came with it.

use std::time::SystemTime;

use tonic::Status;
use weft_attestation::{Attested, Nodes, Refusal};
use weft_identity::{JoinToken, MachineId, proto, x509pop};
use weft_model::{SpiffeId, Subject};

use crate::authority::KeyProof;
use crate::issuer::{Admission, Issuer, refuse_machine};
use crate::join_tokens::{JoinTokens, TokenError};
use crate::machines::By;

/// All that is taken at first contact.
pub struct Proofs {
    /// Tokens of the mesh itself.
    pub tokens: JoinTokens,
    /// What machines have from elsewhere.
    pub nodes: Nodes,
}

/// Who asks, and by which keys.
pub(crate) struct Asker<'a> {
    pub(crate) subject: &'a Subject,
    pub(crate) id: &'a SpiffeId,
    pub(crate) admission: &'a Admission,
    pub(crate) key: &'a KeyProof,
    /// Its key has signed for this very request.
    pub(crate) machine: Option<&'a MachineId>,
    /// Of the connection.
    pub(crate) binding: Option<&'a [u8; 32]>,
    pub(crate) now: SystemTime,
}

impl Proofs {
    /// Whether a request has a proof, and not only the key of a machine.
    ///
    /// # Errors
    /// It has two.
    pub(crate) fn is_in(request: &proto::AttestRequest) -> Result<bool, Status> {
        let proofs = [!request.join_token.is_empty(), request.certificate.is_some(), !request.jwt.is_empty()];
        match proofs.iter().filter(|is_there| **is_there).count() {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Status::invalid_argument("send one proof: a join token, a certificate, or a JWT of an issuer")),
        }
    }

    /// Judges the proof of a request, uses it up if it is one for once, and enrols the machine. What comes back is for the records.
    pub(crate) async fn take(
        &self,
        issuer: &Issuer,
        request: &proto::AttestRequest,
        asker: &Asker<'_>,
    ) -> Result<String, Status> {
        if let Some(machine) = asker.machine {
            issuer.machines.may_enrol(machine, asker.subject).await.map_err(refuse_machine)?;
        }
        let taken = if request.join_token.is_empty() {
            self.brought(issuer, request, asker).await
        } else {
            self.join_token(&request.join_token, asker).await
        };
        let (by, reason) = taken.inspect_err(|status| {
            tracing::warn!(subject = %asker.subject, error = status.message(), "attestation refused");
        })?;
        if let Some(machine) = asker.machine {
            let (banned, life) = (issuer.banned_machines(), asker.admission.machine_life);
            if let Err(error) = issuer.machines.sweep(life, &banned, asker.now).await {
                tracing::warn!(%error, "machines that cannot come back any more are not forgotten; trying again later");
            }
            issuer.machines.enrol(machine, asker.subject, by, asker.now).await.map_err(refuse_machine)?;
        }
        tracing::info!(subject = %asker.subject, machine = asker.machine, reason, "attested");
        Ok(reason)
    }

    async fn join_token(&self, token: &str, asker: &Asker<'_>) -> Result<(By, String), Status> {
        let token: JoinToken = token.parse().map_err(|error| refuse_token(TokenError::Malformed(error)))?;
        let hash = asker.key.hash();
        self.tokens.redeem(&token, asker.subject, &hash, asker.now).await.map_err(refuse_token)?;
        Ok((By { way: "token".to_owned(), node: None }, format!("by join token {}", token.id())))
    }

    async fn brought(
        &self,
        issuer: &Issuer,
        request: &proto::AttestRequest,
        asker: &Asker<'_>,
    ) -> Result<(By, String), Status> {
        let &Asker { subject, id, now, .. } = asker;
        // Without one there would be nobody to be banned, and a token could serve many.
        let (Some(machine), Some(_), Some(binding)) = (&request.machine, asker.machine, asker.binding) else {
            return Err(Status::invalid_argument(
                "send the key of the machine beside a certificate or a JWT, over TLS",
            ));
        };
        let entries = issuer.registrar.nodes();
        let attested: Attested = match &request.certificate {
            Some(proof) => {
                let chain = x509pop::verify(proof, binding, subject, &request.csr, &machine.public_key);
                let chain = chain.map_err(|error| Status::unauthenticated(error.to_string()))?;
                self.nodes.by_certificate(&entries, subject, &chain, now).map_err(refuse)?
            }
            None => self.nodes.by_jwt(&entries, subject, &request.jwt, now).await.map_err(refuse)?,
        };
        issuer.node_not_banned(id, &attested.node).await?;
        // Last, because it uses a token up.
        self.nodes.use_up(&attested, &machine.public_key, now).await.map_err(refuse)?;
        let by = By { way: attested.way.to_owned(), node: Some(attested.node) };
        Ok((by, format!("by {}", attested.by)))
    }
}

fn refuse(refusal: Refusal) -> Status {
    match refusal {
        Refusal::Denied(why) => Status::unauthenticated(why),
        Refusal::Unavailable(why) => Status::unavailable(why),
    }
}

fn refuse_token(error: TokenError) -> Status {
    match error {
        TokenError::Malformed(_) => Status::invalid_argument(error.to_string()),
        TokenError::Store(_) => Status::unavailable(error.to_string()),
        _ => Status::unauthenticated(error.to_string()),
    }
}
