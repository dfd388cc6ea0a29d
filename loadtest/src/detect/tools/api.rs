//! The API under attack: orders, as a shop has them, and its faults on demand.
//!
//! | route | answers |
//! |---|---|
//! | `POST /login` | 200 for the right password, which is the user's name backwards, else 401 |
//! | `GET /account` | the same with Basic authentication |
//! | `GET /products`, `GET /products/{id}`, `GET /prices` | 200 to everybody |
//! | `POST /cart` | 201 |
//! | `GET /orders`, `POST /orders` | a page of the list; 201 |
//! | `GET /orders/{id}` | 200 to the owner, 403 to others, 404 where there is none |
//! | `GET /search`, `POST /files` | 200, 201 |
//! | `GET /reports/{name}` | 200, after some time |
//! | `GET /export` | 200 with 2 MB |
//! | `GET /healthz` | 200 |
//!
//! And two routes that are deployed while others look. An order's id says who owns it ([`owner`]).

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::sleep;

use super::arena::{Arena, UPSTREAM};
use super::chance::Chance;
use super::http::{Asked, Connection};
use super::life::Life;

/// Name, template and method of each route; several share a template.
pub const ROUTES: [(&str, &str, &str); 14] = [
    ("login", "/login", "POST"),
    ("account", "/account", "GET"),
    ("list-products", "/products", "GET"),
    ("get-product", "/products/{id}", "GET"),
    ("fill-cart", "/cart", "POST"),
    ("prices", "/prices", "GET"),
    ("list-orders", "/orders", "GET"),
    ("make-order", "/orders", "POST"),
    ("get-order", "/orders/{id}", "GET"),
    ("search", "/search", "GET"),
    ("upload", "/files", "POST"),
    ("report", "/reports/{name}", "GET"),
    ("export", "/export", "GET"),
    ("health", "/healthz", "GET"),
];
/// Those that come later.
pub const DEPLOYED: [(&str, &str, &str); 2] = [
    ("get-order-2", "/v2/orders/{id}", "GET"),
    ("recommend", "/v2/recommendations", "GET"),
];

/// So many orders belong to the one large customer.
pub const LARGE: u64 = 10_000;
/// Client id of the one large customer, whose orders are the first ones.
pub const LARGE_CUSTOMER: &str = "globex";
const LARGE_FROM: u64 = 100_000;
const PARTNERS_FROM: u64 = 200_000;
/// Orders of one partner.
pub const PARTNER: u64 = 1_000;
const PEOPLE_FROM: u64 = 1_000_000;
const PERSON_STEP: u64 = 100;
/// Orders of one person.
pub const PERSON: u64 = 20;

/// Who an order belongs to, and so whom it is shown to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// [`LARGE_CUSTOMER`]
    Large,
    /// The client id `partner-N`.
    Partner(u64),
    /// The bearer of `uN`.
    Person(u64),
}

impl Owner {
    /// The id of the owner's nth order.
    pub fn order(self, nth: u64) -> u64 {
        match self {
            Self::Large => LARGE_FROM + nth % LARGE,
            Self::Partner(partner) => PARTNERS_FROM + partner * PARTNER + nth % PARTNER,
            Self::Person(person) => PEOPLE_FROM + person * PERSON_STEP + nth % PERSON,
        }
    }
}

/// Whose order this is; there are orders that nobody has.
pub fn owner(id: u64) -> Option<Owner> {
    match id {
        LARGE_FROM..PARTNERS_FROM => (id - LARGE_FROM < LARGE).then_some(Owner::Large),
        PARTNERS_FROM..PEOPLE_FROM => Some(Owner::Partner((id - PARTNERS_FROM) / PARTNER)),
        PEOPLE_FROM.. => {
            let person = (id - PEOPLE_FROM) / PERSON_STEP;
            ((id - PEOPLE_FROM) % PERSON_STEP < PERSON).then_some(Owner::Person(person))
        }
        _ => None,
    }
}

/// The right password of a user.
pub fn password(user: &str) -> String {
    user.chars().rev().collect()
}

/// What is wrong with a route.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Answers take this much longer.
    Slow(Duration),
    /// This share of answers is a 500 or a 503.
    Erring(f64),
    /// This share of requests is never answered.
    Silent(f64),
    /// Answers are this many times as long.
    Fat(usize),
}

/// Which routes, by template, have which fault now.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Vec<(&'static str, Fault)>>>);

impl Faults {
    /// A route fails from now on.
    pub fn begin(&self, template: &'static str, fault: Fault) {
        let mut faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        faults.push((template, fault));
    }

    /// It does no longer.
    pub fn end(&self, template: &str) {
        let mut faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        faults.retain(|(faulty, _)| *faulty != template);
    }

    fn of(&self, template: &str) -> Option<Fault> {
        let faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = faults.iter().find(|(faulty, _)| *faulty == template);
        found.map(|(_, fault)| *fault)
    }
}

/// Serves the API at [`UPSTREAM`] until it is dropped.
pub fn serve(arena: &Arena, faults: Faults, seed: u64) -> anyhow::Result<Life> {
    Life::begin(
        &arena.upstream,
        || {
            let listener = std::net::TcpListener::bind(UPSTREAM)?;
            listener.set_nonblocking(true)?;
            Ok(TcpListener::from_std(listener)?)
        },
        move |listener| async move {
            let mut connections = 0;
            // The listener ends with the thread; an error of one connection is its client's.
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                connections += 1;
                let _ = stream.set_nodelay(true);
                let faults = faults.clone();
                let mut chance = Chance::new(seed, connections);
                tokio::spawn(async move {
                    let mut connection = Connection::accepted(stream);
                    let _ = converse(&mut connection, &faults, &mut chance).await;
                });
            }
        },
    )
}

async fn converse(
    connection: &mut Connection,
    faults: &Faults,
    chance: &mut Chance,
) -> io::Result<()> {
    while let Some(asked) = connection.asked().await? {
        let plan = Plan::of(&asked);
        let (mut status, mut bytes) = (plan.status, chance.about(plan.bytes, plan.spread));
        let mut ms = chance.about(plan.ms, 0.35);
        match faults.of(plan.template) {
            Some(Fault::Slow(more)) => ms += chance.about(more.as_secs_f64() * 1e3, 0.2),
            Some(Fault::Erring(share)) if chance.happens(share) => {
                status = *chance.one_of(&[500, 503]);
                bytes = 60.0;
            }
            // The gateway gives up some day.
            Some(Fault::Silent(share)) if chance.happens(share) => {
                sleep(Duration::from_secs(300)).await;
                return Ok(());
            }
            Some(Fault::Fat(times)) => bytes *= times as f64,
            _ => {}
        }
        sleep(Duration::from_secs_f64(ms / 1e3)).await;
        let head_only = asked.method == "HEAD";
        connection
            .answer(status, plan.text, bytes as usize, head_only)
            .await?;
    }
    Ok(())
}

/// What an answer will be like.
pub struct Plan {
    /// The template of the route; empty where there is none.
    pub template: &'static str,
    /// 200, ...
    pub status: u16,
    text: &'static str,
    /// Median of the body's length, and the sigma of its logarithm.
    bytes: f64,
    spread: f64,
    /// Median of the time it takes.
    pub ms: f64,
}

impl Plan {
    /// Of an answer to this.
    pub fn of(asked: &Asked) -> Self {
        let plan = |template, status, bytes, spread, ms| Self {
            template,
            status,
            text: "{}",
            bytes,
            spread,
            ms,
        };
        let path = asked.target.split('?').next().unwrap_or_default();
        let (first, last) = path.rsplit_once('/').unwrap_or_default();
        let post = asked.method == "POST";
        match (first, last) {
            ("", "login") => match right_form(&asked.body) {
                true => plan("/login", 200, 400.0, 0.1, 12.0),
                false => Self {
                    text: "{\"error\":\"denied\"}",
                    ..plan("/login", 401, 18.0, 0.0, 10.0)
                },
            },
            ("", "account") => match asked.header("authorization").is_some_and(right_basic) {
                true => plan("/account", 200, 700.0, 0.2, 6.0),
                false => Self {
                    text: "{\"error\":\"denied\"}",
                    ..plan("/account", 401, 18.0, 0.0, 4.0)
                },
            },
            ("", "products") => plan("/products", 200, 4_000.0, 0.3, 7.0),
            ("/products", _) => plan("/products/{id}", 200, 1_500.0, 0.4, 4.0),
            ("", "cart") => plan("/cart", 201, 300.0, 0.2, 9.0),
            ("", "prices") => plan("/prices", 200, 600.0, 0.2, 3.0),
            ("", "orders") if post => plan("/orders", 201, 120.0, 0.1, 15.0),
            ("", "orders") => plan("/orders", 200, 3_000.0, 0.3, 8.0),
            ("/orders", id) => plan("/orders/{id}", order_status(asked, id), 900.0, 0.3, 5.0),
            ("/v2/orders", id) => plan(
                "/v2/orders/{id}",
                order_status(asked, id),
                1_100.0,
                0.3,
                5.0,
            ),
            ("/v2", "recommendations") => plan("/v2/recommendations", 200, 2_000.0, 0.3, 20.0),
            ("", "search") => plan("/search", 200, 2_500.0, 0.6, 18.0),
            ("", "files") => plan("/files", 201, 80.0, 0.1, 25.0),
            ("/reports", _) => plan("/reports/{name}", 200, 20_000.0, 0.3, 350.0),
            ("", "export") => plan("/export", 200, 2_000_000.0, 0.0, 20.0),
            ("", "healthz") => plan("/healthz", 200, 15.0, 0.0, 0.5),
            _ => plan("", 404, 30.0, 0.0, 1.0),
        }
    }
}

fn order_status(asked: &Asked, id: &str) -> u16 {
    let Some(owner) = id.parse().ok().and_then(owner) else {
        return 404;
    };
    let client = asked.header("x-ibm-client-id").unwrap_or_default();
    let bearer = asked.header("authorization").unwrap_or_default();
    let own = match owner {
        Owner::Large => client == LARGE_CUSTOMER,
        Owner::Partner(partner) => client == format!("partner-{partner}"),
        Owner::Person(person) => bearer == format!("Bearer u{person}"),
    };
    if own { 200 } else { 403 }
}

/// `user=NAME&pass=WORD`
fn right_form(body: &[u8]) -> bool {
    let body = String::from_utf8_lossy(body);
    let field = |name: &str| {
        body.split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    };
    matches!((field("user"), field("pass")), (Some(user), Some(pass)) if pass == password(user))
}

fn right_basic(authorization: &str) -> bool {
    // Only the well-behaved know a password, and they spell it as `basic` does.
    let user = authorization.rsplit('.').next().unwrap_or_default();
    !user.is_empty() && authorization == basic(user)
}

/// What a well-behaved user sends as `Authorization`: a signature in place of a password, so that
/// nothing that guesses ever comes upon it.
pub fn basic(user: &str) -> String {
    format!("Basic {}.{user}", password(user))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_shown_to_their_owner_alone() {
        let ask = |id: u64, header: &str, value: &str| {
            let asked = Asked {
                method: "GET".into(),
                target: format!("/orders/{id}"),
                headers: vec![(header.into(), value.into())],
                body: Vec::new(),
            };
            Plan::of(&asked).status
        };
        for owner in [Owner::Large, Owner::Partner(3), Owner::Person(77)] {
            assert_eq!(super::owner(owner.order(12)), Some(owner));
            assert_eq!(ask(owner.order(12), "x", ""), 403);
        }
        let own = Owner::Person(77).order(0);
        assert_eq!(ask(own, "authorization", "Bearer u77"), 200);
        assert_eq!(ask(own, "authorization", "Bearer u78"), 403);
        assert_eq!(ask(own + PERSON, "authorization", "Bearer u77"), 404);
        assert_eq!(ask(Owner::Large.order(1), "x-ibm-client-id", "globex"), 200);
    }

    #[test]
    fn only_the_right_password_opens() {
        assert!(right_form(b"user=anna7&pass=7anna"));
        assert!(!right_form(b"user=anna7&pass=123456"));
        assert!(right_basic(&basic("u3")));
        assert!(!right_basic("Basic YWRtaW46YWRtaW4="));
    }
}
