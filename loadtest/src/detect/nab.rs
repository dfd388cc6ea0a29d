//! The score of the Numenta Anomaly Benchmark with its standard profile.
//!
//! Each file has windows around its anomalies. The best row above the threshold scores a window, an
//! early one more than a late one; a window without any costs as much as a perfect one brings. Every
//! row above the threshold outside of windows costs a little, less so right behind a window. The
//! first rows of a file, its probation, count for nothing. One threshold serves all files, the best
//! that there is, and the sum is put between a detector that never speaks (0) and one that finds
//! every window with its first row and says nothing else (100).
//!
//! From "Evaluating Real-time Anomaly Detection Algorithms" (Lavin and Ahmad, 2015) and the code of
//! NAB.

use serde::Serialize;

/// What the best row of a window is worth at most.
const TRUE_POSITIVE: f64 = 1.0;
/// What a row outside of windows costs at most.
const FALSE_POSITIVE: f64 = 0.11;
/// What a window without any row costs.
const FALSE_NEGATIVE: f64 = 1.0;

/// The share of a file that counts for nothing, and the length beyond which it grows no more.
const PROBATION_SHARE: f64 = 0.15;
const PROBATION_LENGTH_MAX: usize = 5_000;

/// A file: a score for each row, and windows around its anomalies, first and last row, in order and
/// apart.
pub struct Scored {
    /// One for each row; a higher one is more anomalous.
    pub scores: Vec<f64>,
    /// First and last row of each.
    pub windows: Vec<(usize, usize)>,
}

/// What a detector reached, and with which threshold.
#[derive(Debug, PartialEq)]
pub struct Best {
    /// Between the silent detector's 0 and the perfect one's 100; below zero for none.
    pub score: f64,
    /// Rows with this score or a higher one are detections; infinite if silence is best.
    pub threshold: f64,
}

/// One row that counts.
struct Row {
    score: f64,
    worth: f64,
    /// Counted over all files.
    window: Option<usize>,
}

/// The best score that one threshold over all `files` reaches.
///
/// # Panics
///
/// If a score is not a number, or there is no window at all.
pub fn best(files: &[Scored]) -> Best {
    let (mut rows, windows) = rows(files);
    rows.sort_by(|a, b| b.score.partial_cmp(&a.score).expect("scores are numbers"));
    let mut worth_of_window = vec![-FALSE_NEGATIVE; windows];
    let (mut sum, mut threshold) = (-FALSE_NEGATIVE * windows as f64, f64::INFINITY);
    let mut best = (sum, threshold);
    for row in &rows {
        if row.score != threshold && sum > best.0 {
            best = (sum, threshold);
        }
        threshold = row.score;
        match row.window {
            None => sum += row.worth,
            Some(window) => {
                let raised = worth_of_window[window].max(row.worth);
                sum += raised - worth_of_window[window];
                worth_of_window[window] = raised;
            }
        }
    }
    if sum > best.0 {
        best = (sum, threshold);
    }
    Best {
        score: normalised(best.0, windows),
        threshold: best.1,
    }
}

/// What a threshold detects.
#[derive(Debug, PartialEq, Serialize)]
pub struct Counts {
    /// Windows with at least one row.
    pub found: usize,
    /// Rows outside of all windows.
    pub false_rows: usize,
}

/// Counts what `threshold` detects in `files`.
pub fn counts(files: &[Scored], threshold: f64) -> Counts {
    let (rows, windows) = rows(files);
    let detected = rows.iter().filter(|row| row.score >= threshold);
    let mut found = vec![false; windows];
    let mut false_rows = 0;
    for row in detected {
        match row.window {
            Some(window) => found[window] = true,
            None => false_rows += 1,
        }
    }
    Counts {
        found: found.into_iter().filter(|found| *found).count(),
        false_rows,
    }
}

fn normalised(sum: f64, windows: usize) -> f64 {
    assert!(windows > 0, "files without any window have no score");
    let silent = -FALSE_NEGATIVE * windows as f64;
    let perfect = TRUE_POSITIVE * windows as f64;
    100.0 * (sum - silent) / (perfect - silent)
}

/// The rows of all files that count, and the number of windows with any.
fn rows(files: &[Scored]) -> (Vec<Row>, usize) {
    let (mut rows, mut windows) = (Vec::new(), 0);
    for file in files {
        let probation = probation(file.scores.len());
        for (at, &score) in file.scores.iter().enumerate().skip(probation) {
            let inside = |window: &(usize, usize)| window.0 <= at && at <= window.1;
            rows.push(Row {
                score,
                worth: worth(at, &file.windows),
                window: file
                    .windows
                    .iter()
                    .position(inside)
                    .map(|found| windows + found),
            });
        }
        windows += file.windows.len();
    }
    (rows, windows)
}

fn probation(rows: usize) -> usize {
    (PROBATION_SHARE * rows.min(PROBATION_LENGTH_MAX) as f64) as usize
}

/// What a detection in row `at` of a file with these windows brings or costs.
fn worth(at: usize, windows: &[(usize, usize)]) -> f64 {
    let begun = windows.iter().rfind(|(first, _)| *first <= at);
    match begun {
        None => -FALSE_POSITIVE,
        Some(&(first, last)) if at <= last => {
            let rows = (last - first + 1) as f64;
            let position = -((last - at + 1) as f64) / rows;
            TRUE_POSITIVE * sigmoid(position) / sigmoid(-1.0)
        }
        Some(&(first, last)) => {
            // A window of a single row has no length to measure by; NAB has none such.
            let length = (last - first).max(1) as f64;
            FALSE_POSITIVE * sigmoid((at - last) as f64 / length)
        }
    }
}

/// From nearly 1 at the first row of a window (-1) by way of 0 behind its last to -1 far behind it.
fn sigmoid(position: f64) -> f64 {
    match position {
        far if far > 3.0 => -1.0,
        position => 2.0 / (1.0 + (5.0 * position).exp()) - 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of `rows` zeros but for `loud`, with `windows`.
    fn file(rows: usize, windows: &[(usize, usize)], loud: &[(usize, f64)]) -> Scored {
        let mut scores = vec![0.0; rows];
        for (at, score) in loud {
            scores[*at] = *score;
        }
        Scored {
            scores,
            windows: windows.to_vec(),
        }
    }

    #[track_caller]
    fn check(files: &[Scored], score: f64, threshold: f64) {
        let found = best(files);
        let close = (found.score - score).abs() < 1e-9;
        assert!(
            close && found.threshold == threshold,
            "{found:?}, expected {score} at {threshold}"
        );
    }

    const WINDOW: (usize, usize) = (400, 499);

    #[test]
    fn the_first_row_of_every_window_and_no_other_is_perfect() {
        let second = (800, 899);
        let loud = [(400, 1.0), (800, 2.0)];
        check(&[file(1000, &[WINDOW, second], &loud)], 100.0, 1.0);
    }

    #[test]
    fn silence_is_nothing() {
        check(&[file(1000, &[WINDOW], &[(300, 1.0)])], 0.0, f64::INFINITY);
        let nothing = counts(&[file(1000, &[WINDOW], &[])], 0.5);
        assert_eq!((nothing.found, nothing.false_rows), (0, 0));
    }

    #[test]
    fn the_best_row_of_a_window_counts_and_a_late_one_less() {
        // Half of the window is left at row 450: -0.5, and 2 / (1 + e^-2.5) - 1.
        let half = (2.0 / (1.0 + (-2.5_f64).exp()) - 1.0) / (2.0 / (1.0 + (-5.0_f64).exp()) - 1.0);
        let loud = [(450, 1.0), (460, 1.0), (499, 1.0)];
        check(
            &[file(1000, &[WINDOW], &loud)],
            100.0 * (half + 1.0) / 2.0,
            1.0,
        );
    }

    #[test]
    fn every_false_row_costs_and_less_right_behind_a_window() {
        // Before any window the whole price, far behind it as well, and at 5 / 99 of its length
        // behind it 2 / (1 + e^(25 / 99)) - 1 of it.
        let near = 2.0 / (1.0 + (25.0_f64 / 99.0).exp()) - 1.0;
        let loud = [(200, 1.0), (201, 1.0), (400, 1.0), (504, 1.0), (990, 1.0)];
        let sum = 1.0 - 3.0 * 0.11 + 0.11 * near;
        let file = file(1000, &[WINDOW], &loud);
        let counts = counts(std::slice::from_ref(&file), 1.0);
        assert_eq!((counts.found, counts.false_rows), (1, 4));
        check(&[file], 100.0 * (sum + 1.0) / 2.0, 1.0);
    }

    #[test]
    fn probation_counts_for_nothing() {
        // 15 % of 1000 rows, and of no more than 5000.
        let loud = [(0, 9.0), (149, 9.0), (400, 1.0)];
        check(&[file(1000, &[WINDOW], &loud)], 100.0, 1.0);
        let window = (5_000, 5_999);
        let loud = [(749, 1.0), (5_000, 1.0)];
        check(&[file(20_000, &[window], &loud)], 100.0, 1.0);
        let loud = [(750, 1.0), (5_000, 1.0)];
        check(&[file(20_000, &[window], &loud)], 100.0 * 1.89 / 2.0, 1.0);
    }

    #[test]
    fn one_threshold_serves_all_files() {
        // Alone, each file would be perfect: at 1 the first, at 5 the second. Together the lower
        // threshold pays ten false rows for the first one's window.
        let quiet = file(1000, &[WINDOW], &[(400, 1.0)]);
        let mut noise: Vec<_> = (200..210).map(|at| (at, 2.0)).collect();
        noise.push((400, 5.0));
        let noisy = file(1000, &[WINDOW], &noise);
        check(&[quiet, noisy], 100.0 * (2.0 - 1.1 + 2.0) / 4.0, 1.0);
    }

    #[test]
    fn a_file_without_windows_can_only_lose() {
        let calm = file(1000, &[], &[(500, 1.0)]);
        let found = file(1000, &[WINDOW], &[(400, 1.0)]);
        check(&[calm, found], 100.0 * (2.0 - 0.11) / 2.0, 1.0);
    }
}
