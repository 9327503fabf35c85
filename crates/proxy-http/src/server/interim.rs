//! Heads that come before an answer (RFC 9110 s.15.2): `100 Continue`, `102 Processing`, `103 Early Hints`, and what may be added.
//! They leave for the client as they come from the endpoint; none is made here, but where a listener says so.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Waker};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, Response, StatusCode, Version, header};

use super::wire::Wire;
use crate::h1::{HEAD_MAX, fields_size};
use crate::headers::has_option;
use crate::headers::strip_hop_by_hop;

/// So many heads before one answer are passed on. More are dropped: whoever sends them without end fills no memory here, and keeps
/// nobody from an answer.
const HEADS_MAX: usize = 32;
/// And so many bytes of fields.
const BYTES_MAX: usize = HEAD_MAX;

/// Where the client of one request hears what comes before its answer. Gone when the answer begins.
pub struct Interim {
    client: Client,
    heads_left: usize,
    bytes_left: usize,
}

enum Client {
    /// Hears nothing: HTTP/1.0 knows no such heads.
    Deaf,
    H1(Rc<RefCell<Wire>>),
    H2(Rc<RefCell<SendResponse<Bytes>>>),
}

impl Interim {
    fn new(client: Client) -> Self {
        Self { client, heads_left: HEADS_MAX, bytes_left: BYTES_MAX }
    }

    /// Nobody hears it.
    pub(crate) fn deaf() -> Self {
        Self::new(Client::Deaf)
    }

    /// Over HTTP/1.1. What is passed on leaves when the connection's task is next polled, which polls whoever passes it on too.
    pub(super) fn h1(wire: &Rc<RefCell<Wire>>, version: Version) -> Self {
        Self::new(if version == Version::HTTP_11 { Client::H1(wire.clone()) } else { Client::Deaf })
    }

    /// Over HTTP/2.
    pub(super) fn h2(respond: &Rc<RefCell<SendResponse<Bytes>>>) -> Self {
        Self::new(Client::H2(respond.clone()))
    }

    /// Passes a head on, without what is for one connection only.
    pub fn pass_on(&mut self, mut head: Response<()>) {
        strip_hop_by_hop(head.headers_mut());
        head.headers_mut().remove(header::CONTENT_LENGTH); // it has no content (RFC 9110 s.8.6), and h2 would take it for the answer's
        let size = fields_size(head.headers());
        if self.heads_left == 0 || size > self.bytes_left {
            self.heads_left = 0; // what is passed on is in order, and without gaps
            return;
        }
        self.heads_left -= 1;
        self.bytes_left -= size;
        match &self.client {
            Client::Deaf => {}
            Client::H1(wire) => wire.borrow_mut().tell(&head),
            Client::H2(respond) => {
                let mut respond = respond.borrow_mut();
                // Nothing is sent on a stream that was reset. Whoever is to be woken by a reset asks again after this.
                let mut cx = Context::from_waker(Waker::noop());
                if respond.poll_reset(&mut cx).is_pending() {
                    let _ = respond.send_informational(head);
                }
            }
        }
    }

    /// Gives leave to send the body to a client that waits for it, so that the endpoint is not asked.
    pub fn give_leave(&mut self, headers: &mut HeaderMap) {
        if has_option(headers, &header::EXPECT, "100-continue") {
            headers.remove(header::EXPECT);
            let mut head = Response::new(());
            *head.status_mut() = StatusCode::CONTINUE;
            self.pass_on(head);
        }
    }

    /// And the client hears nothing else before its answer. This is what Envoy does without `proxy_100_continue`.
    pub fn give_leave_and_end(&mut self, headers: &mut HeaderMap) {
        self.give_leave(headers);
        self.client = Client::Deaf;
    }
}
