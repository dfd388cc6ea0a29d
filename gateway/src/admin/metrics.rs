//! Numbers for Prometheus, text format 0.0.4, in its base units: seconds and bytes.
//!
//! What calls add up to is counted here, a batch at a time, from their records; everything else is
//! read from its owner when somebody asks. The number of series is bounded whatever clients send:
//! labels hold names from the configuration or from short lists, never anything a client wrote.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{Display, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use calltap_correlate::exchange::Stage;
use calltap_correlate::record::{CallRecord, Kind};
use calltap_correlate::socket::Coverage;

/// Routes that are told apart; the calls of all further ones are counted as `_other`.
pub(crate) const ROUTES_MAX: usize = 1_000;

/// The route of calls that matched none.
const NO_ROUTE: &str = "_none";
const OTHER_ROUTE: &str = "_other";

/// Upper bounds of the histograms' buckets, µs. Half a millisecond to half a minute.
const BUCKETS_US: [u64; 15] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000,
];

/// What all calls add up to.
#[derive(Debug, Default)]
pub(crate) struct CallMetrics(Mutex<Totals>);

#[derive(Debug, Default)]
struct Totals {
    routes: HashMap<String, Route>,
    parts_us: [u64; PARTS],
    coverage: [u64; 3],
    retransmits: [u64; 2],
    request_body_bytes: u64,
    response_body_bytes: u64,
    /// By stage and error type, which is one of a short list.
    connections: BTreeMap<(&'static str, String), u64>,
}

#[derive(Debug, Default)]
struct Route {
    /// By the status's first digit; 0 where there was none.
    by_class: [Histogram; 6],
    delivered: Histogram,
}

#[derive(Debug, Default)]
struct Histogram {
    /// Values up to each bound and above the one before it.
    buckets: [u64; BUCKETS_US.len()],
    count: u64,
    sum_us: u64,
}

impl Histogram {
    fn observe(&mut self, us: u64) {
        if let Some(bucket) = BUCKETS_US.iter().position(|&bound| us <= bound) {
            self.buckets[bucket] += 1;
        }
        self.count += 1;
        self.sum_us += us;
    }
}

const PARTS: usize = 11;

/// Where a call's time went, by the names of its fields.
fn parts(record: &CallRecord) -> [(&'static str, Option<u64>); PARTS] {
    [
        ("client_send", record.time_client_send_us),
        ("kernel_wait", record.time_kernel_wait_us),
        ("gateway", record.time_gateway_us),
        ("failed_attempts", record.time_failed_attempts_us),
        ("connect", record.time_connect_us),
        ("upstream_tls", record.time_upstream_tls_us),
        ("upstream_network", record.time_upstream_network_us),
        ("upstream_server", record.time_upstream_server_us),
        ("delivery", record.time_delivery_us),
        ("delayed_ack", record.time_delayed_ack_us),
        ("unattributed", record.time_unattributed_us),
    ]
}

impl CallMetrics {
    /// Counts a batch of records.
    pub(crate) fn count(&self, batch: &[Arc<CallRecord>]) {
        let mut totals = self.lock();
        for record in batch {
            match record.kind {
                Kind::Call => totals.count_call(record),
                Kind::Connection => totals.count_connection(record),
                Kind::External | Kind::Progress => {}
            }
        }
    }

    /// Writes them.
    pub(crate) fn write(&self, out: &mut Exposition) {
        self.lock().write(out);
    }

    fn lock(&self) -> MutexGuard<'_, Totals> {
        // Counters that a panic left half-way are still counters.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Totals {
    fn count_call(&mut self, record: &CallRecord) {
        let route = record.api.route.as_deref().unwrap_or(NO_ROUTE);
        let known = self.routes.contains_key(route);
        let route = match known || self.routes.len() < ROUTES_MAX {
            true => route,
            false => OTHER_ROUTE,
        };
        // Not `entry`: it wants the name's own copy for every call.
        if !known && !self.routes.contains_key(route) {
            self.routes.insert(route.to_owned(), Route::default());
        }
        if let Some(route) = self.routes.get_mut(route) {
            let class = record.http_response_status_code.unwrap_or(0) / 100;
            let class = usize::from(class).min(route.by_class.len() - 1);
            if let Some(us) = record.gateway_duration_us {
                route.by_class[class].observe(us);
            }
            if let Some(us) = record.delivered_us {
                route.delivered.observe(us);
            }
        }
        for (total, (_, us)) in self.parts_us.iter_mut().zip(parts(record)) {
            *total += us.unwrap_or(0);
        }
        self.coverage[record.coverage.unwrap_or_default() as usize] += 1;
        let legs = [&record.client, &record.upstream];
        for (total, leg) in self.retransmits.iter_mut().zip(legs) {
            *total += leg.tcp_retransmits.unwrap_or(0);
        }
        self.request_body_bytes += record.http_request_body_size.unwrap_or(0);
        self.response_body_bytes += record.http_response_body_size.unwrap_or(0);
    }

    fn count_connection(&mut self, record: &CallRecord) {
        let stage = match record.connection_stage {
            Some(Stage::Tcp) => "tcp",
            Some(Stage::Tls) => "tls",
            Some(Stage::Head) => "head",
            None => "unknown",
        };
        let error_type = record.error_type.as_deref().unwrap_or("none");
        *self
            .connections
            .entry((stage, error_type.to_owned()))
            .or_default() += 1;
    }

    fn write(&self, out: &mut Exposition) {
        let mut routes: Vec<_> = self.routes.iter().collect();
        routes.sort_unstable_by_key(|(name, _)| *name);

        let mut family = out.histogram(
            "calltap_call_duration_seconds",
            "From having a request's head until having written its response.",
        );
        for (name, route) in &routes {
            for (class, histogram) in route.by_class.iter().enumerate() {
                if histogram.count > 0 {
                    let class = match class {
                        0 => "none".to_owned(),
                        _ => format!("{class}xx"),
                    };
                    family.add(&[("route", *name), ("status_class", &class)], histogram);
                }
            }
        }
        let mut family = out.histogram(
            "calltap_call_delivered_seconds",
            "From a request's first packet until the client's kernel acknowledged the last byte of its response.",
        );
        for (name, route) in &routes {
            if route.delivered.count > 0 {
                family.add(&[("route", *name)], &route.delivered);
            }
        }
        let mut family = out.counter(
            "calltap_call_time_seconds_total",
            "Where the time of delivered calls went.",
        );
        for ((part, _), us) in parts(&CallRecord::default()).iter().zip(self.parts_us) {
            family.add(&[("part", *part)], seconds(us));
        }
        let mut family = out.counter(
            "calltap_call_coverage_total",
            "Calls by where the facts of their sockets come from, the worse of the two.",
        );
        for coverage in [Coverage::None, Coverage::TcpInfo, Coverage::Ebpf] {
            let name = match coverage {
                Coverage::None => "none",
                Coverage::TcpInfo => "tcp_info",
                Coverage::Ebpf => "ebpf",
            };
            family.add(&[("coverage", name)], self.coverage[coverage as usize]);
        }
        let mut family = out.counter(
            "calltap_retransmitted_segments_total",
            "Segments of calls that the gateway's kernel sent again, by the socket.",
        );
        for (leg, n) in ["client", "upstream"].into_iter().zip(self.retransmits) {
            family.add(&[("socket", leg)], n);
        }
        out.counter(
            "calltap_request_body_bytes_total",
            "Bytes of request bodies, transfer encoding removed.",
        )
        .add(&[], self.request_body_bytes);
        out.counter(
            "calltap_response_body_bytes_total",
            "Bytes of response bodies, transfer encoding removed.",
        )
        .add(&[], self.response_body_bytes);
        let mut family = out.counter(
            "calltap_connections_without_call_total",
            "Recorded connections that never carried a call, by how far they got and why they ended.",
        );
        for ((stage, error_type), n) in &self.connections {
            family.add(&[("stage", *stage), ("error_type", error_type)], n);
        }
    }
}

/// A page of metrics.
#[derive(Debug, Default)]
pub(crate) struct Exposition(String);

/// One metric of the page. All its samples are added before the next one begins.
pub(crate) struct Family<'a> {
    out: &'a mut String,
    name: &'a str,
}

impl Exposition {
    /// Only ever grows.
    pub(crate) fn counter<'a>(&'a mut self, name: &'a str, help: &str) -> Family<'a> {
        debug_assert!(name.ends_with("_total"), "{name}");
        self.family(name, help, "counter")
    }

    /// Goes up and down.
    pub(crate) fn gauge<'a>(&'a mut self, name: &'a str, help: &str) -> Family<'a> {
        self.family(name, help, "gauge")
    }

    fn histogram<'a>(&'a mut self, name: &'a str, help: &str) -> Histograms<'a> {
        Histograms(self.family(name, help, "histogram"))
    }

    fn family<'a>(&'a mut self, name: &'a str, help: &str, kind: &str) -> Family<'a> {
        let out = &mut self.0;
        put(
            out,
            format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"),
        );
        Family { out, name }
    }

    /// The page.
    pub(crate) fn into_text(self) -> String {
        self.0
    }
}

impl Family<'_> {
    /// One sample.
    pub(crate) fn add(&mut self, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        sample(self.out, self.name, "", labels, None, value);
        self
    }
}

struct Histograms<'a>(Family<'a>);

impl Histograms<'_> {
    fn add(&mut self, labels: &[(&str, &str)], histogram: &Histogram) {
        let Family { out, name } = &mut self.0;
        let mut below = 0;
        for (bound, n) in BUCKETS_US.into_iter().zip(histogram.buckets) {
            below += n;
            let bound = seconds(bound).to_string();
            sample(out, name, "_bucket", labels, Some(&bound), below);
        }
        sample(out, name, "_bucket", labels, Some("+Inf"), histogram.count);
        sample(out, name, "_sum", labels, None, seconds(histogram.sum_us));
        sample(out, name, "_count", labels, None, histogram.count);
    }
}

fn sample(
    out: &mut String,
    name: &str,
    suffix: &str,
    labels: &[(&str, &str)],
    le: Option<&str>,
    value: impl Display,
) {
    put(out, format_args!("{name}{suffix}"));
    let le = le.map(|bound| ("le", bound));
    let mut separator = '{';
    for (label, text) in labels.iter().copied().chain(le) {
        put(out, format_args!("{separator}{label}=\""));
        for c in text.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                _ => out.push(c),
            }
        }
        out.push('"');
        separator = ',';
    }
    if separator == ',' {
        out.push('}');
    }
    put(out, format_args!(" {value}\n"));
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = out.write_fmt(text);
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}
