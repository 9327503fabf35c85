//! Real sockets on both sides: what a break looks like is the kernel's to say.

use std::io::ErrorKind;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Both ends of a connection.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it has an address");
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.expect("it listens"), far.expect("it connects").0)
}

/// What became of the carrying, and what was counted: received and sent.
type Carried = (Result<(), Side>, usize, usize);

/// A caller and an app, and what carries bytes between them until it ends.
async fn world(bound: Option<Duration>) -> (TcpStream, TcpStream, impl Future<Output = Carried>) {
    let ((caller, mut client), (mut endpoint, app)) = (pair().await, pair().await);
    let carrying = async move {
        let (mut received, mut sent) = (0, 0);
        let carried = both_ways(&mut client, &mut endpoint, bound, |by, bytes| match by {
            Side::Client => received += bytes,
            Side::Endpoint => sent += bytes,
        });
        let carried = carried.await.map_err(|broken| broken.by);
        (carried, received, sent)
    };
    (caller, app, carrying)
}

fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a socket has the option");
}

/// All that comes, and how it ends.
async fn rest(stream: &mut TcpStream) -> (usize, Result<(), ErrorKind>) {
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes).await;
    (bytes.len(), end.map(drop).map_err(|error| error.kind()))
}

async fn exact(stream: &mut TcpStream, length: usize) {
    stream.read_exact(&mut vec![0; length]).await.expect("it comes");
}

const BROKEN: Result<(), ErrorKind> = Err(ErrorKind::ConnectionReset);

#[tokio::test]
async fn one_direction_ends_and_the_other_goes_on() {
    let (mut caller, mut app, carrying) = world(None).await;
    let talk = async {
        caller.write_all(b"all of it").await.expect("it is open");
        caller.shutdown().await.expect("it is open");
        assert_eq!(rest(&mut app).await, (9, Ok(())));
        let answer = async {
            app.write_all(&vec![b'a'; 1_000_000]).await.expect("the other direction is open");
            app.shutdown().await.expect("the other direction is open");
        };
        tokio::join!(answer, rest(&mut caller)).1
    };
    let (carried, answer) = tokio::join!(carrying, talk);
    assert_eq!(answer, (1_000_000, Ok(())));
    assert_eq!(carried, (Ok(()), 9, 1_000_000));
}

#[tokio::test]
async fn a_break_of_either_side_is_one_to_the_other() {
    for by in [Side::Client, Side::Endpoint] {
        let (mut caller, mut app, carrying) = world(None).await;
        let talk = async {
            caller.write_all(b"question").await.expect("it is open");
            exact(&mut app, 8).await;
            app.write_all(b"ans").await.expect("it is open");
            exact(&mut caller, 3).await;
            let (gone, mut other) = if by == Side::Client { (caller, app) } else { (app, caller) };
            reset(gone);
            rest(&mut other).await
        };
        let (carried, end) = tokio::join!(carrying, talk);
        assert_eq!(end, (0, BROKEN), "{by:?}");
        assert_eq!(carried, (Err(by), 8, 3));
    }
}

#[tokio::test]
async fn a_proxy_that_gives_up_breaks_both() {
    let (mut caller, mut app, carrying) = world(None).await;
    let mut carrying = Box::pin(carrying);
    let talk = async {
        caller.write_all(b"question").await.expect("it is open");
        exact(&mut app, 8).await;
    };
    tokio::select! {
        biased;
        _ = &mut carrying => panic!("nobody ended"),
        () = talk => {}
    }
    drop(carrying);
    assert_eq!(rest(&mut caller).await, (0, BROKEN));
    assert_eq!(rest(&mut app).await, (0, BROKEN));
}

#[tokio::test]
async fn a_break_is_seen_behind_bytes_that_nobody_takes() {
    let (mut caller, app, carrying) = world(None).await;
    let flood = async {
        let chunk = vec![0; 64 * 1024];
        let stuck = Duration::from_millis(500);
        while tokio::time::timeout(stuck, caller.write_all(&chunk)).await.is_ok() {}
        reset(caller);
    };
    let ((carried, ..), ()) = tokio::join!(carrying, flood);
    assert_eq!(carried, Err(Side::Client));
    assert!(matches!(app.take_error(), Ok(Some(error)) if error.kind() == ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_break_is_seen_after_an_end() {
    let (mut caller, mut app, carrying) = world(None).await;
    let talk = async {
        caller.shutdown().await.expect("it is open");
        assert_eq!(rest(&mut app).await, (0, Ok(())));
        reset(caller); // while the app thinks about its answer
    };
    let ((carried, ..), ()) = tokio::join!(carrying, talk);
    assert_eq!(carried, Err(Side::Client));
    assert!(matches!(app.take_error(), Ok(Some(_))));
}

#[tokio::test]
async fn one_that_does_not_end_is_cut() {
    let (mut caller, mut app, carrying) = world(Some(Duration::from_millis(50))).await;
    let talk = async {
        caller.write_all(b"bye").await.expect("it is open");
        caller.shutdown().await.expect("it is open");
        tokio::join!(rest(&mut caller), rest(&mut app))
    };
    let (carried, (caller, app)) = tokio::join!(carrying, talk);
    assert_eq!(carried, (Ok(()), 3, 0));
    assert_eq!((caller, app), ((0, BROKEN), (3, Ok(()))), "the caller was heard out, the app was not");
}
