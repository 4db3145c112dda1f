//! From values to places along an axis, and the ticks that a reader expects there.

/// A range of values, linear or logarithmic.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Scale {
    /// From `low` to the first round number from `high` on.
    pub fn linear(low: f64, high: f64) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        let step = round_step((high - low) / 5.0);
        Self { low, high: low + ((high - low) / step - 1e-9).ceil() * step, logarithmic: false }
    }

    /// Exactly from `low` to `high`.
    pub fn linear_exact(low: f64, high: f64) -> Self {
        Self { low, high, logarithmic: false }
    }

    /// Over the decades that hold `low` and `high`.
    pub fn logarithmic(low: f64, high: f64) -> Self {
        let low = if low.is_finite() && low > 0.0 { low } else { 0.01 };
        let high = if high > low { high } else { low * 10.0 };
        let decade = |exponent: f64| 10f64.powf(exponent);
        let (from, to) = ((low.log10() + 1e-9).floor(), (high.log10() - 1e-9).ceil());
        Self { low: decade(from), high: decade(to.max(from + 1.0)), logarithmic: true }
    }

    /// The place of `value`: 0 at the low end, 1 at the high end; values beyond are put at the end.
    pub(super) fn place(&self, value: f64) -> f64 {
        let share = if self.logarithmic {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        share.clamp(0.0, 1.0)
    }

    /// The values to mark, and what to write there.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        if self.logarithmic {
            let count = (self.high / self.low).log10().round() as i32;
            return (0..=count)
                .map(|decade| self.low * 10f64.powi(decade))
                .map(|value| (value, text(value)))
                .collect();
        }
        let step = round_step((self.high - self.low) / 5.0);
        let count = ((self.high - self.low) / step + 1e-9).floor() as u32;
        (0..=count)
            .map(|index| self.low + f64::from(index) * step)
            .map(|value| (value, text(value)))
            .collect()
    }

    /// The values between the ticks of a logarithmic scale, to be marked faintly.
    pub(super) fn minor_ticks(&self) -> Vec<f64> {
        if !self.logarithmic {
            return Vec::new();
        }
        let decades = (self.high / self.low).log10().round() as i32;
        (0..decades)
            .flat_map(|decade| (2..10).map(move |digit| (decade, digit)))
            .map(|(decade, digit)| self.low * 10f64.powi(decade) * f64::from(digit))
            .collect()
    }
}

/// The round number (1, 2 or 5 times a power of ten) from `step` on.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let lead = step / power;
    let round = [1.0, 2.0, 5.0, 10.0].into_iter().find(|round| lead <= round + 1e-9);
    round.unwrap_or(10.0) * power
}

fn text(value: f64) -> String {
    let rounded = (value * 1e6).round() / 1e6;
    format!("{rounded}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: &Scale) -> Vec<String> {
        scale.ticks().into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round_and_reach_the_ends() {
        assert_eq!(labels(&Scale::linear(0.0, 43.0)), ["0", "10", "20", "30", "40", "50"]);
        assert_eq!(labels(&Scale::linear(0.0, 0.0)), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        assert_eq!(labels(&Scale::linear(0.0, 2.9)), ["0", "1", "2", "3"]);
        assert_eq!(labels(&Scale::linear_exact(80.0, 100.0)), ["80", "85", "90", "95", "100"]);
        assert_eq!(labels(&Scale::logarithmic(0.013, 7.0)), ["0.01", "0.1", "1", "10"]);
    }

    #[test]
    fn places_run_from_end_to_end() {
        let scale = Scale::logarithmic(0.1, 10.0);
        assert_eq!([scale.place(0.1), scale.place(10.0), scale.place(0.0)], [0.0, 1.0, 0.0]);
        assert!((scale.place(1.0) - 0.5).abs() < 1e-9);
        let scale = Scale::linear_exact(50.0, 100.0);
        assert_eq!([scale.place(75.0), scale.place(40.0), scale.place(120.0)], [0.5, 0.0, 1.0]);
        assert_eq!(Scale::logarithmic(f64::INFINITY, 0.0).ticks().len(), 2);
    }
}
