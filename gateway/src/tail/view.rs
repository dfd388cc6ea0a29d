//! The fields of a record that a reader shows, taken from one JSON line.
//!
//! Not the record's own type on purpose: a log may hold a selection of fields, and lines of an
//! older calltap than this one. Everything is optional here, what is unknown is skipped, and a test
//! holds the names against the schema.

use serde::Deserialize;

/// What a reader knows of one record.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(default)]
pub(crate) struct View {
    pub(crate) kind: Option<String>,
    pub(crate) timestamp: Option<String>,
    #[serde(rename = "log.record.uid")]
    pub(crate) uid: Option<String>,
    #[serde(rename = "http.request.id")]
    pub(crate) request_id: Option<String>,
    #[serde(rename = "http.request.method")]
    pub(crate) method: Option<String>,
    #[serde(rename = "url.path")]
    pub(crate) path: Option<String>,
    #[serde(rename = "http.route")]
    pub(crate) route: Option<String>,
    #[serde(rename = "http.response.status_code")]
    pub(crate) status: Option<u16>,
    #[serde(rename = "error.type")]
    pub(crate) error_type: Option<String>,
    #[serde(rename = "response.flags")]
    pub(crate) flags: Vec<String>,
    #[serde(rename = "connection.stage")]
    pub(crate) stage: Option<String>,
    #[serde(rename = "network.peer.address")]
    pub(crate) peer_address: Option<String>,
    pub(crate) message: Option<String>,
    #[serde(rename = "gateway.duration_us")]
    pub(crate) gateway_duration_us: Option<u64>,
    #[serde(rename = "duration_us")]
    pub(crate) duration_us: Option<u64>,
    #[serde(rename = "delivered_us")]
    pub(crate) delivered_us: Option<u64>,
    #[serde(rename = "time.client_send_us")]
    client_send_us: Option<u64>,
    #[serde(rename = "time.kernel_wait_us")]
    kernel_wait_us: Option<u64>,
    #[serde(rename = "time.gateway_us")]
    gateway_us: Option<u64>,
    #[serde(rename = "time.failed_attempts_us")]
    failed_attempts_us: Option<u64>,
    #[serde(rename = "time.connect_us")]
    connect_us: Option<u64>,
    #[serde(rename = "time.upstream_tls_us")]
    upstream_tls_us: Option<u64>,
    #[serde(rename = "time.upstream_network_us")]
    upstream_network_us: Option<u64>,
    #[serde(rename = "time.upstream_server_us")]
    upstream_server_us: Option<u64>,
    #[serde(rename = "time.delivery_us")]
    delivery_us: Option<u64>,
    #[serde(rename = "time.delayed_ack_us")]
    delayed_ack_us: Option<u64>,
    #[serde(rename = "time.unattributed_us")]
    unattributed_us: Option<u64>,
    #[serde(rename = "client.tcp.retransmits")]
    client_retransmits: Option<u64>,
    #[serde(rename = "client.tcp.peer_retransmits")]
    client_peer_retransmits: Option<u64>,
    #[serde(rename = "upstream.tcp.retransmits")]
    upstream_retransmits: Option<u64>,
    #[serde(rename = "upstream.tcp.peer_retransmits")]
    upstream_peer_retransmits: Option<u64>,
    #[serde(rename = "client.tcp.zero_window_us")]
    pub(crate) zero_window_us: Option<u64>,
    pub(crate) coverage: Option<String>,
    #[serde(rename = "client.coverage_reason")]
    pub(crate) client_coverage_reason: Option<String>,
    pub(crate) attribution: Option<String>,
    #[serde(rename = "client.attribution_reason")]
    pub(crate) client_attribution_reason: Option<String>,
    #[serde(rename = "upstream.attribution_reason")]
    pub(crate) upstream_attribution_reason: Option<String>,
    pub(crate) settled: Option<String>,
}

/// One of the parties that the time of a call is divided among, in the order of a call's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    ClientSend,
    KernelWait,
    Gateway,
    FailedAttempts,
    Connect,
    UpstreamTls,
    UpstreamNetwork,
    UpstreamServer,
    Delivery,
    DelayedAck,
    Unattributed,
}

impl Part {
    /// All of them, in the order of a call's life.
    pub(crate) const ALL: [Self; 11] = [
        Self::ClientSend,
        Self::KernelWait,
        Self::Gateway,
        Self::FailedAttempts,
        Self::Connect,
        Self::UpstreamTls,
        Self::UpstreamNetwork,
        Self::UpstreamServer,
        Self::Delivery,
        Self::DelayedAck,
        Self::Unattributed,
    ];

    /// The record's name for it, without `time.` and `_us`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ClientSend => "client_send",
            Self::KernelWait => "kernel_wait",
            Self::Gateway => "gateway",
            Self::FailedAttempts => "failed_attempts",
            Self::Connect => "connect",
            Self::UpstreamTls => "upstream_tls",
            Self::UpstreamNetwork => "upstream_network",
            Self::UpstreamServer => "upstream_server",
            Self::Delivery => "delivery",
            Self::DelayedAck => "delayed_ack",
            Self::Unattributed => "unattributed",
        }
    }
}

impl View {
    /// Reads one line. `None` when it is not a JSON object, or a field has a type that no calltap
    /// writes.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        if !line.trim_start().starts_with('{') {
            return None;
        }
        serde_json::from_str(line).ok()
    }

    /// Whether this is the record of one API call.
    pub(crate) fn is_call(&self) -> bool {
        self.kind.as_deref().unwrap_or("call") == "call"
    }

    /// The longest span the record knows: until the client had it, until it was sent, or the
    /// gateway's own; microseconds.
    pub(crate) fn total_us(&self) -> Option<u64> {
        self.delivered_us
            .or(self.duration_us)
            .or(self.gateway_duration_us)
    }

    /// The route's template, or the path where no route matched.
    pub(crate) fn place(&self) -> Option<&str> {
        self.route.as_deref().or(self.path.as_deref())
    }

    /// Where the time went, microseconds; `None` where the record does not say.
    pub(crate) fn parts(&self) -> Option<[u64; Part::ALL.len()]> {
        let parts = Part::ALL.map(|part| self.part_us(part));
        parts
            .iter()
            .any(Option::is_some)
            .then(|| parts.map(|us| us.unwrap_or(0)))
    }

    fn part_us(&self, part: Part) -> Option<u64> {
        match part {
            Part::ClientSend => self.client_send_us,
            Part::KernelWait => self.kernel_wait_us,
            Part::Gateway => self.gateway_us,
            Part::FailedAttempts => self.failed_attempts_us,
            Part::Connect => self.connect_us,
            Part::UpstreamTls => self.upstream_tls_us,
            Part::UpstreamNetwork => self.upstream_network_us,
            Part::UpstreamServer => self.upstream_server_us,
            Part::Delivery => self.delivery_us,
            Part::DelayedAck => self.delayed_ack_us,
            Part::Unattributed => self.unattributed_us,
        }
    }

    /// Segments sent more than once during the call: on the client's side and on the upstream's,
    /// whoever sent them.
    pub(crate) fn retransmits(&self) -> (u64, u64) {
        let sum = |a: Option<u64>, b: Option<u64>| a.unwrap_or(0).saturating_add(b.unwrap_or(0));
        (
            sum(self.client_retransmits, self.client_peer_retransmits),
            sum(self.upstream_retransmits, self.upstream_peer_retransmits),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_of_fields_is_enough() {
        let view = View::parse(r#"{"http.route":"/orders","duration_us":5,"new.field":[1]}"#)
            .expect("an object is a record");
        assert_eq!(view.place(), Some("/orders"));
        assert_eq!(view.total_us(), Some(5));
        assert_eq!(view.parts(), None);
        assert!(view.is_call());
    }

    #[test]
    fn what_is_not_a_record_is_not_guessed() {
        for line in [
            "",
            "[]",
            "null",
            "{\"a\":",
            "7",
            "{\"duration_us\":\"soon\"}",
        ] {
            assert!(View::parse(line).is_none(), "{line}");
        }
    }

    #[test]
    fn every_name_is_one_the_schema_has() {
        let view = serde_json::to_value(View::default()).expect("a view is JSON");
        for name in view.as_object().expect("an object").keys() {
            assert!(
                calltap_correlate::record::FIELDS
                    .iter()
                    .any(|field| field.name == name),
                "no record has a field {name}"
            );
        }
    }

    #[test]
    fn each_part_is_read_from_its_own_field() {
        for (index, part) in Part::ALL.into_iter().enumerate() {
            let line = format!(r#"{{"time.{}_us":7}}"#, part.name());
            let parts = View::parse(&line).and_then(|view| view.parts());
            let mut expected = [0; Part::ALL.len()];
            expected[index] = 7;
            assert_eq!(parts, Some(expected), "{line}");
        }
    }
}
