use super::*;

fn list(name: &str, text: &str) -> List {
    List {
        name: name.into(),
        entries: read(text).expect("entries"),
    }
}

fn never(networks: &[&str]) -> Vec<Never> {
    let never = |network: &&str| Never {
        network: network.parse().expect("a network"),
        why: "ours".into(),
    };
    networks.iter().map(never).collect()
}

fn at(time: &str) -> Timestamp {
    time.parse().expect("a time")
}

/// Before every end that a test writes.
fn early() -> Timestamp {
    at("2026-01-01T00:00:00Z")
}

#[track_caller]
fn check(denied: &Denied, expected: &[(&str, Option<&str>)]) {
    for (address, network) in expected {
        let found = denied.find(address.parse().expect("an address"));
        let found = found.map(|(network, _)| network.to_string());
        assert_eq!(found.as_deref(), *network, "{address}");
    }
}

#[test]
fn a_text_has_an_entry_a_line() {
    let entries = read(
        "# who was seen in May\n\
         \n\
         203.0.113.0/24   until 2026-12-01T00:00:00Z  # the scan\r\n\
         \t2001:db8::/32\n\
         ::ffff:192.0.2.1",
    );
    let entries: Vec<String> = entries
        .expect("entries")
        .iter()
        .map(|Entry { network, until }| format!("{network} {until:?}"))
        .collect();
    let end = at("2026-12-01T00:00:00Z");
    assert_eq!(
        entries,
        [
            format!("203.0.113.0/24 {:?}", Some(end)),
            "2001:db8::/32 None".to_owned(),
            "192.0.2.1/32 None".to_owned(),
        ]
    );
}

#[test]
fn every_wrong_line_is_told_with_its_number_up_to_a_number() {
    let said = |text: &str| {
        let BadLines { told, further } = read(text).expect_err("wrong lines");
        let told = told.iter();
        let told = told.map(|BadLine { line, why }| format!("{line}: {why}; {}", why.remedy()));
        (told.collect::<Vec<_>>(), further)
    };
    assert_eq!(
        said(
            "10.0.0.1/8\n10.0.0.0/8\n10.0.0.0/8 2026-12-01\n10.0.0.0/8 until soon\n\
             10.0.0.0/8 until\nexample.com\n1.2.3.4 5.6.7.8"
        ),
        (
            vec![
                "1: \"10.0.0.1/8\": the address has bits set beyond its prefix; did you mean \"10.0.0.0/8\"?".to_owned(),
                "3: \"2026-12-01\" is not an end; write \"until 2026-12-01T00:00:00Z\", or nothing".to_owned(),
                "4: \"until soon\" is not an end; write \"until 2026-12-01T00:00:00Z\", or nothing".to_owned(),
                "5: \"until\" is not an end; write \"until 2026-12-01T00:00:00Z\", or nothing".to_owned(),
                "6: \"example.com\": this is neither an IP address nor a network; write 10.0.0.0/8, fd00::/8 or one address".to_owned(),
                "7: \"5.6.7.8\" is not an end; write \"until 2026-12-01T00:00:00Z\", or nothing".to_owned(),
            ],
            0,
        )
    );
    let (told, further) = said(&"?\n".repeat(MISTAKES_TOLD_MAX + 7));
    assert_eq!((told.len(), further), (MISTAKES_TOLD_MAX, 7));
    // What is no text at all is not repeated at length.
    let (told, _) = said(&"\u{fffd}".repeat(100_000));
    assert!(told[0].len() < 300, "{told:?}");
}

#[test]
fn the_most_exact_network_is_named() {
    let lists = [
        list("wide", "10.0.0.0/8\n2001:db8::/32"),
        list("exact", "10.1.0.0/16\n10.1.2.3\n::/0"),
    ];
    let denied = Denied::by(&lists, &[], early());
    check(
        &denied,
        &[
            ("10.200.0.1", Some("10.0.0.0/8")),
            ("10.1.2.4", Some("10.1.0.0/16")),
            ("10.1.2.3", Some("10.1.2.3/32")),
            ("::ffff:10.1.2.3", Some("10.1.2.3/32")),
            ("11.0.0.1", None),
            ("2001:db8::1", Some("2001:db8::/32")),
            ("2001:db9::1", Some("::/0")),
        ],
    );
    let (_, denial) = denied.find([10, 1, 2, 3].into()).expect("denied");
    assert_eq!(&*denial.list, "exact");
}

#[test]
fn what_may_never_be_denied_stands_over_every_list() {
    let lists = [list(
        "all",
        "0.0.0.0/0\n10.0.0.0/8\n10.0.0.7\n127.0.0.1\n::/0",
    )];
    let never = never(&["127.0.0.0/8", "10.0.0.0/24", "::1"]);
    let denied = Denied::by(&lists, &never, early());
    check(
        &denied,
        &[
            ("127.0.0.1", None),
            ("127.9.9.9", None),
            ("10.0.0.7", None),
            ("10.0.0.8", None),
            ("10.0.1.8", Some("10.0.0.0/8")),
            ("128.0.0.1", Some("0.0.0.0/0")),
            ("::1", None),
            ("::2", Some("::/0")),
        ],
    );
    let said: Vec<String> = denied.exempted().iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "list all: 10.0.0.7/32 is not denied, for 10.0.0.0/24 never is (ours)",
            "list all: 127.0.0.1/32 is not denied, for 127.0.0.0/8 never is (ours)",
            "list all: 0.0.0.0/0 is denied without 127.0.0.0/8, which never is (ours)",
            "list all: 10.0.0.0/8 is denied without 10.0.0.0/24, which never is (ours)",
            "list all: ::/0 is denied without ::1/128, which never is (ours)",
        ]
    );
}

/// What the kernel does: of all networks that hold the address, the longest one decides.
#[test]
fn the_longest_of_denials_and_holes_decides_as_find_does() {
    let lists = [list(
        "some",
        "0.0.0.0/1\n16.0.0.0/4\n17.0.0.0/8\n17.1.0.0/16\n17.1.1.0/24\n200.0.0.0/8",
    )];
    let never = never(&["17.0.0.0/12", "17.1.1.1", "20.1.0.0/16", "201.0.0.0/8"]);
    let denied = Denied::by(&lists, &never, early());
    let rows: Vec<(Network, bool)> = denied
        .denials()
        .map(|(network, _)| (network, true))
        .chain(denied.holes().map(|network| (network, false)))
        .collect();
    for first in [0, 15, 16, 17, 18, 20, 127, 128, 200, 201] {
        for second in [0, 1, 15, 16, 255] {
            for rest in [(1, 1), (2, 2)] {
                let address = IpAddr::from([first, second, rest.0, rest.1]);
                let holding = rows.iter().filter(|(network, _)| network.contains(address));
                let longest = holding.max_by_key(|(network, _)| network.bits());
                let by_kernel = longest.is_some_and(|(_, denied)| *denied);
                assert_eq!(denied.find(address).is_some(), by_kernel, "{address}");
                let never = never.iter().any(|never| never.network.contains(address));
                assert!(!(never && by_kernel), "{address} may never be denied");
            }
        }
    }
}

#[test]
fn an_entry_ends_when_it_says() {
    let lists = [list(
        "some",
        "10.0.0.1 until 2026-06-01T00:00:00Z\n\
         10.0.0.2 until 2026-07-01T00:00:00Z\n\
         10.0.0.3\n\
         10.0.0.3 until 2026-06-01T00:00:00Z\n\
         10.0.0.4 until 2026-06-01T00:00:00Z\n\
         10.0.0.4 until 2026-08-01T00:00:00Z",
    )];
    let names = |now: &str| {
        let denied = Denied::by(&lists, &[], at(now));
        let mut last: Vec<u8> = denied
            .denials()
            .map(|(network, _)| match network.first() {
                IpAddr::V4(v4) => v4.octets()[3],
                IpAddr::V6(_) => 0,
            })
            .collect();
        last.sort_unstable();
        (last, denied.due().map(|due| due.to_string()))
    };
    let due = |time: &str| Some(at(time).to_string());
    assert_eq!(
        names("2026-05-31T23:59:59Z"),
        (vec![1, 2, 3, 4], due("2026-06-01T00:00:00Z"))
    );
    assert_eq!(
        names("2026-06-01T00:00:00Z"),
        (vec![2, 3, 4], due("2026-07-01T00:00:00Z"))
    );
    assert_eq!(names("2026-08-01T00:00:00Z"), (vec![3], None));
}
