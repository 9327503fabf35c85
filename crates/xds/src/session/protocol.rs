//! A session of either protocol, and what a protocol has to say for itself.

use std::marker::PhantomData;
use std::sync::Arc;

use envoy_types::pb::google::rpc;
use prost::Message;
use tonic::Status;

use super::event::{Event, known_type};
use super::stream::{Sending, Stream, Variant};
use super::track::Track;
use crate::{Node, Resources, Snapshot};

/// How the requests of a protocol are read, and its responses written.
pub trait Protocol: Send + 'static {
    /// What a request is.
    type Request: Send + 'static;
    /// What a response is.
    type Response: Message + 'static;
    /// Which protocol this is.
    const VARIANT: Variant;

    /// The node that sends the request, if it says so.
    fn node(request: &Self::Request) -> Option<&Node>;
    /// The node and the type of a request, to be taken or set.
    fn parts(request: &mut Self::Request) -> (&mut Option<Node>, &mut String);
    /// The type of a response, and how many resources it is about.
    fn size(response: &Self::Response) -> (&str, usize);

    /// Refuses what cannot be taken, before anything of the request counts.
    fn check(type_url: &'static str, request: &Self::Request) -> Result<(), Status>;
    /// The nonce of the response that the request answers, and what was wrong with that.
    fn answer(request: &mut Self::Request) -> (String, Option<rpc::Status>);
    /// Takes the subscriptions of a request; `first`: no request of its type has come before.
    fn subscribe(
        request: Self::Request,
        type_url: &'static str,
        track: &mut Track,
        available: &Resources,
        first: bool,
    ) -> Result<(), Status>;
    /// The response that says this.
    fn response(stream: &Stream, sending: Sending) -> Option<Self::Response>;
}

/// One xDS stream in the protocol `P`.
pub struct Session<P>(Stream, PhantomData<P>);

impl<P: Protocol> Session<P> {
    /// A stream that has just opened.
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        Self(Stream::new(P::VARIANT, snapshot), PhantomData)
    }

    /// Takes a request: subscriptions, the state of an earlier stream, an answer to a response, or several of these. Subscriptions count
    /// whatever the nonce is; an answer counts only for the outstanding response of the type.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` or `RESOURCE_EXHAUSTED`; the stream must end.
    pub fn on_request(&mut self, mut request: P::Request) -> Result<Option<Event>, Status> {
        let type_url = match known_type(P::parts(&mut request).1)? {
            Ok(type_url) => type_url,
            Err(event) => return Ok(Some(event)),
        };
        P::check(type_url, &request)?;
        let stream = &mut self.0;
        let (nonce, error) = P::answer(&mut request);
        let event = stream.answer(type_url, &nonce, error);
        let first = !stream.tracks.contains_key(type_url);
        let track = stream.tracks.entry(type_url).or_default();
        P::subscribe(request, type_url, track, stream.snapshot.get(type_url), first)?;
        stream.check_expected();
        Ok(event)
    }

    /// The state that the client should have from now on.
    pub fn on_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        self.0.on_snapshot(snapshot);
    }

    /// The next response that may go out now, or `None` until something else happens. It counts as sent.
    pub fn next_response(&mut self) -> Option<P::Response> {
        let sending = self.0.next()?;
        P::response(&self.0, sending)
    }

    /// The current snapshot, when everything that the client follows has just been answered for it. Ask after each `next_response`
    /// that returned `None`.
    pub fn settled(&mut self) -> Option<Arc<Snapshot>> {
        self.0.settled()
    }

    /// Whether something is held back only for requests that the client is likely to send soon. The caller, who has a clock, should
    /// then call [`stop_holding`](Self::stop_holding) after a second or so.
    pub fn holding(&self) -> bool {
        self.0.holding()
    }

    /// The client will not send what was waited for.
    pub fn stop_holding(&mut self) {
        self.0.stop_holding();
    }

    /// The client has closed its sending side. What `next_response` still gives is all that it asked for; after that the stream is over,
    /// and nothing settles any more.
    pub fn no_more_requests(&mut self) {
        self.0.no_more_requests();
    }
}
