mod lines;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::{Frame, SizeHint};
use proptest::prelude::*;

use super::body::{CHUNK_LINE_MAX, put_chunk, put_last_chunk};
use super::*;

/// What a response came out as: status, data, trailers, whether the connection can be used again.
type Read = (u16, Vec<u8>, Vec<(String, String)>, bool);

/// Reads a response that arrives in the given parts, and then the connection ends if `closes`.
fn read(method: &Method, parts: &[&[u8]], closes: bool) -> Result<Option<Read>, Malformed> {
    let mut buffer = BytesMut::new();
    let mut head: Option<ResponseHead> = None;
    let (mut data, mut trailers) = (Vec::new(), Vec::new());
    for part in parts {
        buffer.extend_from_slice(part);
        while head.is_none() && !buffer.is_empty() {
            match take_response(&mut buffer, method)? {
                Some(Said::Answer(answer)) => head = Some(answer),
                Some(Said::Interim(_)) => {}
                None => break,
            }
        }
        let Some(head) = &mut head else { continue };
        while let Some(frame) = head.body.next(&mut buffer)? {
            match frame.into_data() {
                Ok(more) => data.extend_from_slice(&more),
                Err(frame) => {
                    let fields = frame.into_trailers().expect("data or trailers");
                    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
                    trailers.extend(fields.iter().map(|(name, value)| (name.to_string(), text(value))));
                }
            }
        }
    }
    let Some(mut head) = head else { return Ok(None) };
    if closes {
        head.body.close()?;
    }
    let whole = head.body.has_ended();
    Ok(whole.then(|| (head.response.status().as_u16(), data, trailers, head.reusable && buffer.is_empty())))
}

fn whole(method: &Method, bytes: &str, closes: bool) -> Result<Option<Read>, Malformed> {
    read(method, &[bytes.as_bytes()], closes)
}

#[test]
fn bodies_end_where_rfc_9112_says() {
    let get = Method::GET;
    for (bytes, closes, expected) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", false, ("abc", true)),
        ("HTTP/1.1 200 OK\r\ncontent-length: 3, 3\r\ncontent-length: 3\r\n\r\nabc", false, ("abc", true)),
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcHTTP/1.1 200", false, ("abc", false)),
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: x, Close\r\n\r\nabc", false, ("abc", false)),
        ("HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", false, ("", true)),
        ("HTTP/1.1 204 No Content\r\n\r\n", false, ("", true)),
        ("HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", false, ("", true)),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na",
            false,
            ("a", true),
        ),
        ("HTTP/1.1 200 OK\r\n\r\nuntil the end", true, ("until the end", false)),
        ("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na", false, ("a", false)),
        ("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\na", false, ("a", true)),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
            false,
            ("abc0123456789", true),
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 9\r\n\r\n1\r\na\r\n0\r\n\r\n",
            false,
            ("a", false),
        ),
    ] {
        let (_, data, _, reusable) = whole(&get, bytes, closes).expect(bytes).expect(bytes);
        assert_eq!((&*String::from_utf8(data).unwrap(), reusable), expected, "{bytes}");
    }
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n";
    assert_eq!(whole(&Method::HEAD, head, false).unwrap().unwrap().1, b"");
}

#[test]
fn what_is_not_a_response_is_refused() {
    for (bytes, closes, expected) in [
        ("SSH-2.0-OpenSSH\r\n", false, Malformed::Head),
        ("HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n", false, Malformed::Head),
        ("HTTP/1.1 200 OK\r\na: 1\r\n folded\r\n\r\n", false, Malformed::Head),
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc", false, Malformed::ContentLength),
        ("HTTP/1.1 200 OK\r\ncontent-length: +3\r\n\r\nabc", false, Malformed::ContentLength),
        ("HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\nabc", false, Malformed::ContentLength),
        ("HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n", false, Malformed::ContentLength),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n", false, Malformed::TransferCoding),
        ("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", false, Malformed::TransferCoding),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", false, Malformed::Chunk),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\r\n\r\n", false, Malformed::Chunk),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n", false, Malformed::Chunk),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n11111111111111111\r\n", false, Malformed::Chunk),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nbad name: x\r\n\r\n", false, Malformed::Trailers),
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab", true, Malformed::Short),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n", true, Malformed::Short),
    ] {
        assert_eq!(whole(&Method::GET, bytes, closes).err(), Some(expected), "{bytes}");
    }
    let large = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "a".repeat(HEAD_MAX));
    assert_eq!(whole(&Method::GET, &large, false).err(), Some(Malformed::HeadTooLarge));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: 1\r\n".repeat(FIELDS_MAX + 1));
    assert_eq!(whole(&Method::GET, &many, false).err(), Some(Malformed::HeadTooLarge));
    let line = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;{}", "x".repeat(CHUNK_LINE_MAX));
    for line in [&line, &format!("{line}\r\na\r\n0\r\n\r\n")] {
        assert_eq!(whole(&Method::GET, line, false).err(), Some(Malformed::Chunk));
    }
}

#[test]
fn a_request_is_written_with_one_framing() {
    let text = |method: Method, fields: &[(&'static str, &'static str)], has_body: bool| {
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = "/a?b=c".parse().expect("a target");
        for (name, value) in fields {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        let mut out = BytesMut::new();
        let encoder = put_request(&mut out, &request, has_body);
        (String::from_utf8(out.to_vec()).expect("text"), encoder)
    };
    assert_eq!(
        text(Method::GET, &[("host", "board.prod")], false),
        ("GET /a?b=c HTTP/1.1\r\nhost: board.prod\r\n\r\n".to_owned(), Encoder::Nothing)
    );
    assert_eq!(
        text(Method::POST, &[("host", "x")], false),
        ("POST /a?b=c HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".to_owned(), Encoder::Nothing)
    );
    assert_eq!(
        text(Method::POST, &[("content-length", "7"), ("transfer-encoding", "chunked")], true),
        ("POST /a?b=c HTTP/1.1\r\ncontent-length: 7\r\n\r\n".to_owned(), Encoder::Length(7))
    );
    assert_eq!(
        text(Method::DELETE, &[], true),
        ("DELETE /a?b=c HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(), Encoder::Chunked)
    );
}

/// What a request came out as: its line, its data, and whether another one may follow.
type Asking = (String, Result<Vec<u8>, Malformed>, bool);

fn ask(parts: &[&[u8]]) -> Result<Option<Asking>, Malformed> {
    let mut buffer = BytesMut::new();
    let mut head: Option<RequestHead> = None;
    let mut data = Vec::new();
    for part in parts {
        buffer.extend_from_slice(part);
        if head.is_none() {
            head = take_request(&mut buffer)?;
        }
        let Some(RequestHead { body: Ok(body), .. }) = &mut head else { continue };
        while let Some(frame) = body.next(&mut buffer)? {
            frame.into_data().into_iter().for_each(|more| data.extend_from_slice(&more));
        }
    }
    let Some(RequestHead { request, body, asked: Asked { keep_alive, .. }, .. }) = head else { return Ok(None) };
    let line = format!("{} {} {:?}", request.method(), request.uri(), request.version());
    Ok(match body {
        Ok(body) => body.has_ended().then_some((line, Ok(data), keep_alive)),
        Err(malformed) => Some((line, Err(malformed), keep_alive)),
    })
}

#[test]
fn requests_end_where_rfc_9112_says() {
    for (bytes, line, data, keep_alive) in [
        ("GET / HTTP/1.1\r\nhost: x\r\n\r\n", "GET / HTTP/1.1", "", true),
        ("\r\nGET http://board.prod/a?b HTTP/1.1\r\n\r\n", "GET http://board.prod/a?b HTTP/1.1", "", true),
        ("GET / HTTP/1.1\r\nconnection: Close\r\n\r\n", "GET / HTTP/1.1", "", false),
        ("GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0", "", false),
        ("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n", "GET / HTTP/1.0", "", true),
        ("POST /a HTTP/1.1\r\ncontent-length: 3\r\n\r\nabcGET /", "POST /a HTTP/1.1", "abc", true),
        (
            "POST /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx: y\r\n\r\n",
            "POST /a HTTP/1.1",
            "a",
            true,
        ),
        ("OPTIONS * HTTP/1.1\r\n\r\n", "OPTIONS * HTTP/1.1", "", true),
        ("CONNECT db.prod:5432 HTTP/1.1\r\n\r\nbytes", "CONNECT db.prod:5432 HTTP/1.1", "", false),
    ] {
        let expected = (line.to_owned(), Ok(data.as_bytes().to_vec()), keep_alive);
        assert_eq!(ask(&[bytes.as_bytes()]), Ok(Some(expected)), "{bytes}");
    }
}

#[test]
fn a_request_that_two_readers_could_frame_differently_is_refused() {
    for (fields, expected) in [
        ("content-length: 3\r\ntransfer-encoding: chunked", Malformed::TwoFramings),
        ("content-length: 3\r\ncontent-length: 4", Malformed::ContentLength),
        ("content-length: 3\r\ncontent-length: 3", Malformed::ContentLength),
        ("content-length: 3, 3", Malformed::ContentLength),
        ("content-length: +3", Malformed::ContentLength),
        ("content-length: 0x3", Malformed::ContentLength),
        ("transfer-encoding: gzip, chunked", Malformed::TransferCoding),
        ("transfer-encoding: identity", Malformed::TransferCoding),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked", Malformed::TransferCoding),
    ] {
        let bytes = format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n0\r\n\r\n");
        let asked = ask(&[bytes.as_bytes()]).expect(fields).expect(fields);
        assert_eq!(asked, ("POST / HTTP/1.1".to_owned(), Err(expected), false), "{fields}");
    }
    for line in ["CONNECT /foo", "GET board.prod:80"] {
        let asked = ask(&[format!("{line} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()]).unwrap().unwrap();
        assert_eq!(asked, (format!("{line} HTTP/1.1"), Err(Malformed::Target), false));
    }
    let expects = "POST / HTTP/1.0\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n";
    let RequestHead { request, awaits_continue, .. } = take_request(&mut expects.into()).unwrap().unwrap();
    assert!(!awaits_continue && !request.headers().contains_key("expect"));
    let old = "POST / HTTP/1.0\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n";
    assert_eq!(ask(&[old.as_bytes()]).unwrap().unwrap().1, Err(Malformed::TransferCoding));
}

#[test]
fn what_is_not_a_request_is_refused() {
    for bytes in [
        "SSH-2.0-OpenSSH\r\n\r\n",
        "GET / HTTP/2.0\r\n\r\n",
        "GET  / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nbad name: x\r\n\r\n",
        "GET / HTTP/1.1\r\nhost : x\r\n\r\n",
        "GET / HTTP/1.1\r\na: 1\r\n folded\r\n\r\n",
        "GET /\u{0} HTTP/1.1\r\n\r\n",
        "\u{16}\u{3}\u{1}",
    ] {
        assert_eq!(ask(&[bytes.as_bytes()]), Err(Malformed::Head), "{bytes:?}");
    }
    let large = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(HEAD_MAX));
    assert_eq!(ask(&[large.as_bytes()]), Err(Malformed::HeadTooLarge));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: 1\r\n".repeat(FIELDS_MAX + 1));
    assert_eq!(ask(&[many.as_bytes()]), Err(Malformed::HeadTooLarge));
}

#[test]
fn a_response_is_framed_for_who_asked() {
    let text = |asked: (Method, Version, bool), status: u16, fields: &[(&'static str, &'static str)], length| {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
        for (name, value) in fields {
            response.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        let hint = if let Some(length) = length { SizeHint::with_exact(length) } else { SizeHint::default() };
        let (method, version, keep_alive) = asked;
        let mut out = BytesMut::new();
        let encoder = put_response(&mut out, &response, &Asked { method, version, keep_alive, trailers: false }, &hint);
        (String::from_utf8(out.to_vec()).expect("text"), encoder)
    };
    let get = || (Method::GET, Version::HTTP_11, true);
    for (asked, status, fields, length, expected, encoder) in [
        (get(), 200, &[("content-length", "3")][..], None, "200 OK\r\ncontent-length: 3\r\n", Encoder::Length(3)),
        (get(), 403, &[], Some(7), "403 Forbidden\r\ncontent-length: 7\r\n", Encoder::Length(7)),
        (get(), 200, &[], Some(0), "200 OK\r\ncontent-length: 0\r\n", Encoder::Length(0)),
        (get(), 200, &[], None, "200 OK\r\ntransfer-encoding: chunked\r\n", Encoder::Chunked),
        (get(), 204, &[], Some(0), "204 No Content\r\n", Encoder::Nothing),
        (get(), 304, &[("content-length", "9")], None, "304 Not Modified\r\ncontent-length: 9\r\n", Encoder::Nothing),
        (
            get(),
            101,
            &[("upgrade", "websocket")],
            None,
            "101 Switching Protocols\r\nupgrade: websocket\r\n",
            Encoder::Nothing,
        ),
        (
            (Method::HEAD, Version::HTTP_11, true),
            200,
            &[("content-length", "9")],
            None,
            "200 OK\r\ncontent-length: 9\r\n",
            Encoder::Nothing,
        ),
        ((Method::CONNECT, Version::HTTP_11, false), 200, &[], Some(0), "200 OK\r\n", Encoder::Nothing),
        (
            (Method::GET, Version::HTTP_11, false),
            200,
            &[],
            None,
            "200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n",
            Encoder::Chunked,
        ),
        ((Method::GET, Version::HTTP_10, true), 200, &[], None, "200 OK\r\nconnection: close\r\n", Encoder::UntilClose),
        (
            (Method::GET, Version::HTTP_10, true),
            200,
            &[],
            Some(1),
            "200 OK\r\ncontent-length: 1\r\nconnection: keep-alive\r\n",
            Encoder::Length(1),
        ),
    ] {
        assert_eq!(text(asked, status, fields, length), (format!("HTTP/1.1 {expected}\r\n"), encoder));
    }
}

#[test]
fn a_body_of_another_length_than_declared_is_broken() {
    let data = |bytes: &'static [u8]| Some(Frame::data(Bytes::from_static(bytes)));
    let mut out = BytesMut::new();
    let mut encoder = Encoder::Length(3);
    assert_eq!(encoder.put(&mut out, data(b"ab"), false), Ok(false));
    assert_eq!(encoder.put(&mut out, data(b"cd"), false), Err(Broken));
    let mut encoder = Encoder::Length(3);
    assert_eq!(encoder.put(&mut out, data(b"ab"), true), Err(Broken));
    let mut encoder = Encoder::Length(2);
    assert_eq!(encoder.put(&mut out, data(b"ab"), true), Ok(true));
}

#[test]
fn an_app_may_say_how_long_it_keeps_a_connection() {
    for (field, seconds) in [
        ("keep-alive: timeout=5", Some(5)),
        ("Keep-Alive: max=100, Timeout = 5", Some(5)),
        ("keep-alive: max=100\r\nkeep-alive: timeout=0", Some(0)),
        ("keep-alive: timeout=-1", None),
        ("keep-alive: timeout", None),
        ("keep-alive: 5", None),
        ("x-timeout: timeout=5", None),
    ] {
        let mut bytes = BytesMut::from(format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{field}\r\n\r\n").as_str());
        let said = take_response(&mut bytes, &Method::GET).expect("well-formed").expect("whole");
        let Said::Answer(head) = said else { panic!("an answer") };
        assert_eq!(head.kept_for.map(|kept| kept.as_secs()), seconds, "{field}");
    }
}

proptest! {
    /// What is sent in chunks is read as it was, however the network cuts it.
    #[test]
    fn chunks_come_back(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..6),
        trailer in proptest::option::of("[a-z]{1,8}"),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut bytes = BytesMut::from(&b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"[..]);
        chunks.iter().for_each(|chunk| put_chunk(&mut bytes, chunk));
        let trailers = trailer.as_ref().map(|value| {
            HeaderMap::from_iter([(HeaderName::from_static("x-sum"), HeaderValue::from_str(value).expect("letters"))])
        });
        put_last_chunk(&mut bytes, trailers.as_ref());
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        places.extend([0, bytes.len()]);
        places.sort_unstable();
        let parts: Vec<&[u8]> = places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        let (status, data, fields, reusable) = read(&Method::GET, &parts, false).expect("well formed").expect("whole");
        prop_assert_eq!((status, reusable), (200, true));
        prop_assert_eq!(data, chunks.concat());
        prop_assert_eq!(fields, trailer.map(|value| ("x-sum".to_owned(), value)).into_iter().collect::<Vec<_>>());
    }

    /// Strangers' bytes are an error or a response, never a panic; and how they are cut changes nothing.
    #[test]
    fn any_bytes_are_read_alike_however_cut(
        rest in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b':')], 0..60),
        chunked in any::<bool>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = if chunked { b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec() } else { b"HTTP/1.1 ".to_vec() };
        bytes.extend(rest);
        let at = cut.index(bytes.len());
        let cut = read(&Method::GET, &[&bytes[..at], &bytes[at..]], false);
        prop_assert_eq!(read(&Method::GET, &[&bytes], false), cut);
    }

    /// The same of requests.
    #[test]
    fn any_request_is_read_alike_however_cut(
        rest in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b':'), Just(b' ')], 0..60),
        chunked in any::<bool>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let start = if chunked { "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n" } else { "GET / HTTP/1.1\r\n" };
        let bytes = [start.as_bytes(), &rest].concat();
        let at = cut.index(bytes.len());
        prop_assert_eq!(ask(&[&bytes]), ask(&[&bytes[..at], &bytes[at..]]));
    }
}
