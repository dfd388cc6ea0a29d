//! What gRPC says through HTTP: the method in the path, the status in a trailer.

use calltap_correlate::exchange::Text;
use pingora::http::RequestHeader;

/// The longest method name that is taken for one, bytes.
const METHOD_BYTES_MAX: usize = 256;

/// Whether the content type says gRPC (`application/grpc`, `+proto`, `-web` and so on).
pub(crate) fn is_grpc(head: &RequestHeader) -> bool {
    let Some(kind) = head.headers.get(http::header::CONTENT_TYPE) else {
        return false;
    };
    kind.as_bytes()
        .get(..16)
        .is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"application/grpc"))
        && matches!(
            kind.as_bytes().get(16),
            None | Some(b'+' | b'-' | b';' | b' ')
        )
}

/// `package.Service/Method` of a gRPC request's path; `None` if it is none.
pub(crate) fn rpc_method<'p>(head: &RequestHeader, path: &'p str) -> Option<&'p str> {
    let name = path.strip_prefix('/')?;
    let (service, method) = name.split_once('/')?;
    let is_name = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    let fits = name.len() <= METHOD_BYTES_MAX && is_name(service) && is_name(method);
    (fits && is_grpc(head)).then_some(name)
}

/// The name of a `grpc-status`, as OpenTelemetry records it.
pub(crate) fn status_name(status: &str) -> Option<Text> {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let code: u32 = status.trim().parse().ok()?;
    Some(match NAMES.get(code as usize) {
        Some(&name) => Text::Borrowed(name),
        None => Text::Owned(code.to_string()),
    })
}

/// Says that we take trailers, as gRPC demands of every hop. To be called for HTTP/2 upstreams:
/// Pingora drops the client's `TE` with the other hop-by-hop headers.
///
/// # Errors
/// None in practice: name and value are constants.
pub(crate) fn announce_trailers(head: &mut RequestHeader) -> pingora::Result<()> {
    if is_grpc(head) {
        head.insert_header(http::header::TE, "trailers")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::head;
    use super::*;

    #[test]
    fn a_method_is_read_from_a_grpc_path() {
        let check = |kind: &str, path: &str, expected: Option<&str>| {
            let head = head(&[&format!("Content-Type: {kind}")]);
            assert_eq!(rpc_method(&head, path), expected, "{kind} {path}");
        };
        check(
            "application/grpc",
            "/shop.v1.Orders/Get",
            Some("shop.v1.Orders/Get"),
        );
        check("application/grpc+proto", "/Orders/Get", Some("Orders/Get"));
        check(
            "Application/GRPC-web; x=1",
            "/Orders/Get",
            Some("Orders/Get"),
        );
        check("application/grpcish", "/Orders/Get", None);
        check("application/json", "/Orders/Get", None);
        check("application/grpc", "/Orders", None);
        check("application/grpc", "/a/b/c", None);
        check("application/grpc", "//Get", None);
        check("application/grpc", "/Orders/G%65t", None);
    }

    #[test]
    fn statuses_have_names() {
        assert_eq!(status_name("0").as_deref(), Some("OK"));
        assert_eq!(status_name("14").as_deref(), Some("UNAVAILABLE"));
        assert_eq!(status_name("99").as_deref(), Some("99"));
        assert_eq!(status_name("-1"), None);
        assert_eq!(status_name("x"), None);
    }

    #[test]
    fn only_grpc_announces_trailers() {
        let mut grpc = head(&["Content-Type: application/grpc"]);
        announce_trailers(&mut grpc).unwrap();
        assert_eq!(grpc.headers["te"], "trailers");
        let mut other = head(&["Content-Type: text/plain"]);
        announce_trailers(&mut other).unwrap();
        assert!(!other.headers.contains_key("te"));
    }
}
