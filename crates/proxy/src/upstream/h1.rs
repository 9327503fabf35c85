//! Requests over HTTP/1.1 to the app. One request at a time on a connection, which is kept for the next.

use std::net::SocketAddr;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use weft_telemetry::Failure;

use super::body::RequestBody;
use super::connect::Stream;
use super::{AttemptError, Sent};

/// One connection, free for a request.
pub(crate) struct H1Connection {
    send: SendRequest<RequestBody>,
    pub(crate) local_address: Option<SocketAddr>,
    /// Whether it has carried a request before: only then can the app close it just as the next one is sent.
    pub(crate) used: bool,
}

impl H1Connection {
    /// Starts the connection's task on this worker.
    pub(crate) async fn start(stream: Stream) -> Result<Self, AttemptError> {
        let local_address = stream.local_address();
        let (send, connection) = http1::Builder::new()
            .max_buf_size(64 * 1024)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| AttemptError::new(Failure::UpstreamProtocol, Sent::NoConnection, error))?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to the app ended");
            }
        });
        Ok(Self { send, local_address, used: false })
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.send.is_closed()
    }

    /// Sends a request. An unsent one comes back with the error.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, (AttemptError, Option<Request<RequestBody>>)> {
        if let Err(error) = self.send.ready().await {
            return Err((AttemptError::new(Failure::AppClosed, Sent::NotProcessed, error), Some(request)));
        }
        match self.send.try_send_request(request).await {
            Ok(response) => {
                self.used = true;
                Ok(response)
            }
            Err(mut unsent) => {
                let request = unsent.take_message();
                let sent = if request.is_some() { Sent::NotProcessed } else { Sent::Perhaps };
                let error = unsent.into_error();
                let failure = if error.is_parse() { Failure::UpstreamProtocol } else { Failure::AppClosed };
                Err((AttemptError::new(failure, sent, error), request))
            }
        }
    }
}
