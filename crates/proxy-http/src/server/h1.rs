//! Requests over HTTP/1.1 (RFC 9112), one after the other on a connection.
//!
//! The connection's task does everything but one thing: the body of a request is read by whoever sends it on, who may do so
//! long after the response has begun. So the two share the [`Wire`], and each says when the other may go on.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::Response;
use tokio::io::AsyncWrite;
use tokio::sync::oneshot;
use weft_telemetry::Failure;

use super::interim::Interim;
use super::request::{ClientBody, ClientRequest};
use super::service::Service;
use super::wire::{Body, Duplex, Wire};
use crate::h1::{Asked, Decoder, Encoder, RequestHead, put_response, take_request};
use crate::kind::kind;
use crate::timed::{Patience, TimedBody};
use crate::way::Way;

/// For the head of a request, once its first byte came.
const HEAD_BOUND: Duration = Duration::from_secs(30);
/// So many bytes of a response wait for a client that reads slowly.
const WRITE_MAX: usize = 64 * 1024;
/// How long we listen on after a last response, to a client that is still sending: if we hung up on it, its kernel could throw
/// away the response before the client has read it (RFC 9112 s.9.6).
const LINGER: Duration = Duration::from_secs(2);

/// Serves a connection to its end. `first` is what has been read of it.
pub async fn serve(service: &impl Service, io: Box<dyn Way>, first: BytesMut) {
    let wire = Rc::new(RefCell::new(Wire::new(io, first)));
    let mut drained = pin!(service.drained());
    loop {
        let after = match next_head(&wire, drained.as_mut()).await {
            Head::Request(head) => exchange(service, &wire, *head).await,
            Head::Unreadable(failure, why) => {
                let response = service.refuse(failure, why);
                respond(&wire, response, &Asked::unknown()).await.map_or(After::Gone, |_| After::Close)
            }
            Head::Closed => return,
        };
        match after {
            After::Next => {}
            After::Close => return linger(&wire).await,
            After::Gone => return,
        }
    }
}

/// What came where a request may begin.
enum Head {
    Request(Box<RequestHead>),
    Unreadable(Failure, String),
    /// The client closed the connection, or we do, since the proxy drains and no request is under way.
    Closed,
}

/// What becomes of the connection after a response.
enum After {
    Next,
    Close,
    /// It is over.
    Gone,
}

async fn next_head(wire: &RefCell<Wire>, mut drained: Pin<&mut impl Future>) -> Head {
    wire.borrow_mut().rest();
    let mut bound = pin!(None);
    poll_fn(|cx| {
        let mut wire = wire.borrow_mut();
        loop {
            wire.skip_empty_lines();
            if !wire.read.is_empty() {
                if let Some(head) = take_head(&mut wire.read) {
                    return Poll::Ready(head);
                }
                if bound.is_none() {
                    bound.set(Some(tokio::time::sleep(HEAD_BOUND)));
                }
            }
            match wire.poll_fill(cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Head::Closed),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => break,
            }
        }
        match bound.as_mut().as_pin_mut() {
            Some(bound) => bound.poll(cx).map(|()| {
                Head::Unreadable(Failure::HeadTimeout, format!("the head did not come within {HEAD_BOUND:?}"))
            }),
            None => drained.as_mut().poll(cx).map(|_| Head::Closed),
        }
    })
    .await
}

fn take_head(read: &mut BytesMut) -> Option<Head> {
    match take_request(read) {
        Ok(head) => head.map(|head| Head::Request(Box::new(head))),
        Err(malformed) => Some(Head::Unreadable(malformed.failure(), malformed.to_string())),
    }
}

/// One request and its response.
async fn exchange(service: &impl Service, wire: &Rc<RefCell<Wire>>, head: RequestHead) -> After {
    let RequestHead { request, body, mut asked, awaits_continue } = head;
    let (sender, switched) = kind(&request).is_tunnel().then(oneshot::channel::<Box<dyn Way>>).unzip();
    let (decoder, fault) = body.map_or_else(|fault| (Decoder::Ended, Some(fault)), |decoder| (decoder, None));
    wire.borrow_mut().begin(decoder, awaits_continue);
    let body = if decoder.has_ended() { ClientBody::Empty } else { ClientBody::H1(Body::new(wire.clone())) };
    let interim = Interim::h1(wire, asked.version);
    let request = ClientRequest { head: request, body, fault, interim, switched };

    let response = {
        let mut answering = pin!(service.answer(request));
        poll_fn(|cx| match answering.as_mut().poll(cx) {
            Poll::Ready(response) => Poll::Ready(Some(response)),
            Poll::Pending => wire.borrow_mut().poll_before_answer(cx).map(|()| None),
        })
        .await
    };
    let Some(response) = response else { return After::Gone };
    let switches = asked.switches(response.status());
    // After an answer in place of leave, nobody can tell whether a body or a request comes next.
    asked.keep_alive &= !service.is_draining() && !wire.borrow().awaits_continue() && !wire.borrow_mut().is_abandoned();
    let Ok(kept) = respond(wire, response, &asked).await else { return After::Gone };
    if let (true, Some(sender)) = (switches, sender) {
        let (duplex, ended) = Duplex::new(wire.clone());
        if sender.send(Box::new(duplex)).is_ok() {
            let _ = ended.await;
        }
        return After::Gone;
    }
    if !kept {
        return After::Close;
    }
    let read_whole = poll_fn(|cx| wire.borrow_mut().poll_body_over(cx)).await;
    if read_whole { After::Next } else { After::Close }
}

/// The client is gone, or cannot be given the rest.
struct Gone;

/// Writes a response as its body comes. Says whether the connection can carry another request.
async fn respond(wire: &RefCell<Wire>, response: Response<impl TimedBody>, asked: &Asked) -> Result<bool, Gone> {
    let (parts, mut body) = response.into_parts();
    let mut out = wire.borrow_mut().begin_response();
    let head = Response::from_parts(parts, ());
    let mut encoder = put_response(&mut out, &head, asked, &body.size_hint());
    let is_full = |encoder: &Encoder| matches!(encoder, Encoder::Nothing | Encoder::Length(0));
    let mut ended = body.is_end_stream() || is_full(&encoder);
    // An answer that broke off, or is not as long as it says, must not look whole.
    let mut whole = !ended || encoder.put(&mut out, None, true).is_ok();
    let mut patience = Patience::default();
    poll_fn(|cx| {
        loop {
            let mut waits = false;
            while !ended && !waits && out.len() < WRITE_MAX {
                match Pin::new(&mut body).poll_frame(cx) {
                    Poll::Ready(Some(Err(_))) => (ended, whole) = (true, false),
                    Poll::Ready(frame) => {
                        let frame = frame.and_then(Result::ok).filter(|frame| asked.trailers || frame.is_data());
                        let put = encoder.put(&mut out, frame, body.is_end_stream());
                        (ended, whole) = (put != Ok(false) || is_full(&encoder), put.is_ok());
                    }
                    Poll::Pending => waits = true,
                }
            }
            let mut wire = wire.borrow_mut();
            match poll_write_out(&mut wire, &mut out, cx) {
                Poll::Ready(Ok(Written::Some)) => patience.renew(),
                Poll::Ready(Ok(Written::All)) if ended => {
                    if !whole && encoder == Encoder::UntilClose {
                        wire.io.reset(); // an orderly end would be the end of the answer
                    }
                    return Poll::Ready(if whole { Ok(()) } else { Err(Gone) });
                }
                Poll::Ready(Ok(Written::All)) => return wire.poll_gone(cx).map(|()| Err(Gone)),
                Poll::Ready(Err(Gone)) => return Poll::Ready(Err(Gone)),
                Poll::Pending => {
                    ready!(patience.poll_lost(&mut body, cx));
                    wire.io.reset(); // what waits in the kernel for this client is given up too
                    return Poll::Ready(Err(Gone));
                }
            }
        }
    })
    .await?;
    Ok(asked.keep_alive && encoder != Encoder::UntilClose)
}

/// How much of what was to be written has left.
enum Written {
    Some,
    All,
}

/// Pending: the client takes nothing.
fn poll_write_out(wire: &mut Wire, out: &mut BytesMut, cx: &mut Context<'_>) -> Poll<Result<Written, Gone>> {
    if out.is_empty() {
        ready!(Pin::new(&mut wire.io).poll_flush(cx)).map_err(|_| Gone)?;
        return Poll::Ready(Ok(Written::All));
    }
    match ready!(Pin::new(&mut wire.io).poll_write(cx, out)) {
        Ok(count) if count > 0 => {
            out.advance(count);
            Poll::Ready(Ok(Written::Some))
        }
        _ => Poll::Ready(Err(Gone)),
    }
}

/// Ends the connection so that the client reads the last response.
async fn linger(wire: &RefCell<Wire>) {
    let heard_out = poll_fn(|cx| {
        let mut wire = wire.borrow_mut();
        if ready!(Pin::new(&mut wire.io).poll_shutdown(cx)).is_err() {
            return Poll::Ready(());
        }
        while let Poll::Ready(read) = wire.poll_fill(cx) {
            if matches!(read, Ok(0) | Err(_)) {
                return Poll::Ready(());
            }
            wire.read.clear();
        }
        Poll::Pending
    });
    let _ = tokio::time::timeout(LINGER, heard_out).await;
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::task::Context;

    use tokio::io::AsyncWriteExt;

    use super::*;

    impl Way for tokio::io::DuplexStream {
        fn is_broken(&mut self, _: &mut Context<'_>) -> bool {
            false
        }

        fn reset(&mut self) {}
    }

    async fn begun(bytes: &[u8]) -> (tokio::io::DuplexStream, RefCell<Wire>) {
        let (mut client, server) = tokio::io::duplex(1024);
        client.write_all(bytes).await.expect("room for it");
        (client, RefCell::new(Wire::new(Box::new(server), BytesMut::new())))
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_does_not_come_to_its_end_is_given_up() {
        let (_client, wire) = begun(b"GET / HT").await;
        let begun = tokio::time::Instant::now();
        let head = next_head(&wire, pin!(pending::<()>())).await;
        assert!(matches!(head, Head::Unreadable(Failure::HeadTimeout, _)));
        assert_eq!(begun.elapsed().as_secs(), HEAD_BOUND.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_waits_and_holds_nothing() {
        // Some clients end a body with a line of their own (RFC 9112 s.2.2).
        let (_client, wire) = begun(b"\r\n").await;
        let waited = tokio::time::timeout(Duration::from_secs(3600), next_head(&wire, pin!(pending::<()>()))).await;
        assert!(waited.is_err());
        assert_eq!(wire.borrow().read.capacity(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_draining_proxy_closes_what_is_idle_and_takes_what_has_begun() {
        let (_client, wire) = begun(b"").await;
        assert!(matches!(next_head(&wire, pin!(ready(()))).await, Head::Closed));
        let (mut client, wire) = begun(b"GET / HT").await;
        let late = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            client.write_all(b"TP/1.1\r\n\r\n").await.expect("room for it");
        };
        let drained = pin!(ready(()));
        let (head, ()) = tokio::join!(next_head(&wire, drained), late);
        assert!(matches!(head, Head::Request(_)));
    }
}
