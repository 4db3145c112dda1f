//! The common form of a measurement: figures of ours, of a peer, and the goal they are held to.

use std::fmt;
use std::io;
use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};
use serde::{Serialize, Serializer};

use super::Machine;
use super::table::number;

/// What one run of a measuring command found. Written as JSON with [`BenchReport::write_json`].
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// The command that shows it again.
    pub command: String,
    /// What it ran on.
    pub machine: Machine,
    /// The figures.
    pub figures: Vec<Figure>,
    /// Wrong answers; anything but 0 is a defect.
    pub wrong: u64,
    /// What the command found beyond the figures, in a form of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<serde_json::Value>,
}

/// One number, and what it is compared with.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// Its unit.
    pub unit: String,
    /// Our value; `None` when there is nothing to tell, such as a percentile of no samples.
    pub ours: Option<f64>,
    /// The peer's value; `None` when there is no peer or it could not be had.
    pub peer: Option<f64>,
    /// Who the peer is; for a peer that could not be had, also why.
    pub peer_name: Option<String>,
    /// Ours divided by the peer's.
    pub ratio: Option<f64>,
    /// What the figure is held to.
    pub goal: Option<Goal>,
    /// Whether it was reached; `None` without a goal, or when the goal needs a value that is absent.
    pub met: Option<bool>,
}

/// What a figure is held to. Written as text, such as `ratio >= 2`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// Ours is at least this.
    AtLeast(f64),
    /// Ours is at most this.
    AtMost(f64),
    /// Ours divided by the peer's is at least this.
    RatioAtLeast(f64),
    /// Ours divided by the peer's is at most this.
    RatioAtMost(f64),
    /// Ours is at most this far below the peer's, in the unit of the figure.
    WithinOfPeer(f64),
}

impl BenchReport {
    /// A report of `figures` from `command` on this machine.
    pub fn new(command: impl Into<String>, figures: Vec<Figure>, wrong: u64) -> Self {
        Self { command: command.into(), machine: Machine::detect(), figures, wrong, detail: None }
    }

    /// True when no answer was wrong and no goal was missed.
    pub fn passes(&self) -> bool {
        self.wrong == 0 && self.figures.iter().all(|figure| figure.met != Some(false))
    }

    /// Writes the report to `file` as indented JSON.
    ///
    /// # Errors
    /// [`io::Error`] when the file cannot be written.
    pub fn write_json(&self, file: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        std::fs::write(file, text)
    }

    /// The figures as a table for a terminal.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["figure", "unit", "ours", "peer", "peer is", "ratio", "goal", "met"]);
        for figure in &self.figures {
            let value = |value: Option<f64>| value.map_or_else(|| "-".into(), number);
            let goal = figure.goal.map_or_else(|| "-".into(), |goal| goal.to_string());
            let met = figure.met.map_or("-", |met| if met { "yes" } else { "NO" });
            let peer = figure.peer_name.clone().unwrap_or_else(|| "-".into());
            table.add_row([
                figure.name.clone(),
                figure.unit.clone(),
                value(figure.ours),
                value(figure.peer),
                peer,
                value(figure.ratio),
                goal,
                met.into(),
            ]);
        }
        for column in [2, 3, 5] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.to_string()
    }
}

impl Figure {
    /// A figure without peer and goal.
    pub fn new(name: impl Into<String>, unit: impl Into<String>, ours: impl Into<Option<f64>>) -> Self {
        Self {
            name: name.into(),
            unit: unit.into(),
            ours: finite(ours.into()),
            peer: None,
            peer_name: None,
            ratio: None,
            goal: None,
            met: None,
        }
    }

    /// Compares with a peer.
    #[must_use]
    pub fn with_peer(mut self, name: impl Into<String>, value: f64) -> Self {
        self.peer = finite(Some(value));
        self.peer_name = Some(name.into());
        self.ratio = self.ours.zip(self.peer).and_then(|(ours, peer)| finite(Some(ours / peer)));
        self.judged()
    }

    /// Names a peer that could not be had, and why.
    #[must_use]
    pub fn with_absent_peer(mut self, name: &str, why: &str) -> Self {
        self.peer_name = Some(format!("{name} (absent: {why})"));
        self
    }

    /// Holds the figure to a goal.
    #[must_use]
    pub fn with_goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self.judged()
    }

    fn judged(mut self) -> Self {
        self.met = self.goal.and_then(|goal| match goal {
            Goal::AtLeast(bound) => Some(self.ours? >= bound),
            Goal::AtMost(bound) => Some(self.ours? <= bound),
            Goal::RatioAtLeast(bound) => Some(self.ratio? >= bound),
            Goal::RatioAtMost(bound) => Some(self.ratio? <= bound),
            Goal::WithinOfPeer(distance) => Some(self.ours? >= self.peer? - distance),
        });
        self
    }
}

fn finite(value: Option<f64>) -> Option<f64> {
    value.filter(|value| value.is_finite())
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, "ours >= {bound}"),
            Self::AtMost(bound) => write!(f, "ours <= {bound}"),
            Self::RatioAtLeast(bound) => write!(f, "ratio >= {bound}"),
            Self::RatioAtMost(bound) => write!(f, "ratio <= {bound}"),
            Self::WithinOfPeer(distance) => write!(f, "ours >= peer - {distance}"),
        }
    }
}

impl Serialize for Goal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_has_the_common_form() {
        let figure =
            Figure::new("get", "GB/s", 3.0).with_peer("redis", 1.5).with_goal(Goal::RatioAtLeast(2.0));
        let report = BenchReport::new("hearth-bench store", vec![figure], 0);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(
            json["figures"][0],
            serde_json::json!({
                "name": "get", "unit": "GB/s", "ours": 3.0, "peer": 1.5, "peer_name": "redis",
                "ratio": 2.0, "goal": "ratio >= 2", "met": true,
            })
        );
        assert_eq!((json["command"].as_str(), json["wrong"].as_u64()), (Some("hearth-bench store"), Some(0)));
        assert!(json["machine"]["cores"].as_u64() > Some(0));
        assert!(json.get("detail").is_none());
    }

    #[test]
    fn goals_are_judged_in_whatever_order_they_are_given() {
        let goal = Goal::WithinOfPeer(1.0);
        let met = |ours| {
            let early = Figure::new("hit", "%", ours).with_goal(goal).with_peer("bound", 96.0);
            let late = Figure::new("hit", "%", ours).with_peer("bound", 96.0).with_goal(goal);
            assert_eq!(early, late);
            early.met
        };
        assert_eq!([met(95.0), met(94.9), met(99.0)], [Some(true), Some(false), Some(true)]);
        let judged = |goal| Figure::new("x", "ms", 5.0).with_goal(goal).met;
        assert_eq!([judged(Goal::AtMost(5.0)), judged(Goal::AtLeast(5.1))], [Some(true), Some(false)]);
    }

    #[test]
    fn an_absent_peer_is_named_and_decides_nothing() {
        let figure = Figure::new("get", "GB/s", 3.0)
            .with_goal(Goal::RatioAtLeast(2.0))
            .with_absent_peer("redis", "redis-server is not installed");
        assert_eq!(figure.peer_name.as_deref(), Some("redis (absent: redis-server is not installed)"));
        assert_eq!(figure.met, None);
        assert!(BenchReport::new("x", vec![figure.clone()], 0).passes());
        assert!(!BenchReport::new("x", vec![figure], 1).passes());
        assert_eq!(Figure::new("rate", "1/s", f64::NAN).ours, None);
    }
}
