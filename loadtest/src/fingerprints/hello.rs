//! ClientHellos that no client sends: made up, with everything in them that a fingerprint counts.

use crate::plan::Random;

/// Numbers that stand for nothing (RFC 8701), so that servers keep passing over what they do not know.
const GREASE: [u16; 4] = [0x0a0a, 0x3a3a, 0x9a9a, 0xfafa];
/// Nobody has assigned these to an extension, so that anything may be in them.
const UNASSIGNED: u64 = 0x7000;

/// One TLS record with a hello in it. Well-formed, so that two readers can agree on what it says.
pub fn made_up(random: &mut Random) -> Vec<u8> {
    let mut body = Vec::new();
    let legacy = [0x0303_u16, 0x0303, 0x0303, 0x0302, 0x0301, 0x0300][random.index(6)];
    body.extend(legacy.to_be_bytes());
    body.extend((0..32).map(|_| random.below(256) as u8));
    let session = [0, 32][random.index(2)];
    body.push(session);
    body.extend((0..session).map(|_| random.below(256) as u8));
    // Now and then more than the two digits of a fingerprint can count.
    let most = [30, 30, 30, 130][random.index(4)];
    let count = 1 + random.below(most);
    let ciphers = list(random, count, |random| random.below(0x10000) as u16);
    body.extend(vector16(&ciphers));
    body.extend([1, 0]);
    if random.below(10) > 0 {
        body.extend(vector16(&extensions(random, most)));
    }
    let length = (body.len() as u32).to_be_bytes();
    let message = [&[1], &length[1..], &body].concat();
    [&[22, 3, 1], &vector16(&message)[..]].concat()
}

fn extensions(random: &mut Random, most: u64) -> Vec<u8> {
    let mut all: Vec<(u16, Vec<u8>)> = Vec::new();
    let mut maybe = |random: &mut Random, kind: u16, body: Vec<u8>| {
        if random.below(3) > 0 {
            all.push((kind, body));
        }
    };
    let name = [&[0][..], &vector16(b"made-up.test")].concat();
    maybe(random, 0, vector16(&name));
    let protocols: [&[&str]; 4] = [
        &["h2", "http/1.1"],
        &["http/1.1"],
        &["http/1.0", "h2"],
        &["xyz"],
    ];
    let protocols: Vec<u8> = protocols[random.index(4)]
        .iter()
        .flat_map(|name| [&[name.len() as u8], name.as_bytes()].concat())
        .collect();
    maybe(random, 16, vector16(&protocols));
    let count = 1 + random.below(6);
    let versions = list(random, count, |random| 0x0300 + random.below(5) as u16);
    maybe(
        random,
        43,
        [&[versions.len() as u8], &versions[..]].concat(),
    );
    let count = 1 + random.below(20);
    let signatures = list(random, count, |random| {
        (2 + random.below(7) as u16) << 8 | (1 + random.below(3) as u16)
    });
    maybe(random, 13, vector16(&signatures));
    maybe(random, 23, Vec::new());
    maybe(random, 35, Vec::new());
    maybe(random, 11, vec![1, 0]);
    maybe(random, 5, vec![1, 0, 0, 0, 0]);
    maybe(random, 0xff01, vec![0]);
    for _ in 0..random.below(2) * random.below(most) {
        let kind = (UNASSIGNED + random.below(0x0f00)) as u16;
        if all.iter().any(|(other, _)| *other == kind) {
            continue;
        }
        let bytes = random.below(20);
        all.push((kind, (0..bytes).map(|_| random.below(256) as u8).collect()));
    }
    if random.below(2) > 0 {
        all.push((GREASE[random.index(4)], Vec::new()));
    }
    // Chromium's order is another each time.
    for at in (1..all.len()).rev() {
        all.swap(at, random.index(at + 1));
    }
    all.iter()
        .flat_map(|(kind, body)| [&kind.to_be_bytes(), &vector16(body)[..]].concat())
        .collect()
}

/// So many numbers, some of them GREASE.
fn list(random: &mut Random, count: u64, one: impl Fn(&mut Random) -> u16) -> Vec<u8> {
    (0..count)
        .flat_map(|_| {
            let value = if random.below(8) == 0 {
                GREASE[random.index(4)]
            } else {
                one(random)
            };
            value.to_be_bytes()
        })
        .collect()
}

fn vector16(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u16).to_be_bytes(), body].concat()
}
