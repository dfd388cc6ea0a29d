//! The alerts: those that are open or were a short time ago, one of them, or their changes as they come.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use calltap_policies::alert::{self, Severity};
use calltap_policies::detect::{DETECTORS, Detector};
use uuid::Uuid;

use super::calls::{PAGE, json_text, pairs, parse_limit};
use super::filter::Parameter;
use super::status::SEVERITIES;
use super::{Api, Refusal, stream};
use crate::alerts::Told;

/// All that is set must hold.
#[derive(Clone, Debug, Default)]
struct Filter {
    state: Option<alert::State>,
    /// At least as bad as this.
    severity: Option<Severity>,
    detector: Option<Detector>,
    /// Its name, or its kind.
    subject: Option<String>,
}

/// What [`Filter::set`] understands.
pub(super) const PARAMETERS: [Parameter; 4] = [
    Parameter {
        name: "state",
        example: "open",
        description: "open or resolved.",
    },
    Parameter {
        name: "severity",
        example: "warning",
        description: "At least as bad as this: info, warning or critical.",
    },
    Parameter {
        name: "detector",
        example: "auth_failures",
        description: "The detector's name.",
    },
    Parameter {
        name: "subject",
        example: "192.0.2.7",
        description: "Whom or what it is about: the subject's name, or a kind of subjects.",
    },
];

impl Filter {
    fn set(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        let wrong = |why: String| Err(Refusal::bad_request(format!("{name}: {why}")));
        match name {
            "state" => match [alert::State::Open, alert::State::Resolved]
                .into_iter()
                .find(|state| state.word() == value)
            {
                Some(state) => self.state = Some(state),
                None => return wrong(format!("{value:?} is no state: use open or resolved")),
            },
            "severity" => match SEVERITIES
                .into_iter()
                .find(|severity| severity.word() == value)
            {
                Some(severity) => self.severity = Some(severity),
                None => {
                    return wrong(format!(
                        "{value:?} is no severity: use info, warning or critical"
                    ));
                }
            },
            "detector" => match Detector::by_name(value) {
                Some(detector) => self.detector = Some(detector),
                None => {
                    let names: Vec<&str> = DETECTORS.iter().map(|info| info.name).collect();
                    let names = names.join(", ");
                    return wrong(format!("{value:?} is no detector: there are {names}"));
                }
            },
            "subject" => self.subject = Some(value.to_owned()),
            _ => {
                let why = format!("there is no parameter {name:?}");
                return Err(Refusal::bad_request(why));
            }
        }
        Ok(())
    }

    fn wants(&self, told: &Told) -> bool {
        let Self {
            state,
            severity,
            detector,
            subject,
        } = self;
        let alert = &told.alert;
        state.is_none_or(|state| state == alert.state)
            && severity.is_none_or(|least| alert.severity >= least)
            && detector.is_none_or(|detector| detector == alert.detector)
            && subject.as_ref().is_none_or(|subject| {
                subject == alert.subject.kind() || *subject == alert.subject.to_string()
            })
    }
}

/// Alerts, the one that changed last first.
pub(super) async fn list(State(api): State<Api>, uri: Uri) -> Result<Response, Refusal> {
    let (mut filter, mut limit) = (Filter::default(), PAGE);
    for (name, value) in pairs(&uri)? {
        match name.as_str() {
            "limit" => limit = parse_limit(&value)?,
            _ => filter.set(&name, &value)?,
        }
    }
    let alerts = api.board.all();
    let wanted = alerts.iter().filter(|told| filter.wants(told)).take(limit);
    let wanted: Vec<&str> = wanted.map(|told| told.json.as_str()).collect();
    let page = format!("{{\"alerts\":[{}]}}", wanted.join(","));
    Ok(json_text(page.into_bytes()))
}

/// One alert.
pub(super) async fn one(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let parsed: Result<Uuid, _> = id.parse();
    let id = parsed.map_err(|_| Refusal::bad_request(format!("{id:?} is no id of an alert")))?;
    let told = api.board.find(id).ok_or_else(|| {
        Refusal::new(
            StatusCode::NOT_FOUND,
            format!("no alert that is open or was a short time ago has the id {id}"),
        )
    })?;
    Ok(json_text(told.json.clone().into_bytes()))
}

/// Changes of alerts as they come, as server-sent events.
pub(super) async fn live(
    State(api): State<Api>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let mut filter = Filter::default();
    for (name, value) in pairs(&uri)? {
        filter.set(&name, &value)?;
    }
    let changes = api.board.changes();
    // A reader that lost its connection says what it saw last: of this calltap, or of one before.
    let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let next = match seen.and_then(|id| {
        changes
            .newest_first(u64::MAX)
            .find(|(_, told)| event_id(told) == id)
    }) {
        Some((number, _)) => number + 1,
        None => changes.end(),
    };
    let ring = std::sync::Arc::clone(changes);
    stream::respond(&api, ring, next, move |told: &Told, out| {
        if filter.wants(told) {
            let (id, change, json) = (event_id(told), told.change.word(), &told.json);
            let event = format!("id: {id}\nevent: {change}\ndata: {json}\n\n");
            out.extend_from_slice(event.as_bytes());
        }
    })
}

/// The alert, and the number of the change among all.
fn event_id(told: &Told) -> String {
    format!("{}:{}", told.alert.id, told.number)
}
