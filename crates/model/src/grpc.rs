//! What makes a call one of gRPC.

const GRPC: &[u8] = b"application/grpc";

/// Whether a content type is that of gRPC, in whatever case (RFC 9110 s.8.3.1): `application/grpc`, `application/grpc+proto`, .. but not `application/grpc-web`, which has its
/// trailers in the body.
pub fn is_grpc(content_type: &[u8]) -> bool {
    let (kind, rest) = content_type.split_at_checked(GRPC.len()).unwrap_or_default();
    kind.eq_ignore_ascii_case(GRPC) && matches!(rest.first(), None | Some(b'+' | b';' | b' ' | b'\t'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (content_type, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x", true),
            ("Application/gRPC ; x=1", true),
            ("", false),
            ("application/grp", false),
            ("application/grpc-web", false),
            ("application/grpcx", false),
            ("application/json", false),
        ] {
            assert_eq!(is_grpc(content_type.as_bytes()), expected, "{content_type}");
        }
    }
}
