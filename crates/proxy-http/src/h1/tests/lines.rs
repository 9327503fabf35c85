//! Where lines end: no two readers may differ in it.

use http::Method;

use super::super::Malformed;
use super::{ask, whole};

const CHUNKED: &str = "transfer-encoding: chunked\r\n\r\n";

/// The data of a chunked body and what its trailers say, as a request and as a response: both are read alike.
fn chunked(body: &str) -> Result<Option<(String, String)>, Malformed> {
    let response = whole(&Method::GET, &format!("HTTP/1.1 200 OK\r\n{CHUNKED}{body}"), false);
    let request = ask(&[format!("POST / HTTP/1.1\r\n{CHUNKED}{body}").as_bytes()]);
    let asked = request.map(|asked| asked.map(|(_, data, _)| data.expect("one framing")));
    assert_eq!(response.clone().map(|read| read.map(|read| read.1)), asked, "{body:?}");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    response.map(|read| {
        read.map(|(_, data, trailers, _)| (text(data), trailers.into_iter().map(|(_, value)| value).collect()))
    })
}

#[test]
fn the_line_of_a_chunk_is_read_to_the_letter() {
    for line in
        ["2", "02", "2 ", "2\t", "2;x", "2 ;x", "2\t; x\t=\ty", "2;", "2;x=\"a;\\\"\tb\"", "2;é", "00000000000000002"]
    {
        let read = chunked(&format!("{line}\r\nab\r\n0{}\r\n\r\n", &line[line.find('2').expect("a size") + 1..]));
        assert_eq!(read, Ok(Some(("ab".to_owned(), String::new()))), "{line:?}");
    }
    for line in [
        // Readers differ in where such a line ends.
        "2\n",
        "2;\nxx\r\n",
        "2;x\n",
        "2\r",
        "2;\rxx\r\n",
        "2\rx\r\n",
        "2;x=\"\r\n",
        "2;x=\"a\nb\"\r\n",
        "2;x=\"a\\\"\r\n",
        // Or in what it says.
        "2;\0\r\n",
        "2;\u{7f}\r\n",
        "2;\u{b}\r\n",
        "2\0\r\n",
        "0x2\r\n",
        "+2\r\n",
        "-2\r\n",
        " 2\r\n",
        "2 2\r\n",
        "2x\r\n",
        "2,\r\n",
        "2=x\r\n",
        "\r\n",
        ";x\r\n",
        "g\r\n",
        "10000000000000000\r\n",
        "fffffffffffffffff\r\n",
    ] {
        assert_eq!(chunked(&format!("{line}ab\r\n0\r\n\r\n")), Err(Malformed::Chunk), "{line:?}");
    }
    for end in ["0\n\r\n", "0;\n\r\n\r\n", "0;\0\r\n\r\n"] {
        assert_eq!(chunked(&format!("2\r\nab\r\n{end}")), Err(Malformed::Chunk), "{end:?}");
    }
    // What is wrong is told before the line has come to its end.
    for begun in ["x", "2;\n", "2;\0", "0x", "+"] {
        assert_eq!(chunked(begun), Err(Malformed::Chunk), "{begun:?}");
    }
}

#[test]
fn trailers_are_read_to_the_letter() {
    for (trailers, values) in [("", ""), ("a: 1\r\n", "1"), ("a:\t1\t2 \r\nb:\r\n", "1\t2")] {
        let read = chunked(&format!("2\r\nab\r\n0\r\n{trailers}\r\n"));
        assert_eq!(read, Ok(Some(("ab".to_owned(), values.to_owned()))), "{trailers:?}");
    }
    for trailers in [
        "\n",
        "a: 1\n\n",
        "a: 1\n\r\n",
        "a: 1\r\n\n",
        "a: 1\nb: 2\r\n\r\n",
        "a: 1\r\nb: 2\n\r\n",
        "a: 1\rb\r\n\r\n",
        "\rx",
        "a: 1\r\n b\r\n\r\n",
        "a: 1\r\n\tb\r\n\r\n",
        " a: 1\r\n\r\n",
        "a : 1\r\n\r\n",
        "a\r\n\r\n",
        "a: \0\r\n\r\n",
        "a: \u{7f}\r\n\r\n",
        "a: \u{1}\r\n\r\n",
    ] {
        assert_eq!(chunked(&format!("2\r\nab\r\n0\r\n{trailers}")), Err(Malformed::Trailers), "{trailers:?}");
    }
}

#[test]
fn the_lines_of_a_head_end_in_one_way() {
    // A reader may take a bare LF for the end of a line (RFC 9112 s.2.2), and there is one way to read this.
    assert_eq!(
        whole(&Method::GET, "HTTP/1.1 200 OK\na: 1\ncontent-length: 2\n\nab", false).map(|read| read.is_some()),
        Ok(true)
    );
    assert_eq!(ask(&[b"POST / HTTP/1.1\na: 1\ncontent-length: 2\n\nab"]).map(|asked| asked.is_some()), Ok(true));
    for head in [
        "\r\na: 1\nx-evil: 1\r\n\r\n",
        "\r\na: 1\n\r\n",
        "\r\na: 1\r\n\n",
        "\r\n\n",
        "\na: 1\r\n\r\n",
        "\na: 1\n\r\n",
        "\n\r\n",
    ] {
        for status in [" 200 OK", " 200", " 103 Early Hints"] {
            let response = format!("HTTP/1.1{status}{head}");
            assert_eq!(whole(&Method::GET, &response, false).err(), Some(Malformed::LineEnds), "{response:?}");
        }
        let request = format!("GET / HTTP/1.1{head}");
        assert_eq!(ask(&[request.as_bytes()]), Err(Malformed::LineEnds), "{request:?}");
    }
    assert_eq!(ask(&[b"\nGET / HTTP/1.1\r\n\r\n"]), Err(Malformed::LineEnds));
    for head in ["\r\na: 1\r2\r\n\r\n", "\r\na: 1\r\r\n\r\n", "\ra: 1\r\n\r\n", "\r\na: 1\r\n\rx", "\r\na: \0\r\n\r\n"]
    {
        let (response, request) = (format!("HTTP/1.1 200 OK{head}"), format!("GET / HTTP/1.1{head}"));
        assert_eq!(whole(&Method::GET, &response, false).err(), Some(Malformed::Head), "{response:?}");
        assert_eq!(ask(&[request.as_bytes()]), Err(Malformed::Head), "{request:?}");
    }
}
