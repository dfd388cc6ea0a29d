//! From the tree to the types: one function per section of the file.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use calltap_correlate::exchange::ApiNames;
use calltap_correlate::record::Selection;
use calltap_policies::network::{BadNetwork, Network};

use super::alerts::alerts;
use super::error::did_you_mean;
use super::files;
use super::policies::policies;
use super::section::{Field, Mistakes, Section};
use super::settings::*;
use super::tree::{Node, Place, Value};
use crate::route::{self, HostHeader, HostPattern, Route, RouteTable, Template};

/// Numbers of things that only memory bounds.
const MANY: i64 = 1 << 30;

/// Reads everything; `None` where a mistake was noted.
pub(super) fn config(root: Field<'_>, tree: &Node) -> Option<Config> {
    let mut section = root.section()?;
    let defaults = Defaults::take(&mut section);
    let limits = section.read("limits", limits);
    let upstreams = section
        .key("upstreams")
        .and_then(|field| upstreams(field, &defaults));
    let listeners = section
        .key("listeners")
        .and_then(|field| listeners(field, &defaults));
    let routes = section
        .key("routes")
        .and_then(|field| routes(field, &defaults, upstreams.as_ref(), limits.as_ref()));
    let records = section.read("records", records);
    let tap = section.read("tap", tap);
    let settle = section.read("settle", settle);
    let admin = section.read("admin", |section| admin(section, listeners.as_deref()));
    let consumer = section.read("consumer", consumer);
    let alerts = section.read("alerts", |section| alerts(section, &defaults));
    let shutdown = section.read("shutdown", shutdown);
    let proxy = section.read("proxy", proxy);
    let policies = section.read("policies", |section| policies(section, proxy.as_ref()));
    let workers = section
        .key("workers")
        .and_then(|field| field.count::<usize>(0..=1024));
    if listeners.as_ref().is_some_and(Vec::is_empty) {
        let remedy = "add [[listeners]] with an address, or start with --listen 127.0.0.1:8080";
        section.lacks("listeners", "there is no listener", remedy);
    }
    if routes
        .as_ref()
        .is_some_and(|table| table.routes().is_empty())
    {
        let remedy = "add [[routes]] with an upstream, or start with --upstream 127.0.0.1:9000";
        section.lacks("routes", "there is no route", remedy);
    }
    section.finish();
    let (policies, denials) = policies.unzip();
    Some(Config {
        listeners: listeners?,
        routes: routes?,
        upstreams: upstreams?.groups,
        records: records?,
        tap: tap?,
        settle: settle?,
        admin: admin?,
        consumer: consumer?,
        policies: policies?,
        denials: denials?,
        alerts: alerts?,
        shutdown: shutdown?,
        limits: limits?,
        proxy: proxy?,
        workers: NonZeroUsize::new(workers?).unwrap_or_else(one_per_core),
        written: tree.clone(),
    })
}

fn one_per_core() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// What `[defaults.*]` says, laid under every entry of its kind.
pub(super) struct Defaults<'t> {
    of: HashMap<&'static str, &'t Node>,
}

impl<'t> Defaults<'t> {
    const KINDS: [&'static str; 6] = [
        "listener",
        "listener_tls",
        "route",
        "upstream",
        "health",
        "webhook",
    ];

    fn take(root: &mut Section<'t>) -> Self {
        let mut of = HashMap::new();
        if let Some(mut section) = root.key("defaults").and_then(Field::section) {
            for kind in Self::KINDS {
                if let Some(field) = section.key(kind)
                    && let node = field.node()
                    && field.section().is_some()
                {
                    of.insert(kind, node);
                }
            }
            section.finish();
        }
        Self { of }
    }

    /// An entry with its defaults under it.
    pub(super) fn under(&self, kind: &'static str, entry: &Node) -> Node {
        match self.of.get(kind) {
            Some(defaults) => {
                let mut node = (*defaults).clone();
                node.overlay(entry.clone());
                node
            }
            None => entry.clone(),
        }
    }
}

/// Notes and removes what stands under `[defaults.*]` and has no default: it would otherwise be an
/// unknown key of every entry of that kind.
pub(super) fn drop_unknown_defaults(root: &mut Node, known: &Node, mistakes: &Mistakes) {
    let (Some(kinds), Some(known_kinds)) = (entry(root, "defaults"), known.get("defaults")) else {
        return;
    };
    let Value::Table(kinds) = &mut kinds.value else {
        return;
    };
    for (kind, entry) in kinds {
        let (Value::Table(keys), Some(Value::Table(known))) = (
            &mut entry.node.value,
            known_kinds.get(kind).map(|node| &node.value),
        ) else {
            continue;
        };
        keys.retain(|key, entry| {
            let fits = known.contains_key(key);
            if !fits {
                let names = known.keys().map(String::as_str);
                let remedy = did_you_mean(key, names.clone()).unwrap_or_else(|| {
                    format!("known here: {}", names.collect::<Vec<_>>().join(", "))
                });
                let path = format!("defaults.{kind}.{key}");
                mistakes.note(entry.key.mistake(&path, "unknown key", Some(remedy)));
            }
            fits
        });
    }
}

fn entry<'n>(node: &'n mut Node, key: &str) -> Option<&'n mut Node> {
    match &mut node.value {
        Value::Table(table) => table.get_mut(key).map(|entry| &mut entry.node),
        _ => None,
    }
}

fn listeners(field: Field<'_>, defaults: &Defaults<'_>) -> Option<Vec<ListenerConfig>> {
    let mut listeners = Vec::new();
    let mut seen: HashMap<SocketAddr, String> = HashMap::new();
    let mut complete = true;
    for item in field.items()? {
        let node = defaults.under("listener", item.node());
        match item
            .over(&node)
            .section()
            .and_then(|section| listener(section, item.node(), defaults, &mut seen))
        {
            Some(listener) => listeners.push(listener),
            None => complete = false,
        }
    }
    complete.then_some(listeners)
}

fn listener(
    mut section: Section<'_>,
    own: &Node,
    defaults: &Defaults<'_>,
    seen: &mut HashMap<SocketAddr, String>,
) -> Option<ListenerConfig> {
    let address = section.need("address", "write address = \"0.0.0.0:8080\"");
    let address = address.and_then(|field| {
        let address = socket_address(&field)?;
        let first = seen.insert(address, field.path.clone());
        if let Some(first) = first.filter(|_| address.port() != 0) {
            field.wrong(format!("{first} is the same"), None);
        }
        Some(address)
    });
    let h2c = section
        .key("h2c")
        .and_then(|field| Some((field.boolean()?, field)));
    let tls = match section.get("tls") {
        Some(field) => {
            let node = defaults.under("listener_tls", field.node());
            field.over(&node).section().and_then(listener_tls).map(Some)
        }
        None => Some(None),
    };
    if let (Some(Some(_)), Some((true, field))) = (&tls, &h2c)
        && own.get("h2c").is_some()
    {
        field.wrong(
            "h2c is HTTP/2 without TLS, and this listener has TLS",
            "leave h2c away: ALPN offers h2".to_owned(),
        );
    }
    section.finish();
    Some(ListenerConfig {
        address: address?,
        tls: tls?,
        // Where it comes from the defaults it is meant for the plain ones.
        h2c: h2c?.0 && own.get("tls").is_none(),
    })
}

fn listener_tls(mut section: Section<'_>) -> Option<ListenerTls> {
    let certificate = section.need("certificate", "name the PEM file of the certificate chain");
    let key = section.need("key", "name the PEM file of the private key");
    let pair = certificate_pair(certificate.as_ref(), key.as_ref());
    let client_ca = optional(section.get("client_ca"), |field| authorities(&field));
    let choices = [("required", true), ("optional", false)];
    let client_required = section
        .key("client_auth")
        .and_then(|field| field.choice(&choices));
    section.finish();
    let (certificate, key) = pair?;
    Some(ListenerTls {
        certificate,
        key,
        client_ca: client_ca?,
        client_required: client_required?,
    })
}

/// Groups, and the names of those that could not be read: a route to one of them does not dangle.
struct Upstreams {
    groups: BTreeMap<Arc<str>, Arc<UpstreamConfig>>,
    names: Vec<String>,
}

fn upstreams(field: Field<'_>, defaults: &Defaults<'_>) -> Option<Upstreams> {
    let mut read = Upstreams {
        groups: BTreeMap::new(),
        names: Vec::new(),
    };
    for (name, place, field) in field.section()?.entries() {
        read.names.push(name.to_owned());
        let node = defaults.under("upstream", field.node());
        let group = upstream(name, place, &field, &node, defaults);
        read.groups
            .extend(group.map(|group| (Arc::clone(&group.name), Arc::new(group))));
    }
    Some(read)
}

fn upstream(
    name: &str,
    place: &Place,
    field: &Field<'_>,
    node: &Node,
    defaults: &Defaults<'_>,
) -> Option<UpstreamConfig> {
    let named = is_name(name);
    if !named {
        field.note(place.mistake(
            &field.path,
            "a group's name has 1 to 64 letters, digits, ., _ and -",
            None,
        ));
    }
    let mut section = field.over(node).section()?;
    let endpoints = section.need("endpoints", "write endpoints = [\"127.0.0.1:9000\"]");
    let endpoints = endpoints.and_then(|field| endpoints_of(&field));
    let balance = section.key("balance").and_then(|field| {
        field.choice(&[
            ("round_robin", Balance::RoundRobin),
            ("least_connections", Balance::LeastConnections),
        ])
    });
    let protocol = section
        .key("protocol")
        .and_then(|field| field.choice(&[("http1", Protocol::Http1), ("http2", Protocol::Http2)]));
    let tls = optional(section.get("tls"), |field| {
        upstream_tls(field, endpoints.as_deref())
    });
    let health = optional(section.get("health"), |field| {
        let node = defaults.under("health", field.node());
        field.over(&node).section().and_then(health)
    });
    let retries = section.key("retries").and_then(|field| field.count(0..=16));
    let host_header = section
        .key("host_header")
        .and_then(|field| host_header(&field));
    let resolve_every = section.key("resolve_ms").and_then(|field| field.millis());
    section.finish();
    Some(UpstreamConfig {
        name: named.then(|| name.into())?,
        endpoints: endpoints?,
        balance: balance?,
        protocol: protocol?,
        tls: tls?,
        health: health?,
        retries: retries?,
        host_header: host_header?,
        resolve_every: resolve_every?,
    })
}

fn endpoints_of(field: &Field<'_>) -> Option<Vec<EndpointAddress>> {
    let mut endpoints: Vec<EndpointAddress> = Vec::new();
    let mut complete = true;
    for item in field.items()? {
        match item.text().and_then(|text| {
            endpoint(text)
                .map_err(|(what, remedy)| item.wrong(what, remedy))
                .ok()
        }) {
            Some(endpoint) if endpoints.contains(&endpoint) => {
                item.wrong(format!("{endpoint} is in this group already"), None);
                complete = false;
            }
            Some(endpoint) => endpoints.push(endpoint),
            None => complete = false,
        }
    }
    if endpoints.is_empty() && complete {
        field.wrong(
            "a group needs at least one endpoint",
            "write endpoints = [\"127.0.0.1:9000\"]".to_owned(),
        );
        return None;
    }
    complete.then_some(endpoints)
}

fn endpoint(text: &str) -> Result<EndpointAddress, (String, Option<String>)> {
    if let Some(path) = text.strip_prefix("unix:") {
        return match path.starts_with('/') && path.len() < UNIX_PATH_BYTES_MAX {
            true => Ok(EndpointAddress::Unix(path.into())),
            false => Err((
                format!("{text:?} does not name a Unix socket"),
                Some("write unix:/run/app.sock".to_owned()),
            )),
        };
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match address.port() {
            0 => Err((format!("{text:?} has port 0"), None)),
            _ => Ok(EndpointAddress::Socket(address)),
        };
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        let remedy = match scheme {
            "https" => "write the host and the port, and tls = {} for the group",
            _ => "write the host and the port",
        };
        let rest = rest.split('/').next().unwrap_or(rest);
        return Err((
            format!("{text:?} is a URL"),
            Some(format!("{remedy}: {rest}")),
        ));
    }
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    match (HostPattern::parse(host), port.parse::<u16>()) {
        (Ok(HostPattern::Exact(host)), Ok(port)) if port != 0 && !is_almost_address(&host) => {
            Ok(EndpointAddress::Dns { host, port })
        }
        (Ok(HostPattern::Exact(_)), Err(_)) => Err((
            format!("{text:?} has no port"),
            Some(format!("write {host}:80, or the port it listens on")),
        )),
        _ => Err((
            format!("{text:?} is no endpoint"),
            Some(
                "write 10.0.0.1:9000, [fd00::1]:9000, backend.internal:9000 or unix:/run/app.sock"
                    .to_owned(),
            ),
        )),
    }
}

/// `sun_path` with its final NUL.
const UNIX_PATH_BYTES_MAX: usize = 108;

/// `10.0.0.256` is no name somebody meant to look up.
fn is_almost_address(host: &str) -> bool {
    host.bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
}

fn upstream_tls(field: Field<'_>, endpoints: Option<&[EndpointAddress]>) -> Option<UpstreamTls> {
    let mut section = field.section()?;
    let server_name = optional(section.get("server_name"), |field| {
        let text = field.text()?;
        match HostPattern::parse(text) {
            Ok(HostPattern::Exact(name)) => Some(name.trim_matches(['[', ']']).to_owned()),
            _ => {
                field.wrong(format!("{text:?} is not a server's name"), None);
                None
            }
        }
    });
    let nameless = endpoints
        .unwrap_or_default()
        .iter()
        .any(|endpoint| matches!(endpoint, EndpointAddress::Unix(_)));
    if server_name == Some(None) && nameless {
        section.wrong(
            "TLS over a Unix socket needs a name to verify",
            "add server_name".to_owned(),
        );
    }
    let ca = optional(section.get("ca"), |field| authorities(&field));
    let (certificate, key) = (section.get("certificate"), section.get("key"));
    let pair = certificate_pair(certificate.as_ref(), key.as_ref());
    let identity = match (certificate, key) {
        (Some(_), Some(_)) => {
            pair.map(|(certificate, key)| Some(ClientIdentity { certificate, key }))
        }
        (None, None) => Some(None),
        (Some(alone), None) | (None, Some(alone)) => {
            alone.wrong(
                "certificate and key go together",
                "name both, or neither".to_owned(),
            );
            None
        }
    };
    section.finish();
    Some(UpstreamTls {
        server_name: server_name?,
        ca: ca?,
        identity: identity?,
    })
}

fn health(mut section: Section<'_>) -> Option<HealthConfig> {
    let path = section.need("path", "name the path to ask for: path = \"/healthz\"");
    let path = path.and_then(|field| {
        let path = field.text()?;
        let plain = path.starts_with('/')
            && path
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b'#');
        if !plain {
            field.wrong(
                format!("{path:?} is no path to ask for"),
                "write path = \"/healthz\"".to_owned(),
            );
        }
        plain.then(|| path.to_owned())
    });
    let interval = section.key("interval_ms").and_then(|field| field.millis());
    let timeout = section.key("timeout_ms").and_then(|field| field.millis());
    let healthy_after = section
        .key("healthy_after")
        .and_then(|field| field.count(1..=1000));
    let unhealthy_after = section
        .key("unhealthy_after")
        .and_then(|field| field.count(1..=1000));
    section.finish();
    Some(HealthConfig {
        path: path?,
        interval: interval?,
        timeout: timeout?,
        healthy_after: healthy_after?,
        unhealthy_after: unhealthy_after?,
    })
}

fn host_header(field: &Field<'_>) -> Option<HostHeader> {
    field.choice(&[("keep", HostHeader::Keep), ("rewrite", HostHeader::Rewrite)])
}

fn routes(
    field: Field<'_>,
    defaults: &Defaults<'_>,
    upstreams: Option<&Upstreams>,
    limits: Option<&Limits>,
) -> Option<RouteTable> {
    let mut routes = Vec::new();
    let mut scopes = Vec::new();
    let mut names = HashMap::new();
    let mut complete = true;
    for item in field.items()? {
        let node = defaults.under("route", item.node());
        let Some(mut section) = item.over(&node).section() else {
            complete = false;
            continue;
        };
        let scope = Scope::read(&mut section);
        match route(section, scope.as_ref(), upstreams, limits, &mut names) {
            Some(route) => routes.push(route),
            None => complete = false,
        }
        scopes.extend(scope.map(|scope| (item, scope)));
    }
    for route::Overlap {
        first,
        second,
        method,
    } in route::overlaps(scopes.iter().map(|(_, scope)| {
        (
            scope.host.as_ref(),
            &scope.template,
            scope.methods.as_slice(),
        )
    })) {
        let calls = method.map_or_else(|| "calls".to_owned(), |method| format!("{method} calls"));
        let (first, _) = &scopes[first];
        let (second, _) = &scopes[second];
        second.wrong(
            format!(
                "answers the same {calls} as {}: same host, same path",
                first.path
            ),
            "one of the two would never be taken; remove it or tell them apart".to_owned(),
        );
    }
    complete.then(|| RouteTable::new(routes))
}

/// What tells the calls of a route from those of others.
struct Scope {
    host: Option<HostPattern>,
    template: Template,
    methods: Vec<String>,
}

impl Scope {
    fn read(section: &mut Section<'_>) -> Option<Self> {
        let host = optional(section.get("host"), |field| {
            field.parsed(HostPattern::parse)
        });
        let path = section.key("path");
        let template = path.and_then(|field| field.parsed(Template::parse));
        let methods = section.key("methods");
        let methods = methods.and_then(|field| field.list(method));
        let (host, template, mut methods) = (host?, template?, methods?);
        methods.sort_unstable();
        methods.dedup();
        Some(Self {
            host,
            template,
            methods,
        })
    }

    /// For a route that has no name of its own.
    fn name(&self) -> String {
        let host = self.host.as_ref().map(ToString::to_string);
        let place = host.unwrap_or_default() + self.template.as_str();
        match self.methods.is_empty() {
            true => place,
            false => format!("{} {place}", self.methods.join(",")),
        }
    }
}

fn route(
    mut section: Section<'_>,
    scope: Option<&Scope>,
    upstreams: Option<&Upstreams>,
    limits: Option<&Limits>,
    names: &mut HashMap<String, String>,
) -> Option<Route> {
    let name = match section.get("name") {
        Some(field) => field.text().map(str::to_owned).inspect(|name| {
            if let Some(first) = names.insert(name.clone(), field.path.clone()) {
                field.wrong(
                    format!("{name:?} is also {first}"),
                    "give each route a name of its own".to_owned(),
                );
            }
        }),
        None => scope.map(Scope::name),
    };
    let upstream = section.need("upstream", "name a group of [upstreams]");
    let upstream = upstream.and_then(|field| group(&field, upstreams?));
    let strip_prefix = optional(section.get("strip_prefix"), |field| {
        strip_prefix(&field, scope.map(|scope| &scope.template))
    });
    let timeout = match section.get("timeout_ms") {
        Some(field) => field.millis_or_none(),
        None => limits.map(|limits| limits.total),
    };
    let own_host_header = optional(section.get("host_header"), |field| host_header(&field));
    let operation = optional(section.get("operation"), |field| {
        field.text().map(str::to_owned)
    });
    let api = match section.get("api") {
        Some(field) => field.section().and_then(api),
        None => Some(ApiNames::default()),
    };
    section.finish();
    let (scope, upstream) = (scope?, upstream?);
    let api = ApiNames {
        route: Some(scope.template.as_str().to_owned()),
        operation: operation?,
        ..api?
    };
    Some(Route {
        name: name?.into(),
        host: scope.host.clone(),
        template: scope.template.clone(),
        methods: scope.methods.clone(),
        upstream: Arc::clone(&upstream.name),
        strip_prefix: strip_prefix?,
        timeout: timeout?,
        host_header: own_host_header?.unwrap_or(upstream.host_header),
        api: Arc::new(api),
    })
}

/// The group a route names.
fn group<'u>(field: &Field<'_>, upstreams: &'u Upstreams) -> Option<&'u UpstreamConfig> {
    let name = field.text()?;
    if !upstreams.names.iter().any(|known| known == name) {
        let remedy = did_you_mean(name, upstreams.names.iter().map(String::as_str))
            .unwrap_or_else(|| format!("add [upstreams.{name}] with endpoints"));
        field.dangling(format!("no upstream group is named {name:?}"), remedy);
    }
    upstreams.groups.get(name).map(Arc::as_ref)
}

fn method(field: Field<'_>) -> Option<String> {
    let text = field.text()?;
    match text.parse::<http::Method>() {
        Ok(_) => Some(text.to_ascii_uppercase()),
        Err(_) => {
            field.wrong(
                format!("{text:?} is no method"),
                "write GET, POST, ...".to_owned(),
            );
            None
        }
    }
}

fn strip_prefix(field: &Field<'_>, template: Option<&Template>) -> Option<String> {
    let text = field.text()?;
    let prefix = text.trim_end_matches('/');
    if !prefix.starts_with('/') {
        field.wrong(
            format!("{text:?} is no prefix of a path"),
            "write strip_prefix = \"/shop\"".to_owned(),
        );
        return None;
    }
    let template = template?;
    if !template.begins_with(prefix) {
        let path = template.as_str();
        field.wrong(
            format!("{text:?} is not how {path} begins"),
            "it must be whole segments without parameters at the beginning of the route's path"
                .to_owned(),
        );
        return None;
    }
    Some(prefix.to_owned())
}

fn api(mut section: Section<'_>) -> Option<ApiNames> {
    let mut text = |key| optional(section.get(key), |field| field.text().map(str::to_owned));
    let (name, version, product) = (text("name"), text("version"), text("product"));
    let (plan, catalog) = (text("plan"), text("catalog"));
    section.finish();
    Some(ApiNames {
        name: name?,
        version: version?,
        product: product?,
        plan: plan?,
        catalog: catalog?,
        ..ApiNames::default()
    })
}

fn records(mut section: Section<'_>) -> Option<RecordsConfig> {
    let path = section.key("path").and_then(|field| {
        Some(match field.text()? {
            "-" => RecordsPath::Stdout,
            "none" => RecordsPath::None,
            path => RecordsPath::File(path.into()),
        })
    });
    let rotate = section.read("rotate", rotate);
    let fields = section.key("fields").and_then(|field| selection(&field));
    let redact = section
        .key("redact")
        .and_then(|field| field.list(|item| item.text().map(str::to_ascii_lowercase)));
    let request_headers = section
        .key("request_headers")
        .and_then(|field| field.list(header_name));
    let response_headers = section
        .key("response_headers")
        .and_then(|field| field.list(header_name));
    let connections = section.key("connections").and_then(|field| {
        field.choice(&[
            ("failed", Connections::Failed),
            ("all", Connections::All),
            ("none", Connections::None),
        ])
    });
    let connections_per_s_max = section
        .key("connections_per_s_max")
        .and_then(|field| field.count(0..=1_000_000));
    let interim = section.key("interim_s").and_then(|field| field.seconds());
    let queue_max = section
        .key("queue_max")
        .and_then(|field| field.count(1..=MANY));
    section.finish();
    Some(RecordsConfig {
        path: path?,
        rotate: rotate?,
        fields: fields?,
        redact: redact?,
        request_headers: request_headers?,
        response_headers: response_headers?,
        connections: connections?,
        connections_per_s_max: connections_per_s_max?,
        interim: Some(interim?).filter(|interim| !interim.is_zero()),
        queue_max: queue_max?,
    })
}

/// The fields that are named, or all when none is.
fn selection(field: &Field<'_>) -> Option<Selection> {
    let names = field.list(|item| {
        let name = item.text()?;
        match Selection::of(&[name]) {
            Ok(_) => Some(name),
            Err(unknown) => {
                let nearest = unknown.into_iter().find_map(|unknown| unknown.nearest);
                item.wrong(
                    format!("the record has no field {name:?}"),
                    nearest.map(|nearest| format!("did you mean \"{nearest}\"?")),
                );
                None
            }
        }
    })?;
    match names.as_slice() {
        [] => Some(Selection::all()),
        names => Selection::of(names).ok(),
    }
}

fn rotate(mut section: Section<'_>) -> Option<Option<Rotation>> {
    let max_mib = section
        .key("max_mib")
        .and_then(|field| field.count::<u64>(0..=1 << 30));
    let keep = section
        .key("keep")
        .and_then(|field| field.count(0..=10_000));
    section.finish();
    let (max_bytes, keep) = (max_mib? << 20, keep?);
    Some((max_bytes > 0).then_some(Rotation { max_bytes, keep }))
}

fn header_name(field: Field<'_>) -> Option<String> {
    let text = field.text()?;
    match http::HeaderName::from_bytes(text.as_bytes()) {
        Ok(name) => Some(name.as_str().to_owned()),
        Err(_) => {
            field.wrong(format!("{text:?} is no header name"), None);
            None
        }
    }
}

fn tap(mut section: Section<'_>) -> Option<TapConfig> {
    let mode = section.key("mode").and_then(|field| {
        field.choice(&[
            ("auto", TapMode::Auto),
            ("ebpf", TapMode::Ebpf),
            ("tcp_info", TapMode::TcpInfo),
            ("off", TapMode::Off),
        ])
    });
    let cgroup = section.key("cgroup").and_then(|field| match field.text()? {
        "auto" => Some(None),
        path if Path::new(path).is_absolute() => Some(Some(PathBuf::from(path))),
        path => {
            field.wrong(
                format!("{path:?} is no absolute path"),
                "write \"auto\" or a directory of cgroup v2".to_owned(),
            );
            None
        }
    });
    let sockets_max = section
        .key("sockets_max")
        .and_then(|field| field.count(2..=1 << 20));
    section.finish();
    Some(TapConfig {
        mode: mode?,
        cgroup: cgroup?,
        sockets_max: sockets_max?,
    })
}

fn settle(mut section: Section<'_>) -> Option<SettleConfig> {
    let max = section.key("max_s").and_then(|field| field.seconds());
    let unsettled_max = section
        .key("unsettled_max")
        .and_then(|field| field.count(1..=MANY));
    section.finish();
    Some(SettleConfig {
        max: max?,
        unsettled_max: unsettled_max?,
    })
}

fn admin(
    mut section: Section<'_>,
    listeners: Option<&[ListenerConfig]>,
) -> Option<Option<AdminConfig>> {
    let address = section
        .key("address")
        .and_then(|field| match field.text()? {
            "none" => Some(None),
            _ => {
                let address = socket_address(&field)?;
                let taken = listeners
                    .unwrap_or_default()
                    .iter()
                    .position(|listener| listener.address == address);
                if let Some(index) = taken.filter(|_| address.port() != 0) {
                    field.wrong(
                        format!("listeners[{index}] has this address already"),
                        "give the admin API a port of its own".to_owned(),
                    );
                }
                Some(Some((address, field)))
            }
        });
    let token_file = optional(section.get("token_file"), |field| {
        field.file(files::check_token).map(|(path, ())| path)
    });
    if let (Some(Some((address, field))), Some(None)) = (&address, &token_file)
        && !address.ip().to_canonical().is_loopback()
    {
        field.wrong(
            format!("{address} can be reached from other machines, and there is no token"),
            "add admin.token_file, or listen on 127.0.0.1".to_owned(),
        );
    }
    let allowed_hosts = section
        .key("allowed_hosts")
        .and_then(|field| field.list(answered_host));
    let recent_max = section
        .key("recent_max")
        .and_then(|field| field.count(1..=1 << 24));
    section.finish();
    let (address, token_file, mut allowed_hosts) = (address?, token_file?, allowed_hosts?);
    let recent_max = recent_max?;
    Some(address.map(|(address, _)| {
        let own = match address.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        if !address.ip().is_unspecified() && !allowed_hosts.contains(&own) {
            allowed_hosts.push(own);
        }
        AdminConfig {
            address,
            token_file,
            allowed_hosts,
            recent_max,
        }
    }))
}

fn answered_host(field: Field<'_>) -> Option<String> {
    match field.parsed(HostPattern::parse)? {
        HostPattern::Exact(host) => Some(host),
        HostPattern::Below(_) => {
            field.wrong("the admin API answers to whole names only", None);
            None
        }
    }
}

fn consumer(mut section: Section<'_>) -> Option<ConsumerConfig> {
    let client_id = section.key("client_id").and_then(|field| sources(&field));
    let app = section.key("app").and_then(|field| sources(&field));
    let org = section.key("org").and_then(|field| sources(&field));
    section.finish();
    Some(ConsumerConfig {
        client_id: client_id?,
        app: app?,
        org: org?,
    })
}

/// A list of sources, or a single one.
fn sources(field: &Field<'_>) -> Option<Vec<ConsumerSource>> {
    match field.node().value {
        Value::Text(_) => source(field.clone()).map(|source| vec![source]),
        _ => field.list(source),
    }
}

fn source(field: Field<'_>) -> Option<ConsumerSource> {
    let text = field.text()?;
    let source = match text.split_once(':') {
        Some(("header", name)) => http::HeaderName::from_bytes(name.as_bytes())
            .ok()
            .map(ConsumerSource::Header),
        Some(("query", name)) if !name.is_empty() => Some(ConsumerSource::Query(name.to_owned())),
        Some(("mtls", "subject")) => Some(ConsumerSource::MtlsSubject),
        Some(("mtls", "issuer")) => Some(ConsumerSource::MtlsIssuer),
        Some(("mtls", "sha256")) => Some(ConsumerSource::MtlsSha256),
        _ => None,
    };
    if source.is_none() {
        field.wrong(
            format!("{text:?} is no place in a call"),
            "write header:NAME, query:NAME, mtls:subject, mtls:issuer or mtls:sha256".to_owned(),
        );
    }
    source
}

fn shutdown(mut section: Section<'_>) -> Option<ShutdownConfig> {
    let grace = section.key("grace_s").and_then(|field| field.seconds());
    section.finish();
    Some(ShutdownConfig { grace: grace? })
}

fn proxy(mut section: Section<'_>) -> Option<ProxyConfig> {
    let trusted_peers = section
        .key("trusted_peers")
        .and_then(|field| field.list(network));
    section.finish();
    Some(ProxyConfig {
        trusted_peers: trusted_peers?,
    })
}

pub(super) fn network(field: Field<'_>) -> Option<Network> {
    let text = field.text()?;
    text.parse()
        .map_err(|why: BadNetwork| field.wrong(format!("{text:?}: {why}"), why.remedy()))
        .ok()
}

/// Pingora's parser refuses longer ones itself, before anybody could answer 414 or 431.
const URI_BYTES_MAX: i64 = 65_534;
const HEADER_BYTES_MAX: i64 = 1_048_575;

fn limits(mut section: Section<'_>) -> Option<Limits> {
    let mut millis = |key| section.key(key).and_then(|field| field.millis());
    let (handshake, head, idle) = (millis("handshake_ms"), millis("head_ms"), millis("idle_ms"));
    let (client_stall, connect) = (millis("client_stall_ms"), millis("connect_ms"));
    let upstream_idle = millis("upstream_idle_ms");
    let mut or_none = |key| section.key(key).and_then(|field| field.millis_or_none());
    let (total, upgraded_idle) = (or_none("total_ms"), or_none("upgraded_idle_ms"));
    let (upstream_read, upstream_write) =
        (or_none("upstream_read_ms"), or_none("upstream_write_ms"));
    let connections_max = section
        .key("connections_max")
        .and_then(|field| field.count(1..=MANY));
    let upstream_pool_max = section
        .key("upstream_pool_max")
        .and_then(|field| field.count(0..=MANY));
    let uri_max_bytes = section
        .key("uri_max_bytes")
        .and_then(|field| field.count(64..=URI_BYTES_MAX));
    let header_max_bytes = section
        .key("header_max_bytes")
        .and_then(|field| field.count(256..=HEADER_BYTES_MAX));
    let body_max_bytes = section
        .key("body_max_bytes")
        .and_then(|field| field.count::<u64>(0..=i64::MAX));
    let h2_streams_max = section
        .key("h2_streams_max")
        .and_then(|field| field.count(1..=1 << 16));
    section.finish();
    Some(Limits {
        connections_max: connections_max?,
        handshake: handshake?,
        head: head?,
        idle: idle?,
        client_stall: client_stall?,
        total: total?,
        connect: connect?,
        upstream_read: upstream_read?,
        upgraded_idle: upgraded_idle?,
        upstream_write: upstream_write?,
        upstream_idle: upstream_idle?,
        upstream_pool_max: upstream_pool_max?,
        uri_max_bytes: uri_max_bytes?,
        header_max_bytes: header_max_bytes?,
        body_max_bytes: body_max_bytes.map(|bytes| (bytes > 0).then_some(bytes))?,
        h2_streams_max: h2_streams_max?,
    })
}

/// What groups, rules and webhooks may be called.
pub(super) fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(allowed)
}

/// A key that may be absent: `Some(None)` then, `None` when it is there and wrong.
pub(super) fn optional<'t, T>(
    field: Option<Field<'t>>,
    read: impl FnOnce(Field<'t>) -> Option<T>,
) -> Option<Option<T>> {
    match field {
        Some(field) => read(field).map(Some),
        None => Some(None),
    }
}

fn socket_address(field: &Field<'_>) -> Option<SocketAddr> {
    let text = field.text()?;
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let remedy = match text.rsplit_once(':') {
        Some(("" | "*", port)) => format!("write 0.0.0.0:{port}, or [::]:{port}"),
        Some(("localhost", port)) => format!("write 127.0.0.1:{port}"),
        _ => "write an IP address and a port: 127.0.0.1:8080 or [::1]:8080".to_owned(),
    };
    field.wrong(format!("{text:?} is no address"), remedy);
    None
}

/// A certificate and its key; `None` also where one of the two is absent.
fn certificate_pair(
    certificate: Option<&Field<'_>>,
    key: Option<&Field<'_>>,
) -> Option<(PathBuf, PathBuf)> {
    let chain = certificate.and_then(|field| field.file(files::chain));
    let signer = key.and_then(|field| field.file(files::signer));
    let ((certificate_path, chain), (key_path, signer)) = (chain?, signer?);
    match files::check_pair((&certificate_path, chain), (&key_path, signer)) {
        Ok(()) => Some((certificate_path, key_path)),
        Err(error) => {
            key?.wrong(error.to_string(), None);
            None
        }
    }
}

pub(super) fn authorities(field: &Field<'_>) -> Option<PathBuf> {
    field.file(files::check_authorities).map(|(path, ())| path)
}
