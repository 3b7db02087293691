//! One window of recent points for each series, on a fixed step, as a forecasting model wants it.
//!
//! Promises: at most `max_series` windows of at most `context` points. The last value of a step stands for the step;
//! a gap between two points is filled on the straight line between them; NaN, infinities and stale markers are never
//! points. Seeing a sample twice changes nothing, so that delivery may repeat itself.

use std::collections::{HashMap, VecDeque};

use crate::series::{LabelRef, Labels, Sample};

/// How long a series may be silent before it counts as gone; Prometheus looks back as far (`--query.lookback-delta`).
const SILENCE: i64 = 5 * 60 * 1000;
/// Nor is one missed step silence, however long the step.
const SILENT_STEPS: i64 = 4;

/// The size of the windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Milliseconds between two points, at least 1.
    pub step: i64,
    /// Points in a window at most, at least 1.
    pub context: usize,
    /// Series at most.
    pub max_series: usize,
}

/// What became of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Observed {
    /// It is the last value of its step, until a later one comes.
    Taken,
    /// It ended its series.
    Ended,
    /// A later sample already stands for its step, or it is the same one again.
    Known,
    /// NaN or an infinity.
    NotFinite,
    /// Its window has moved beyond it.
    TooOld,
    /// There are as many series as there may be, and its own is none of them.
    TooManySeries,
}

/// A window's points, ready to be sent: all finite, one for each step, the last one the newest.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Instance {
    /// Whose points they are.
    pub labels: Labels,
    /// The points, oldest first; never empty.
    pub input: Vec<f64>,
    /// When the last point's step begins, in milliseconds since the Unix epoch.
    pub origin: i64,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    timestamp: i64,
    value: f64,
}

/// The windows of all series that one forecast is about.
#[derive(Debug)]
pub(crate) struct Windows {
    settings: Settings,
    series: HashMap<Box<[u8]>, Window>,
    /// The key of the series at hand, so that a lookup allocates nothing.
    key: Vec<u8>,
}

#[derive(Debug)]
struct Window {
    labels: Labels,
    /// One for each step up to `newest_step`; nothing where no sample fell.
    slots: VecDeque<Option<Slot>>,
    newest_step: i64,
    /// When a stale marker ended the series; a later sample brings it back.
    ended: Option<i64>,
}

impl Windows {
    /// No windows yet.
    #[must_use]
    pub(crate) fn new(settings: Settings) -> Self {
        let settings = Settings { step: settings.step.max(1), context: settings.context.max(1), ..settings };
        Self { settings, series: HashMap::new(), key: Vec::new() }
    }

    /// How many series have a window.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.series.len()
    }

    /// Whether no series has a window.
    #[must_use]
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// Milliseconds that the longest window spans: an older sample is of no use to anybody.
    #[must_use]
    pub(crate) fn span(&self) -> i64 {
        self.settings.step.saturating_mul(i64::try_from(self.settings.context).unwrap_or(i64::MAX))
    }

    /// Takes the samples of one series, labels sorted by name, and reports on each.
    pub(crate) fn observe(&mut self, labels: &[LabelRef<'_>], samples: &[Sample], mut report: impl FnMut(Observed)) {
        self.key.clear();
        for (name, value) in labels {
            // a byte that no UTF-8 text holds keeps two texts apart
            self.key.extend_from_slice(name.as_bytes());
            self.key.push(0xff);
            self.key.extend_from_slice(value.as_bytes());
            self.key.push(0xff);
        }
        for sample in samples {
            if let Some(window) = self.series.get_mut(self.key.as_slice()) {
                report(window.observe(*sample, &self.settings));
            } else if sample.is_stale() {
                report(Observed::Ended);
            } else if !sample.value.is_finite() {
                report(Observed::NotFinite);
            } else if self.series.len() >= self.settings.max_series {
                report(Observed::TooManySeries);
            } else {
                let mut window = Window::new(labels, sample.timestamp.div_euclid(self.settings.step));
                report(window.observe(*sample, &self.settings));
                self.series.insert(self.key.as_slice().into(), window);
            }
        }
    }

    /// The windows of at least `min_points` points whose series are alive at `now`, in the order of their labels.
    #[must_use]
    pub(crate) fn instances(&self, now: i64, min_points: usize) -> Vec<Instance> {
        let alive = self.series.values().filter(|window| window.is_alive(now, &self.settings));
        let mut instances: Vec<_> = alive
            .map(|window| window.instance(&self.settings))
            .filter(|instance| instance.input.len() >= min_points.max(1))
            .collect();
        instances.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
        instances
    }

    /// Forgets series that have ended or gone silent, for so long that they are not expected back: their places are
    /// free for others.
    pub(crate) fn forget_gone(&mut self, now: i64) {
        let far_back = now.saturating_sub(self.span().max(SILENCE));
        self.series.retain(|_, window| match window.ended {
            Some(ended) => ended >= now.saturating_sub(SILENCE),
            None => window.newest() >= far_back,
        });
    }
}

impl Window {
    fn new(labels: &[LabelRef<'_>], step: i64) -> Self {
        Self { labels: Labels::new(labels), slots: VecDeque::from([None]), newest_step: step, ended: None }
    }

    fn newest(&self) -> i64 {
        self.slots.back().copied().flatten().map_or(i64::MIN, |slot| slot.timestamp)
    }

    fn observe(&mut self, sample: Sample, settings: &Settings) -> Observed {
        if sample.is_stale() {
            if sample.timestamp >= self.newest() {
                self.ended = Some(sample.timestamp);
            }
            return Observed::Ended;
        }
        if !sample.value.is_finite() {
            return Observed::NotFinite;
        }
        if self.ended.is_some_and(|ended| ended < sample.timestamp) {
            self.ended = None;
        }
        let step = sample.timestamp.div_euclid(settings.step);
        let Some(slot) = self.slot(step, settings.context) else { return Observed::TooOld };
        if slot.is_some_and(|known| known.timestamp >= sample.timestamp) {
            return Observed::Known;
        }
        *slot = Some(Slot { timestamp: sample.timestamp, value: sample.value });
        Observed::Taken
    }

    /// The place of a step, made if the window reaches it or can move on to it.
    fn slot(&mut self, step: i64, context: usize) -> Option<&mut Option<Slot>> {
        let ahead = usize::try_from(step.saturating_sub(self.newest_step)).unwrap_or(0);
        if ahead >= context {
            self.slots.clear();
        }
        if ahead > 0 {
            self.slots.extend(std::iter::repeat_n(None, ahead.min(context)));
            self.slots.drain(..self.slots.len().saturating_sub(context));
            // a window never begins with a gap
            while self.slots.len() > 1 && self.slots.front().is_some_and(Option::is_none) {
                self.slots.pop_front();
            }
            self.newest_step = step;
        }
        let back = usize::try_from(self.newest_step.saturating_sub(step)).ok()?;
        if back >= context {
            return None;
        }
        while self.slots.len() <= back {
            self.slots.push_front(None);
        }
        let place = self.slots.len() - 1 - back;
        self.slots.get_mut(place)
    }

    fn is_alive(&self, now: i64, settings: &Settings) -> bool {
        let silence = SILENCE.max(settings.step.saturating_mul(SILENT_STEPS));
        self.ended.is_none() && self.newest() >= now.saturating_sub(silence)
    }

    fn instance(&self, settings: &Settings) -> Instance {
        let mut input: Vec<f64> = Vec::with_capacity(self.slots.len());
        let mut gap = 0;
        for slot in &self.slots {
            let Some(slot) = slot else {
                gap += 1;
                continue;
            };
            if let Some(&before) = input.last() {
                let parts = f64::from(gap + 1);
                input.extend((1..=gap).map(|part| line(before, slot.value, f64::from(part) / parts)));
            }
            gap = 0;
            input.push(slot.value);
        }
        Instance { labels: self.labels.clone(), input, origin: self.newest_step.saturating_mul(settings.step) }
    }
}

/// The point `part` of the way from one value to another. Weighed rather than added to, so that two huge values of
/// opposite signs do not overflow.
fn line(from: f64, to: f64, part: f64) -> f64 {
    from * (1.0 - part) + to * part
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SERIES: [LabelRef<'static>; 2] = [("__name__", "m"), ("job", "a")];

    fn windows(step: i64, context: usize) -> Windows {
        Windows::new(Settings { step, context, max_series: 2 })
    }

    fn feed(windows: &mut Windows, samples: &[(i64, f64)]) -> Vec<Observed> {
        let samples: Vec<_> = samples.iter().map(|&(timestamp, value)| Sample { timestamp, value }).collect();
        let mut seen = Vec::new();
        windows.observe(&SERIES, &samples, |observed| seen.push(observed));
        seen
    }

    fn check(context: usize, samples: &[(i64, f64)], expected: &[f64]) {
        let mut windows = windows(10, context);
        feed(&mut windows, samples);
        let now = samples.iter().map(|s| s.0).max().unwrap();
        let found = windows.instances(now, 1).into_iter().next().map(|i| i.input).unwrap_or_default();
        assert_eq!(found, expected, "{samples:?}");
    }

    #[test]
    fn a_window_has_one_point_for_each_step() {
        check(8, &[(0, 1.0), (10, 2.0), (20, 3.0)], &[1.0, 2.0, 3.0]);
        // the last of a step stands for it, in whatever order they come
        check(8, &[(0, 1.0), (9, 5.0), (10, 2.0)], &[5.0, 2.0]);
        check(8, &[(9, 5.0), (0, 1.0), (10, 2.0)], &[5.0, 2.0]);
        // gaps lie on the line
        check(8, &[(0, 1.0), (30, 4.0)], &[1.0, 2.0, 3.0, 4.0]);
        check(8, &[(30, 4.0), (0, 1.0)], &[1.0, 2.0, 3.0, 4.0]);
        // what is older than the context leaves, and no gap leads
        check(3, &[(0, 1.0), (10, 2.0), (20, 3.0), (30, 4.0)], &[2.0, 3.0, 4.0]);
        check(3, &[(0, 1.0), (30, 4.0)], &[4.0]);
        check(3, &[(0, 1.0), (3000, 4.0)], &[4.0]);
        // no point is made of NaN or of infinities
        check(8, &[(0, 1.0), (10, f64::NAN), (20, 3.0), (30, f64::INFINITY)], &[1.0, 2.0, 3.0]);
        check(8, &[(0, f64::MAX), (20, f64::MIN)], &[f64::MAX, 0.0, f64::MIN]);
        // before the epoch too
        check(8, &[(-25, 1.0), (-15, 2.0), (-5, 3.0)], &[1.0, 2.0, 3.0]);
    }

    #[test]
    fn each_sample_is_reported_on() {
        use Observed::*;
        let mut windows = windows(10, 2);
        let seen = feed(&mut windows, &[(0, f64::NAN), (100, 1.0), (100, 1.0), (99, 2.0), (80, 1.0)]);
        assert_eq!(seen, [NotFinite, Taken, Known, Taken, TooOld]);
        for (job, expected) in [("b", Taken), ("c", TooManySeries)] {
            windows.observe(&[("job", job)], &[Sample { timestamp: 0, value: 0.0 }], |o| assert_eq!(o, expected));
        }
        assert_eq!(windows.len(), 2);
    }

    #[test]
    fn a_stale_series_is_not_forecast_until_it_comes_back() {
        let mut windows = windows(10, 8);
        feed(&mut windows, &[(0, 1.0), (10, 2.0)]);
        assert_eq!(windows.instances(20, 2).len(), 1);
        assert_eq!(windows.instances(20, 3).len(), 0, "too few points");
        assert_eq!(windows.instances(10 + SILENCE + 1, 2).len(), 0, "silent");
        windows.observe(&SERIES, &[Sample::stale(20)], |o| assert_eq!(o, Observed::Ended));
        assert_eq!(windows.instances(20, 2).len(), 0, "ended");
        // a replay of what came before the end does not bring it back
        feed(&mut windows, &[(10, 2.0)]);
        assert_eq!(windows.instances(20, 2).len(), 0);
        feed(&mut windows, &[(30, 4.0)]);
        let instance = windows.instances(30, 2).remove(0);
        assert_eq!((instance.input, instance.origin), (vec![1.0, 2.0, 3.0, 4.0], 30));
    }

    #[test]
    fn what_is_gone_makes_room() {
        let mut windows = windows(10, 8);
        feed(&mut windows, &[(0, 1.0)]);
        windows.forget_gone(SILENCE);
        assert_eq!(windows.len(), 1);
        windows.forget_gone(SILENCE + 1);
        assert!(windows.is_empty());
    }

    proptest! {
        #[test]
        fn windows_stay_bounded_and_a_repetition_changes_nothing(
            samples in proptest::collection::vec((-300i64..300, any::<f64>()), 1..60),
            context in 1usize..12,
        ) {
            let mut once = windows(10, context);
            feed(&mut once, &samples);
            let now = 300;
            let first = once.instances(now, 1);
            for instance in &first {
                prop_assert!(instance.input.len() <= context);
                prop_assert!(instance.input.iter().all(|value| value.is_finite()));
                prop_assert_eq!(instance.origin % 10, 0);
            }
            let newest = samples.iter().filter(|s| s.1.is_finite()).map(|s| s.0).max();
            prop_assert_eq!(first.first().map(|i| i.origin), newest.map(|at| at.div_euclid(10) * 10));
            feed(&mut once, &samples);
            prop_assert_eq!(once.instances(now, 1), first);
        }
    }
}
