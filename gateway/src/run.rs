//! `calltap run`: puts the parts together, in the order that privileges and cgroups demand, and
//! takes them down again.
//!
//! The tap is first, for a socket belongs to the cgroup its maker was in. Then the listeners, which
//! say at once if a port is taken. Then every privilege goes. Only then do threads start.

use std::hash::{BuildHasher as _, RandomState};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use arc_swap::ArcSwap;
use calltap_correlate::exchange::ExternalEntry;
use calltap_correlate::join::{self, WallClock};
use calltap_correlate::record::{CallRecord, Selection};
use calltap_policies::Policies;
use calltap_policies::admit::Count;
use calltap_policies::alert::{Alert, Alerts, Change};
use calltap_policies::detect::Detectors;
use calltap_policies::review::{RecordCount, Review, Secrets};
use calltap_policies::watch::Watch;
use calltap_tap::Tap;
use crossbeam_queue::ArrayQueue;
use dashmap::DashMap;
use pingora::apps::{HttpServerApp as _, HttpServerOptions};
use pingora::prelude::fast_timeout::set_fast_timeout_to_tokio_threshold;
use pingora::protocols::http::v2::server::H2Options;
use pingora::proxy::http_proxy;
use pingora::server::configuration::ServerConf;
use rustix::net::Shutdown;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use uuid::Uuid;

use crate::account::Account;
use crate::admin::{self, CallMetrics, Feed, LiveConnection, Recent, TapStatus};
use crate::alerts::{Board, Delivery, Link, Pace, Teller};
use crate::cli::RunArgs;
use crate::clock::now_ns;
use crate::config::{self, Config, ConfigError, Overrides, RecordsPath, TapMode};
use crate::denials::Denials;
use crate::pipeline::{Entrance, Outlet, Pipeline};
use crate::proxy::{Gateway, Setup};
use crate::server::{self, Listener, Live, Shared};
use crate::sink::json_lines::{self, JsonLines, Producer};
use crate::socket::TapSource;
use crate::tls::ListenerTls;
use crate::upstream::{ConnectHooks, UpstreamConnection, Upstreams, UpstreamsState};

/// How long the start waits for DNS; what has no address by then gets one later.
const FIRST_LOOKUP_MAX: Duration = Duration::from_secs(2);
/// Calls that were told to end get this long, twice.
const CUT_OFF_MAX: Duration = Duration::from_millis(500);
/// What waits for the disk at the end gets this long.
const LAST_WRITE_MAX: Duration = Duration::from_secs(5);

/// Runs until told to stop.
pub(crate) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let config = match config::load(args.config.as_deref(), &args.overrides()) {
        Ok(config) => config,
        Err(mistakes) => {
            print_mistakes(&mistakes);
            return Ok(ExitCode::FAILURE);
        }
    };
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok()
        .context("a second TLS provider was installed")?;
    allow_many_files();
    // Pingora's own timers have a thread that wakes a hundred times a second, calls or none. Those of
    // the runtime wake nobody before their time.
    set_fast_timeout_to_tokio_threshold(Some(Duration::ZERO));
    let (tap, tap_reason) = start_tap(&config)?;
    let listeners = bind(&config, &tap)?;
    let admin = bind_admin(&config)?;
    calltap_tap::drop_privileges(false).context("cannot give up privileges")?;
    Calltap::start(config, args, tap, tap_reason, listeners, admin)?.run()
}

/// Every mistake on a line of its own.
pub(crate) fn print_mistakes(mistakes: &[ConfigError]) {
    for mistake in mistakes {
        eprintln!("{mistake}");
    }
    let s = if mistakes.len() == 1 { "" } else { "s" };
    eprintln!(
        "calltap: {} mistake{s} in the configuration",
        mistakes.len()
    );
}

/// Two descriptors per proxied connection: the soft limit of 1024 is a default for programs that
/// use select(2), which this one does not.
fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    ) {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
}

fn start_tap(config: &Config) -> anyhow::Result<(TapSource, Option<String>)> {
    let options = config.tap_options();
    match config.tap.mode {
        TapMode::Off => Ok((TapSource::Off, Some("tap.mode is off".to_owned()))),
        TapMode::TcpInfo => Ok((
            TapSource::TcpInfo("tap_mode"),
            Some("tap.mode is tcp_info".to_owned()),
        )),
        TapMode::Ebpf => {
            let tap = Tap::start(&options).context("tap.mode is ebpf, but the tap cannot start")?;
            Ok((TapSource::Ebpf(Arc::new(tap)), None))
        }
        TapMode::Auto => match Tap::start(&options) {
            Ok(tap) => Ok((TapSource::Ebpf(Arc::new(tap)), None)),
            Err(error) => {
                let why = chain(&anyhow::Error::from(error));
                tracing::warn!(
                    "no eBPF here, records will have what TCP_INFO knows: {why}; \
                     `calltap doctor` says what to do"
                );
                Ok((TapSource::TcpInfo("ebpf_unavailable"), Some(why)))
            }
        },
    }
}

/// An error with its causes; a cause that the error has already told is left out.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(|cause| in_one_line(&cause.to_string())) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// The kernel's reasons for refusing a program come in several.
fn in_one_line(text: &str) -> String {
    text.lines().collect::<Vec<_>>().join(" | ")
}

fn bind(config: &Config, tap: &TapSource) -> anyhow::Result<Vec<Bound>> {
    config
        .listeners
        .iter()
        .map(|listener| {
            let tls = match &listener.tls {
                Some(files) => Some(Arc::new(ListenerTls::load(files)?)),
                None => None,
            };
            let bound = Listener::bind(listener, tls.clone(), tap)?;
            Ok(Bound {
                listener: Arc::new(bound),
                tls,
            })
        })
        .collect()
}

fn bind_admin(config: &Config) -> anyhow::Result<Option<admin::Bound>> {
    let Some(config) = &config.admin else {
        return Ok(None);
    };
    let token = config
        .token_file
        .as_deref()
        .map(admin::Token::read)
        .transpose()?;
    Ok(Some(admin::Bound::bind(
        config.address,
        token,
        &config.allowed_hosts,
    )?))
}

/// A listener and its certificates, which a reload exchanges.
struct Bound {
    listener: Arc<Listener>,
    tls: Option<Arc<ListenerTls>>,
}

/// Everything that runs.
struct Calltap {
    config_path: Option<PathBuf>,
    overrides: Overrides,
    setup: Arc<ArcSwap<Setup>>,
    shared: Arc<Shared>,
    listeners: Arc<[Bound]>,
    sink: JsonLines,
    join: JoinHandle<()>,
    delivery: Delivery,
    admin: Option<admin::Running>,
    /// The signals, the look-ups and the health checks.
    runtime: Runtime,
}

impl Calltap {
    fn start(
        config: Config,
        args: &RunArgs,
        tap: TapSource,
        tap_reason: Option<String>,
        listeners: Vec<Bound>,
        admin: Option<admin::Bound>,
    ) -> anyhow::Result<Self> {
        let runtime = current_thread_runtime()?;
        let instance: Arc<str> = Uuid::now_v7().to_string().into();
        let account = Account::new(&[json_lines::NAME]);
        let sink = JsonLines::start(sink_options(&config), account.sink(json_lines::NAME))?;
        let entrance = Arc::new(Entrance::new(
            config.records.queue_max,
            Arc::clone(&account),
        ));
        let registry = Arc::new(DashMap::with_shard_amount(server::REGISTRY_SHARDS));
        let denials = Arc::new(Denials::new(tap.clone(), Arc::clone(&registry)));
        let shared = Arc::new(Shared {
            limits: config.limits,
            connections: config.records.connections,
            registry,
            entrance: Arc::clone(&entrance),
            live: Live::default(),
            closed: ArrayQueue::new(server::CLOSED_MAX),
            sweep_ns: AtomicU64::new(0),
            hooks: Arc::new(connect_hooks(&tap)),
            denials: Arc::clone(&denials),
            draining: AtomicBool::new(false),
            tap,
        });
        let setup = Setup::of(config, None)?;
        runtime.block_on(setup.upstreams.resolve(FIRST_LOOKUP_MAX));
        setup.upstreams.watch(runtime.handle());
        let setup = Arc::new(ArcSwap::from_pointee(setup));
        let loaded = setup.load();
        let config = &loaded.config;
        denials
            .configure(&config.denials, loaded.upstreams.addresses())
            .context("cannot put policies.lists in force")?;
        let recent = Recent::new(config.admin.as_ref().map_or(0, |admin| admin.recent_max));
        let metrics = Arc::new(CallMetrics::default());
        let feed = admin
            .is_some()
            .then(|| Feed::new(Arc::clone(&recent), Arc::clone(&metrics)));
        let alerts = &config.alerts;
        let board = Board::new();
        let base = alerts.link.clone();
        let link = Link {
            instance: Arc::clone(&instance),
            base: base.or_else(|| admin.as_ref().and_then(admin::Bound::url)),
        };
        let (delivery, teller) = Delivery::start(
            alerts,
            link,
            Arc::clone(&board),
            Arc::clone(&denials),
            Pace::default(),
        )?;
        let seed = RandomState::new().hash_one(now_ns());
        let join = Pipeline {
            entrance,
            limits: join::Limits {
                settle_max_ns: config.settle.max.as_nanos() as u64,
                unsettled_max: config.settle.unsettled_max,
            },
            connections_per_s_max: config.records.connections_per_s_max,
            interim_ns: config
                .records
                .interim
                .map_or(u64::MAX, |interim| interim.as_nanos() as u64),
            instance: Arc::clone(&instance),
            shared: Arc::clone(&shared),
            setup: Arc::clone(&setup),
            policies: policies(config, seed),
            outlet: Box::new(Outlets {
                lines: sink.producer(),
                feed,
                teller,
            }),
        }
        .spawn()?;
        let visible = Selection::all().without(&config.records.redact);
        let facts = Facts {
            setup: Arc::clone(&setup),
            shared: Arc::clone(&shared),
            tap_reason,
        };
        let upstreams_of = Arc::clone(&setup);
        let looked_after = Arc::clone(&denials);
        runtime.spawn(async move {
            let upstreams = || upstreams_of.load().upstreams.addresses();
            looked_after.look_after(upstreams).await;
        });
        let sources = admin::Sources {
            facts: Box::new(facts),
            denials,
            account,
            sink: sink.observer(),
            recent,
            metrics,
            board,
            destinations: Arc::clone(delivery.tallies()),
            visible,
            secrets: loaded.secrets.clone(),
            instance,
        };
        let admin = admin.map(|bound| bound.start(sources)).transpose()?;
        Ok(Self {
            config_path: args.config.clone(),
            overrides: args.overrides(),
            setup,
            shared,
            listeners: listeners.into(),
            sink,
            join,
            delivery,
            admin,
            runtime,
        })
    }

    /// Forwards calls until a signal ends it, then drains.
    fn run(self) -> anyhow::Result<ExitCode> {
        // Before the first call can come: a signal that nobody waits for ends the process at once.
        let mut signals = self.runtime.block_on(async { Signals::new() })?;
        let (stop, stopping) = watch::channel(false);
        let (end, ending) = watch::channel(false);
        let (ready, readiness) = mpsc::channel();
        let workers = (0..self.setup.load().config.workers.get())
            .map(|n| {
                let gateway = Gateway::new(Arc::clone(&self.setup), Arc::clone(&self.shared));
                let worker = Worker {
                    listeners: Arc::clone(&self.listeners),
                    shared: Arc::clone(&self.shared),
                    stopping: stopping.clone(),
                    ending: ending.clone(),
                    ready: ready.clone(),
                };
                let name = format!("calltap-work-{n}");
                thread::Builder::new()
                    .name(name)
                    .spawn(move || worker.run(gateway))
            })
            .collect::<Result<Vec<_>, _>>()?;
        drop(ready);
        for started in readiness.iter().take(workers.len()) {
            started.context("a worker cannot start")?;
        }
        self.announce();
        let drained = self.runtime.block_on(async {
            self.obey(&mut signals).await;
            self.shared.draining.store(true, Ordering::Release);
            stop.send_replace(true);
            for Bound { listener, .. } in self.listeners.iter() {
                listener.close();
            }
            let drained = self.drain(&mut signals).await;
            if !drained {
                self.cut_off().await;
            }
            anyhow::Ok(drained)
        });
        end.send_replace(true);
        for worker in workers {
            if worker.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
        self.shared.entrance.stop();
        if self.join.join().is_err() {
            tracing::error!("the join panicked");
        }
        self.sink.stop(LAST_WRITE_MAX);
        self.delivery.join();
        drop(self.admin);
        if !drained? {
            tracing::warn!("calls were cut off");
        }
        Ok(ExitCode::SUCCESS)
    }

    fn announce(&self) {
        for Bound { listener, tls } in self.listeners.iter() {
            let scheme = if tls.is_some() { "https" } else { "http" };
            tracing::info!("listening on {scheme}://{}", listener.address);
        }
        let tap = match &self.shared.tap {
            TapSource::Ebpf(tap) => tap.describe(),
            TapSource::TcpInfo(_) => "TCP_INFO".to_owned(),
            TapSource::Off => "off".to_owned(),
        };
        tracing::info!(
            "tap: {tap}; records: {}",
            self.sink.observer().status().target
        );
    }

    /// Reloads and reopens as told; returns when told to end.
    async fn obey(&self, signals: &mut Signals) {
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => return,
                _ = signals.interrupt.recv() => return,
                _ = signals.hangup.recv() => self.reload(),
                _ = signals.user1.recv() => {
                    tracing::info!("reopening the records");
                    self.sink.reopen();
                }
            }
        }
    }

    /// Lets open calls finish. Says whether all did.
    async fn drain(&self, signals: &mut Signals) -> bool {
        let grace = self.setup.load().config.shutdown.grace;
        let open = self.shared.live.count();
        let s = if open == 1 { "" } else { "s" };
        tracing::info!("draining {open} connection{s} for at most {grace:?}");
        tokio::select! {
            () = self.shared.live.none() => true,
            () = tokio::time::sleep(grace) => false,
            _ = signals.terminate.recv() => false,
            _ = signals.interrupt.recv() => false,
        }
    }

    /// Ends the calls that outlasted their grace, so that each still leaves its record: first as if
    /// their clients had said goodbye, then without regard to what is still being written.
    async fn cut_off(&self) {
        for how in [Shutdown::Read, Shutdown::Both] {
            for connection in self.shared.registry.iter() {
                connection.cut_off(how);
            }
            let none = tokio::time::timeout(CUT_OFF_MAX, self.shared.live.none());
            if none.await.is_ok() {
                return;
            }
        }
    }

    /// Takes a new configuration as a whole, or keeps the old one as a whole.
    fn reload(&self) {
        match self.try_reload() {
            Ok(()) => tracing::info!("reloaded"),
            Err(mistakes) => {
                for mistake in &mistakes {
                    tracing::error!("{mistake}");
                }
                tracing::error!("not reloaded: the configuration stays as it was");
            }
        }
    }

    fn try_reload(&self) -> Result<(), Vec<String>> {
        let texts = |mistakes: Vec<ConfigError>| -> Vec<String> {
            mistakes.iter().map(ToString::to_string).collect()
        };
        let text = |error: anyhow::Error| vec![format!("{error:#}")];
        let mut new = config::load(self.config_path.as_deref(), &self.overrides).map_err(texts)?;
        let old = self.setup.load_full();
        new.policies.rules.continue_from(&old.config.policies.rules);
        // Nobody else has them yet.
        if let Some(records) = Arc::get_mut(&mut new.policies.records) {
            records.continue_from(&old.config.policies.records);
        }
        let fixed = old.config.needs_restart(&new);
        if !fixed.is_empty() {
            return Err(texts(fixed));
        }
        let mut certificates = Vec::new();
        for (bound, config) in self.listeners.iter().zip(&new.listeners) {
            if let (Some(tls), Some(files)) = (&bound.tls, &config.tls) {
                let next = tls.read(files).map_err(|error| text(error.into()))?;
                certificates.push((tls, next));
            }
        }
        let next = Setup::of(new, Some(&old.upstreams)).map_err(text)?;
        self.shared
            .denials
            .configure(&next.config.denials, next.upstreams.addresses())
            .map_err(|error| {
                text(anyhow::Error::from(error).context("cannot put policies.lists in force"))
            })?;
        // Nothing can fail from here on.
        for (tls, next) in certificates {
            tls.exchange(next);
        }
        next.upstreams.watch(self.runtime.handle());
        self.setup.store(Arc::new(next));
        Ok(())
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user1: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
        })
    }
}

/// One thread that proxies calls.
struct Worker {
    listeners: Arc<[Bound]>,
    shared: Arc<Shared>,
    stopping: watch::Receiver<bool>,
    ending: watch::Receiver<bool>,
    /// Told once, when connections are accepted or why they never will be.
    ready: mpsc::Sender<std::io::Result<()>>,
}

impl Worker {
    fn run(mut self, gateway: Gateway) {
        let runtime = match current_thread_runtime() {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = self.ready.send(Err(error));
                return;
            }
        };
        runtime.block_on(async {
            let conf = ServerConf {
                upstream_keepalive_pool_size: self.shared.limits.upstream_pool_max,
                // The group's own number of retries is what decides.
                max_retries: usize::MAX,
                ..ServerConf::default()
            };
            let mut proxy = http_proxy(&Arc::new(conf), gateway);
            let mut h2 = H2Options::new();
            h2.max_concurrent_streams(self.shared.limits.h2_streams_max);
            proxy.h2_options = Some(h2);
            let mut options = HttpServerOptions::default();
            options.h2_idle_timeout = Some(self.shared.limits.idle);
            proxy.server_options = Some(options);
            let proxy = Arc::new(proxy);
            for Bound { listener, .. } in self.listeners.iter() {
                tokio::spawn(server::accept(
                    Arc::clone(listener),
                    Arc::clone(&self.shared),
                    Arc::clone(&proxy),
                    self.stopping.clone(),
                ));
            }
            // An error means that the other end is gone, and everything with it.
            let _ = self.ready.send(Ok(()));
            let _ = self.stopping.wait_for(|stop| *stop).await;
            proxy.http_cleanup().await;
            let _ = self.ending.wait_for(|end| *end).await;
        });
    }
}

fn current_thread_runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// The policies of a configuration, with nothing learned yet. `seed` tells the ids of their alerts from
/// those of others.
pub(crate) fn policies(config: &Config, seed: u64) -> Policies {
    Policies {
        review: Review {
            rules: Arc::clone(&config.policies.records),
            // A name with a dot is a field's; those without are hidden where they are read.
            hides_words: config.records.redact.iter().any(|name| name.contains('.')),
        },
        detectors: Detectors::new(config.alerts.bounds),
        watch: Watch::new(config.alerts.sources_max),
        alerts: Alerts::new(config.alerts.terms, seed, &config.alerts.off),
    }
}

fn sink_options(config: &Config) -> json_lines::Options {
    let records = &config.records;
    json_lines::Options {
        target: match &records.path {
            RecordsPath::File(path) => json_lines::Target::File(path.clone()),
            RecordsPath::Stdout => json_lines::Target::Stdout,
            RecordsPath::None => json_lines::Target::Nowhere,
        },
        rotate: records.rotate.map(|rotation| json_lines::Rotate {
            max_bytes: rotation.max_bytes,
            keep: rotation.keep,
        }),
        fields: records.fields.clone().without(&records.redact),
        queue_max: records.queue_max,
        patience: json_lines::Patience::default(),
    }
}

impl Setup {
    /// Builds what a configuration describes. Endpoints that `previous` had keep what is known of
    /// them.
    fn of(config: Config, previous: Option<&Upstreams>) -> anyhow::Result<Self> {
        let upstreams = Upstreams::build(&config.upstreams, &config.limits, previous);
        let upstreams = upstreams.map_err(|errors| {
            let errors = errors
                .into_iter()
                .map(|error| format!("{:#}", anyhow::Error::from(error)));
            anyhow!(errors.collect::<Vec<_>>().join("; "))
        })?;
        let secrets = Secrets::usual_and(config.records.redact.iter().map(String::as_str));
        Ok(Self {
            config,
            upstreams,
            secrets,
        })
    }
}

fn connect_hooks(tap: &TapSource) -> ConnectHooks {
    let (owner, source) = (tap.clone(), tap.clone());
    ConnectHooks {
        now_ns: Arc::new(now_ns),
        own: Arc::new(move |cookie| owner.own_upstream(cookie)),
        luggage: Arc::new(move |cookie, socket| {
            Some(UpstreamConnection::new(&source, cookie, socket).into_digest())
        }),
    }
}

/// Where finished records and alerts go.
struct Outlets {
    lines: Producer,
    feed: Option<Feed>,
    teller: Teller,
}

impl Outlet for Outlets {
    fn take(&mut self, record: Arc<CallRecord>) {
        self.lines.offer(&record);
        if let Some(feed) = &mut self.feed {
            feed.take(record);
        }
    }

    fn left_out(&mut self, record: Arc<CallRecord>) {
        if let Some(feed) = &mut self.feed {
            feed.count(record);
        }
    }

    fn flush(&mut self) {
        self.lines.flush();
        if let Some(feed) = &mut self.feed {
            feed.flush();
        }
    }

    fn tell(&mut self, change: Change, alert: &Alert, clock: WallClock) {
        self.teller.tell(change, alert, clock);
    }
}

/// What the admin API asks.
struct Facts {
    setup: Arc<ArcSwap<Setup>>,
    shared: Arc<Shared>,
    tap_reason: Option<String>,
}

impl admin::Facts for Facts {
    fn tap(&self) -> TapStatus {
        let mut status = TapStatus {
            mode: "off",
            reason: self.tap_reason.clone(),
            ledgers: 0,
            ledgers_used: 0,
            memory_bytes: 0,
            drops: Vec::new(),
            listeners: Vec::new(),
        };
        match &self.shared.tap {
            TapSource::Ebpf(tap) => {
                let usage = tap.usage();
                status.mode = "ebpf";
                status.ledgers = usage.slots_total.into();
                status.ledgers_used = usage.slots_used.into();
                status.memory_bytes = usage.bytes_mapped as u64;
                status.drops = tap.drops();
                status.listeners = tap.listeners();
            }
            TapSource::TcpInfo(_) => status.mode = "tcp_info",
            TapSource::Off => {}
        }
        status
    }

    fn upstreams(&self) -> UpstreamsState {
        self.setup.load().upstreams.state()
    }

    fn rules(&self, each: &mut dyn FnMut(Count<'_>)) {
        let setup = self.setup.load();
        setup.config.policies.rules.counts().for_each(each);
    }

    fn record_rules(&self, each: &mut dyn FnMut(RecordCount<'_>)) {
        let setup = self.setup.load();
        setup.config.policies.records.counts().for_each(each);
    }

    fn ready(&self) -> Result<(), String> {
        if self.shared.draining.load(Ordering::Acquire) {
            return Err("draining".to_owned());
        }
        Ok(())
    }

    fn connections(&self) -> usize {
        self.shared.live.count()
    }

    fn last_sweep(&self) -> Duration {
        Duration::from_nanos(self.shared.sweep_ns.load(Ordering::Relaxed))
    }

    fn live_connections(&self, each: &mut dyn FnMut(LiveConnection)) {
        for connection in self.shared.registry.iter() {
            each(LiveConnection {
                cookie: *connection.key(),
                peer: connection.peer.address,
                local: connection.local,
            });
        }
    }

    fn now_ns(&self) -> u64 {
        now_ns()
    }

    fn log(&self, entry: ExternalEntry) -> bool {
        self.shared.entrance.external(entry)
    }
}
