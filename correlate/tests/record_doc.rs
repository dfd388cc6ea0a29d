//! Holds `docs/record.md` against the schema: the tables of fields are generated, so that the page
//! cannot drift from what is written. `UPDATE_EXPECT=1 cargo test -p calltap-correlate` writes them
//! anew after a change.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use calltap_correlate::record::{FIELDS, Field, Kind, ValueKind};
use expect_test::expect_file;

/// Everything after this line is generated.
const MARK: &str =
    "<!-- From here on generated from the schema; see correlate/tests/record_doc.rs. -->\n";

#[test]
fn the_page_describes_every_field() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/record.md");
    let page = fs::read_to_string(&path).expect("docs/record.md can be read");
    let (prose, _) = page
        .split_once(MARK)
        .expect("docs/record.md says where its generated part begins");
    let expected = format!("{prose}{MARK}{}", tables());
    expect_file![path].assert_eq(&expected);
}

/// One table for each heading, in the order in which fields are written. The two sockets have the
/// same fields and share one.
fn tables() -> String {
    let mut headings: Vec<&str> = Vec::new();
    for field in FIELDS {
        if !headings.contains(&field.section) {
            headings.push(field.section);
        }
    }
    let mut out = String::new();
    for heading in headings {
        let fields = || FIELDS.iter().filter(|field| field.section == heading);
        if fields().all(|field| twin(field).is_some_and(|twin| twin.section != heading))
            && fields().all(|field| field.name.starts_with("upstream."))
        {
            continue;
        }
        let shared = fields().all(|field| twin(field).is_some_and(|twin| twin.section != heading));
        if shared {
            out.push_str("\n## The sockets\n\n`S` is `client` or `upstream`: the connection on either side.\n");
        } else {
            writeln!(out, "\n## {heading}").expect("a string takes everything");
        }
        out.push_str("\n| field | value | in | meaning |\n|---|---|---|---|\n");
        for field in fields() {
            let name = if shared {
                field.name.replacen("client.", "S.", 1)
            } else {
                field.name.to_owned()
            };
            let name = match field.value {
                ValueKind::FreeKeys => format!("{name}.<key>"),
                _ => name,
            };
            writeln!(
                out,
                "| `{name}` | {} | {} | {} |",
                value(&field.value),
                kinds(field.kinds),
                field.description.replace('|', "\\|"),
            )
            .expect("a string takes everything");
        }
    }
    out
}

/// The same field of the other socket.
fn twin(field: &Field) -> Option<&'static Field> {
    let other = match field.name.split_once('.')? {
        ("client", rest) => format!("upstream.{rest}"),
        ("upstream", rest) => format!("client.{rest}"),
        _ => return None,
    };
    FIELDS
        .iter()
        .find(|candidate| candidate.name == other && candidate.description == field.description)
}

fn value(kind: &ValueKind) -> String {
    match kind {
        ValueKind::Text => "text".to_owned(),
        ValueKind::Integer => "integer".to_owned(),
        ValueKind::Boolean => "boolean".to_owned(),
        ValueKind::Id => "id, as text".to_owned(),
        ValueKind::Timestamp => "RFC 3339, UTC, µs".to_owned(),
        ValueKind::Uuid => "UUID".to_owned(),
        ValueKind::OneOf(words) => words
            .iter()
            .map(|word| format!("`{word}`"))
            .collect::<Vec<_>>()
            .join(", "),
        ValueKind::TcpFlags => "flags: `PSH,ACK`".to_owned(),
        ValueKind::List(of) => format!("list of {}", value(of)),
        ValueKind::Object(members) => members
            .iter()
            .map(|(name, _)| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", "),
        ValueKind::FreeKeys => "text".to_owned(),
    }
}

fn kinds(kinds: &[Kind]) -> String {
    if kinds.len() == 4 {
        return "all".to_owned();
    }
    let of_calls = kinds.contains(&Kind::Call);
    kinds
        .iter()
        .filter_map(|kind| match kind {
            Kind::Call => Some("call"),
            Kind::Connection => Some("connection"),
            Kind::External => Some("external"),
            // Has what the call will have.
            Kind::Progress if of_calls => None,
            Kind::Progress => Some("progress"),
        })
        .collect::<Vec<_>>()
        .join(", ")
}
