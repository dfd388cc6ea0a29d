use expect_test::{expect, expect_file};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

fn to_json(record: &CallRecord) -> String {
    let mut out = Vec::new();
    record.write_json(&mut out, &Selection::all());
    String::from_utf8(out).expect("UTF-8")
}

fn example_of(value: &ValueKind) -> Value {
    match value {
        ValueKind::Text | ValueKind::FreeKeys => "a \"b\"\\\n\u{1b}[31m\u{9b}ü\u{2028}".into(),
        ValueKind::Integer => 200.into(),
        ValueKind::Boolean => true.into(),
        ValueKind::Id => "18446744073709551615".into(),
        ValueKind::Timestamp => "2026-11-22T14:24:43.000001Z".into(),
        ValueKind::Uuid => "019aabcd-0123-7456-89ab-cdef01234567".into(),
        ValueKind::OneOf(words) => (*words.last().expect("a word")).into(),
        ValueKind::TcpFlags => "FIN,PSH,ACK".into(),
        ValueKind::List(of) => vec![example_of(of), example_of(of)].into(),
        ValueKind::Object(members) => members
            .iter()
            .map(|(name, value)| ((*name).to_owned(), example_of(value)))
            .collect::<Map<_, _>>()
            .into(),
    }
}

/// A record in which every field is present.
fn full() -> Map<String, Value> {
    FIELDS
        .iter()
        .flat_map(|field| match field.value {
            ValueKind::FreeKeys => vec![
                (format!("{}.x-a", field.name), example_of(&field.value)),
                (format!("{}.x-b", field.name), example_of(&field.value)),
            ],
            _ => match field.name {
                // IP addresses are text with a form of its own.
                "client.address" | "network.peer.address" => {
                    vec![(field.name.to_owned(), "2001:db8::1".into())]
                }
                "network.local.address" => vec![(field.name.to_owned(), "192.0.2.1".into())],
                _ => vec![(field.name.to_owned(), example_of(&field.value))],
            },
        })
        .collect()
}

#[test]
fn every_field_is_read_and_written_as_the_same_json() {
    let full = Value::Object(full());
    let record: CallRecord = serde_json::from_value(full.clone()).expect("a record");
    let line = to_json(&record);
    assert!(
        line.chars().all(|c| !c.is_control() && c != '\u{2028}'),
        "{line}"
    );
    let written: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(written, full);
    let again: CallRecord = serde_json::from_str(&line).expect("a record");
    assert_eq!(again, record);
}

#[test]
fn fields_are_written_in_the_order_of_the_table_and_each_once() {
    let record: CallRecord = serde_json::from_value(Value::Object(full())).expect("a record");
    for (index, field) in FIELDS.iter().enumerate() {
        let mut out = Vec::new();
        record.write_json(&mut out, &Selection::of(&[field.name]).expect("its name"));
        let written: Map<String, Value> = serde_json::from_slice(&out).expect("JSON");
        let keys: Vec<_> = written
            .keys()
            .filter(|key| {
                !["timestamp", "log.record.uid", "schema.version", "kind"].contains(&key.as_str())
                    || *key == field.name
            })
            .collect();
        let expected = if field.value == ValueKind::FreeKeys {
            2
        } else {
            1
        };
        assert_eq!(keys.len(), expected, "{index} {}", field.name);
        assert!(keys[0].starts_with(field.name));
    }
}

#[test]
fn every_field_is_asked_for_and_cleared_by_its_place() {
    let full: CallRecord = serde_json::from_value(Value::Object(full())).expect("a record");
    for (index, field) in FIELDS.iter().enumerate() {
        let value = full.value(index);
        let fits = match (field.value, &value) {
            (ValueKind::Integer, Some(super::Value::Integer(200)))
            | (ValueKind::Boolean, Some(super::Value::Boolean(true))) => true,
            (ValueKind::List(_), Some(super::Value::List(list))) => list.len() == 2,
            (ValueKind::FreeKeys, None) => full.free_keys(index).len() == 2,
            (ValueKind::Integer | ValueKind::Boolean, _) => false,
            (_, Some(super::Value::Text(text))) => !text.is_empty(),
            _ => false,
        };
        assert!(fits, "{}: {value:?}", field.name);

        let mut cleared = full.clone();
        cleared.clear(index);
        let written: Map<String, Value> = serde_json::from_str(&to_json(&cleared)).expect("JSON");
        let key =
            |key: &String| *key == field.name || key.starts_with(&format!("{}.x-", field.name));
        let is_there = written.keys().any(key);
        let is_needed =
            ["timestamp", "log.record.uid", "schema.version", "kind"].contains(&field.name);
        assert_eq!(is_there, is_needed, "{}", field.name);
        let before: Map<String, Value> = serde_json::from_str(&to_json(&full)).expect("JSON");
        let lost = before
            .keys()
            .filter(|key| !written.contains_key(*key))
            .count();
        let keys = if field.value == ValueKind::FreeKeys {
            2
        } else {
            1
        };
        assert_eq!(lost, if is_needed { 0 } else { keys }, "{}", field.name);
    }
}

#[test]
fn keys_are_read_in_any_order() {
    let line = r#"{"upstream.tcp.mss":1,"details.b":"2","kind":"call","details.a":"1","url.path":"/","unknown":[1],"timestamp":"2026-11-22T14:24:43Z","log.record.uid":"019aabcd-0123-7456-89ab-cdef01234567"}"#;
    let record: CallRecord = serde_json::from_str(line).expect("a record");
    assert_eq!(record.upstream.tcp_mss, Some(1));
    assert_eq!(record.url_path.as_deref(), Some("/"));
    assert_eq!(
        record.details,
        [("b".into(), "2".into()), ("a".into(), "1".into())]
    );
}

#[test]
fn no_key_is_both_a_leaf_and_a_prefix_and_none_appears_twice() {
    for (index, field) in FIELDS.iter().enumerate() {
        for other in &FIELDS[index + 1..] {
            let below = |leaf: &Field, key: &Field| {
                key.name
                    .strip_prefix(leaf.name)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            assert!(
                !below(field, other) && !below(other, field),
                "{} and {}",
                field.name,
                other.name
            );
        }
    }
}

#[test]
fn an_empty_record_has_its_identity_and_nothing_else() {
    let uid = Uuid::from_u128(0x019a_abcd_0123_7456_89ab_cdef_0123_4567);
    let record = CallRecord::new(Kind::External, uid, Timestamp::from_unix_us(1));
    expect![[r#"{"timestamp":"1970-01-01T00:00:00.000001Z","log.record.uid":"019aabcd-0123-7456-89ab-cdef01234567","schema.version":"1.2","kind":"external"}"#]]
        .assert_eq(&to_json(&record));
}

#[test]
fn a_record_without_identity_is_refused_and_newer_keys_are_passed_over() {
    let record = |json: Value| serde_json::from_value::<CallRecord>(json);
    let mut known = json!({
        "kind": "call",
        "log.record.uid": "019aabcd-0123-7456-89ab-cdef01234567",
        "timestamp": "2026-11-22T14:24:43Z",
    });
    assert!(record(known.clone()).is_ok());
    known["gen_ai.usage.input_tokens"] = json!({"nested": [1, 2]});
    assert!(record(known.clone()).is_ok());
    known.as_object_mut().expect("object").remove("kind");
    expect!["missing field `kind`"]
        .assert_eq(&record(known.clone()).expect_err("no kind").to_string());
    known["kind"] = "dream".into();
    expect![[r#""dream" is none of call, connection, external, progress"#]]
        .assert_eq(&record(known).expect_err("bad kind").to_string());
}

#[test]
fn long_text_is_cut_between_characters_and_listed() {
    let mut record = CallRecord {
        url_path: Some("é".repeat(1025)),
        user_agent_original: Some("u".repeat(512)),
        response_flags: vec!["x".repeat(300).into(), "client_abort".into()],
        http_request_headers: vec![("x-a".into(), "h".repeat(1025)), ("x-b".into(), "h".into())],
        ..CallRecord::default()
    };
    record.enforce_limits();
    assert_eq!(record.url_path, Some("é".repeat(1024)));
    assert_eq!(record.user_agent_original, Some("u".repeat(512)));
    assert_eq!(record.response_flags[0].len(), 256);
    assert_eq!(record.http_request_headers[0].1.len(), 1024);
    assert_eq!(
        record.truncated,
        ["url.path", "response.flags", "http.request.header.x-a"]
    );
}

#[test]
fn free_keys_are_lower_case_without_dots_and_differ() {
    let details = ["A.b", "a_b", "a_b", "", "É.x", "ok"];
    let mut record = CallRecord {
        details: details.map(|key| (key.to_owned(), String::new())).to_vec(),
        ..CallRecord::default()
    };
    record.enforce_limits();
    let keys: Vec<_> = record.details.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["a_b", "a_b_2", "a_b_3", "_", "é_x", "ok"]);
}

#[test]
fn the_schema_is_the_one_in_the_repository() {
    let schema = serde_json::to_string_pretty(&json_schema()).expect("JSON") + "\n";
    expect_file!["../../record.schema.json"].assert_eq(&schema);
}

proptest! {
    #[test]
    fn any_text_is_written_as_valid_json(text in any::<String>(), key in any::<String>()) {
        let mut record = CallRecord {
            url_query: Some(text.clone()),
            details: vec![(key, text)],
            ..CallRecord::default()
        };
        record.enforce_limits();
        let line = to_json(&record);
        prop_assert!(line.chars().all(|c| !c.is_control()));
        let again: CallRecord = serde_json::from_str(&line).expect("valid JSON");
        prop_assert_eq!(again, record);
    }

    #[test]
    fn integers_are_written_whole(signed in any::<i64>(), unsigned in any::<u64>()) {
        let record = CallRecord {
            duration_us: Some(unsigned),
            timing_req_last_us: Some(signed),
            ..CallRecord::default()
        };
        let json: Value = serde_json::from_str(&to_json(&record)).expect("valid JSON");
        prop_assert_eq!(&json["duration_us"], &json!(unsigned));
        prop_assert_eq!(&json["timing.req_last_us"], &json!(signed));
    }
}
