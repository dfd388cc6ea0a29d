//! `loadtest detect series`: the model of one number over time, alone, on labelled series.
//!
//! Every series starts a fresh model, which gets one value after the other and never sees what
//! comes. There is one configuration for everything: the constants in the model. Two sets of data,
//! neither of which is ours to ship: key figures of web services by [`vus`], whose score is to stay
//! high through an anomaly, and a part of NAB by [`nab`], where every row costs that alerts without
//! need. So the first scores what the model says of late, the second what opens an alert. Beside the
//! model stand two rivals that know nothing: the step from the last value, and chance.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use calltap_policies::detect::series::Series;
use chrono::NaiveDateTime;
use flate2::read::MultiGzDecoder;
use serde::Serialize;

use super::nab::{self, Scored};
use super::vus;
use crate::table;

/// What the key figures must reach, and what would be fine.
const KPI_GOAL: f64 = 0.42;
const KPI_STRETCH: f64 = 0.50;
/// The same for NAB. On these files CAD OSE reaches 79.8, Numenta's HTM 77.4, Random Cut Forest 54.9,
/// chance 10.2.
const NAB_GOAL: f64 = 62.0;
const NAB_STRETCH: f64 = 79.0;
const NANOSECONDS_MAX: f64 = 1_000.0;
const BYTES_MAX: usize = 4_096;

/// The time between two key figures.
const KPI_STEP_S: u64 = 60;

/// What each value is scored by.
const RIVALS: usize = 3;
/// Ours first.
const RIVAL_NAMES: [&str; RIVALS] = ["calltap", "last step", "chance"];

/// What was found on both sets of data.
#[derive(Debug, Serialize)]
pub struct Findings {
    /// One for each series of key figures.
    pub kpi: Vec<Kpi>,
    /// The score over all files of NAB, by rival.
    pub nab: [f64; RIVALS],
    /// What the same thresholds mean for each family of NAB's files.
    pub families: Vec<Family>,
    /// How long the model takes for a value.
    pub nanoseconds: f64,
    /// The size of a model.
    pub bytes: usize,
}

/// One series of key figures.
#[derive(Debug, Serialize)]
pub struct Kpi {
    /// Its file, without what follows the first dot.
    pub name: String,
    /// The widest window, in values.
    pub window: usize,
    /// VUS-PR by rival.
    pub vus_pr: [f64; RIVALS],
}

/// One of NAB's directories.
#[derive(Debug, Serialize)]
pub struct Family {
    /// Its name.
    pub name: String,
    /// How many files it has.
    pub files: usize,
    /// How many windows they have.
    pub windows: usize,
    /// By rival.
    pub counts: [nab::Counts; RIVALS],
}

impl Findings {
    /// The mean VUS-PR of a rival.
    pub fn kpi_mean(&self, rival: usize) -> f64 {
        let sum: f64 = self.kpi.iter().map(|kpi| kpi.vus_pr[rival]).sum();
        sum / self.kpi.len() as f64
    }

    /// Whether what must be reached was reached.
    pub fn held(&self) -> bool {
        self.kpi_mean(0) >= KPI_GOAL
            && self.nab[0] >= NAB_GOAL
            && self.nanoseconds <= NANOSECONDS_MAX
            && self.bytes <= BYTES_MAX
    }
}

/// Scores the model on the directory of key figures and on that of NAB.
pub fn run(kpi: &Path, nab: &Path) -> anyhow::Result<Findings> {
    let series = key_figures(kpi)?;
    let files = nab_files(nab)?;

    let (mut values, mut elapsed) = (0, 0.0);
    let mut kpi = Vec::new();
    for one in &series {
        let scored = score(&one.values, |unusual| -unusual.recent.log10());
        values += one.values.len();
        elapsed += scored.nanoseconds;
        let window = vus::window(&one.figures());
        let mut vus_pr = [0.0; RIVALS];
        for (found, scores) in vus_pr.iter_mut().zip(&scored.by_rival) {
            *found = vus::vus_pr(&one.marked, scores, window)
                .with_context(|| format!("nothing is marked in {}", one.name))?;
        }
        kpi.push(Kpi {
            name: one.name.clone(),
            window,
            vus_pr,
        });
    }

    let mut scored: [Vec<Scored>; RIVALS] = Default::default();
    for file in &files {
        let found = score(&file.values, |unusual| unusual.onset);
        values += file.values.len();
        elapsed += found.nanoseconds;
        for (files, scores) in scored.iter_mut().zip(found.by_rival) {
            let windows = file.windows.clone();
            files.push(Scored { scores, windows });
        }
    }
    let best = scored.each_ref().map(|files| nab::best(files));
    let mut families: Vec<Family> = Vec::new();
    // Files come sorted by name, which starts with the family's.
    let mut start = 0;
    for group in files.chunk_by(|a, b| a.family() == b.family()) {
        let range = start..start + group.len();
        start = range.end;
        families.push(Family {
            name: group[0].family().to_owned(),
            files: group.len(),
            windows: group.iter().map(|file| file.windows.len()).sum(),
            counts: std::array::from_fn(|rival| {
                nab::counts(&scored[rival][range.clone()], best[rival].threshold)
            }),
        });
    }
    Ok(Findings {
        kpi,
        nab: best.map(|best| best.score),
        families,
        nanoseconds: elapsed / values as f64,
        bytes: size_of::<Series>(),
    })
}

/// Tables of what was found; with `each`, of each series of key figures, too.
pub fn render(findings: &Findings, each: bool) -> String {
    let mut out = String::new();
    let head = |first, last: &[&'static str]| -> Vec<&'static str> {
        [&[first], &RIVAL_NAMES[..], last].concat()
    };
    let row = |name: String, cells: [String; RIVALS], last: &[String]| -> Vec<String> {
        [&[name], &cells[..], last].concat()
    };
    if each {
        let rows = findings.kpi.iter().map(|kpi| {
            let cells = kpi.vus_pr.map(|score| format!("{score:.3}"));
            row(kpi.name.clone(), cells, &[kpi.window.to_string()])
        });
        out += &table::markdown(&head("VUS-PR", &["window"]), &rows.collect::<Vec<_>>());
        out.push('\n');
    }
    let rows = findings.families.iter().map(|family| {
        let cells = family.counts.each_ref().map(|counts| {
            let found = format!("{} of {}", counts.found, family.windows);
            format!("{found}, {} false", counts.false_rows)
        });
        row(family.name.clone(), cells, &[family.files.to_string()])
    });
    out += &table::markdown(
        &head("Windows found", &["files"]),
        &rows.collect::<Vec<_>>(),
    );
    out.push('\n');
    let means = std::array::from_fn(|rival| format!("{:.3}", findings.kpi_mean(rival)));
    let nab = findings.nab.map(|score| format!("{score:.1}"));
    let rows = [
        row(
            format!("{} key figures, mean VUS-PR", findings.kpi.len()),
            means,
            &[format!("{KPI_GOAL:.2}"), format!("{KPI_STRETCH:.2}")],
        ),
        row(
            "NAB, standard profile".to_owned(),
            nab,
            &[format!("{NAB_GOAL:.0}"), format!("{NAB_STRETCH:.0}")],
        ),
    ];
    out += &table::markdown(&head("Score", &["must", "stretch"]), &rows);
    out += &format!(
        "\nOurs takes {:.0} ns per value (at most {NANOSECONDS_MAX:.0}) and {} bytes per series (at most {BYTES_MAX}).\n",
        findings.nanoseconds, findings.bytes,
    );
    out
}

/// A value and its time, in seconds since a midnight.
type Timed = (u64, f64);

struct KeyFigures {
    name: String,
    values: Vec<Timed>,
    marked: Vec<bool>,
}

impl KeyFigures {
    fn figures(&self) -> Vec<f64> {
        self.values.iter().map(|(_, value)| *value).collect()
    }
}

fn key_figures(directory: &Path) -> anyhow::Result<Vec<KeyFigures>> {
    let mut found = Vec::new();
    for entry in entries(directory)? {
        let Some(name) = entry.strip_suffix(".csv.gz") else {
            continue;
        };
        let path = directory.join(&entry);
        let read = || {
            let mut text = String::new();
            MultiGzDecoder::new(File::open(&path)?).read_to_string(&mut text)?;
            let (mut values, mut marked) = (Vec::new(), Vec::new());
            for (at, line) in rows(&text, "value,label")? {
                let (value, label) = line.split_once(',').with_context(|| two_columns(at))?;
                values.push((values.len() as u64 * KPI_STEP_S, number(at, value)?));
                marked.push(number(at, label)? != 0.0);
            }
            anyhow::Ok(KeyFigures {
                name: name.to_owned(),
                values,
                marked,
            })
        };
        found.push(read().with_context(|| format!("cannot read {}", path.display()))?);
    }
    ensure!(
        !found.is_empty(),
        "{} has no .csv.gz: give the directory of key figures",
        directory.display()
    );
    Ok(found)
}

struct NabFile {
    /// With its family, by a slash.
    name: String,
    values: Vec<Timed>,
    windows: Vec<(usize, usize)>,
}

impl NabFile {
    fn family(&self) -> &str {
        self.name.split_once('/').map_or("", |(family, _)| family)
    }
}

fn nab_files(directory: &Path) -> anyhow::Result<Vec<NabFile>> {
    let list = directory.join("combined_windows.json");
    let text = fs::read(&list).with_context(|| {
        format!(
            "cannot read {}: give NAB's directory of data",
            list.display()
        )
    })?;
    let windows: std::collections::BTreeMap<String, Vec<[String; 2]>> =
        serde_json::from_slice(&text).with_context(|| format!("cannot read {}", list.display()))?;
    let mut found = Vec::new();
    for (name, windows) in windows {
        let path = directory.join(&name);
        let read = || {
            let text = fs::read_to_string(&path)?;
            let mut values = Vec::new();
            for (at, line) in rows(&text, "timestamp,value")? {
                let (time, value) = line.split_once(',').with_context(|| two_columns(at))?;
                values.push((seconds(time)?, number(at, value)?));
            }
            let row = |time: &String| {
                let at = seconds(time)?;
                let row = values.iter().position(|(time, _)| *time == at);
                row.with_context(|| format!("no row is of {time}, where a window starts or ends"))
            };
            let windows = windows
                .iter()
                .map(|[first, last]| Ok((row(first)?, row(last)?)));
            let windows = windows.collect::<anyhow::Result<_>>()?;
            anyhow::Ok((values, windows))
        };
        let (values, windows) =
            read().with_context(|| format!("cannot read {}", path.display()))?;
        found.push(NabFile {
            name,
            values,
            windows,
        });
    }
    Ok(found)
}

/// The names in a directory, sorted.
fn entries(directory: &Path) -> anyhow::Result<Vec<String>> {
    let context = || format!("cannot list {}", directory.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).with_context(context)? {
        names.push(
            entry
                .with_context(context)?
                .file_name()
                .to_string_lossy()
                .into_owned(),
        );
    }
    names.sort();
    Ok(names)
}

/// The lines below the expected head, each with its number in the file.
fn rows<'a>(text: &'a str, head: &str) -> anyhow::Result<impl Iterator<Item = (usize, &'a str)>> {
    let mut lines = (1..).zip(text.lines());
    match lines.next() {
        Some((_, found)) if found == head => Ok(lines),
        Some((_, found)) => bail!("the first line is {found:?} instead of {head:?}"),
        None => bail!("it is empty"),
    }
}

fn two_columns(line: usize) -> String {
    format!("line {line} has no two columns")
}

fn number(line: usize, text: &str) -> anyhow::Result<f64> {
    text.trim()
        .parse()
        .with_context(|| format!("line {line} has {text:?} for a number"))
}

/// `2014-04-01 00:05:00`, with or without a fraction of a second, in seconds since 1970.
fn seconds(time: &str) -> anyhow::Result<u64> {
    let parsed = NaiveDateTime::parse_from_str(time, "%Y-%m-%d %H:%M:%S%.f");
    let parsed = parsed.with_context(|| format!("{time:?} is no time"))?;
    u64::try_from(parsed.and_utc().timestamp()).with_context(|| format!("{time:?} is too early"))
}

/// The scores of a series, by rival, and how long ours took for all of it.
struct Scores {
    by_rival: [Vec<f64>; RIVALS],
    nanoseconds: f64,
}

fn score(
    values: &[Timed],
    ours: impl Fn(calltap_policies::detect::series::Unusual) -> f64,
) -> Scores {
    let mut model = Series::new();
    let started = Instant::now();
    let unusual: Vec<_> = values
        .iter()
        .map(|(at_s, value)| model.observe(*at_s, *value))
        .collect();
    let nanoseconds = started.elapsed().as_nanos() as f64;
    let steps = values.windows(2).map(|pair| (pair[1].1 - pair[0].1).abs());
    Scores {
        by_rival: [
            unusual.into_iter().map(ours).collect(),
            std::iter::once(0.0)
                .chain(steps)
                .take(values.len())
                .collect(),
            chance(values.len()),
        ],
        nanoseconds,
    }
}

/// Always the same numbers for the same length (xorshift64).
fn chance(length: usize) -> Vec<f64> {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ length as u64;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    (0..length).map(|_| draw()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    fn kpi_file(directory: &Path, name: &str, text: &str) {
        let file = File::create(directory.join(name)).expect("a file");
        let mut file = GzEncoder::new(file, Compression::fast());
        file.write_all(text.as_bytes()).expect("written");
        file.finish().expect("written");
    }

    fn nab_directory(windows: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir(directory.path().join("some")).expect("a directory");
        fs::write(directory.path().join("combined_windows.json"), windows).expect("written");
        let mut text = "timestamp,value\n".to_owned();
        for minute in 0..600 {
            let value = if (420..424).contains(&minute) {
                90
            } else {
                minute % 7
            };
            let (hour, minute) = (minute / 60, minute % 60);
            text += &format!("2014-04-01 {hour:02}:{minute:02}:00,{value}\n");
        }
        fs::write(directory.path().join("some/spike.csv"), text).expect("written");
        directory
    }

    const WINDOW: &str =
        r#"{"some/spike.csv": [["2014-04-01 07:00:00.000000", "2014-04-01 07:30:00.000000"]]}"#;

    #[test]
    fn a_spike_is_found_in_both_kinds_of_data() {
        let kpi = tempfile::tempdir().expect("a directory");
        let mut text = "value,label\n".to_owned();
        for at in 0..2_000 {
            let marked = (1_500..1_510).contains(&at);
            let value = if marked { 200 } else { 50 + at * 7919 % 10 };
            text += &format!("{value},{}\n", u8::from(marked));
        }
        kpi_file(kpi.path(), "one.csv.gz", &text);
        let nab = nab_directory(WINDOW);
        let findings = run(kpi.path(), nab.path()).expect("findings");
        let [ours, _, chance] = findings.kpi[0].vus_pr;
        assert!(ours > 0.5 && ours > 5.0 * chance, "{findings:?}");
        assert!(findings.nab[0] > 95.0, "{findings:?}");
        assert_eq!(findings.families[0].counts[0].found, 1);
        let shown = render(&findings, true);
        for expected in ["| one ", "| some ", "1 of 1, 0 false", "bytes per series"] {
            assert!(shown.contains(expected), "{shown}");
        }
    }

    #[test]
    fn chance_scores_nearly_nothing_but_the_same_each_time() {
        assert_eq!(chance(100), chance(100));
        assert!(chance(100).iter().all(|score| (0.0..1.0).contains(score)));
        let mean = chance(10_000).iter().sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
    }

    #[track_caller]
    fn check_error(kpi: &Path, nab: &Path, expected: &[&str]) {
        let error = run(kpi, nab).expect_err("an error");
        let shown = format!("{error:#}");
        for part in expected {
            assert!(shown.contains(part), "{shown}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let kpi = tempfile::tempdir().expect("a directory");
        let nab = nab_directory(WINDOW);
        let (at, of_nab) = (kpi.path(), nab.path());
        check_error(at, of_nab, &["has no .csv.gz"]);
        kpi_file(at, "a.csv.gz", "time,value\n");
        check_error(
            at,
            of_nab,
            &["a.csv.gz", "\"time,value\" instead of \"value,label\""],
        );
        kpi_file(at, "a.csv.gz", "value,label\n1,0\n2\n");
        check_error(at, of_nab, &["a.csv.gz", "line 3 has no two columns"]);
        kpi_file(at, "a.csv.gz", "value,label\n1,0\nx,1\n");
        check_error(at, of_nab, &["a.csv.gz", "line 3 has \"x\" for a number"]);
        kpi_file(at, "a.csv.gz", "value,label\n1,0\n2,0\n");
        check_error(at, of_nab, &["nothing is marked in a"]);
        kpi_file(at, "a.csv.gz", "value,label\n1,0\n2,1\n");
        check_error(
            at,
            kpi.path(),
            &["combined_windows.json", "give NAB's directory"],
        );
        let elsewhere = r#"{"some/spike.csv": [["2014-05-01 07:00:00", "2014-05-01 07:30:00"]]}"#;
        check_error(
            at,
            nab_directory(elsewhere).path(),
            &["spike.csv", "no row is of 2014-05-01"],
        );
    }
}
