//! How one value of the record looks in JSON, and back.
//!
//! Writes bytes straight into the caller's buffer: a record is written once per call, and an
//! intermediate tree costs more than everything else together.

use std::borrow::Cow;
use std::fmt;
use std::io::Write as _;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::sync::Arc;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use uuid::Uuid;

use crate::exchange::{Stage, Text};
use crate::socket::{Close, Coverage, SocketCookie};

use super::{
    AckKind, Address, Attribution, BadTimestamp, Kind, Reason, Settled, TcpFlags, Timestamp,
};

/// What a field's value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// A JSON string.
    Text,
    /// A JSON integer.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// A 64-bit number as a decimal string, since it does not fit a double.
    Id,
    /// RFC 3339 in UTC with microseconds.
    Timestamp,
    /// A UUID, lower-case with hyphens.
    Uuid,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// TCP flag names, comma-separated: `PSH,ACK`.
    TcpFlags,
    /// A JSON array.
    List(&'static ValueKind),
    /// A JSON object with these members.
    Object(&'static [(&'static str, ValueKind)]),
    /// Any number of keys below the field's name, each a JSON string.
    FreeKeys,
}

/// What a field holds, for those who ask for fields by their place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'r> {
    /// A text, a word, an address, an id, flags or a time, as the record writes it.
    Text(Cow<'r, str>),
    /// A number; what does not fit is the largest one.
    Integer(i64),
    /// A truth value.
    Boolean(bool),
    /// A list, of objects by what names each; empty where the record has none.
    List(Vec<Cow<'r, str>>),
}

/// One value: written as JSON, read back, cut to a length.
pub(crate) trait Datum: Sized {
    const VALUE: ValueKind;
    fn write(&self, out: &mut Vec<u8>);
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error>;
    fn value(&self) -> Value<'_>;
    /// Shortens text to `max` bytes; says whether it did.
    fn cut(&mut self, _max: usize) -> bool {
        false
    }
}

/// One field of a record: a value that may be absent.
pub(crate) trait Slot: Sized {
    const VALUE: ValueKind;
    fn is_absent(&self) -> bool;
    /// Writes `key` (a comma, the quoted name, a colon) and the value.
    fn write_member(&self, key: &str, out: &mut Vec<u8>);
    fn read_member<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Self, A::Error>;
    fn cut_member(&mut self, max: usize) -> bool;
    fn value(&self) -> Option<Value<'_>>;
    /// Makes it absent, if it can be.
    fn clear_member(&mut self);
}

impl<T: Datum> Slot for Option<T> {
    const VALUE: ValueKind = T::VALUE;
    fn is_absent(&self) -> bool {
        self.is_none()
    }
    // The key's length is then known where it is copied, which halves the cost of a line.
    #[inline(always)]
    fn write_member(&self, key: &str, out: &mut Vec<u8>) {
        if let Some(value) = self {
            out.extend_from_slice(key.as_bytes());
            value.write(out);
        }
    }
    fn read_member<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Self, A::Error> {
        map.next_value_seed(Seed::<T>(PhantomData)).map(Some)
    }
    fn cut_member(&mut self, max: usize) -> bool {
        self.as_mut().is_some_and(|value| value.cut(max))
    }
    fn value(&self) -> Option<Value<'_>> {
        self.as_ref().map(Datum::value)
    }
    fn clear_member(&mut self) {
        *self = None;
    }
}

impl<T: Datum> Slot for Vec<T> {
    const VALUE: ValueKind = ValueKind::List(&T::VALUE);
    fn is_absent(&self) -> bool {
        self.is_empty()
    }
    fn write_member(&self, key: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(key.as_bytes());
        out.push(b'[');
        for (index, value) in self.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            value.write(out);
        }
        out.push(b']');
    }
    fn read_member<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Self, A::Error> {
        map.next_value_seed(ListSeed::<T>(PhantomData))
    }
    fn cut_member(&mut self, max: usize) -> bool {
        // Not `any`: it stops at the first one that was cut.
        self.iter_mut()
            .fold(false, |cut, value| value.cut(max) | cut)
    }
    fn value(&self) -> Option<Value<'_>> {
        let texts = self.iter().filter_map(|value| match value.value() {
            Value::Text(text) => Some(text),
            _ => None,
        });
        Some(Value::List(texts.collect()))
    }
    fn clear_member(&mut self) {
        self.clear();
    }
}

/// Fields that every record has.
macro_rules! always {
    ($($ty:ty),*) => {$(
        impl Slot for $ty {
            const VALUE: ValueKind = <$ty as Datum>::VALUE;
            fn is_absent(&self) -> bool {
                false
            }
            fn write_member(&self, key: &str, out: &mut Vec<u8>) {
                out.extend_from_slice(key.as_bytes());
                Datum::write(self, out);
            }
            fn read_member<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Self, A::Error> {
                map.next_value_seed(Seed::<$ty>(PhantomData))
            }
            fn cut_member(&mut self, max: usize) -> bool {
                Datum::cut(self, max)
            }
            fn value(&self) -> Option<Value<'_>> {
                Some(Datum::value(self))
            }
            fn clear_member(&mut self) {}
        }
    )*};
}
always!(Kind, Uuid, Timestamp, Text, String, Arc<str>);

pub(crate) struct Seed<T>(pub(crate) PhantomData<T>);

impl<'de, T: Datum> DeserializeSeed<'de> for Seed<T> {
    type Value = T;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        T::read(deserializer)
    }
}

struct ListSeed<T>(PhantomData<T>);

impl<'de, T: Datum> DeserializeSeed<'de> for ListSeed<T> {
    type Value = Vec<T>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<T>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T: Datum> Visitor<'de> for ListSeed<T> {
    type Value = Vec<T>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = seq.next_element_seed(Seed::<T>(PhantomData))? {
            list.push(value);
        }
        Ok(list)
    }
}

/// Reads text that need not be kept.
fn read_text<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    struct Parse<F>(F);
    impl<T, F: FnOnce(&str) -> Result<T, String>> Visitor<'_> for Parse<F> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text")
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            (self.0)(text).map_err(E::custom)
        }
    }
    deserializer.deserialize_str(Parse(parse))
}

macro_rules! integers {
    ($($ty:ty),*) => {$(
        impl Datum for $ty {
            const VALUE: ValueKind = ValueKind::Integer;
            #[inline]
            fn write(&self, out: &mut Vec<u8>) {
                #[allow(unused_comparisons, reason = "one body for signed and unsigned")]
                if *self < 0 {
                    out.push(b'-');
                }
                write_decimal((i128::from(*self)).unsigned_abs() as u64, out);
            }
            fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <$ty>::deserialize(deserializer)
            }
            fn value(&self) -> Value<'_> {
                Value::Integer(i64::try_from(*self).unwrap_or(i64::MAX))
            }
        }
    )*};
}
integers!(u8, u16, u32, u64, i64);

impl Datum for bool {
    const VALUE: ValueKind = ValueKind::Boolean;
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(if *self { b"true" } else { b"false" });
    }
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        bool::deserialize(deserializer)
    }
    fn value(&self) -> Value<'_> {
        Value::Boolean(*self)
    }
}

impl Datum for String {
    const VALUE: ValueKind = ValueKind::Text;
    fn write(&self, out: &mut Vec<u8>) {
        write_text(self, out);
    }
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)
    }
    fn value(&self) -> Value<'_> {
        Value::Text(Cow::Borrowed(self))
    }
    fn cut(&mut self, max: usize) -> bool {
        let cut = self.len() > max;
        if cut {
            self.truncate(self.floor_char_boundary(max));
        }
        cut
    }
}

impl Datum for Text {
    const VALUE: ValueKind = ValueKind::Text;
    fn write(&self, out: &mut Vec<u8>) {
        write_text(self, out);
    }
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Cow::Owned)
    }
    fn value(&self) -> Value<'_> {
        Value::Text(Cow::Borrowed(self))
    }
    fn cut(&mut self, max: usize) -> bool {
        self.len() > max && self.to_mut().cut(max)
    }
}

impl Datum for Arc<str> {
    const VALUE: ValueKind = ValueKind::Text;
    fn write(&self, out: &mut Vec<u8>) {
        write_text(self, out);
    }
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read_text(deserializer, |text| Ok(Arc::from(text)))
    }
    fn value(&self) -> Value<'_> {
        Value::Text(Cow::Borrowed(self))
    }
    fn cut(&mut self, max: usize) -> bool {
        let cut = self.len() > max;
        if cut {
            *self = Arc::from(&self[..self.floor_char_boundary(max)]);
        }
        cut
    }
}

impl Datum for Uuid {
    const VALUE: ValueKind = ValueKind::Uuid;
    fn write(&self, out: &mut Vec<u8>) {
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        out.push(b'"');
        out.extend_from_slice(self.hyphenated().encode_lower(&mut text).as_bytes());
        out.push(b'"');
    }
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Uuid::deserialize(deserializer)
    }
    fn value(&self) -> Value<'_> {
        Value::Text(Cow::Owned(self.hyphenated().to_string()))
    }
}

impl Datum for SocketCookie {
    const VALUE: ValueKind = ValueKind::Id;
    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'"');
        write_decimal(self.get(), out);
        out.push(b'"');
    }
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read_text(deserializer, |text| {
            let raw: Option<u64> = text.parse().ok();
            raw.and_then(SocketCookie::new)
                .ok_or_else(|| format!("{text:?} is not a socket cookie"))
        })
    }
    fn value(&self) -> Value<'_> {
        Value::Text(Cow::Owned(self.get().to_string()))
    }
}

impl Datum for IpAddr {
    const VALUE: ValueKind = ValueKind::Text;
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            IpAddr::V4(ip) => {
                let mut separator = b'"';
                for octet in ip.octets() {
                    out.push(separator);
                    write_decimal(octet.into(), out);
                    separator = b'.';
                }
                out.push(b'"');
            }
            IpAddr::V6(ip) => write!(out, "\"{ip}\"").expect("a Vec takes every byte"),
        }
    }
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IpAddr::deserialize(deserializer)
    }
    fn value(&self) -> Value<'_> {
        Value::Text(Cow::Owned(self.to_string()))
    }
}

impl Datum for Address {
    const VALUE: ValueKind = ValueKind::Text;
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Address::Ip(ip) => ip.write(out),
            Address::Other(text) => text.write(out),
        }
    }
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read_text(deserializer, |text| {
            Ok(match text.parse() {
                Ok(ip) => Address::Ip(ip),
                Err(_) => Address::Other(text.to_owned()),
            })
        })
    }
    fn value(&self) -> Value<'_> {
        match self {
            Address::Ip(ip) => ip.value(),
            Address::Other(text) => Datum::value(text),
        }
    }
    fn cut(&mut self, max: usize) -> bool {
        match self {
            Address::Ip(_) => false,
            Address::Other(text) => text.cut(max),
        }
    }
}

impl Datum for Timestamp {
    const VALUE: ValueKind = ValueKind::Timestamp;
    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'"');
        out.extend_from_slice(&self.rfc3339());
        out.push(b'"');
    }
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read_text(deserializer, |text| {
            text.parse()
                .map_err(|error: BadTimestamp| error.to_string())
        })
    }
    fn value(&self) -> Value<'_> {
        Value::Text(Cow::Owned(self.to_string()))
    }
}

impl Datum for TcpFlags {
    const VALUE: ValueKind = ValueKind::TcpFlags;
    fn write(&self, out: &mut Vec<u8>) {
        let mut separator = b'"';
        for name in self.names() {
            out.push(separator);
            out.extend_from_slice(name.as_bytes());
            separator = b',';
        }
        if separator == b'"' {
            out.push(b'"');
        }
        out.push(b'"');
    }
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read_text(deserializer, str::parse)
    }
    fn value(&self) -> Value<'_> {
        Value::Text(Cow::Owned(self.names().collect::<Vec<_>>().join(",")))
    }
}

/// Types that are one of a few words.
macro_rules! words {
    ($($ty:ident { $($variant:ident = $word:literal),* $(,)? })*) => {$(
        impl $ty {
            /// Every word the record may hold here.
            pub const WORDS: &'static [&'static str] = &[$($word),*];

            /// The word that stands for it in a record.
            pub fn word(self) -> &'static str {
                match self {
                    $($ty::$variant => $word,)*
                }
            }

            /// The value a word stands for.
            pub fn from_word(word: &str) -> Option<Self> {
                match word {
                    $($word => Some($ty::$variant),)*
                    _ => None,
                }
            }
        }

        impl Datum for $ty {
            const VALUE: ValueKind = ValueKind::OneOf(<$ty>::WORDS);
            fn write(&self, out: &mut Vec<u8>) {
                out.push(b'"');
                out.extend_from_slice(self.word().as_bytes());
                out.push(b'"');
            }
            fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                read_text(deserializer, |word| {
                    <$ty>::from_word(word)
                        .ok_or_else(|| format!("{word:?} is none of {}", <$ty>::WORDS.join(", ")))
                })
            }
            fn value(&self) -> Value<'_> {
                Value::Text(Cow::Borrowed(self.word()))
            }
        }
    )*};
}

words! {
    Kind { Call = "call", Connection = "connection", External = "external", Progress = "progress" }
    Coverage { None = "none", TcpInfo = "tcp_info", Ebpf = "ebpf" }
    Attribution { Exact = "exact", Shared = "shared", Partial = "partial" }
    Settled {
        Acked = "acked",
        Closed = "closed",
        Deadline = "deadline",
        Evicted = "evicted",
        Shutdown = "shutdown",
    }
    Reason {
        NoCoverage = "no_coverage",
        TcpInfo = "tcp_info",
        Multiplexed = "multiplexed",
        Pipelined = "pipelined",
        RequestEndUnknown = "request_end_unknown",
        CountersMissing = "counters_missing",
        RangeUnknown = "range_unknown",
        Lapped = "lapped",
        BeganBefore = "began_before",
        RanOn = "ran_on",
        BytesMissing = "bytes_missing",
        InterimFirst = "interim_first",
        TlsTickets = "tls_tickets",
    }
    AckKind { Pure = "pure", Data = "data" }
    Close {
        FinPeer = "fin_peer",
        FinLocal = "fin_local",
        RstIn = "rst_in",
        RstOut = "rst_out",
        Timeout = "timeout",
    }
    Stage { Tcp = "tcp", Tls = "tls", Head = "head" }
}

/// A JSON object inside a record, its members named in one place, and one of them as what names it.
macro_rules! object {
    ($(#[$meta:meta])* pub struct $ty:ident by $by:ident { $($name:literal $ident:ident: $member:ty, $doc:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $ty {
            $(#[doc = $doc] pub $ident: $member,)*
        }

        impl $crate::record::value::Datum for $ty {
            const VALUE: $crate::record::ValueKind = $crate::record::ValueKind::Object(&[
                $(($name, <$member as $crate::record::value::Slot>::VALUE),)*
            ]);
            fn write(&self, out: &mut Vec<u8>) {
                use $crate::record::value::Slot as _;
                let start = out.len();
                $(if !self.$ident.is_absent() {
                    self.$ident.write_member(concat!(",\"", $name, "\":"), out);
                })*
                $crate::record::value::end_object(start, out);
            }
            fn read<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Members;
                impl<'de> serde::de::Visitor<'de> for Members {
                    type Value = $ty;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("an object")
                    }
                    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<$ty, A::Error> {
                        let mut object = <$ty>::default();
                        while let Some(key) = map.next_key::<String>()? {
                            match key.as_str() {
                                $($name => object.$ident = $crate::record::value::Slot::read_member(&mut map)?,)*
                                _ => {
                                    map.next_value::<serde::de::IgnoredAny>()?;
                                }
                            }
                        }
                        Ok(object)
                    }
                }
                deserializer.deserialize_map(Members)
            }
            fn value(&self) -> $crate::record::Value<'_> {
                $crate::record::value::Datum::value(&self.$by)
            }
            fn cut(&mut self, max: usize) -> bool {
                use $crate::record::value::Slot as _;
                let mut cut = false;
                $(cut |= self.$ident.cut_member(max);)*
                cut
            }
        }
    };
}
pub(crate) use object;

/// Makes an object of the members from `start` on, each with a comma before it.
pub(crate) fn end_object(start: usize, out: &mut Vec<u8>) {
    match out.get_mut(start) {
        Some(comma) => *comma = b'{',
        None => out.push(b'{'),
    }
    out.push(b'}');
}

/// Half of a line's values are numbers: their digits are made eight at a time in one word, and copied
/// with a length the compiler knows.
#[inline]
pub(crate) fn write_decimal(number: u64, out: &mut Vec<u8>) {
    match number {
        0..10 => out.push(b'0' + number as u8),
        10..EIGHT_DIGITS => {
            let digits = eight_digits(number as u32);
            let zeros = digits.trailing_zeros() / u8::BITS;
            let text = (digits | ZEROS) >> (zeros * u8::BITS);
            out.extend_from_slice(&text.to_le_bytes());
            out.truncate(out.len() - zeros as usize);
        }
        _ => write_long(number, out),
    }
}

/// More than eight digits. Apart from the others, so that those need no stack.
#[inline(never)]
fn write_long(number: u64, out: &mut Vec<u8>) {
    write_decimal(number / EIGHT_DIGITS, out);
    let digits = eight_digits((number % EIGHT_DIGITS) as u32);
    out.extend_from_slice(&(digits | ZEROS).to_le_bytes());
}

const EIGHT_DIGITS: u64 = 100_000_000;
/// The digit 0, eight times.
const ZEROS: u64 = 0x3030_3030_3030_3030;

/// The digits of a number below 10^8, a byte each, the first one lowest: halved three times, all parts
/// at once (Paul Khuong, "How to print integers really fast", 2017).
#[inline]
fn eight_digits(number: u32) -> u64 {
    let number = u64::from(number);
    let fours = (number / 10_000) | ((number % 10_000) << 32);
    // n / 100 of both, for n < 10^4.
    let hundreds = ((fours * 10_486) >> 20) & 0x0000_007f_0000_007f;
    let twos = ((fours - 100 * hundreds) << 16) | hundreds;
    // n / 10 of all four, for n < 100.
    let tens = ((twos * 103) >> 10) & 0x000f_000f_000f_000f;
    ((twos - 10 * tens) << 8) | tens
}

/// Writes a JSON string. Beyond what JSON demands it escapes whatever a terminal or a line reader
/// might act on: DEL, the C1 controls and the Unicode line ends.
pub(crate) fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    write_escaped(text, out);
    out.push(b'"');
}

const WORD: usize = size_of::<u64>();

/// Whether none of eight bytes needs a second look: all are ASCII, and neither controls nor `"`, `\`
/// or DEL. Of each byte the top bit tells; a byte above one that is not plain may tell wrongly.
fn is_plain(word: [u8; WORD]) -> bool {
    const ONES: u64 = u64::MAX / 0xff;
    const TOPS: u64 = ONES << 7;
    let word = u64::from_le_bytes(word);
    let below = |limit: u8| word.wrapping_sub(ONES * u64::from(limit));
    let is = |byte: u8| (word ^ (ONES * u64::from(byte))).wrapping_sub(ONES);
    let suspect = word | below(0x20) | is(b'"') | is(b'\\') | is(0x7f);
    suspect & TOPS == 0
}

pub(crate) fn write_escaped(text: &str, out: &mut Vec<u8>) {
    const SUSPECT: [bool; 256] = {
        let mut suspect = [false; 256];
        let mut byte = 0;
        while byte < 0x20 {
            suspect[byte] = true;
            byte += 1;
        }
        suspect[b'"' as usize] = true;
        suspect[b'\\' as usize] = true;
        suspect[0x7f] = true;
        suspect[0xc2] = true; // leads U+0080 to U+00BF
        suspect[0xe2] = true; // leads U+2000 to U+2FFF
        suspect
    };

    let bytes = text.as_bytes();
    let (words, _) = bytes.as_chunks();
    // Most texts are plain to their end; the last word may overlap the one before.
    if bytes.last_chunk().is_some_and(|last| is_plain(*last))
        && words.iter().all(|word| is_plain(*word))
    {
        out.extend_from_slice(bytes);
        return;
    }
    let mut clean_from = 0;
    let mut at = words.iter().take_while(|word| is_plain(**word)).count() * WORD;
    while at < bytes.len() {
        let byte = bytes[at];
        if !SUSPECT[usize::from(byte)] {
            at += 1;
            continue;
        }
        let (point, length) = match (byte, &bytes[at..]) {
            (0xc2, [_, next, ..]) if *next < 0xa0 => (u32::from(*next), 2),
            (0xe2, [_, 0x80, last @ (0xa8 | 0xa9), ..]) => (0x2000 + u32::from(*last - 0x80), 3),
            (0xc2 | 0xe2, _) => {
                at += 1;
                continue;
            }
            _ => (u32::from(byte), 1),
        };
        out.extend_from_slice(&bytes[clean_from..at]);
        match point {
            0x22 => out.extend_from_slice(b"\\\""),
            0x5c => out.extend_from_slice(b"\\\\"),
            0x0a => out.extend_from_slice(b"\\n"),
            0x0d => out.extend_from_slice(b"\\r"),
            0x09 => out.extend_from_slice(b"\\t"),
            _ => write!(out, "\\u{point:04x}").expect("a Vec takes every byte"),
        }
        at += length;
        clean_from = at;
    }
    out.extend_from_slice(&bytes[clean_from..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length_are_written_in_full() {
        let powers = (0..20).map(|exponent| 10_u64.pow(exponent));
        let around = powers.flat_map(|power| [power - 1, power, power + 1, power / 9 * 7]);
        for number in (0..20_000).chain(around).chain([u64::MAX]) {
            let mut written = b"before".to_vec();
            write_decimal(number, &mut written);
            assert_eq!(
                String::from_utf8(written).unwrap(),
                format!("before{number}")
            );
        }
    }

    #[test]
    fn what_must_be_escaped_is_found_wherever_it_stands() {
        for point in (0..0x180).chain(0x2000..0x2030).filter_map(char::from_u32) {
            let is_escaped = matches!(point, '"' | '\\' | '\u{2028}' | '\u{2029}');
            let is_escaped = is_escaped || point.is_control();
            for (before, after) in (0..20).zip((0..20).rev()) {
                let text = format!("{}{point}{}", "~".repeat(before), "!".repeat(after));
                let mut written = Vec::new();
                write_text(&text, &mut written);
                let written = String::from_utf8(written).unwrap();
                assert_eq!(written != format!("\"{text}\""), is_escaped, "{written}");
                assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
            }
        }
    }
}
