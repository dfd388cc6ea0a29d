//! Who calls, by configuration: the first source that has a value names the consumer.
//!
//! A name is what the caller says it is. Whether that is true is for the policies to judge.

use calltap_correlate::exchange::{Consumer, TlsFacts};
use percent_encoding::{CONTROLS, percent_decode_str, utf8_percent_encode};
use pingora::http::RequestHeader;

use crate::config::{ConsumerConfig, ConsumerSource};

/// A name is cut at this length, characters.
pub(crate) const NAME_CHARS_MAX: usize = 256;

/// Who makes this call. `query` is the target's query, without its `?`.
pub(crate) fn of(
    config: &ConsumerConfig,
    head: &RequestHeader,
    query: Option<&str>,
    tls: Option<&TlsFacts>,
) -> Consumer {
    let first = |sources: &[ConsumerSource]| {
        sources
            .iter()
            .find_map(|source| value(source, head, query, tls))
    };
    Consumer {
        client_id: first(&config.client_id),
        app: first(&config.app),
        org: first(&config.org),
    }
}

fn value(
    source: &ConsumerSource,
    head: &RequestHeader,
    query: Option<&str>,
    tls: Option<&TlsFacts>,
) -> Option<String> {
    let text = match source {
        ConsumerSource::Header(name) => {
            String::from_utf8_lossy(head.headers.get(name)?.as_bytes()).into_owned()
        }
        ConsumerSource::Query(name) => parameter(query?, name)?,
        ConsumerSource::MtlsSubject => tls?.client_subject.clone()?,
        ConsumerSource::MtlsIssuer => tls?.client_issuer.clone()?,
        ConsumerSource::MtlsSha256 => tls?.client_sha256.clone()?,
    };
    let mut name = String::new();
    for char in text.trim().chars().take(NAME_CHARS_MAX) {
        match char.is_control() {
            // As in other texts of a record: a terminal that shows one must not obey it.
            true => name.extend(utf8_percent_encode(char.encode_utf8(&mut [0; 4]), CONTROLS)),
            false => name.push(char),
        }
    }
    (!name.is_empty()).then_some(name)
}

/// The first parameter of this name, decoded.
fn parameter(query: &str, name: &str) -> Option<String> {
    let decoded = |text: &str| {
        percent_decode_str(&text.replace('+', " "))
            .decode_utf8_lossy()
            .into_owned()
    };
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| decoded(key) == name)
        .map(|(_, value)| decoded(value))
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::super::tests::head;
    use super::*;

    fn config() -> ConsumerConfig {
        ConsumerConfig {
            client_id: vec![
                ConsumerSource::Header(HeaderName::from_static("x-ibm-client-id")),
                ConsumerSource::Query("client_id".to_owned()),
                ConsumerSource::MtlsSubject,
            ],
            app: vec![ConsumerSource::MtlsSha256],
            org: vec![],
        }
    }

    fn client_id(sent: &[&str], query: Option<&str>, subject: Option<&str>) -> Option<String> {
        let tls = TlsFacts {
            client_subject: subject.map(str::to_owned),
            ..TlsFacts::default()
        };
        of(&config(), &head(sent), query, Some(&tls)).client_id
    }

    #[test]
    fn the_first_source_with_a_value_counts() {
        let check = |sent: &[&str], query, subject, expected: Option<&str>| {
            assert_eq!(client_id(sent, query, subject).as_deref(), expected);
        };
        check(
            &["X-IBM-Client-Id: h"],
            Some("client_id=q"),
            Some("CN=s"),
            Some("h"),
        );
        check(
            &["X-IBM-Client-Id:  "],
            Some("client_id=q"),
            Some("CN=s"),
            Some("q"),
        );
        check(
            &[],
            Some("a=1&client%5Fid=two+words%21&client_id=z"),
            None,
            Some("two words!"),
        );
        check(&[], Some("client_id="), Some("CN=s"), Some("CN=s"));
        check(&[], None, None, None);
    }

    #[test]
    fn names_command_no_terminal() {
        let name = client_id(&[], Some("client_id=%1b%5b31mX%c2%9by"), None);
        assert_eq!(name.as_deref(), Some("%1B[31mX%C2%9By"));
    }

    #[test]
    fn names_are_bounded() {
        let long = format!("X-IBM-Client-Id: {}", "ä".repeat(1000));
        assert_eq!(
            client_id(&[&long], None, None).unwrap().chars().count(),
            NAME_CHARS_MAX
        );
    }

    #[test]
    fn without_tls_there_is_no_certificate_to_name_anybody() {
        let consumer = of(&config(), &head(&[]), None, None);
        assert_eq!(
            (consumer.client_id, consumer.app, consumer.org),
            (None, None, None)
        );
    }
}
