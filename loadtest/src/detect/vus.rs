//! VUS-PR: the volume under the precision-recall surface of a score per value, as TSB-AD defines it.
//!
//! Operators mark a few minutes, and where exactly is a matter of taste. So each marked stretch is
//! given soft edges of up to half a window `w` on each side, a range-based area under the
//! precision-recall curve is taken, and the result is the mean over all `w` from zero to a width
//! that the series itself suggests. Reading order: [`window`] suggests the width, [`vus_pr`] scores.
//!
//! From "Volume Under the Surface" (Paparrizos et al., VLDB 2022) and the code of TSB-AD, whose
//! every detail is kept, down to how thresholds are chosen and how many windows make the mean. Only
//! the order of work differs: a value counts from the first threshold that it reaches, so one pass
//! over the values near marked stretches fills a histogram by threshold, and running sums over it
//! are what the definition asks for at each threshold.

/// How many thresholds cut the scores, at equally spaced ranks.
const THRESHOLDS: usize = 250;

/// The width that is taken when a series suggests none, in values.
const WINDOW_WITHOUT_PERIOD: usize = 125;

/// How far the autocorrelation is searched for a peak, in values.
const LAG_MAX: usize = 400;

/// The first lag that is looked at: below it every smooth series resembles itself.
const LAG_MIN: usize = 3;

/// How many values the width is taken from.
const LENGTH_MAX: usize = 20_000;

/// A stretch of marked values, first and last.
type Stretch = (usize, usize);

/// The widest window for `values`: the lag of the highest peak of their autocorrelation.
///
/// A highest peak next to either end of lags 3 to 300 is no period, and a fixed width is taken.
pub fn window(values: &[f64]) -> usize {
    let correlation = autocorrelation(&values[..values.len().min(LENGTH_MAX)], LAG_MAX);
    let searched = correlation.get(LAG_MIN..).unwrap_or_default();
    let mut highest: Option<(usize, f64)> = None;
    for (at, near) in searched.windows(3).enumerate() {
        let is_peak = near[1] > near[0] && near[1] > near[2];
        if is_peak && highest.is_none_or(|(_, height)| near[1] >= height) {
            highest = Some((at + 1, near[1]));
        }
    }
    match highest {
        Some((at, _)) if (3..=300).contains(&at) => at + LAG_MIN,
        _ => WINDOW_WITHOUT_PERIOD,
    }
}

/// Autocorrelation of `values` at lags from zero to `lag_max`, or to as many as there are; the
/// biased estimate, which divides by the length of the series at every lag.
fn autocorrelation(values: &[f64], lag_max: usize) -> Vec<f64> {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let centred: Vec<f64> = values.iter().map(|value| value - mean).collect();
    let power: f64 = centred.iter().map(|value| value * value).sum();
    (0..=lag_max.min(values.len().saturating_sub(1)))
        .map(|lag| {
            let product: f64 = centred
                .iter()
                .zip(&centred[lag..])
                .map(|(a, b)| a * b)
                .sum();
            product / power
        })
        .collect()
}

/// VUS-PR of `scores`, one for each value, against the `marked` values, for windows of up to
/// `window_max`; between zero and one, or `None` where nothing is marked.
///
/// # Panics
///
/// If there are not as many scores as marks, or a score is not a number.
pub fn vus_pr(marked: &[bool], scores: &[f64], window_max: usize) -> Option<f64> {
    assert_eq!(marked.len(), scores.len(), "one score for each value");
    let stretches = stretches(marked);
    if stretches.is_empty() {
        return None;
    }
    let predicted = Predicted::new(scores);
    let areas = (0..=window_max).map(|window| area(&stretches, &predicted, window));
    Some(areas.sum::<f64>() / (window_max + 1) as f64)
}

/// What each threshold predicts to be anomalous.
struct Predicted {
    /// For each value, the first threshold that it reaches.
    since: Vec<usize>,
    /// For each threshold, how many values reach it.
    count: [usize; THRESHOLDS],
}

impl Predicted {
    fn new(scores: &[f64]) -> Predicted {
        let mut sorted = scores.to_vec();
        sorted.sort_by(|a, b| b.partial_cmp(a).expect("scores are numbers"));
        let mut thresholds = [0.0; THRESHOLDS];
        for (rank, threshold) in thresholds.iter_mut().enumerate() {
            // Truncated after the product of two floats, as numpy's linspace does.
            let step = (scores.len() - 1) as f64 / (THRESHOLDS - 1) as f64;
            *threshold = match rank {
                last if last == THRESHOLDS - 1 => sorted[sorted.len() - 1],
                rank => sorted[(rank as f64 * step) as usize],
            };
        }
        let since: Vec<usize> = scores
            .iter()
            .map(|score| thresholds.partition_point(|threshold| threshold > score))
            .collect();
        let mut count = [0; THRESHOLDS];
        for at in &since {
            count[*at] += 1;
        }
        accumulate(&mut count);
        Predicted { since, count }
    }
}

/// The area under the precision-recall curve with soft edges of half a `window`.
fn area(stretches: &[Stretch], predicted: &Predicted, window: usize) -> f64 {
    let length = predicted.since.len();
    let reach = window / 2;
    let labels = labels(stretches, window, length);
    let widened = widened(stretches, reach, length);

    // By the first threshold that reaches them: labels, and stretches found at all.
    let mut hits = [0.0; THRESHOLDS];
    let mut found = [0_usize; THRESHOLDS];
    for (first, last) in &widened {
        let since = &predicted.since[*first..=*last];
        for (at, label) in since.iter().zip(&labels[*first..=*last]) {
            hits[*at] += label;
        }
        found[*since.iter().min().expect("a stretch is never empty")] += 1;
    }
    accumulate(&mut hits);
    accumulate(&mut found);
    let mut marked = [0.0; THRESHOLDS];
    for (first, last) in stretches {
        for at in &predicted.since[*first..=*last] {
            marked[*at] += 1.0;
        }
    }
    accumulate(&mut marked);
    let marked_all = marked[THRESHOLDS - 1];

    let mut area = 0.0;
    let mut recall_before = 0.0;
    for threshold in 0..THRESHOLDS {
        let hits = hits[threshold];
        // The mean of what is marked hard and what is marked hard or was hit softly.
        let wanted = marked_all + (hits - marked[threshold]) / 2.0;
        let existence = found[threshold] as f64 / widened.len() as f64;
        let recall = (hits / wanted).min(1.0) * existence;
        let precision = hits / predicted.count[threshold] as f64;
        area += (recall - recall_before) * precision;
        recall_before = recall;
    }
    area
}

/// One for each value: 1 for what is marked, and beside it less with the distance.
fn labels(stretches: &[Stretch], window: usize, length: usize) -> Vec<f64> {
    let mut labels = vec![0.0_f64; length];
    for (first, last) in stretches {
        for distance in 1..=window / 2 {
            let label = (1.0 - distance as f64 / window as f64).sqrt();
            if let Some(before) = first.checked_sub(distance) {
                labels[before] = (labels[before] + label).min(1.0);
            }
            if let Some(behind) = labels.get_mut(last + distance) {
                *behind = (*behind + label).min(1.0);
            }
        }
    }
    for (first, last) in stretches {
        labels[*first..=*last].fill(1.0);
    }
    labels
}

fn stretches(marked: &[bool]) -> Vec<Stretch> {
    let mut found: Vec<Stretch> = Vec::new();
    for (at, _) in marked.iter().enumerate().filter(|(_, marked)| **marked) {
        match found.last_mut() {
            Some((_, last)) if *last + 1 == at => *last = at,
            _ => found.push((at, at)),
        }
    }
    found
}

/// Stretches with `reach` more values on each side; those that then touch or overlap are one.
fn widened(stretches: &[Stretch], reach: usize, length: usize) -> Vec<Stretch> {
    let mut found: Vec<Stretch> = Vec::new();
    for (first, last) in stretches {
        let first = first.saturating_sub(reach);
        let last = (last + reach).min(length - 1);
        match found.last_mut() {
            Some(before) if before.1 >= first => before.1 = last,
            _ => found.push((first, last)),
        }
    }
    found
}

fn accumulate<T: Copy + std::ops::AddAssign>(counts: &mut [T]) {
    for at in 1..counts.len() {
        let before = counts[at - 1];
        counts[at] += before;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKED: [usize; 3] = [3, 4, 9];
    const SCORES: [f64; 16] = [
        1.0, 2.0, 1.0, 9.0, 3.0, 8.0, 1.0, 2.0, 4.0, 4.0, 1.0, 5.0, 1.0, 2.0, 1.0, 0.0,
    ];

    fn marked(length: usize, stretches: &[Stretch]) -> Vec<bool> {
        let inside = |at| {
            stretches
                .iter()
                .any(|(first, last)| (*first..=*last).contains(&at))
        };
        (0..length).map(inside).collect()
    }

    fn random(length: usize, seed: u64) -> Vec<f64> {
        let mut state = seed;
        let mut draw = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64
        };
        (0..length).map(|_| draw()).collect()
    }

    #[track_caller]
    fn check(found: f64, expected: f64) {
        let close = (found - expected).abs() < 1e-9;
        assert!(close, "found {found}, expected {expected}");
    }

    /// The definition as it is written down, threshold by threshold and label by label.
    fn by_definition(marked: &[bool], scores: &[f64], window_max: usize) -> f64 {
        let length = scores.len();
        let hard = stretches(marked);
        let mut sorted = scores.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let mut sum = 0.0;
        for window in 0..=window_max {
            let label = |at: usize| {
                let from = |stretch: &Stretch| {
                    let distance = stretch
                        .0
                        .saturating_sub(at)
                        .max(at.saturating_sub(stretch.1));
                    match distance {
                        0 => 1.0,
                        near if near <= window / 2 => (1.0 - near as f64 / window as f64).sqrt(),
                        _ => 0.0,
                    }
                };
                hard.iter().map(from).sum::<f64>().min(1.0)
            };
            let regions = widened(&hard, window / 2, length);
            let mut recall_before = 0.0;
            for k in 0..THRESHOLDS {
                let rank = k as f64 * (length - 1) as f64 / (THRESHOLDS - 1) as f64;
                let threshold = sorted[(rank as usize).min(length - 1)];
                let hit = |at: &usize| scores[*at] >= threshold;
                let all = (0..length).filter(hit).count() as f64;
                let right: f64 = (0..length).filter(hit).map(label).sum();
                let wanted: f64 = (0..length)
                    .map(|at| match (marked[at], hit(&at)) {
                        (true, _) => 1.0,
                        (false, true) => label(at) / 2.0,
                        (false, false) => 0.0,
                    })
                    .sum();
                let found = regions.iter().filter(|(a, b)| (*a..=*b).any(|at| hit(&at)));
                let existence = found.count() as f64 / regions.len() as f64;
                let recall = (right / wanted).min(1.0) * existence;
                sum += (recall - recall_before) * right / all;
                recall_before = recall;
            }
        }
        sum / (window_max + 1) as f64
    }

    /// Computed with a transcription of TSB-AD's own code.
    #[test]
    fn a_small_series_scores_as_elsewhere() {
        let marked: Vec<bool> = (0..16).map(|at| MARKED.contains(&at)).collect();
        for (window, expected) in [
            (0, 0.533333333333),
            (1, 0.533333333333),
            (4, 0.702604933001),
            (6, 0.769987138608),
        ] {
            let found = vus_pr(&marked, &SCORES, window).expect("marked values");
            assert!((found - expected).abs() < 1e-11, "window {window}: {found}");
        }
    }

    #[test]
    fn without_a_window_it_is_an_average_precision_times_existence() {
        let marked = marked(4, &[(1, 1), (3, 3)]);
        let found = vus_pr(&marked, &[3.0, 4.0, 1.0, 2.0], 0).expect("marked values");
        // By hand. First 4: recall 1/2, one of two stretches found, precision 1. Then 3: no more
        // recall. Then 2: recall 1, both found, precision 2/3.
        check(found, 0.25 * 1.0 + 0.75 * 2.0 / 3.0);
    }

    #[test]
    fn it_is_the_definition_whatever_the_stretches() {
        for (seed, stretches) in [
            (1, vec![(0, 3), (50, 50), (53, 60)]),
            (2, vec![(295, 299)]),
            (
                3,
                vec![(10, 11), (14, 14), (17, 30), (200, 260), (262, 262)],
            ),
            (4, vec![(0, 299)]),
        ] {
            let marked = marked(300, &stretches);
            let mut scores = random(300, seed);
            // Half of the series in few values, so that many are equal.
            for score in scores.iter_mut().step_by(2) {
                *score = (*score / 1e15).floor() * 1e15;
            }
            for window in [0, 1, 2, 9, 40] {
                let found = vus_pr(&marked, &scores, window).expect("marked values");
                check(found, by_definition(&marked, &scores, window));
            }
        }
    }

    #[test]
    fn only_the_order_of_scores_matters() {
        let marked = marked(500, &[(100, 120), (300, 301)]);
        let scores = random(500, 5);
        let other: Vec<f64> = scores.iter().map(|score| (score / 1e16).exp()).collect();
        check(
            vus_pr(&marked, &scores, 30).expect("marked values"),
            vus_pr(&marked, &other, 30).expect("marked values"),
        );
    }

    #[test]
    fn marks_as_scores_are_nearly_perfect_and_equal_scores_are_worth_the_share_of_labels() {
        let marked = marked(10_000, &[(1_000, 1_100), (7_000, 7_050)]);
        let perfect: Vec<f64> = marked.iter().map(|marked| f64::from(*marked)).collect();
        let found = vus_pr(&marked, &perfect, 0).expect("marked values");
        check(found, 1.0);
        // All values at once: everything is found with the precision of the labels' share.
        let equal = vus_pr(&marked, &vec![1.0; 10_000], 0).expect("marked values");
        check(equal, 152.0 / 10_000.0);
        let random = vus_pr(&marked, &random(10_000, 6), 100).expect("marked values");
        assert!(random < 0.05, "{random}");
    }

    #[test]
    fn nothing_marked_has_no_score() {
        assert_eq!(vus_pr(&[false; 9], &[0.0; 9], 4), None);
    }

    #[test]
    fn the_window_is_the_period_if_there_is_one() {
        let wave = |period: f64| -> Vec<f64> {
            let angle = |at| f64::from(at) * std::f64::consts::TAU / period;
            (0..5_000).map(|at| angle(at).sin()).collect()
        };
        assert_eq!(window(&wave(50.0)), 50);
        assert_eq!(window(&wave(290.0)), 290);
        assert_eq!(window(&wave(1440.0)), WINDOW_WITHOUT_PERIOD);
        assert_eq!(window(&[7.0; 100]), WINDOW_WITHOUT_PERIOD);
        assert_eq!(window(&[1.0, 2.0]), WINDOW_WITHOUT_PERIOD);
    }
}
