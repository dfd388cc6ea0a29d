//! Those who mean well, and would be in the way of a detector that is easily excited.
//!
//! People with sessions, thoughts and mistyped passwords, alone or many behind one address; phones on a
//! lossy network; partners' integrations; one customer with 10,000 orders; a health checker that is
//! perfectly regular; a polite crawler; a nightly job; the users of routes that were deployed a moment
//! ago; a crowd that follows an advertisement. A day is compressed into ten minutes.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval, sleep};

use super::api;
use super::arena::{Arena, FRONT, PHONES, PORTS, USERS};
use super::chance::Chance;
use super::habits::{self, Identity, PARTNERS};
use super::http::{Connection, Request};
use super::life::Life;

/// A day of ours.
pub const DAY: Duration = Duration::from_secs(600);

/// People at home, each with an address.
const HOMES: u32 = 200;
/// People behind one address, and in a smaller office behind another.
const CAMPUS: u32 = 60;
const OFFICE: u32 = 25;
/// People with phones.
const MOBILE: u32 = 60;
/// How many times the people at home there are at the height of the crowd.
const CROWD: u32 = 5;
/// How long the crowd takes to come, and stays.
const CROWD_COMES: Duration = Duration::from_secs(90);
const CROWD_STAYS: Duration = Duration::from_secs(60);

/// Which class an address belongs to, as it is drawn here.
pub fn class(address: Ipv4Addr) -> Option<&'static str> {
    if PHONES.contains(address) {
        return Some("phone");
    }
    let nth = (address.to_bits()).wrapping_sub(USERS.nth(0).to_bits());
    Some(match nth {
        _ if !USERS.contains(address) => return None,
        CAMPUS_AT => "campus",
        OFFICE_AT => "office",
        LARGE_AT => "large customer",
        HEALTH_AT => "health checker",
        CRAWLER_AT => "crawler",
        NIGHTLY_AT => "nightly job",
        PARTNERS_AT..HOMES_AT => "partner",
        HOMES_AT..CROWD_AT => "home",
        _ => "crowd",
    })
}

// Where in [`USERS`] everybody lives; a /24 for each kind of organisation.
pub(super) const CAMPUS_AT: u32 = 256 + 7;
pub(super) const OFFICE_AT: u32 = 512 + 33;
pub(super) const LARGE_AT: u32 = 768 + 20;
pub(super) const HEALTH_AT: u32 = 1024 + 5;
pub(super) const CRAWLER_AT: u32 = 1280 + 66;
pub(super) const NIGHTLY_AT: u32 = 1536 + 4;
pub(super) const PARTNERS_AT: u32 = 2048;
pub(super) const HOMES_AT: u32 = 4096;
pub(super) const CROWD_AT: u32 = 8192;

/// What they all know.
pub struct World {
    begun: Instant,
    /// Where in the day it began, 0 to 1.
    morning: f64,
    seed: u64,
    /// The routes that come later are there.
    deployed: AtomicBool,
    /// Calls that got none.
    pub unanswered: AtomicU64,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            begun: Instant::now(),
            morning: Chance::new(seed, 77).share(),
            seed,
            deployed: AtomicBool::new(false),
            unanswered: AtomicU64::new(0),
        }
    }

    /// From now on the later routes are called.
    pub fn deploy(&self) {
        self.deployed.store(true, Ordering::Relaxed);
    }

    fn is_deployed(&self) -> bool {
        self.deployed.load(Ordering::Relaxed)
    }

    /// How busy people are at this time of day; 1 on average.
    fn level(&self) -> f64 {
        let day = self.begun.elapsed().as_secs_f64() / DAY.as_secs_f64() + self.morning;
        1.0 + 0.6 * (std::f64::consts::TAU * day).sin()
    }
}

/// All of them, at work until dropped.
pub struct People {
    /// What they know, and how they fared.
    pub world: Arc<World>,
    _lives: [Life; 2],
}

impl People {
    /// They begin to call. `crowd_after` is when the crowd comes, if it does.
    pub fn begin(arena: &Arena, seed: u64, crowd_after: Option<Duration>) -> anyhow::Result<Self> {
        let world = Arc::new(World::new(seed));
        let users = {
            let world = world.clone();
            Life::begin(
                &arena.users,
                || Ok(()),
                move |()| on_land(world, crowd_after),
            )?
        };
        let phones = {
            let world = world.clone();
            Life::begin(&arena.phones, || Ok(()), move |()| on_phones(world))?
        };
        Ok(Self {
            world,
            _lives: [users, phones],
        })
    }
}

async fn on_land(world: Arc<World>, crowd_after: Option<Duration>) {
    for nth in 0..HOMES {
        start(person(&world, nth, USERS.nth(HOMES_AT + nth)));
    }
    for nth in 0..CAMPUS {
        start(person(&world, HOMES + nth, USERS.nth(CAMPUS_AT)));
    }
    for nth in 0..OFFICE {
        start(person(&world, HOMES + CAMPUS + nth, USERS.nth(OFFICE_AT)));
    }
    for nth in 0..PARTNERS {
        start(partner(world.clone(), nth));
    }
    start(large_customer(world.clone()));
    start(health_checker(world.clone()));
    start(crawler(world.clone()));
    start(nightly_job(world.clone()));
    if let Some(after) = crowd_after {
        sleep(after).await;
        let more = HOMES * (CROWD - 1);
        for nth in 0..more {
            let person = person(&world, 2_000 + nth, USERS.nth(CROWD_AT + nth));
            let comes = CROWD_COMES.mul_f64(f64::from(nth) / f64::from(more));
            start(async move {
                sleep(comes).await;
                let _ = tokio::time::timeout(CROWD_STAYS + CROWD_COMES - comes / 2, person).await;
            });
        }
    }
    std::future::pending::<()>().await;
}

async fn on_phones(world: Arc<World>) {
    for nth in 0..MOBILE {
        let mut person = Person::browsing(&world, 1_000 + nth, PHONES.nth(300 + nth * 5));
        person.identity = Identity::phoning(1_000 + nth);
        start(person.live());
    }
    std::future::pending::<()>().await;
}

fn start(life: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(life);
}

fn person(
    world: &Arc<World>,
    nth: u32,
    source: Ipv4Addr,
) -> impl Future<Output = ()> + Send + 'static {
    Person::browsing(world, nth, source).live()
}

/// A connection that is made anew when it is needed.
struct Line {
    world: Arc<World>,
    source: Ipv4Addr,
    to: SocketAddr,
    open: Option<Connection>,
}

impl Line {
    fn new(world: &Arc<World>, source: Ipv4Addr, port: u16) -> Self {
        Self {
            world: world.clone(),
            source,
            to: SocketAddr::new(IpAddr::V4(FRONT), port),
            open: None,
        }
    }

    async fn call(&mut self, request: Request) {
        let request = request.with("Host", "api.example.com");
        let kept = self.open.is_some();
        let mut answered = self.once(&request).await;
        // A kept connection may have been closed meanwhile; that is nobody's fault.
        if !answered && kept && request.method == "GET" {
            answered = self.once(&request).await;
        }
        if !answered {
            self.world.unanswered.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn once(&mut self, request: &Request) -> bool {
        if self.open.is_none() {
            self.open = Connection::open(self.source, self.to).await.ok();
        }
        let Some(open) = self.open.as_mut() else {
            return false;
        };
        let answered = open.call(request).await.is_ok();
        if !answered || open.is_over() {
            self.open = None;
        }
        answered
    }

    fn hang_up(&mut self) {
        self.open = None;
    }
}

struct Person {
    identity: Identity,
    chance: Chance,
    line: Line,
}

impl Person {
    fn browsing(world: &Arc<World>, nth: u32, source: Ipv4Addr) -> Self {
        let mut chance = Chance::new(world.seed, 10_000 + u64::from(nth));
        Self {
            identity: Identity::browsing(nth, &mut chance),
            line: Line::new(world, source, PORTS[nth as usize % 4]),
            chance,
        }
    }

    async fn live(mut self) {
        // They are spread over their sessions from the beginning.
        let idle = Duration::from_secs(30);
        sleep(self.chance.waiting(idle)).await;
        loop {
            self.session().await;
            let level = self.line.world.level();
            sleep(self.chance.waiting(idle).div_f64(level)).await;
        }
    }

    async fn session(&mut self) {
        if self.chance.happens(0.3) {
            self.line.call(self.identity.icon()).await;
        }
        // One in twenty mistypes the password, and some of those once more.
        let mut wrong = self.chance.happens(0.05);
        while wrong {
            self.line.call(self.identity.login(true)).await;
            self.think().await;
            wrong = self.chance.happens(0.2);
        }
        self.line.call(self.identity.login(false)).await;
        let steps = 3 + self.chance.below(18);
        for _ in 0..steps {
            self.think().await;
            let is_deployed = self.line.world.is_deployed();
            let step = self.identity.step(&mut self.chance, is_deployed);
            self.line.call(step).await;
        }
        self.line.hang_up();
    }

    async fn think(&mut self) {
        let s = self.chance.about(2.2, 0.7).min(30.0);
        sleep(Duration::from_secs_f64(s)).await;
    }
}

async fn partner(world: Arc<World>, nth: u32) {
    let mut chance = Chance::new(world.seed, 500 + u64::from(nth));
    let mut line = Line::new(&world, USERS.nth(PARTNERS_AT + 256 * nth + 9), PORTS[4]);
    let pause = Duration::from_secs_f64(habits::partner_pause_s(nth));
    for at in 0.. {
        sleep(chance.waiting(pause)).await;
        let request = habits::partner(nth, at, &mut chance, world.is_deployed());
        line.call(request).await;
    }
}

async fn large_customer(world: Arc<World>) {
    let mut chance = Chance::new(world.seed, 600);
    let mut line = Line::new(&world, USERS.nth(LARGE_AT), PORTS[4]);
    let begin = chance.below(api::LARGE);
    for at in begin.. {
        sleep(chance.waiting(Duration::from_millis(125))).await;
        line.call(habits::large_customer(at)).await;
    }
}

/// Once a second, on a connection of its own.
async fn health_checker(world: Arc<World>) {
    let mut line = Line::new(&world, USERS.nth(HEALTH_AT), PORTS[0]);
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        line.call(habits::health()).await;
        line.hang_up();
    }
}

/// One page a second.
async fn crawler(world: Arc<World>) {
    let mut line = Line::new(&world, USERS.nth(CRAWLER_AT), PORTS[0]);
    for at in 0.. {
        line.call(habits::crawler(at)).await;
        sleep(Duration::from_secs(1)).await;
    }
}

/// Once a day, at the same hour, as fast as it is answered.
async fn nightly_job(world: Arc<World>) {
    let mut chance = Chance::new(world.seed, 700);
    let mut line = Line::new(&world, USERS.nth(NIGHTLY_AT), PORTS[4]);
    loop {
        let now = world.begun.elapsed().as_secs_f64() / DAY.as_secs_f64() + world.morning;
        // In the night, when the others are least busy.
        let until = (0.75 - now.fract()).rem_euclid(1.0);
        sleep(DAY.mul_f64(until)).await;
        for at in 0..160 {
            line.call(habits::nightly_job(at)).await;
            sleep(chance.waiting(Duration::from_millis(40))).await;
        }
        line.hang_up();
        sleep(DAY / 10).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_a_class_and_attackers_have_none() {
        for (at, expected) in [
            (CAMPUS_AT, "campus"),
            (LARGE_AT, "large customer"),
            (PARTNERS_AT + 256 * (PARTNERS - 1) + 9, "partner"),
            (HOMES_AT + HOMES - 1, "home"),
            (CROWD_AT + HOMES * (CROWD - 1) - 1, "crowd"),
        ] {
            assert_eq!(class(USERS.nth(at)), Some(expected));
            assert!(at < USERS.size());
        }
        assert_eq!(class(PHONES.nth(5)), Some("phone"));
        assert_eq!(class(super::super::arena::foes(0).nth(1)), None);
    }
}
