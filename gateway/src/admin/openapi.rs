//! The API's description, OpenAPI 3.1, made from the table of endpoints and from the limits and
//! parameters that the handlers use. `docs/openapi.json` is the same text; a test compares them.

use axum::http::header;
use axum::response::{IntoResponse, Response};
use calltap_correlate::record::json_schema;
use calltap_policies::alert::{EXAMPLES_MAX, Severity};
use calltap_policies::detect::DETECTORS;
use serde_json::{Map, Value, json};

use super::status::SEVERITIES;
use super::{Endpoint, alerts, calls, denied, endpoints, filter, logging, stream};
use crate::alerts::{CHANGES_MAX, RESOLVED_MAX};
use crate::denials::DENIED_FOR_MAX;

/// What is said about one endpoint.
pub(super) struct Operation {
    id: &'static str,
    summary: &'static str,
    description: String,
    parameters: Vec<Value>,
    body: Option<Value>,
    answers: Vec<(u16, Answer)>,
}

enum Answer {
    Json(&'static str, Value),
    Text(&'static str, &'static str),
    /// `{"error": "why"}`
    Refusal(&'static str),
    /// No body.
    Nothing(&'static str),
}

/// `GET /api/v1/openapi.json`
pub(super) async fn document_text() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text()).into_response()
}

/// The document, as it is committed.
pub(super) fn text() -> String {
    format!("{:#}\n", document())
}

fn document() -> Value {
    let mut paths = Map::new();
    for endpoint in endpoints() {
        let method = endpoint.method.as_str().to_ascii_lowercase();
        let path = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        path[method] = operation(endpoint);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "calltap admin API",
            "version": "1.0",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "What a running calltap knows, and the way to put entries into its log. Listens on 127.0.0.1:9901 unless configured otherwise; where other machines can reach it, every request needs the bearer token, /healthz and /readyz excepted. The Host header must be one of admin.allowed_hosts or the listener's address; requests that a browser sends for pages of other origins are refused. Every refusal is {\"error\": \"why\"}.",
        },
        "servers": [{"url": "http://127.0.0.1:9901"}],
        "security": [{}, {"bearer": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Error": {
                    "type": "object",
                    "properties": {"error": {"type": "string"}},
                    "required": ["error"],
                },
                "Record": json_schema(),
                "Alert": alert_schema(),
            },
        },
    })
}

fn operation(endpoint: &Endpoint) -> Value {
    let Operation {
        id,
        summary,
        description,
        mut parameters,
        body,
        mut answers,
    } = (endpoint.describe)();
    for name in endpoint
        .path
        .split('/')
        .filter_map(|part| part.strip_prefix('{'))
    {
        parameters.push(json!({
            "name": name.trim_end_matches('}'),
            "in": "path",
            "required": true,
            "schema": {"type": "string", "format": "uuid"},
        }));
    }
    if !endpoint.open {
        answers.push((
            401,
            Answer::Refusal("The bearer token is missing or wrong."),
        ));
        answers.push((
            403,
            Answer::Refusal("The Host or the Origin is not allowed."),
        ));
    }
    answers.sort_by_key(|(status, _)| *status);
    let answers: Map<String, Value> = answers
        .into_iter()
        .map(|(status, answer)| (status.to_string(), answer.describe()))
        .collect();
    let mut out = json!({
        "operationId": id,
        "summary": summary,
        "description": description,
        "responses": answers,
    });
    if endpoint.open {
        out["security"] = json!([]);
    }
    if !parameters.is_empty() {
        out["parameters"] = parameters.into();
    }
    if let Some(schema) = body {
        out["requestBody"] = json!({
            "required": true,
            "content": {"application/json": {"schema": schema}},
        });
    }
    out
}

impl Answer {
    fn describe(self) -> Value {
        let (description, media, schema) = match self {
            Answer::Json(description, schema) => (description, "application/json", schema),
            Answer::Text(description, media) => (description, media, json!({"type": "string"})),
            Answer::Refusal(description) => (description, "application/json", reference("Error")),
            Answer::Nothing(description) => return json!({"description": description}),
        };
        json!({"description": description, "content": {media: {"schema": schema}}})
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn filters(parameters: &[filter::Parameter]) -> Vec<Value> {
    parameters
        .iter()
        .map(|parameter| {
            json!({
                "name": parameter.name,
                "in": "query",
                "description": parameter.description,
                "example": parameter.example,
                "schema": {"type": "string"},
            })
        })
        .collect()
}

fn limit(description: &str) -> Value {
    json!({
        "name": "limit",
        "in": "query",
        "description": description,
        "schema": {"type": "integer", "minimum": 1, "maximum": calls::PAGE_MAX, "default": calls::PAGE},
    })
}

/// docs/alerts.md says the same to people.
fn alert_schema() -> Value {
    let names: Vec<&str> = DETECTORS.iter().map(|info| info.name).collect();
    let time = json!({"type": "string", "format": "date-time"});
    let us = json!({"type": "integer", "minimum": 0});
    json!({
        "type": "object",
        "required": [
            "id", "detector", "state", "severity", "subject", "summary", "meaning", "since", "opened",
            "seen", "score", "tail", "observed", "usual", "signals", "examples", "blame", "time",
        ],
        "properties": {
            "id": {"type": "string", "format": "uuid"},
            "detector": {"enum": names},
            "state": {"enum": ["open", "resolved"]},
            "severity": {"enum": SEVERITIES.map(Severity::word)},
            "subject": {
                "type": "object",
                "description": "Whom or what it is about.",
                "required": ["kind", "name"],
                "properties": {
                    "kind": {"enum": ["everyone", "route", "client", "consumer", "listener", "network"]},
                    "name": {"type": "string"},
                },
            },
            "summary": {"type": "string", "description": "What happened, with its numbers."},
            "meaning": {"type": "string", "description": "What such an alert means."},
            "since": time,
            "opened": time,
            "seen": time,
            "resolved": time,
            "score": {"type": "number", "description": "How unusual it is: the negative decimal logarithm of tail."},
            "tail": {"type": "number", "description": "How likely so much is in usual traffic, 0 to 1."},
            "observed": {"type": "number", "description": "What was measured then."},
            "usual": {"type": "number", "description": "What is usual."},
            "signals": {"type": "integer", "description": "How often it was seen."},
            "examples": {
                "type": "array",
                "description": "Calls that show it, by log.record.uid.",
                "maxItems": EXAMPLES_MAX,
                "items": {"type": "string", "format": "uuid"},
            },
            "blame": {"enum": ["client", "network", "application", "gateway", "unknown"]},
            "time": {
                "type": "object",
                "description": "Where the time of calls that show it went.",
                "properties": {"network_us": us, "application_us": us, "gateway_us": us},
            },
            "source": {"type": "string", "description": "The client, where it completed a handshake; of IPv6 the /64's first address."},
        },
    })
}

pub(super) fn status() -> Operation {
    let stages = json!({
        "type": "object",
        "description": "By sink, then by kind of record. accepted = open + settling + queued + written + the sum of dropped, in every answer.",
        "additionalProperties": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "properties": {
                    "accepted": {"type": "integer", "description": "Ever begun."},
                    "open": {"type": "integer", "description": "The gateway is working on the call."},
                    "settling": {"type": "integer", "description": "The call is done, its last bytes are not acknowledged yet."},
                    "queued": {"type": "integer", "description": "Waiting for the sink."},
                    "written": {"type": "integer", "description": "Written whole."},
                    "dropped": {
                        "type": "object",
                        "description": "By reason; those that never occurred are left out.",
                        "additionalProperties": {"type": "integer"},
                    },
                },
            },
        },
    });
    let schema = json!({
        "type": "object",
        "properties": {
            "service": {"const": "calltap"},
            "version": {"type": "string"},
            "instance": {"type": "string", "description": "service.instance.id of the records."},
            "uptime_s": {"type": "integer"},
            "logging": {
                "type": "object",
                "properties": {
                    "on": {"type": "boolean", "description": "Whether records are written."},
                    "sink": {"type": "string"},
                    "target": {"type": "string", "description": "The file, - for standard output, or none."},
                    "failing": {"type": "string", "description": "Why the last write failed, while none succeeded since."},
                    "errors": {"type": "integer", "description": "Tries to write that failed."},
                    "rotations": {"type": "integer"},
                },
            },
            "tap": {
                "type": "object",
                "properties": {
                    "mode": {"enum": ["ebpf", "tcp_info", "off"]},
                    "reason": {"type": "string", "description": "Why it is not ebpf."},
                    "ledgers": {"type": "integer", "description": "Sockets that can be watched at a time."},
                    "ledgers_used": {"type": "integer"},
                    "memory_bytes": {"type": "integer"},
                    "drops": {"type": "object", "additionalProperties": {"type": "integer"}},
                },
            },
            "sockets": {
                "type": "object",
                "properties": {"client_connections": {"type": "integer"}},
            },
            "upstreams": {
                "type": "array",
                "description": "The groups with the state of their endpoints.",
                "items": {"type": "object"},
            },
            "rules": {
                "type": "array",
                "description": "The rules in order, with what they did since they were read.",
                "items": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string"},
                        "action": {"enum": ["allow", "deny", "limit", "tag"]},
                        "dry_run": {"type": "boolean"},
                        "applied": {"type": "integer", "description": "Calls it applied to, or would have."},
                        "unanswered": {"type": "integer", "description": "Calls of which it could not tell."},
                    },
                },
            },
            "record_rules": {
                "type": "array",
                "description": "The rules about records in order, with what they did since they were read.",
                "items": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string"},
                        "action": {"enum": ["keep", "drop", "sample", "redact"]},
                        "dry_run": {"type": "boolean"},
                        "applied": {"type": "integer", "description": "Records it applied to, or would have."},
                        "left_out": {"type": "integer", "description": "Those among them that it dropped or left out, or would have."},
                        "unanswered": {"type": "integer", "description": "Records of which it could not tell."},
                    },
                },
            },
            "denied": {
                "type": "object",
                "description": "Of denied addresses; see /api/v1/denied.",
                "properties": {
                    "in_kernel": {"type": "boolean", "description": "The kernel drops their packets; otherwise their connections are reset when they are accepted."},
                    "networks": {"type": "integer"},
                    "packets": {"type": "integer", "description": "Dropped."},
                    "bytes": {"type": "integer", "description": "Dropped."},
                    "connections_closed": {"type": "integer", "description": "Open when their client was denied."},
                    "connections_refused": {"type": "integer", "description": "Accepted and reset."},
                },
            },
            "alerts": {
                "type": "object",
                "properties": {
                    "open": {
                        "type": "object",
                        "description": "Alerts that go on, by severity.",
                        "additionalProperties": {"type": "integer"},
                    },
                    "untold": {"type": "integer", "description": "Changes that no destination was told of, because too many were waiting."},
                    "sources": {
                        "type": "object",
                        "properties": {
                            "denied": {"type": "integer", "description": "Sources that alerts denied."},
                            "spared": {"type": "integer", "description": "Sources that were to be denied, and may not be."},
                        },
                    },
                    "destinations": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {
                                "name": {"type": "string"},
                                "waiting": {"type": "integer", "description": "Messages that wait on disk."},
                                "waiting_bytes": {"type": "integer"},
                                "delivered": {"type": "integer"},
                                "retried": {"type": "integer", "description": "Tries that failed and were or will be made again."},
                                "refused": {"type": "integer", "description": "Messages that it will never take."},
                                "dropped": {"type": "integer", "description": "Messages that could not be kept until it took them."},
                                "failing": {"type": "string", "description": "Why the last try failed, while none succeeded since."},
                            },
                        },
                    },
                },
            },
            "records": stages,
            "recent": {
                "type": "object",
                "properties": {
                    "records": {"type": "integer", "description": "Records kept in memory."},
                    "max": {"type": "integer"},
                },
            },
            "streams": {
                "type": "object",
                "properties": {
                    "open": {"type": "integer"},
                    "dropped": {"type": "integer", "description": "Records that slow readers were not shown."},
                },
            },
        },
    });
    Operation {
        id: "getStatus",
        summary: "How calltap is doing",
        description:
            "Whether logging is on, how sockets are watched and why, and where every record is."
                .into(),
        parameters: vec![],
        body: None,
        answers: vec![(200, Answer::Json("The status.", schema))],
    }
}

pub(super) fn logging() -> Operation {
    let body = json!({
        "type": "object",
        "required": ["message"],
        "additionalProperties": false,
        "properties": {
            "message": {"type": "string", "minLength": 1, "maxLength": logging::MESSAGE_MAX},
            "details": {
                "type": "object",
                "maxProperties": logging::KEYS_MAX,
                "propertyNames": {"minLength": 1, "maxLength": logging::KEY_MAX},
                "additionalProperties": {
                    "type": ["string", "number", "boolean"],
                    "maxLength": logging::VALUE_MAX,
                },
            },
        },
        "example": {
            "message": "TCP header logged successfully.",
            "details": {"src_ip": "192.168.1.5", "dst_ip": "192.168.1.10", "port": "8080"},
        },
    });
    let answer = json!({
        "type": "object",
        "required": ["uid"],
        "properties": {
            "uid": {"type": "string", "format": "uuid", "description": "log.record.uid of the record."},
            "attached_to": {"type": "string", "description": "The one call (its uid) or connection (its cookie) that fits."},
            "matches": {"type": "integer", "description": "How many fit, where it was attached to none."},
        },
    });
    Operation {
        id: "postLogging",
        summary: "Put an entry into the log",
        description: format!(
            "The entry becomes a record of kind `external`. It is attached to a call if the details `uid` or `request_id` name exactly one recent call, else to a connection if `cookie` or all of `src_ip`, `src_port` (the client's end), `dst_ip` and `dst_port` or `port` (the gateway's end) name exactly one that is open or carried a recent call; everything said must fit. Otherwise the number of those that fit is recorded. Keys are lower-cased, dots become underscores. The body may have {} bytes.",
            logging::BODY_MAX
        ),
        parameters: vec![],
        body: Some(body),
        answers: vec![
            (
                202,
                Answer::Json("Accepted; the record is on its way.", answer),
            ),
            (400, Answer::Refusal("The body is no such entry.")),
            (408, Answer::Refusal("The body did not arrive in time.")),
            (413, Answer::Refusal("The body is too long.")),
            (415, Answer::Refusal("The body is not declared as JSON.")),
            (503, Answer::Refusal("Too many records are waiting.")),
        ],
    }
}

pub(super) fn calls() -> Operation {
    let mut parameters = filters(&filter::PARAMETERS);
    parameters.push(limit("Records on the page at most."));
    parameters.push(json!({
        "name": "before",
        "in": "query",
        "description": "Only what left before the record of this uid: `next` of the page before.",
        "schema": {"type": "string", "format": "uuid"},
    }));
    let page = json!({
        "type": "object",
        "required": ["calls"],
        "properties": {
            "calls": {"type": "array", "items": reference("Record")},
            "next": {"type": "string", "format": "uuid", "description": "There is more: pass it as `before`."},
        },
    });
    Operation {
        id: "listCalls",
        summary: "The records that left last, newest first",
        description: "Of those kept in memory (admin.recent_max); all of them are in the log."
            .into(),
        parameters,
        body: None,
        answers: vec![
            (200, Answer::Json("A page.", page)),
            (400, Answer::Refusal("A parameter is unknown or wrong.")),
        ],
    }
}

pub(super) fn call() -> Operation {
    Operation {
        id: "getCall",
        summary: "One record by its uid",
        description: "Of those kept in memory; older ones are in the log.".into(),
        parameters: vec![],
        body: None,
        answers: vec![
            (200, Answer::Json("The record.", reference("Record"))),
            (400, Answer::Refusal("That is no uid.")),
            (404, Answer::Refusal("No recent record has this uid.")),
        ],
    }
}

pub(super) fn stream() -> Operation {
    let mut parameters = filters(&filter::PARAMETERS);
    parameters.push(json!({
        "name": "Last-Event-ID",
        "in": "header",
        "description": "The uid of the last record seen; the stream continues after it if it is still kept.",
        "schema": {"type": "string", "format": "uuid"},
    }));
    Operation {
        id: "streamCalls",
        summary: "Records as they come, as server-sent events",
        description: format!(
            "Each event's data is one record, its id the record's uid. An event `dropped` with {{\"dropped\": n}} says that n records were not shown because the reader was slow. At most {} streams at a time.",
            stream::STREAMS_MAX
        ),
        parameters,
        body: None,
        answers: vec![
            (
                200,
                Answer::Text(
                    "The stream; it does not end by itself.",
                    "text/event-stream",
                ),
            ),
            (400, Answer::Refusal("A parameter is unknown or wrong.")),
            (503, Answer::Refusal("Too many streams are open.")),
        ],
    }
}

pub(super) fn alerts() -> Operation {
    let mut parameters = filters(&alerts::PARAMETERS);
    parameters.push(limit("Alerts at most."));
    let page = json!({
        "type": "object",
        "required": ["alerts"],
        "properties": {"alerts": {"type": "array", "items": reference("Alert")}},
    });
    Operation {
        id: "listAlerts",
        summary: "What is unusual, or was a short time ago",
        description: format!(
            "Every alert that is open, and the last {RESOLVED_MAX} that were resolved, as they were at their last change; the one that changed last comes first."
        ),
        parameters,
        body: None,
        answers: vec![
            (200, Answer::Json("The alerts.", page)),
            (400, Answer::Refusal("A parameter is unknown or wrong.")),
        ],
    }
}

pub(super) fn alert() -> Operation {
    Operation {
        id: "getAlert",
        summary: "One alert by its id",
        description: "As it was at its last change. Its examples are at /api/v1/calls/{uid} while those are kept.".into(),
        parameters: vec![],
        body: None,
        answers: vec![
            (200, Answer::Json("The alert.", reference("Alert"))),
            (400, Answer::Refusal("That is no id.")),
            (404, Answer::Refusal("No alert that is kept has this id.")),
        ],
    }
}

pub(super) fn alert_stream() -> Operation {
    let mut parameters = filters(&alerts::PARAMETERS);
    parameters.push(json!({
        "name": "Last-Event-ID",
        "in": "header",
        "description": "The id of the last event seen; the stream continues after it if it is still kept.",
        "schema": {"type": "string"},
    }));
    Operation {
        id: "streamAlerts",
        summary: "Changes of alerts as they come, as server-sent events",
        description: format!(
            "Each event is `opened`, `updated` or `resolved`, its data the alert. The last {CHANGES_MAX} are kept for readers that come back or are slow; an event `dropped` with {{\"dropped\": n}} says that n were not shown. At most {} streams at a time, those of calls among them.",
            stream::STREAMS_MAX
        ),
        parameters,
        body: None,
        answers: vec![
            (
                200,
                Answer::Text(
                    "The stream; it does not end by itself.",
                    "text/event-stream",
                ),
            ),
            (400, Answer::Refusal("A parameter is unknown or wrong.")),
            (503, Answer::Refusal("Too many streams are open.")),
        ],
    }
}

/// A denial as [`denied::list`](super::denied::list) tells it.
fn denial() -> Value {
    json!({
        "type": "object",
        "required": ["network", "list", "packets", "bytes"],
        "properties": {
            "network": {"type": "string", "examples": ["203.0.113.0/24"]},
            "list": {"type": "string", "description": "Where it stands: the name of a list, or added, for those made here."},
            "until": {"type": "string", "format": "date-time", "description": "Absent: it does not end."},
            "why": {"type": "string", "description": "As said when it was added."},
            "packets": {"type": "integer", "description": "Dropped by the kernel since it is denied."},
            "bytes": {"type": "integer", "description": "Dropped by the kernel since it is denied."},
        },
    })
}

pub(super) fn denied() -> Operation {
    let never = json!({
        "type": "object",
        "properties": {"network": {"type": "string"}, "why": {"type": "string"}},
    });
    let schema = json!({
        "type": "object",
        "properties": {
            "in_kernel": {"type": "boolean", "description": "The kernel drops packets; otherwise connections are reset when they are accepted."},
            "networks": {"type": "integer", "description": "Denied networks."},
            "networks_max": {"type": "integer", "description": "policies.deny_max"},
            "lists": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"name": {"type": "string"}, "entries": {"type": "integer"}},
                },
            },
            "never": {"type": "array", "description": "Who may never be denied.", "items": never},
            "exempted": {"type": "array", "description": "What entries do not do because of that, the first of it.", "items": {"type": "string"}},
            "exempted_count": {"type": "integer", "description": "How many such entries there are."},
            "denied": {"type": "array", "items": denial()},
        },
    });
    Operation {
        id: "listDenied",
        summary: "Who is denied, those that try hardest first",
        description: "The networks whose packets are dropped, or whose connections are reset."
            .into(),
        parameters: vec![
            json!({
                "name": "address",
                "in": "query",
                "description": "Only what denies this address.",
                "schema": {"type": "string"},
            }),
            json!({
                "name": "limit",
                "in": "query",
                "description": "Networks on the page at most.",
                "schema": {"type": "integer", "minimum": 1, "maximum": calls::PAGE_MAX, "default": calls::PAGE},
            }),
        ],
        body: None,
        answers: vec![
            (200, Answer::Json("They.", schema)),
            (400, Answer::Refusal("A parameter is unknown or wrong.")),
        ],
    }
}

pub(super) fn deny() -> Operation {
    let body = json!({
        "type": "object",
        "required": ["network", "for_s"],
        "additionalProperties": false,
        "properties": {
            "network": {"type": "string", "description": "A network or one address.", "examples": ["203.0.113.7", "2001:db8::/64"]},
            "for_s": {"type": "integer", "minimum": 1, "maximum": DENIED_FOR_MAX.as_secs(), "description": "How long, seconds."},
            "why": {"type": "string", "maxLength": denied::WHY_MAX},
        },
    });
    Operation {
        id: "deny",
        summary: "Deny a network for a time",
        description: "From now on; its open connections are reset. A restart forgets it, a reload does not. Denied again, it has the new end.".into(),
        parameters: vec![],
        body: Some(body),
        answers: vec![
            (201, Answer::Json("It is denied.", denial())),
            (400, Answer::Refusal("The body is no such thing.")),
            (408, Answer::Refusal("The body did not arrive in time.")),
            (409, Answer::Refusal("It may never be denied, or stands in a list.")),
            (413, Answer::Refusal("The body is too long.")),
            (415, Answer::Refusal("The body is not declared as JSON.")),
            (503, Answer::Refusal("There is no room for it.")),
        ],
    }
}

pub(super) fn allow() -> Operation {
    Operation {
        id: "allow",
        summary: "Deny a network no longer",
        description: "Only what was denied here; what stands in a list ends with a reload.".into(),
        parameters: vec![json!({
            "name": "network",
            "in": "query",
            "required": true,
            "description": "Exactly as it is denied.",
            "schema": {"type": "string"},
            "example": "203.0.113.0/24",
        })],
        body: None,
        answers: vec![
            (204, Answer::Nothing("It is denied no longer.")),
            (
                400,
                Answer::Refusal("A parameter is unknown, missing or wrong."),
            ),
            (404, Answer::Refusal("Exactly that is not denied.")),
            (409, Answer::Refusal("It stands in a list.")),
        ],
    }
}

pub(super) fn openapi() -> Operation {
    Operation {
        id: "getOpenapi",
        summary: "This document",
        description: "Made from the handlers.".into(),
        parameters: vec![],
        body: None,
        answers: vec![(200, Answer::Json("OpenAPI 3.1.", json!({"type": "object"})))],
    }
}

pub(super) fn metrics() -> Operation {
    Operation {
        id: "getMetrics",
        summary: "Numbers for Prometheus",
        description: "Text format 0.0.4.".into(),
        parameters: vec![],
        body: None,
        answers: vec![(200, Answer::Text("The metrics.", "text/plain"))],
    }
}

pub(super) fn healthz() -> Operation {
    Operation {
        id: "getHealth",
        summary: "Whether the process answers",
        description: "Open to all.".into(),
        parameters: vec![],
        body: None,
        answers: vec![(200, Answer::Text("It does.", "text/plain"))],
    }
}

pub(super) fn readyz() -> Operation {
    Operation {
        id: "getReadiness",
        summary: "Whether calls are welcome",
        description:
            "Open to all. Not before the listeners accept, and no more while calltap drains.".into(),
        parameters: vec![],
        body: None,
        answers: vec![
            (200, Answer::Text("They are.", "text/plain")),
            (503, Answer::Refusal("Not now, and why.")),
        ],
    }
}
