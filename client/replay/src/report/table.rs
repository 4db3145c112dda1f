//! A replay's report as tables for a terminal.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};

use super::replay::{Latency, Report};

/// A number with about four significant digits.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        magnitude if magnitude >= 1_000.0 => grouped(value.round() as i64),
        magnitude if magnitude >= 100.0 => format!("{value:.1}"),
        magnitude if magnitude >= 1.0 => format!("{value:.2}"),
        magnitude if magnitude >= 0.01 => format!("{value:.3}"),
        _ => format!("{value:.2e}"),
    }
}

/// A whole number with its thousands apart.
pub(super) fn grouped(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0 { format!("-{text}") } else { text }
}

fn count(value: u64) -> String {
    grouped(i64::try_from(value).unwrap_or(i64::MAX))
}

fn gigabytes(bytes: u64) -> String {
    format!("{} GB", number(bytes as f64 / 1e9))
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(header);
    for column in 1..N {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

impl Report {
    /// Everything that a person wants to see first, as text.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{}\n{} blocks of {} bytes on {} worker(s), {} sessions at a time, {}\n",
            self.workload,
            count(self.total.blocks),
            count(self.block_bytes as u64),
            self.workers.len(),
            self.concurrency,
            self.speed.map_or("back to back".into(), |speed| format!("{speed}x real time")),
        );
        let sections = [self.reuse_table(), self.volume_table(), self.latency_table(), self.worker_table()];
        for section in sections {
            let _ = writeln!(text, "{section}");
        }
        if self.truncated {
            text.push_str("The time limit ended the replay before the workload did.\n");
        }
        if self.total.raced_blocks > 0 {
            let raced = count(self.total.raced_blocks);
            let _ =
                writeln!(text, "{raced} missed block(s) were being made by another request at that moment.");
        }
        for error in &self.total.errors {
            let _ = writeln!(text, "{} {} error(s), each taken for a miss.", count(error.count), error.kind);
        }
        if self.total.wrong_blocks > 0 {
            let _ = writeln!(
                text,
                "WRONG BYTES in {} block(s); the first of them:",
                count(self.total.wrong_blocks)
            );
            for example in &self.wrong_examples {
                let _ = writeln!(text, "  {example}");
            }
        } else {
            let _ = writeln!(text, "Every byte of {} blocks read was right.", count(self.total.blocks_read));
        }
        text
    }

    fn reuse_table(&self) -> Table {
        let total = &self.total;
        let mut table = table(["reuse", "asked for", "hit", "hit rate", "infinite cache", "difference"]);
        for (what, asked, hit, bound) in [
            ("blocks", total.blocks, total.hit_blocks, total.bound_blocks),
            ("tokens", total.input_tokens, total.hit_tokens, total.bound_tokens),
        ] {
            let share = |part: u64| 100.0 * part as f64 / asked.max(1) as f64;
            table.add_row([
                what.into(),
                count(asked),
                count(hit),
                format!("{:.2}%", share(hit)),
                format!("{:.2}%", share(bound)),
                format!("{:+.2} points", share(hit) - share(bound)),
            ]);
        }
        table
    }

    fn volume_table(&self) -> Table {
        let total = &self.total;
        let mut table = table(["moved", "blocks", "bytes", "GB/s while busy", "GB/s overall"]);
        let overall = |bytes: u64| number(bytes as f64 / 1e9 / self.elapsed_s.max(1e-9));
        table.add_row([
            "get".into(),
            count(total.blocks_read),
            gigabytes(total.bytes_read),
            number(self.get_gb_per_s),
            overall(total.bytes_read),
        ]);
        for tier in &total.bytes_by_tier {
            table.add_row([
                format!("  from {}", tier.tier),
                String::new(),
                gigabytes(tier.bytes),
                String::new(),
                overall(tier.bytes),
            ]);
        }
        table.add_row([
            "put".into(),
            count(total.blocks_written),
            gigabytes(total.bytes_written),
            number(self.put_gb_per_s),
            overall(total.bytes_written),
        ]);
        table.add_row([
            "read : written".into(),
            self.read_write_blocks.map_or("-".into(), |ratio| format!("{ratio:.1} : 1")),
            self.read_write_bytes.map_or("-".into(), |ratio| format!("{ratio:.1} : 1")),
            String::new(),
            String::new(),
        ]);
        table
    }

    fn latency_table(&self) -> Table {
        let mut table = table(["latency, ms", "count", "p50", "p99", "p99.9", "max"]);
        let latency = &self.latency;
        for (what, of) in [
            ("lookup of a chain", &latency.lookup),
            ("get of a block", &latency.get_block),
            ("get of a chain", &latency.get_chain),
            ("put of a block", &latency.put_block),
            ("put of a chain", &latency.put_chain),
            ("whole request", &latency.request),
        ] {
            let Latency { count: samples, p50_ms, p99_ms, p999_ms, max_ms } = *of;
            let values = [p50_ms, p99_ms, p999_ms, max_ms].map(|value| value.map_or("-".into(), number));
            let [p50, p99, p999, max] = values;
            table.add_row([what.into(), count(samples), p50, p99, p999, max]);
        }
        table
    }

    fn worker_table(&self) -> Table {
        let mut table =
            table(["worker", "requests", "hit rate", "read", "written", "lost blocks", "errors", "wrong"]);
        for worker in &self.workers {
            let counts = &worker.counts;
            table.add_row([
                worker.worker.to_string(),
                count(counts.requests),
                format!("{:.2}%", 100.0 * counts.hit_blocks as f64 / counts.blocks.max(1) as f64),
                gigabytes(counts.bytes_read),
                gigabytes(counts.bytes_written),
                count(counts.lost_blocks),
                count(counts.errors.iter().map(|error| error.count).sum()),
                count(counts.wrong_blocks),
            ]);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let cases = [(0.0, "0"), (0.0123, "0.012"), (2.345, "2.35"), (123.45, "123.5"), (1e7, "10,000,000")];
        for (value, want) in cases {
            assert_eq!(number(value), want);
        }
        assert_eq!([grouped(0), grouped(-1_234), grouped(999)], ["0", "-1,234", "999"]);
    }
}
