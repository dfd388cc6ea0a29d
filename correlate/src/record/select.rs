//! Which fields of a record are written.

use std::fmt;

use super::{FIELDS, ValueKind};

/// Fields that are always written: a line that cannot be named, dated or told apart is no record.
const ALWAYS: [&str; 4] = ["timestamp", "log.record.uid", "schema.version", "kind"];

/// The fields that [`CallRecord::write_json`](super::CallRecord::write_json) writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    fields: [u64; WORDS],
    /// Single keys of a free-key field: its index and the key.
    keys: Vec<(usize, String)>,
    /// Single keys of a free-key field that are left out.
    hidden_keys: Vec<(usize, String)>,
}

const WORDS: usize = FIELDS.len().div_ceil(u64::BITS as usize);

impl Selection {
    /// Every field.
    pub fn all() -> Self {
        Self {
            fields: [u64::MAX; WORDS],
            keys: Vec::new(),
            hidden_keys: Vec::new(),
        }
    }

    fn none() -> Self {
        Self {
            fields: [0; WORDS],
            ..Self::all()
        }
    }

    /// The named fields, and those that every record has: `timestamp`, `log.record.uid`,
    /// `schema.version`, `kind`.
    ///
    /// A name is a field (`url.path`), a family (`client.*`), or one key of a field with free keys
    /// (`http.request.header.x-tenant`; the field's own name stands for all of them). Every unknown name is reported, with the nearest known.
    pub fn of<S: AsRef<str>>(names: &[S]) -> Result<Self, Vec<UnknownField>> {
        let mut selection = Self::none();
        let mut unknown = Vec::new();
        for name in ALWAYS.into_iter().chain(names.iter().map(AsRef::as_ref)) {
            if !selection.add(name) {
                unknown.push(UnknownField {
                    name: name.to_owned(),
                    nearest: nearest(name),
                });
            }
        }
        if unknown.is_empty() {
            Ok(selection)
        } else {
            Err(unknown)
        }
    }

    fn add(&mut self, name: &str) -> bool {
        let mut known = false;
        for (index, field) in FIELDS.iter().enumerate() {
            let below = |prefix: &str| {
                name.strip_prefix(prefix)
                    .and_then(|rest| rest.strip_prefix('.'))
            };
            let chosen = match name.strip_suffix(".*") {
                Some(family) => {
                    field.name == family && field.value == ValueKind::FreeKeys
                        || field
                            .name
                            .strip_prefix(family)
                            .is_some_and(|rest| rest.starts_with('.'))
                }
                None if field.value == ValueKind::FreeKeys => {
                    let key = below(field.name).filter(|key| !key.is_empty());
                    if let Some(key) = key {
                        self.keys.push((index, super::free_key(key)));
                        known = true;
                    }
                    field.name == name
                }
                None => field.name == name,
            };
            if chosen {
                self.fields[index / 64] |= 1 << (index % 64);
                known = true;
            }
        }
        known
    }

    /// The same without these fields, families and single keys. Names of no field are passed over,
    /// and what every record has stays.
    #[must_use]
    pub fn without<S: AsRef<str>>(mut self, names: &[S]) -> Self {
        let mut hidden = Self::none();
        for name in names {
            hidden.add(name.as_ref());
        }
        for (index, field) in FIELDS.iter().enumerate() {
            if hidden.has(index) && !ALWAYS.contains(&field.name) {
                self.fields[index / 64] &= !(1 << (index % 64));
                self.keys.retain(|(chosen, _)| *chosen != index);
            }
        }
        self.hidden_keys.extend(hidden.keys);
        self
    }

    /// What is chosen beside the fields that every record has, as indices into [`FIELDS`].
    pub fn optional_fields(&self) -> impl Iterator<Item = usize> {
        (0..FIELDS.len()).filter(|&field| self.has(field) && !ALWAYS.contains(&FIELDS[field].name))
    }

    /// Single keys of fields with free keys that are chosen: the field's index and the key.
    pub fn single_keys(&self) -> &[(usize, String)] {
        &self.keys
    }

    /// Whether the field of this index into [`FIELDS`] is written.
    #[inline]
    pub(crate) fn has(&self, index: usize) -> bool {
        self.fields[index / 64] >> (index % 64) & 1 == 1
    }

    /// Whether this key of a free-key field is written.
    pub(crate) fn has_key(&self, index: usize, key: &str) -> bool {
        let among = |keys: &[(usize, String)]| {
            keys.iter()
                .any(|(field, wanted)| *field == index && wanted == key)
        };
        (self.has(index) || among(&self.keys)) && !among(&self.hidden_keys)
    }
}

/// A name that no field has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownField {
    /// As it was given.
    pub name: String,
    /// The most similar field, where one is similar.
    pub nearest: Option<&'static str>,
}

impl fmt::Display for UnknownField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the record has no field {:?}", self.name)?;
        match self.nearest {
            Some(nearest) => write!(f, "; did you mean {nearest:?}?"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for UnknownField {}

fn nearest(name: &str) -> Option<&'static str> {
    nearest_of(name.strip_suffix(".*").unwrap_or(name), |_| true)
}

/// The field that `name` is probably meant to be, of those that are `known` here.
pub fn nearest_of(name: &str, known: impl Fn(&str) -> bool) -> Option<&'static str> {
    let names = FIELDS.iter().map(|field| field.name);
    nearest_among(name, names.filter(|name| known(name)))
}

/// The one that `name` is probably meant to be.
pub fn nearest_among<'n>(name: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    names
        .into_iter()
        .map(|known| (distance(name, known), known))
        .min()
        .filter(|(distance, _)| *distance <= name.len() / 3 + 1)
        .map(|(_, nearest)| nearest)
}

/// Levenshtein distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, byte_a) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, byte_b) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(byte_a != byte_b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str]) -> Vec<&'static str> {
        let selection = Selection::of(names).expect("known names");
        FIELDS
            .iter()
            .enumerate()
            .filter(|(index, _)| selection.has(*index))
            .map(|(_, field)| field.name)
            .filter(|name| !ALWAYS.contains(name))
            .collect()
    }

    #[test]
    fn a_name_selects_one_field_and_a_star_a_family() {
        assert_eq!(chosen(&["url.path"]), ["url.path"]);
        assert_eq!(
            chosen(&["http.response.*"]),
            [
                "http.response.status_code",
                "http.response.body.size",
                "http.response.header"
            ]
        );
        assert!(chosen(&["client.*"]).contains(&"client.tcp.rtt_us"));
        assert!(chosen(&["client.*"]).contains(&"client.address"));
        assert!(!chosen(&["client.*"]).contains(&"upstream.tcp.rtt_us"));
        assert_eq!(chosen(&[]), [""; 0]);
    }

    #[test]
    fn one_free_key_can_be_selected() {
        let selection = Selection::of(&["details.Src.IP"]).expect("known");
        let details = FIELDS
            .iter()
            .position(|field| field.name == "details")
            .expect("details");
        assert!(!selection.has(details));
        assert!(selection.has_key(details, "src_ip"));
        assert!(!selection.has_key(details, "dst_ip"));
    }

    #[test]
    fn what_is_hidden_is_left_out_of_any_selection() {
        let names = [
            "url.query",
            "tls.client.*",
            "details.Pass.Word",
            "kind",
            "x-api-key",
        ];
        let index = |name: &str| {
            let field = FIELDS.iter().position(|field| field.name == name);
            field.unwrap_or_else(|| panic!("{name}"))
        };
        let all = Selection::all().without(&names);
        assert!(!all.has(index("url.query")) && !all.has(index("tls.client.subject")));
        assert!(all.has(index("url.path")) && all.has(index("kind")));
        assert!(!all.has_key(index("details"), "pass_word"));
        assert!(all.has_key(index("details"), "user"));

        let some = Selection::of(&["url.*", "details.pass_word", "details.user"]);
        let some = some.expect("known names").without(&names);
        assert!(some.has(index("url.path")) && !some.has(index("url.query")));
        assert!(!some.has_key(index("details"), "pass_word"));
        assert!(some.has_key(index("details"), "user"));
    }

    #[test]
    fn every_unknown_name_is_reported_with_the_nearest() {
        let unknown = Selection::of(&["url.pth", "kind", "client.tcp.rt_us", "weather"])
            .expect_err("unknown names");
        let messages: Vec<_> = unknown.iter().map(ToString::to_string).collect();
        assert_eq!(
            messages,
            [
                "the record has no field \"url.pth\"; did you mean \"url.path\"?",
                "the record has no field \"client.tcp.rt_us\"; did you mean \"client.tcp.rtt_us\"?",
                "the record has no field \"weather\"",
            ]
        );
    }
}
