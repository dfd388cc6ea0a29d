//! What each class of well-behaved clients asks for, one request after the other.
//!
//! Draws requests and sends none: [`people`](super::people) send them now, and
//! [`made_up`](super::made_up) records say that they were sent over weeks.

use super::api::{self, LARGE_CUSTOMER, Owner};
use super::chance::Chance;
use super::http::Request;

/// Integrations of partners.
pub const PARTNERS: u32 = 8;

/// What people's browsers call themselves.
pub const BROWSERS: [&str; 5] = [
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.4 Safari/605.1.15",
    "Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:126.0) Gecko/20100101 Firefox/126.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/125.0.0.0 Safari/537.36 Edg/125.0.0.0",
];
/// What the application on phones calls itself.
pub const PHONE_APP: &str = "ShopApp/5.2.1 (Android 14)";
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

/// Who a person is to the gateway.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// `uN` to the API.
    pub nth: u32,
    /// Browser or application.
    pub agent: &'static str,
    /// The application's client id, which all who use it share.
    pub client_id: &'static str,
}

impl Identity {
    /// Somebody with a browser.
    pub fn browsing(nth: u32, chance: &mut Chance) -> Self {
        Self {
            nth,
            agent: *chance.one_of::<&str>(&BROWSERS),
            client_id: "shop-web",
        }
    }

    /// Somebody with a phone.
    pub fn phoning(nth: u32) -> Self {
        Self {
            nth,
            agent: PHONE_APP,
            client_id: "shop-app",
        }
    }

    /// What browsers ask for by themselves.
    pub fn icon(self) -> Request {
        self.signed(Request::get("/favicon.ico"))
    }

    /// Logs in, with a mistyped password where it is `wrong`.
    pub fn login(self, wrong: bool) -> Request {
        let user = format!("u{}", self.nth);
        let more = if wrong { "x" } else { "" };
        let body = format!("user={user}&pass={}{more}", api::password(&user));
        let login = Request::post("/login", body);
        self.signed(login.with("Content-Type", "application/x-www-form-urlencoded"))
    }

    /// Something that people do in the middle of a session.
    pub fn step(self, chance: &mut Chance, is_deployed: bool) -> Request {
        let own = Owner::Person(u64::from(self.nth)).order(chance.below(api::PERSON));
        let later = is_deployed && chance.happens(0.4);
        let json = |request: Request| request.with("Content-Type", "application/json");
        self.signed(match chance.below(100) {
            0..16 => Request::get(format!("/products?page={}", 1 + chance.below(30))),
            16..22 if later => Request::get("/v2/recommendations"),
            // Some products are looked at by everybody, and most by few.
            16..46 => Request::get(format!("/products/{}", chance.about(400.0, 1.2) as u64)),
            46..56 => json(Request::post(
                "/cart",
                "{\"sku\":\"a-17\",\"count\":1}".to_owned(),
            )),
            56..62 => Request::get(format!("/orders?page={}", 1 + chance.below(4))),
            62..72 if later => Request::get(format!("/v2/orders/{own}")),
            62..72 => Request::get(format!("/orders/{own}")),
            72..84 => {
                let words = chance.one_of(&WORDS);
                let words = words
                    .replace('\'', "%27")
                    .replace('&', "%26")
                    .replace(' ', "+");
                Request::get(format!("/search?q={words}"))
            }
            84..88 => json(Request::post(
                "/orders",
                "{\"sku\":\"a-17\",\"count\":2}".to_owned(),
            )),
            88..92 => {
                let signature = api::basic(&format!("u{}", self.nth));
                Request::get("/account").with("Authorization", signature)
            }
            92..95 => Request::get(format!("/reports/2026-{:02}", 1 + chance.below(12))),
            95..97 => {
                let bytes = chance.about(20_000.0, 0.8).clamp(1.0, 400_000.0) as usize;
                Request::post("/files", "x".repeat(bytes))
            }
            // An old link, and a typing error.
            97..98 => Request::get(format!("/shop/order.php?id={own}")),
            98..99 => Request::get(format!("/orders/{}", own + 50)),
            _ => Request::get("/export"),
        })
    }

    fn signed(self, request: Request) -> Request {
        let has_signature = request
            .headers
            .iter()
            .any(|(name, _)| *name == "Authorization");
        let request = request
            .with("User-Agent", self.agent)
            .with("X-IBM-Client-Id", self.client_id);
        match has_signature {
            true => request,
            false => request.with("Authorization", format!("Bearer u{}", self.nth)),
        }
    }
}

/// How often a partner calls, in seconds between calls: some are ten times as large as others.
pub fn partner_pause_s(nth: u32) -> f64 {
    0.2 * 10_f64.powf(f64::from(nth) / f64::from(PARTNERS - 1))
}

/// The `at`-th call of a partner: new orders in, own orders out.
pub fn partner(nth: u32, at: u64, chance: &mut Chance, is_deployed: bool) -> Request {
    let owner = Owner::Partner(u64::from(nth));
    let later = is_deployed && nth == 2;
    let request = match chance.below(10) {
        0..6 if later => Request::get(format!("/v2/orders/{}", owner.order(at / 3))),
        0..6 => Request::get(format!("/orders/{}", owner.order(at / 3))),
        6..8 => Request::get("/prices"),
        8 => Request::post("/orders", "{\"sku\":\"b-2\",\"count\":40}".to_owned()),
        _ => Request::get("/orders?page=1"),
    };
    request
        .with("User-Agent", "erp-sync/2.1 (Java 17)")
        .with("X-IBM-Client-Id", format!("partner-{nth}"))
}

/// The `at`-th call of the large customer, who looks through all of its orders, over and over.
pub fn large_customer(at: u64) -> Request {
    Request::get(format!("/orders/{}", Owner::Large.order(at)))
        .with("User-Agent", "python-requests/2.32.3")
        .with("X-IBM-Client-Id", LARGE_CUSTOMER)
}

/// A health check.
pub fn health() -> Request {
    Request::get("/healthz").with("User-Agent", "kube-probe/1.30")
}

/// The `at`-th call of a crawler, which asks first whether it may.
pub fn crawler(at: u64) -> Request {
    let target = match at % 600 {
        0 => "/robots.txt".to_owned(),
        page => format!("/products?page={page}"),
    };
    Request::get(target).with("User-Agent", "GoodBot/2.1 (+https://bot.example/about)")
}

/// The `at`-th call of the nightly job: reports and uploads.
pub fn nightly_job(at: u64) -> Request {
    let request = match at % 4 {
        0 => Request::get(format!("/reports/2026-{:02}", 1 + at % 12)),
        1 => Request::post("/files", "y".repeat(60_000)),
        _ => Request::get(format!("/orders?page={}", 1 + at / 4)),
    };
    request
        .with("User-Agent", "ci-runner/17.0")
        .with("X-IBM-Client-Id", "ci-nightly")
}
