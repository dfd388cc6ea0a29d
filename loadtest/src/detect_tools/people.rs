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

use super::api::{self, LARGE_CUSTOMER, Owner};
use super::arena::{Arena, FRONT, PHONES, PORTS, USERS};
use super::chance::Chance;
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
/// Integrations of partners.
const PARTNERS: u32 = 8;
/// How many times the people at home there are at the height of the crowd.
const CROWD: u32 = 5;
/// How long the crowd takes to come, and stays.
const CROWD_COMES: Duration = Duration::from_secs(90);
const CROWD_STAYS: Duration = Duration::from_secs(60);

const BROWSERS: [&str; 5] = [
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.4 Safari/605.1.15",
    "Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:126.0) Gecko/20100101 Firefox/126.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/125.0.0.0 Safari/537.36 Edg/125.0.0.0",
];
const PHONE_APP: &str = "ShopApp/5.2.1 (Android 14)";
const WORDS: [&str; 8] = [
    "lamp",
    "oak table",
    "chair",
    "blue sofa",
    "rug 2x3",
    "o'neill desk",
    "shelf",
    "bed & mattress",
];

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
const CAMPUS_AT: u32 = 256 + 7;
const OFFICE_AT: u32 = 512 + 33;
const LARGE_AT: u32 = 768 + 20;
const HEALTH_AT: u32 = 1024 + 5;
const CRAWLER_AT: u32 = 1280 + 66;
const NIGHTLY_AT: u32 = 1536 + 4;
const PARTNERS_AT: u32 = 2048;
const HOMES_AT: u32 = 4096;
const CROWD_AT: u32 = 8192;

/// What they all know.
pub struct World {
    begun: Instant,
    /// Where in the day it began, 0 to 1.
    morning: f64,
    seed: u64,
    /// The routes that come later are there.
    deployed: AtomicBool,
    /// Calls that got an answer.
    pub answered: AtomicU64,
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
            answered: AtomicU64::new(0),
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
        let mut person = Person::new(&world, 1_000 + nth, PHONES.nth(300 + nth * 5));
        person.agent = PHONE_APP;
        person.client_id = "shop-app";
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
    Person::new(world, nth, source).live()
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

    /// The status, or nothing where there was no answer.
    async fn call(&mut self, request: Request) -> Option<u16> {
        let request = request.with("Host", "api.example.com");
        let kept = self.open.is_some();
        let mut status = self.once(&request).await;
        // A kept connection may have been closed meanwhile; that is nobody's fault.
        if status.is_none() && kept && request.method == "GET" {
            status = self.once(&request).await;
        }
        let count = match status {
            Some(_) => &self.world.answered,
            None => &self.world.unanswered,
        };
        count.fetch_add(1, Ordering::Relaxed);
        status
    }

    async fn once(&mut self, request: &Request) -> Option<u16> {
        if self.open.is_none() {
            self.open = Connection::open(self.source, self.to).await.ok();
        }
        let open = self.open.as_mut()?;
        let status = open.call(request).await;
        if status.is_err() || open.is_over() {
            self.open = None;
        }
        status.ok()
    }

    fn hang_up(&mut self) {
        self.open = None;
    }
}

struct Person {
    nth: u32,
    agent: &'static str,
    client_id: &'static str,
    chance: Chance,
    line: Line,
}

impl Person {
    fn new(world: &Arc<World>, nth: u32, source: Ipv4Addr) -> Self {
        let mut chance = Chance::new(world.seed, 10_000 + u64::from(nth));
        Self {
            nth,
            agent: *chance.one_of::<&str>(&BROWSERS),
            client_id: "shop-web",
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
            self.call(Request::get("/favicon.ico")).await;
        }
        // One in twenty mistypes the password, and some of those once more.
        let mut wrong = self.chance.happens(0.05);
        loop {
            let user = format!("u{}", self.nth);
            let word = match wrong {
                true => format!("{}x", api::password(&user)),
                false => api::password(&user),
            };
            let body = format!("user={user}&pass={word}");
            let login = Request::post("/login", body)
                .with("Content-Type", "application/x-www-form-urlencoded");
            self.call(login).await;
            if !wrong {
                break;
            }
            self.think().await;
            wrong = self.chance.happens(0.2);
        }
        let steps = 3 + self.chance.below(18);
        for _ in 0..steps {
            self.think().await;
            let step = self.step();
            self.call(step).await;
        }
        self.line.hang_up();
    }

    async fn think(&mut self) {
        sleep(Duration::from_secs_f64(
            self.chance.about(2.2, 0.7).min(30.0),
        ))
        .await;
    }

    fn step(&mut self) -> Request {
        let own = Owner::Person(u64::from(self.nth)).order(self.chance.below(api::PERSON));
        let later = self.line.world.is_deployed() && self.chance.happens(0.4);
        match self.chance.below(100) {
            0..16 => Request::get(format!("/products?page={}", 1 + self.chance.below(30))),
            16..22 if later => Request::get("/v2/recommendations"),
            // Some products are looked at by everybody, and most by few.
            16..46 => Request::get(format!(
                "/products/{}",
                self.chance.about(400.0, 1.2) as u64
            )),
            46..56 => Request::post("/cart", "{\"sku\":\"a-17\",\"count\":1}".to_owned())
                .with("Content-Type", "application/json"),
            56..62 => Request::get(format!("/orders?page={}", 1 + self.chance.below(4))),
            62..72 if later => Request::get(format!("/v2/orders/{own}")),
            62..72 => Request::get(format!("/orders/{own}")),
            72..84 => {
                let words = self.chance.one_of(&WORDS);
                let words = words
                    .replace('\'', "%27")
                    .replace('&', "%26")
                    .replace(' ', "+");
                Request::get(format!("/search?q={words}"))
            }
            84..88 => Request::post("/orders", "{\"sku\":\"a-17\",\"count\":2}".to_owned())
                .with("Content-Type", "application/json"),
            88..92 => {
                let name = format!("u{}", self.nth);
                Request::get("/account").with("Authorization", api::basic(&name))
            }
            92..95 => Request::get(format!("/reports/2026-{:02}", 1 + self.chance.below(12))),
            95..97 => {
                let bytes = self.chance.about(20_000.0, 0.8).min(400_000.0) as usize;
                Request::post("/files", "x".repeat(bytes.max(1)))
            }
            // An old link, and a typing error.
            97..98 => Request::get(format!("/shop/order.php?id={own}")),
            98..99 => Request::get(format!("/orders/{}", own + 50)),
            _ => Request::get("/export"),
        }
    }

    async fn call(&mut self, request: Request) {
        let signed = request
            .headers
            .iter()
            .any(|(name, _)| *name == "Authorization");
        let mut request = request
            .with("User-Agent", self.agent)
            .with("X-IBM-Client-Id", self.client_id);
        if !signed {
            request = request.with("Authorization", format!("Bearer u{}", self.nth));
        }
        self.line.call(request).await;
    }
}

/// Steady, day and night: new orders in, own orders out.
async fn partner(world: Arc<World>, nth: u32) {
    let mut chance = Chance::new(world.seed, 500 + u64::from(nth));
    let mut line = Line::new(&world, USERS.nth(PARTNERS_AT + 256 * nth + 9), PORTS[4]);
    let owner = Owner::Partner(u64::from(nth));
    let name = format!("partner-{nth}");
    // Some partners are ten times as large as others.
    let pause =
        Duration::from_secs_f64(0.2 * 10_f64.powf(f64::from(nth) / f64::from(PARTNERS - 1)));
    let mut at = 0;
    loop {
        sleep(chance.waiting(pause)).await;
        at += 1;
        let later = world.is_deployed() && nth == 2;
        let request = match chance.below(10) {
            0..6 if later => Request::get(format!("/v2/orders/{}", owner.order(at / 3))),
            0..6 => Request::get(format!("/orders/{}", owner.order(at / 3))),
            6..8 => Request::get("/prices"),
            8 => Request::post("/orders", "{\"sku\":\"b-2\",\"count\":40}".to_owned()),
            _ => Request::get("/orders?page=1"),
        };
        let request = request
            .with("User-Agent", "erp-sync/2.1 (Java 17)")
            .with("X-IBM-Client-Id", name.as_str());
        line.call(request).await;
    }
}

/// One customer looks through its own 10,000 orders, over and over.
async fn large_customer(world: Arc<World>) {
    let mut chance = Chance::new(world.seed, 600);
    let mut line = Line::new(&world, USERS.nth(LARGE_AT), PORTS[4]);
    let mut at = chance.below(api::LARGE);
    loop {
        sleep(chance.waiting(Duration::from_millis(125))).await;
        at += 1;
        let request = Request::get(format!("/orders/{}", Owner::Large.order(at)))
            .with("User-Agent", "python-requests/2.32.3")
            .with("X-IBM-Client-Id", LARGE_CUSTOMER);
        line.call(request).await;
    }
}

async fn health_checker(world: Arc<World>) {
    let mut line = Line::new(&world, USERS.nth(HEALTH_AT), PORTS[0]);
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let request = Request::get("/healthz").with("User-Agent", "kube-probe/1.30");
        line.call(request).await;
        line.hang_up();
    }
}

/// One page a second, and `robots.txt` first.
async fn crawler(world: Arc<World>) {
    let mut line = Line::new(&world, USERS.nth(CRAWLER_AT), PORTS[0]);
    let agent = "GoodBot/2.1 (+https://bot.example/about)";
    let mut page = 0_u64;
    loop {
        let target = match page % 600 {
            0 => "/robots.txt".to_owned(),
            nth => format!("/orders?page={nth}"),
        };
        page += 1;
        line.call(Request::get(target).with("User-Agent", agent))
            .await;
        sleep(Duration::from_secs(1)).await;
    }
}

/// Once a day, at the same hour: reports and uploads, as fast as they are answered.
async fn nightly_job(world: Arc<World>) {
    let mut chance = Chance::new(world.seed, 700);
    let mut line = Line::new(&world, USERS.nth(NIGHTLY_AT), PORTS[4]);
    loop {
        let now = world.begun.elapsed().as_secs_f64() / DAY.as_secs_f64() + world.morning;
        // In the night, when the others are least busy.
        let until = (0.75 - now.fract()).rem_euclid(1.0);
        sleep(DAY.mul_f64(until)).await;
        for nth in 0..160 {
            let request = match nth % 4 {
                0 => Request::get(format!("/reports/2026-{:02}", 1 + nth % 12)),
                1 => Request::post("/files", "y".repeat(60_000)),
                _ => Request::get(format!("/orders?page={}", 1 + nth / 4)),
            };
            let request = request
                .with("User-Agent", "ci-runner/17.0")
                .with("X-IBM-Client-Id", "ci-nightly");
            line.call(request).await;
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
