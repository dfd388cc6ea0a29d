//! A request that carries what looks like code.
//!
//! **Idea.** A list of signs in the decoded path, query and user agent, each with how much it says: the
//! logarithm of how much more often it is in attacks than in usual requests, which for words of a language
//! (`select`, `sleep`) is little and for a whole construct (`union select`) much. The signs of one request
//! add up, and so do requests of one client ([`Evidence`]); a request without any takes a little back. A sign
//! says no more than its share of this service's clients allows, and nothing where a tenth of them send it: it
//! may be a service whose clients send `$filter=contains(x)` or `ORDER BY`.
//!
//! Percent-encoding is decoded twice, plus signs are spaces, letters are lower case and comments of SQL are
//! spaces, as attackers write them to pass by simpler lists (OWASP, *SQL Injection Bypassing WAF*).
//!
//! **When it is wrong.** A service whose users send code by intention: search for programming questions,
//! database consoles. Bodies and headers other than the user agent are not seen.

use ahash::RandomState;

use super::Detector;
use super::call::{Call, Desk, Found};
use super::evidence::Evidence;
use crate::alert::Subject;

const MEMORY_S: f32 = 600.0;
/// What one request says at most.
const REQUEST_MAX: f32 = 14.0;
const CLEAN: f32 = -0.25;
/// A sign that so many clients send says nothing.
const COMMON: f32 = 0.1;
/// Clients without any sign that are taken for granted.
const CLIENTS_WEIGHT: f32 = 30.0;
/// Bytes of each part that are looked at.
const LOOKED_AT: usize = 2048;
/// User agents that are remembered as harmless.
const AGENTS: usize = 1024;

/// Signs and what they say.
const SIGNS: &[(&str, f32)] = &[
    // SQL
    ("union select", 8.0),
    ("union all select", 8.0),
    ("' or '", 6.0),
    ("\" or \"", 6.0),
    ("' or 1", 7.0),
    (" or 1=1", 7.0),
    ("' and '", 5.0),
    ("and 1=1", 5.0),
    ("information_schema", 7.0),
    ("sleep(", 5.0),
    ("benchmark(", 5.0),
    ("waitfor delay", 8.0),
    ("pg_sleep", 8.0),
    ("dbms_pipe", 8.0),
    ("utl_inaddr", 8.0),
    ("extractvalue(", 6.0),
    ("updatexml(", 6.0),
    ("xp_cmdshell", 9.0),
    ("order by ", 2.0),
    ("group by ", 2.0),
    ("having ", 1.5),
    ("select ", 3.0),
    ("(select", 5.0),
    ("concat(", 4.0),
    ("char(", 3.0),
    ("chr(", 3.0),
    ("cast(", 3.0),
    ("; drop ", 7.0),
    ("';", 3.0),
    ("')", 2.5),
    ("-- ", 2.5),
    ("'--", 4.0),
    ("0x7", 1.5),
    // Scripts
    ("<script", 8.0),
    ("javascript:", 5.0),
    ("onerror=", 7.0),
    ("onload=", 5.0),
    ("<svg", 4.0),
    ("<img", 4.0),
    ("alert(", 4.0),
    ("document.cookie", 6.0),
    // Paths
    ("../", 5.0),
    ("..\\", 5.0),
    ("/etc/passwd", 9.0),
    ("/proc/self", 8.0),
    ("win.ini", 7.0),
    ("boot.ini", 7.0),
    ("\0", 6.0),
    ("file://", 5.0),
    ("php://", 8.0),
    ("expect://", 8.0),
    // Commands and templates
    ("${jndi:", 14.0),
    ("$(", 3.0),
    ("`id`", 6.0),
    ("|id", 4.0),
    ("; id", 4.0),
    (";id", 4.0),
    ("cat /", 5.0),
    ("wget http", 6.0),
    ("curl http", 5.0),
    ("/bin/sh", 8.0),
    ("/bin/bash", 8.0),
    ("cmd.exe", 7.0),
    ("powershell", 6.0),
    ("{{", 3.0),
    ("<%", 4.0),
    ("<!entity", 9.0),
    ("<!doctype", 5.0),
    // Tools that say who they are
    ("sqlmap", 9.0),
    ("nikto", 9.0),
    ("nmap scripting engine", 9.0),
    ("masscan", 9.0),
    ("acunetix", 9.0),
    ("wpscan", 9.0),
];

/// Of one client.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PerClient {
    evidence: Evidence,
    is_known: bool,
}

/// Of all calls: the signs, and room to decode into.
#[derive(Debug)]
pub(crate) struct Common {
    signs: regex::bytes::RegexSet,
    /// How many clients there were, and how many sent each sign before anything spoke against them.
    clients: u32,
    senders: [u32; SIGNS.len()],
    decoded: Vec<u8>,
    hasher: RandomState,
    /// Hashes of user agents without a sign.
    harmless: Box<[u64; AGENTS]>,
}

impl Default for Common {
    fn default() -> Self {
        let signs = SIGNS.iter().map(|(sign, _)| regex::escape(sign));
        Self {
            signs: regex::bytes::RegexSet::new(signs).expect("escaped literals"),
            clients: 0,
            senders: [0; SIGNS.len()],
            decoded: Vec::new(),
            hasher: RandomState::new(),
            harmless: Box::new([0; AGENTS]),
        }
    }
}

impl Common {
    /// What a request says, and its strongest sign.
    fn weigh(
        &mut self,
        path: &str,
        query: &str,
        agent: &str,
        is_first: bool,
    ) -> (f32, Option<&'static str>) {
        let mut says = 0.0;
        let mut strongest: Option<(&str, f32)> = None;
        // Most user agents were looked at before.
        let hash = self.hasher.hash_one(agent);
        let known = &mut self.harmless[hash as usize % AGENTS];
        let agent = if *known == hash { "" } else { agent };
        for (part, is_agent) in [(path, false), (query, false), (agent, true)] {
            if !is_agent && !is_telling(part) || part.is_empty() {
                continue;
            }
            normalise(part, &mut self.decoded);
            let before = says;
            for sign in &self.signs.matches(&self.decoded) {
                let senders = &mut self.senders[sign];
                *senders += u32::from(is_first);
                let share = *senders as f32 / (self.clients as f32 + CLIENTS_WEIGHT);
                let (sign, weight) = SIGNS[sign];
                let weight = match share < COMMON {
                    true => weight.min(-share.ln()),
                    false => continue,
                };
                says += weight;
                if strongest.is_none_or(|(_, most)| weight > most) {
                    strongest = Some((sign, weight));
                }
            }
            if is_agent && says == before {
                *known = hash;
            }
        }
        (says.min(REQUEST_MAX), strongest.map(|(sign, _)| sign))
    }
}

/// Without any of these there is no construct: most paths and queries are nothing but words.
fn is_telling(part: &str) -> bool {
    let has = |byte| {
        matches!(
            byte,
            b'%' | b'+'
                | b'\''
                | b'"'
                | b'('
                | b'<'
                | b';'
                | b'|'
                | b'$'
                | b'{'
                | b'`'
                | b'\\'
                | b' '
        )
    };
    part.bytes().any(has) || part.contains("..") || part.contains("//") || part.contains(".ini")
}

/// Decodes twice and folds what attackers vary.
fn normalise(part: &str, into: &mut Vec<u8>) {
    into.clear();
    into.extend_from_slice(&part.as_bytes()[..part.len().min(LOOKED_AT)]);
    for _ in 0..2 {
        let (mut from, mut to) = (0, 0);
        while from < into.len() {
            let hexadecimal =
                |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
            let digits = (
                hexadecimal(into.get(from + 1)),
                hexadecimal(into.get(from + 2)),
            );
            into[to] = match (into[from], digits) {
                (b'%', (Some(high), Some(low))) => {
                    from += 2;
                    (high << 4 | low) as u8
                }
                (b'+' | b'\t' | b'\n' | b'\r', _) => b' ',
                (byte, _) => byte.to_ascii_lowercase(),
            };
            from += 1;
            to += 1;
        }
        into.truncate(to);
    }
    // `/**/` stands for a space.
    while let Some(begin) = find(into, b"/*") {
        let end = find(&into[begin..], b"*/").map_or(into.len(), |end| begin + end + 2);
        into.splice(begin..end, [b' ']);
    }
    into.dedup_by(|later, earlier| *later == b' ' && *earlier == b' ');
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// Looks at a call.
pub(crate) fn observe(
    call: &Call<'_>,
    client: &mut PerClient,
    common: &mut Common,
    desk: &mut Desk<'_>,
) {
    let record = call.record;
    let parts = [
        &record.url_path,
        &record.url_query,
        &record.user_agent_original,
    ];
    let [path, query, agent] = parts.map(|part| part.as_deref().unwrap_or(""));
    if !client.is_known {
        client.is_known = true;
        common.clients = common.clients.saturating_add(1);
    }
    let PerClient {
        evidence: client, ..
    } = client;
    let (says, strongest) = common.weigh(path, query, agent, client.is_none());
    let Some(sign) = strongest else {
        if !client.is_none() {
            client.add(CLEAN, call.now_s, MEMORY_S);
        }
        return;
    };
    let tail = client.add(says, call.now_s, MEMORY_S);
    desk.look(Detector::Injection, tail, || Found {
        subject: Subject::Client(call.client),
        observed: f64::from(says),
        usual: 0.0,
        summary: format!(
            "{} sent requests that look like code, last with {sign:?} to {}",
            Subject::Client(call.client),
            call.template_text()
        ),
        since_s: call.now_s,
        source: call.source(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_told_from_words_however_it_is_written() {
        let mut common = Common::default();
        for (path, query) in [
            (
                "/search",
                "q=1%27%20UNION%20SELECT%20password%20FROM%20users--",
            ),
            ("/search", "q=1'/**/union/**/select/**/1"),
            ("/search", "q=1%2527+or+1%253D1"),
            ("/files/..%2f..%2fetc/passwd", ""),
            ("/search", "q=%3CScRiPt%3Ealert(1)%3C/script%3E"),
            ("/x", "u=${jndi:ldap://a/b}"),
        ] {
            common.clients += 1_000;
            let (says, _) = common.weigh(path, query, "curl/8.5", true);
            assert!(says >= 6.0, "{path}?{query}: {says}");
        }
        for (path, query) in [
            ("/search", "q=select+a+union+representative"),
            ("/search", "q=O%27Brien+and+sons"),
            ("/products/9.5-inch", "sort=price&order=desc"),
            ("/search", "q=how+to+order+by+phone"),
            (
                "/oauth/callback",
                "state=eyJhbGciOi(x)&redirect=https%3A%2F%2Fa.example%2F",
            ),
        ] {
            let (says, sign) = common.weigh(path, query, "Mozilla/5.0 (X11; Linux x86_64)", true);
            assert!(says <= 3.0, "{path}?{query}: {says} {sign:?}");
        }
    }

    #[test]
    fn what_many_clients_send_says_nothing() {
        let mut common = Common::default();
        let query = "$filter=contains(Name,'x')";
        for _ in 0..20 {
            common.clients += 1;
            common.weigh("/odata/Products", query, "app/1", true);
        }
        let (says, _) = common.weigh("/odata/Products", query, "app/1", false);
        assert_eq!(says, 0.0);
        let (says, _) = common.weigh("/odata/Products", "x=1' union select 2", "app/1", true);
        assert!(says > 3.0, "{says}");
    }

    #[test]
    fn odd_bytes_are_harmless() {
        let mut common = Common::default();
        for odd in ["%", "%2", "%%%", "/*", "/*/*/*", "%2f%2", "\u{fffd}%ff"] {
            common.weigh(odd, odd, odd, true);
        }
    }
}
