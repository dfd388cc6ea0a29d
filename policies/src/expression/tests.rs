use std::collections::BTreeMap;

use super::*;

/// Facts as a test lists them.
#[derive(Default)]
struct Listed {
    texts: BTreeMap<usize, &'static str>,
    numbers: BTreeMap<usize, i64>,
    truths: BTreeMap<usize, bool>,
    lists: BTreeMap<usize, Vec<&'static str>>,
    headers: BTreeMap<&'static str, &'static str>,
}

impl Facts for Listed {
    fn text(&self, field: usize) -> Option<Cow<'_, str>> {
        self.texts.get(&field).map(|text| Cow::Borrowed(*text))
    }
    fn integer(&self, field: usize) -> Option<i64> {
        self.numbers.get(&field).copied()
    }
    fn boolean(&self, field: usize) -> Option<bool> {
        self.truths.get(&field).copied()
    }
    fn list(&self, field: usize) -> Option<Vec<Cow<'_, str>>> {
        let list = self.lists.get(&field)?;
        Some(list.iter().map(|text| Cow::Borrowed(*text)).collect())
    }
    fn key(&self, field: usize, key: &str) -> Option<Cow<'_, str>> {
        assert_eq!(FIELDS[field].name, "http.request.header");
        self.headers.get(key).map(|text| Cow::Borrowed(*text))
    }
}

fn index(name: &str) -> usize {
    let found = FIELDS.iter().position(|field| field.name == name);
    found.unwrap_or_else(|| panic!("{name}"))
}

fn facts() -> Listed {
    Listed {
        texts: BTreeMap::from([
            (index("http.request.method"), "POST"),
            (index("url.path"), "/orders/7"),
            (index("client.address"), "192.0.2.7"),
            (index("kind"), "call"),
        ]),
        numbers: BTreeMap::from([
            (index("client.tcp.rtt_us"), 250_000),
            (index("http.response.status_code"), 503),
        ]),
        truths: BTreeMap::from([(index("upstream.reused"), true)]),
        lists: BTreeMap::from([(index("response.flags"), vec!["client_abort", "denied"])]),
        headers: BTreeMap::from([("x-tenant", "blue")]),
    }
}

const EVERYTHING: Known = Known {
    when: |_| true,
    otherwise: "",
};

#[track_caller]
fn check(source: &str, expected: Result<bool, Unanswered>) {
    let condition = Condition::read(source, EVERYTHING);
    let condition = condition.unwrap_or_else(|mistake| panic!("{source}: {mistake}"));
    assert_eq!(condition.holds(&facts()), expected, "{source}");
}

#[test]
fn conditions_say_what_cel_says() {
    for source in [
        r#"http.request.method == "POST""#,
        r#""POST" == http.request.method"#,
        r#"http.request.method != "GET""#,
        r#"http.request.method in ["PUT", "POST"]"#,
        r#"url.path.startsWith("/orders/")"#,
        r#"url.path.endsWith("7") && url.path.contains("der")"#,
        r#"url.path.matches("^/orders/[0-9]+$")"#,
        r#"client.tcp.rtt_us > 200000"#,
        r#"client.tcp.rtt_us / 1000 == 250"#,
        r#"http.response.status_code in [502, 503]"#,
        r#"http.response.status_code >= 500 && http.response.status_code < 600"#,
        r#"upstream.reused"#,
        r#"!(upstream.reused && kind == "connection")"#,
        r#"http.request.header["X-Tenant"] == "blue""#,
        r#""x-tenant" in http.request.header"#,
        r#"!("x-other" in http.request.header)"#,
        r#"has(client.tcp.rtt_us) && !has(client.tcp.min_rtt_us)"#,
        r#"cidr("192.0.2.0/24").containsIP(client.address)"#,
        r#"!cidr("2001:db8::/32").containsIP(client.address)"#,
        r#"cidr("0.0.0.0/0").containsIP(client.address)"#,
        r#""denied" in response.flags"#,
        r#"size(url.path) == 9 && response.flags.size() == 2"#,
        r#"http.request.method.lowerAscii() + "!" == "post!""#,
        r#"(client.tcp.rtt_us > 1 ? "slow" : "fast") == "slow""#,
        // By the interpreter.
        r#"response.flags.exists(flag, flag.startsWith("client_"))"#,
        r#"response.flags.all(flag, size(flag) > 3) && upstream.reused"#,
        r#"{"POST": true}[http.request.method]"#,
        r#"{"path": url.path}["path"] == "/orders/7""#,
        r#"url.path in [http.request.method, url.path]"#,
        r#"[1].all(one, !has(tls.client.ja4) && has(client.tcp.rtt_us))"#,
        // In part by the interpreter.
        r#"[1].exists(one, one == 1) && http.request.header["x-tenant"] == "blue""#,
        r#"cidr("192.0.2.0/24").containsIP(client.address) && [true].all(one, one)"#,
        r#"cidr("::ffff:192.0.2.0/120").containsIP(client.address)"#,
        r#"cidr("192.0.2.0/24").containsIP("192.0.2.9")"#,
        // Written out.
        r#"["/a", "/orders"].exists(prefix, url.path.startsWith(prefix))"#,
        r#"!["/a", "/b"].exists(prefix, url.path.startsWith(prefix))"#,
        r#"["/", "/o"].all(prefix, url.path.startsWith(prefix))"#,
        r#"!["/", "/a"].all(prefix, url.path.startsWith(prefix))"#,
        r#"[500, 503].exists(status, http.response.status_code == status)"#,
        r#"["GET", "POST"].exists(m, ["/a", "/orders/7"].exists(p, http.request.method == m && url.path == p))"#,
        r#"["a", "POST"].exists(x, ["b"].all(x, x == "b") && http.request.method == x)"#,
        r#"["blue"].exists(tenant, http.request.header["x-tenant"] == tenant)"#,
        r#"["10.0.0.0/8", "192.0.2.0/24"].exists(net, cidr(net).containsIP(client.address))"#,
        r#"["Post"].exists(method, method.lowerAscii() == http.request.method.lowerAscii())"#,
        r#"[false, true].exists(flag, flag == upstream.reused)"#,
        r#"["POST"].map(m, m).exists(m, m == http.request.method)"#,
    ] {
        check(source, Ok(true));
    }
}

#[test]
fn what_is_absent_has_no_answer_unless_the_rest_decides() {
    let absent = index("client.tcp.min_rtt_us");
    let unanswered = Err(Unanswered::Absent(absent));
    check("client.tcp.min_rtt_us > 5", unanswered);
    check("client.tcp.min_rtt_us > 5 || upstream.reused", Ok(true));
    check("upstream.reused || client.tcp.min_rtt_us > 5", Ok(true));
    check("client.tcp.min_rtt_us > 5 && !upstream.reused", Ok(false));
    check("client.tcp.min_rtt_us > 5 && upstream.reused", unanswered);
    check("!(client.tcp.min_rtt_us > 5)", unanswered);
    check(
        "[1].exists(one, one > client.tcp.min_rtt_us)",
        Err(Unanswered::Absent(absent)),
    );
    // As `||` and `&&` have it of each of them.
    check(
        "[1, 300000].exists(one, one > (one == 1 ? client.tcp.min_rtt_us : client.tcp.rtt_us))",
        Ok(true),
    );
    check(
        "[1, 3].all(one, one > (one == 1 ? client.tcp.min_rtt_us : client.tcp.rtt_us))",
        Ok(false),
    );
    check("client.tcp.rtt_us / 0 > 1", Err(Unanswered::Failed));
}

#[test]
fn keys_are_texts() {
    let key = |source: &str| {
        let key = Key::read(source, EVERYTHING).unwrap();
        key.of(&facts()).map(Cow::into_owned)
    };
    assert_eq!(key("client.address").unwrap(), "192.0.2.7");
    assert_eq!(key("client.tcp.rtt_us").unwrap(), "250000");
    assert_eq!(
        key(r#"client.address + " " + http.request.method"#).unwrap(),
        "192.0.2.7 POST"
    );
    assert!(key("tls.client.ja4").is_err());
}

#[track_caller]
fn wrong(source: &str, column: usize, message: &str, remedy: Option<&str>) {
    let known = Known {
        when: |name| name != "duration_us",
        otherwise: "is not known yet",
    };
    let mistake = Condition::read(source, known).expect_err(source);
    assert_eq!(
        (
            mistake.column,
            mistake.message.as_str(),
            mistake.remedy.as_deref()
        ),
        (column, message, remedy),
        "{source}"
    );
}

#[test]
fn mistakes_are_found_before_any_call_comes() {
    wrong(
        "url.path == \"/\" && client.tcp.rt_us > 5",
        20,
        "client.tcp.rt_us is no field of the record",
        Some("did you mean client.tcp.rtt_us?"),
    );
    wrong(
        "url.path == \"/\" && has(delivered_us)",
        24,
        "has() takes a field with a dot in its name",
        Some("a number that is there is >= 0, a text has size() >= 0"),
    );
    wrong("duration_us > 5", 1, "duration_us is not known yet", None);
    wrong(
        "client.tcp.rtt_us",
        1,
        "gives a number, and is to give a truth value",
        None,
    );
    wrong(
        "client.tcp.rtt_us == \"5\"",
        1,
        "is a number, and is to be a text",
        None,
    );
    wrong(
        "kind == \"cal\"",
        9,
        "kind is never \"cal\"",
        Some("did you mean \"call\"?"),
    );
    wrong(
        "url.path.matches(\"(\")",
        18,
        "\"(\" is no pattern: error: unclosed group",
        None,
    );
    wrong(
        "http.request.header.x == \"1\"",
        1,
        "http.request.header.x: keys of http.request.header stand in brackets",
        Some("write http.request.header[\"x\"]"),
    );
    wrong(
        "cidr(\"10.0.0\").containsIP(client.address)",
        5,
        "\"10.0.0\": this is neither an IP address nor a network",
        Some("write 10.0.0.0/8, fd00::/8 or one address"),
    );
    wrong(
        "user_agent.original == \"Käse\" && ulr.path == \"/\"",
        34,
        "ulr.path is no field of the record",
        Some("did you mean url.path?"),
    );
    wrong(
        "\"injecton\" in findings",
        1,
        "no detector is named \"injecton\"",
        Some("did you mean \"injection\"?"),
    );
    wrong(
        "response.flags.exists(f, f == ulr.path)",
        31,
        "ulr.path is no field of the record",
        Some("did you mean url.path?"),
    );
    let mistake = |source: &str| Condition::read(source, EVERYTHING).expect_err(source);
    for source in [
        r#"url.path.startswith("/a")"#,
        r#"[1].exists(one, url.path.startswith("/a"))"#,
    ] {
        let mistake = mistake(source);
        assert_eq!(
            mistake.message, "there is no function startswith",
            "{source}"
        );
        assert_eq!(mistake.remedy.as_deref(), Some("did you mean startsWith?"));
    }
    for (source, remedy) in [
        (r#"url.path.beginsWith("/a")"#, "did you mean endsWith?"),
        (r#"url.path.match("/a")"#, "did you mean matches?"),
        (
            r#"response.flags.exist(one, one == "a")"#,
            "did you mean exists?",
        ),
        (
            r#"kind in ["call", "conection"]"#,
            "did you mean \"connection\"?",
        ),
        (
            r#"kind == "dream""#,
            "it is one of call, connection, external, progress",
        ),
        (
            r#"url.path.replaceAll("a", "b")"#,
            "known are lowerAscii, cidr, containsIP, size, contains, startsWith, endsWith, matches, int, uint, double, string, bytes, type, dyn",
        ),
    ] {
        assert_eq!(mistake(source).remedy.as_deref(), Some(remedy), "{source}");
    }
    for (source, message) in [
        ("[1, 2]", "gives a list, and is to give a truth value"),
        (
            r#"response.flags.exists(one, http.request.header["x"] == one)"#,
            "http.request.header stands beside a list, a map or a macro, where it cannot be asked for",
        ),
        (
            r#"response.flags.exists(one, one.lowerAscii() == url.path)"#,
            "lowerAscii cannot be used within a list, a map or a macro",
        ),
        (
            r#"{"a": url.pth}["a"] == "/""#,
            "url.pth is no field of the record",
        ),
        (
            r#"cidr("10.0.0.0/8").containsIP("banana")"#,
            "\"banana\" is no address",
        ),
        (
            r#"["/a"].exists(one, one > client.tcp.rtt_us)"#,
            "a text and a number cannot be ordered",
        ),
        (
            r#"cidr("10.0.0.0/8", "b").containsIP(client.address)"#,
            "is to be cidr(\"10.0.0.0/8\")",
        ),
    ] {
        assert_eq!(mistake(source).message, message, "{source}");
    }
    let long = vec!["1"; 2_000].join("+");
    assert!(mistake(&long).message.contains("at most 2048"));
    let deep = |terms| format!("{} > 5", vec!["1"; terms].join("+"));
    assert_eq!(mistake(&deep(1_000)).message, "is nested too deeply");
    check(&deep(90), Ok(true));
    assert!(Key::read("[url.path, client.address]", EVERYTHING).is_err());
    // Whatever is repeated for as long as may be: a mistake, and no end of the stack.
    for part in [
        "a.",
        "!",
        "-",
        "(",
        "[",
        "{",
        "1?",
        "[0].map(a,",
        "a[0]",
        "a&&",
        "a?.",
        "'",
    ] {
        let source = part.repeat(2_048 / part.len());
        assert!(Condition::read(&source, EVERYTHING).is_err(), "{part}");
    }
    let broken = Condition::read("url.path ==", EVERYTHING).expect_err("no expression");
    assert!(broken.message.starts_with("is no expression"), "{broken}");
}
