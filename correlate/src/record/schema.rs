//! The record's JSON Schema, made from the table of fields.

use serde_json::{Map, Value, json};

use super::{FIELDS, SCHEMA_VERSION, ValueKind};

/// A JSON Schema (draft 2020-12) of one record.
pub fn json_schema() -> Value {
    let mut properties = Map::new();
    let mut patterns = Map::new();
    for field in FIELDS {
        let mut schema = schema_of(&field.value);
        if field.value == ValueKind::Text
            && let Some(max) = field.max_bytes
        {
            // A limit in bytes is one in characters too, if a loose one.
            schema.insert("maxLength".into(), max.into());
        }
        schema.insert("description".into(), field.description.into());
        if field.value == ValueKind::FreeKeys {
            let prefix = field.name.replace('.', "\\.");
            patterns.insert(format!("^{prefix}\\.[^.]+$"), schema.into());
        } else {
            properties.insert(field.name.into(), schema.into());
        }
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": format!("calltap record {SCHEMA_VERSION}"),
        "type": "object",
        "properties": properties,
        "patternProperties": patterns,
        "required": ["timestamp", "log.record.uid", "schema.version", "kind"],
        "additionalProperties": false,
    })
}

fn schema_of(value: &ValueKind) -> Map<String, Value> {
    let schema = match value {
        ValueKind::Text | ValueKind::TcpFlags | ValueKind::FreeKeys => json!({"type": "string"}),
        ValueKind::Integer => json!({"type": "integer"}),
        ValueKind::Boolean => json!({"type": "boolean"}),
        ValueKind::Id => json!({"type": "string", "pattern": "^[1-9][0-9]*$"}),
        ValueKind::Timestamp => json!({"type": "string", "format": "date-time"}),
        ValueKind::Uuid => json!({"type": "string", "format": "uuid"}),
        ValueKind::OneOf(words) => json!({"type": "string", "enum": words}),
        ValueKind::List(of) => json!({"type": "array", "items": schema_of(of)}),
        ValueKind::Object(members) => {
            let properties: Map<String, Value> = members
                .iter()
                .map(|(name, value)| ((*name).to_owned(), schema_of(value).into()))
                .collect();
            json!({"type": "object", "properties": properties})
        }
    };
    match schema {
        Value::Object(schema) => schema,
        _ => unreachable!("every arm is an object"),
    }
}
