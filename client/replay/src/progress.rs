//! Tells how far a replay is: a bar on a terminal, a plain line now and then elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

const BAR_INTERVAL: Duration = Duration::from_millis(200);
const LINE_INTERVAL: Duration = Duration::from_secs(5);
const SILENT_INTERVAL: Duration = Duration::from_secs(3_600);

/// How far a replay is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Snapshot {
    pub(crate) requests: u64,
    pub(crate) blocks: u64,
    pub(crate) hit_blocks: u64,
    pub(crate) bound_blocks: u64,
    pub(crate) bytes: u64,
    pub(crate) wrong: u64,
    pub(crate) elapsed: Duration,
}

/// Where progress is shown.
pub struct Progress {
    display: Display,
    total: u64,
}

enum Display {
    Silent,
    Bar(ProgressBar),
    Lines(Box<dyn Write + Send>),
}

impl Progress {
    /// A bar if standard error is a terminal, otherwise a line every few seconds.
    pub fn detect() -> Self {
        if io::stderr().is_terminal() { Self::bar() } else { Self::lines(io::stderr()) }
    }

    /// A bar with the time left, on standard error.
    pub fn bar() -> Self {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template(
            "{spinner:.cyan} {bar:32.cyan/blue} {pos}/{len} requests  {msg}  {elapsed} elapsed, {eta} left",
        );
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─"));
        Self { display: Display::Bar(bar), total: 0 }
    }

    /// A plain line every few seconds, as logs of CI want it.
    pub fn lines(output: impl Write + Send + 'static) -> Self {
        Self { display: Display::Lines(Box::new(output)), total: 0 }
    }

    /// Shows nothing.
    pub fn silent() -> Self {
        Self { display: Display::Silent, total: 0 }
    }

    /// Says what is being done before there is a count, such as reading a trace.
    pub(crate) fn say(&mut self, what: &str) {
        match &mut self.display {
            Display::Silent => {}
            Display::Bar(bar) => bar.set_message(what.to_owned()),
            Display::Lines(output) => drop(writeln!(output, "{what}")),
        }
    }

    pub(crate) fn interval(&self) -> Duration {
        match self.display {
            Display::Silent => SILENT_INTERVAL,
            Display::Bar(_) => BAR_INTERVAL,
            Display::Lines(_) => LINE_INTERVAL,
        }
    }

    pub(crate) fn begin(&mut self, requests: u64) {
        self.total = requests;
        if let Display::Bar(bar) = &self.display {
            bar.set_length(requests);
            bar.reset_elapsed();
        }
    }

    pub(crate) fn update(&mut self, now: &Snapshot) {
        let state = now.describe();
        match &mut self.display {
            Display::Silent => {}
            Display::Bar(bar) => {
                bar.set_position(now.requests);
                bar.set_message(state);
            }
            // A log that cannot be written to must not end the measurement.
            Display::Lines(output) => {
                let left = now
                    .time_left(self.total)
                    .map_or_else(String::new, |left| format!(", about {left} s left"));
                drop(writeln!(
                    output,
                    "{:>4} s  {}/{} requests  {state}{left}",
                    now.elapsed.as_secs(),
                    now.requests,
                    self.total
                ));
            }
        }
    }

    pub(crate) fn end(&mut self, now: &Snapshot) {
        match &self.display {
            Display::Bar(bar) => bar.finish_and_clear(),
            Display::Silent | Display::Lines(_) => self.update(now),
        }
    }
}

impl Snapshot {
    fn describe(&self) -> String {
        let share = |part: u64| 100.0 * part as f64 / self.blocks.max(1) as f64;
        let rate = self.bytes as f64 / 1e9 / self.elapsed.as_secs_f64().max(1e-9);
        let wrong = if self.wrong > 0 { format!("  {} WRONG BLOCKS", self.wrong) } else { String::new() };
        format!(
            "hit {:.1}% (bound {:.1}%)  {rate:.2} GB/s read{wrong}",
            share(self.hit_blocks),
            share(self.bound_blocks)
        )
    }

    fn time_left(&self, total: u64) -> Option<u64> {
        let left = total.checked_sub(self.requests).filter(|left| *left > 0 && self.requests > 0)?;
        Some((self.elapsed.as_secs_f64() * left as f64 / self.requests as f64) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_tell_state_wrong_bytes_and_time_left() {
        let log = Log::default();
        let mut progress = Progress::lines(log.clone());
        progress.begin(40);
        let mut now = Snapshot {
            requests: 10,
            blocks: 1_000,
            hit_blocks: 900,
            bound_blocks: 950,
            bytes: 4_000_000_000,
            wrong: 0,
            elapsed: Duration::from_secs(2),
        };
        progress.update(&now);
        now.wrong = 3;
        now.requests = 40;
        progress.end(&now);
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[0],
            "   2 s  10/40 requests  hit 90.0% (bound 95.0%)  2.00 GB/s read, about 6 s left"
        );
        assert_eq!(
            lines[1],
            "   2 s  40/40 requests  hit 90.0% (bound 95.0%)  2.00 GB/s read  3 WRONG BLOCKS"
        );
    }
}
