//! rustls asks whom it talks to: the two verifiers that answer, one for each end.
//!
//! They hold a handle to the [`LiveIdentity`], never a bundle, so what they judge by is that of the moment of each handshake.

use std::fmt::Debug;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};

use crate::crypto::provider;
use crate::fault::PeerError;
use crate::live::LiveIdentity;
use crate::peer::{PeerMatch, Role};

/// Whether a server that showed this chain is the one that was meant.
pub(crate) trait Judge: Debug + Send + Sync + 'static {
    fn judge(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], now: UnixTime) -> Result<(), PeerError>;
}

/// By the bundle of the moment, and by who should answer.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) identity: Arc<LiveIdentity>,
    pub(crate) peer: PeerMatch,
}

impl Judge for Expected {
    fn judge(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], now: UnixTime) -> Result<(), PeerError> {
        self.identity.load().unexpired(now)?; // better said here than as an alert from a peer that got no certificate
        self.peer.check(&self.identity.verify(leaf, rest, now, Role::Server)?)
    }
}

/// What rustls asks of a verifier of either kind, beside who the peer is: TLS 1.2 is not spoken, and of TLS 1.3 all that the provider can.
macro_rules! handshake_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(rustls::Error::General("TLS 1.2 is not spoken here".into()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            leaf: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls13_signature(message, leaf, signature, &provider().signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            provider().signature_verification_algorithms.supported_schemes()
        }
    };
}

/// Judges whom this process connects to.
#[derive(Debug)]
pub(crate) struct ServerVerifier<J>(pub(crate) Arc<J>);

impl<J: Judge> ServerCertVerifier for ServerVerifier<J> {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.0.judge(leaf, rest, now)?;
        Ok(ServerCertVerified::assertion())
    }

    handshake_signatures!();
}

/// Judges those who connect to this process: any workload of its trust domain; what it may do is decided later.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    pub(crate) identity: Arc<LiveIdentity>,
    pub(crate) mandatory: bool,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[] // every client has one certificate; hints would only cost bytes and tell strangers about the bundle
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if let Some(fault) = self.identity.fault_at(now) {
            // A client whose clock is not this machine's has just accepted what is of no use here: it is not taken.
            return Err(PeerError::from(fault).into());
        }
        self.identity.verify(leaf, rest, now, Role::Client)?;
        Ok(ClientCertVerified::assertion())
    }

    handshake_signatures!();
}
