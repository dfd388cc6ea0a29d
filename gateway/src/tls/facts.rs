//! What a record says about TLS, from an established connection or a ClientHello that got no
//! further.

use std::borrow::Cow;
use std::fmt::Write;

use calltap_correlate::exchange::{Text, TlsFacts};
use ring::digest::{SHA256, digest};
use rustls::{HandshakeKind, ProtocolVersion, ServerConnection};
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

use super::hello::ClientHello;

/// The facts of an established connection. `handshake_us`: from accept to the handshake's end.
pub(crate) fn of_connection(
    connection: &ServerConnection,
    hello: Option<&ClientHello>,
    handshake_us: Option<u64>,
) -> TlsFacts {
    let certificate = connection.peer_certificates().and_then(<[_]>::first);
    let names = certificate.and_then(|der| Some(X509Certificate::from_der(der).ok()?.1));
    TlsFacts {
        version: connection.protocol_version().and_then(version_text),
        cipher: connection
            .negotiated_cipher_suite()
            .and_then(|suite| suite.suite().as_str())
            .map(cipher_from_name),
        next_protocol: connection.alpn_protocol().and_then(protocol_text),
        resumed: connection
            .handshake_kind()
            .map(|kind| matches!(kind, HandshakeKind::Resumed)),
        server_name: connection.server_name().map(str::to_owned),
        ja4: hello.map(ClientHello::ja4),
        client_subject: names
            .as_ref()
            .map(|x509| distinguished_name(x509.subject())),
        client_issuer: names.as_ref().map(|x509| distinguished_name(x509.issuer())),
        client_sha256: certificate.map(|der| sha256_upper_hex(der)),
        handshake_us,
    }
}

/// The facts of a handshake that failed: what its ClientHello said.
pub(crate) fn of_failed_handshake(hello: &ClientHello) -> TlsFacts {
    TlsFacts {
        server_name: hello.server_name.clone(),
        ja4: Some(hello.ja4()),
        ..TlsFacts::default()
    }
}

/// `1.3` and so on, from the name rustls and Pingora use (`TLSv1_3`).
pub(crate) fn version_from_name(name: &str) -> Option<Text> {
    match name {
        "TLSv1_2" => version_text(ProtocolVersion::TLSv1_2),
        "TLSv1_3" => version_text(ProtocolVersion::TLSv1_3),
        _ => None,
    }
}

/// The cipher suite's IANA name, from the name rustls and Pingora use
/// (`TLS13_AES_128_GCM_SHA256`).
pub(crate) fn cipher_from_name(name: &str) -> Text {
    match name {
        "TLS13_AES_128_GCM_SHA256" => "TLS_AES_128_GCM_SHA256".into(),
        "TLS13_AES_256_GCM_SHA384" => "TLS_AES_256_GCM_SHA384".into(),
        "TLS13_CHACHA20_POLY1305_SHA256" => "TLS_CHACHA20_POLY1305_SHA256".into(),
        // The names of TLS 1.2 suites are IANA's already.
        other => Cow::Owned(other.to_owned()),
    }
}

fn version_text(version: ProtocolVersion) -> Option<Text> {
    match version {
        ProtocolVersion::TLSv1_2 => Some("1.2".into()),
        ProtocolVersion::TLSv1_3 => Some("1.3".into()),
        _ => None,
    }
}

fn protocol_text(alpn: &[u8]) -> Option<Text> {
    match alpn {
        b"h2" => Some("h2".into()),
        b"http/1.1" => Some("http/1.1".into()),
        other => String::from_utf8(other.to_vec()).ok().map(Cow::Owned),
    }
}

fn sha256_upper_hex(bytes: &[u8]) -> String {
    digest(&SHA256, bytes)
        .as_ref()
        .iter()
        .fold(String::with_capacity(64), |mut hex, byte| {
            let _ = write!(hex, "{byte:02X}");
            hex
        })
}

/// A name as RFC 4514 writes it: most specific part first, `CN=ann,OU=sales,O=example`.
///
/// Not the certificate library's own text, which neither escapes nor reverses, so that
/// `O=x\, CN=admin` could pass for two parts.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let parts: Vec<_> = name.iter_rdn().collect();
    let mut text = String::new();
    for part in parts.into_iter().rev() {
        if !text.is_empty() {
            text.push(',');
        }
        for (index, attribute) in part.iter().enumerate() {
            if index > 0 {
                text.push('+');
            }
            let oid = attribute.attr_type();
            match short_name(&oid.to_id_string()) {
                Some(short) => text.push_str(short),
                None => text.push_str(&oid.to_id_string()),
            }
            text.push('=');
            match attribute.as_str() {
                Ok(value) => push_escaped(&mut text, value),
                Err(_) => {
                    text.push('#');
                    for byte in attribute.as_slice() {
                        let _ = write!(text, "{byte:02x}");
                    }
                }
            }
        }
    }
    text
}

/// RFC 4514's short names, and `emailAddress`, which everybody writes though it is not in there.
fn short_name(oid: &str) -> Option<&'static str> {
    Some(match oid {
        "2.5.4.3" => "CN",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "STREET",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "emailAddress",
        _ => return None,
    })
}

fn push_escaped(text: &mut String, value: &str) {
    let last = value.chars().count().saturating_sub(1);
    for (index, letter) in value.chars().enumerate() {
        let special = matches!(letter, '"' | '+' | ',' | ';' | '<' | '>' | '\\')
            || (letter == '#' && index == 0)
            || (letter == ' ' && (index == 0 || index == last));
        if special {
            text.push('\\');
            text.push(letter);
        } else if letter.is_control() {
            let mut bytes = [0; 4];
            for byte in letter.encode_utf8(&mut bytes).bytes() {
                let _ = write!(text, "\\{byte:02X}");
            }
        } else {
            text.push(letter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cipher_suites_have_their_iana_names() {
        assert_eq!(
            cipher_from_name("TLS13_AES_256_GCM_SHA384"),
            "TLS_AES_256_GCM_SHA384"
        );
        assert_eq!(
            cipher_from_name("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"
        );
    }

    #[test]
    fn names_are_escaped_and_most_specific_first() {
        use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, "Example, Inc.");
        name.push(DnType::OrganizationalUnitName, " #1;CN=admin ");
        name.push(DnType::CommonName, "ann\n\"a\"");
        name.push(DnType::CustomDnType(vec![2, 5, 4, 5]), "77");
        let mut parameters = CertificateParams::new(vec![]).unwrap();
        parameters.distinguished_name = name;
        let certificate = parameters
            .self_signed(&KeyPair::generate().unwrap())
            .unwrap();
        let (_, x509) = X509Certificate::from_der(certificate.der()).unwrap();
        assert_eq!(
            distinguished_name(x509.subject()),
            r#"2.5.4.5=77,CN=ann\0A\"a\",OU=\ #1\;CN=admin\ ,O=Example\, Inc."#
        );
    }

    #[test]
    fn a_certificate_is_named_by_its_sha256() {
        assert_eq!(
            sha256_upper_hex(b"abc"),
            "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD"
        );
    }
}
