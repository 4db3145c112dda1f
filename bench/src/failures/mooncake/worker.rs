//! One process of `bench/peers/mooncake.py`: a storage node or a client, a line of JSON each way.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::Mutex;

use super::environment::Environment;
use crate::failures::timeline::{Existence, Got, Key};

/// Longer than anything that was seen; a call that hangs beyond it ends the bench.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a worker is started with.
#[derive(Clone, Debug)]
pub(crate) struct Setup<'a> {
    pub(crate) block_bytes: usize,
    /// 0 makes it a client that keeps nothing.
    pub(crate) segment_bytes: u64,
    /// How it finds the master.
    pub(crate) master: &'a str,
    /// Where it keeps objects on disk, if it does.
    pub(crate) ssd: Option<&'a Path>,
    pub(crate) variables: &'a [(String, String)],
}

/// The process; killed when dropped. Its calls come one after the other.
pub(crate) struct Worker {
    child: Child,
    pipes: Mutex<(ChildStdin, Lines<BufReader<ChildStdout>>)>,
}

/// Copies of one key that the master calls complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copies {
    pub(crate) memory: u32,
    pub(crate) disk: u32,
}

impl Worker {
    /// Starts it and connects it.
    pub(crate) async fn start(
        environment: &Environment,
        setup: &Setup<'_>,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let log = File::options().create(true).append(true).open(log)?;
        let mut command = environment.worker();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        command.envs(setup.variables.iter().map(|(name, value)| (name, value)));
        let mut child = command.spawn().context("a Mooncake client does not start")?;
        let input = child.stdin.take().context("the input is a pipe")?;
        let output = child.stdout.take().context("the output is a pipe")?;
        let worker = Self { child, pipes: Mutex::new((input, BufReader::new(output).lines())) };
        let buffer_bytes = 64 << 20;
        let order = json!({
            "do": "setup", "block_bytes": setup.block_bytes, "segment_bytes": setup.segment_bytes,
            "buffer_bytes": buffer_bytes, "master": setup.master, "ssd": setup.ssd,
        });
        let answer = worker.ask(&order).await?;
        ensure!(answer["code"] == 0, "a Mooncake client does not connect: {answer}");
        Ok(worker)
    }

    /// Puts keys one after the other; says how many were stored.
    pub(crate) async fn put(&self, keys: &[Key], replicas: u32) -> anyhow::Result<usize> {
        let answer = self.ask(&json!({"do": "put", "keys": keys, "replicas": replicas})).await?;
        let codes = answer["codes"].as_array();
        Ok(codes.map_or(0, |codes| codes.iter().filter(|code| **code == 0).count()))
    }

    pub(crate) async fn exists(&self, keys: &[Key]) -> anyhow::Result<Vec<Existence>> {
        parse_existence(&self.ask(&json!({"do": "exists", "keys": keys})).await?, keys.len())
    }

    pub(crate) async fn get(&self, key: Key) -> anyhow::Result<Got> {
        let answer = self.ask(&json!({"do": "get", "keys": [key]})).await?;
        Ok(parse_got(&answer["got"][0]))
    }

    /// Gets keys with many calls at once; what does not come in time is missing.
    pub(crate) async fn get_all(&self, keys: &[Key], time: Duration) -> anyhow::Result<Vec<Got>> {
        let answer = self.ask(&json!({"do": "get_all", "keys": keys, "seconds": time.as_secs_f64()})).await?;
        let got: Vec<Got> = answer["got"].as_array().into_iter().flatten().map(parse_got).collect();
        ensure!(got.len() == keys.len(), "{} keys were asked for: {answer}", keys.len());
        Ok(got)
    }

    pub(crate) async fn copies(&self, keys: &[Key]) -> anyhow::Result<Vec<Copies>> {
        parse_copies(&self.ask(&json!({"do": "copies", "keys": keys})).await?, keys.len())
    }

    /// Ends the process at once, as a crash would, and reaps it.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    async fn ask(&self, order: &Value) -> anyhow::Result<Value> {
        let mut pipes = self.pipes.lock().await;
        let (input, output) = &mut *pipes;
        let exchange = async {
            input.write_all(format!("{order}\n").as_bytes()).await?;
            output.next_line().await
        };
        let line = tokio::time::timeout(PATIENCE, exchange).await;
        let line = line.with_context(|| format!("a Mooncake client hangs at {}", order["do"]))?;
        let line = line?.with_context(|| format!("a Mooncake client ended at {}", order["do"]))?;
        serde_json::from_str(&line).with_context(|| format!("a Mooncake client says {line:?}"))
    }
}

fn parse_got(answer: &Value) -> Got {
    match answer.as_str() {
        Some("right") => Got::Right,
        Some("wrong") => Got::Wrong,
        _ => Got::Missing,
    }
}

/// A call that failed claims nothing.
fn parse_existence(answer: &Value, count: usize) -> anyhow::Result<Vec<Existence>> {
    let Some(codes) = answer["codes"].as_array() else { return Ok(vec![Existence::Unknown; count]) };
    ensure!(codes.len() == count, "{count} keys were asked for, and {} answered", codes.len());
    let said = |code: &Value| match code.as_i64() {
        Some(1) => Existence::Yes,
        Some(0) => Existence::No,
        _ => Existence::Unknown,
    };
    Ok(codes.iter().map(said).collect())
}

fn parse_copies(answer: &Value, count: usize) -> anyhow::Result<Vec<Copies>> {
    let of = |tier: &str| -> Vec<u32> {
        let counts = answer[tier].as_array().into_iter().flatten();
        counts.map(|count| count.as_u64().unwrap_or(0) as u32).collect()
    };
    let (memory, disk) = (of("memory"), of("disk"));
    if memory.is_empty() && disk.is_empty() {
        return Ok(vec![Copies { memory: 0, disk: 0 }; count]);
    }
    ensure!(memory.len() == count && disk.len() == count, "{count} keys were asked for: {answer}");
    Ok(memory.into_iter().zip(disk).map(|(memory, disk)| Copies { memory, disk }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_failed_claims_nothing() {
        let failed = json!({"error": "RuntimeError: no master", "seconds": 1.0});
        assert_eq!(parse_existence(&failed, 2).unwrap(), [Existence::Unknown; 2]);
        assert_eq!(parse_copies(&failed, 1).unwrap(), [Copies { memory: 0, disk: 0 }]);
        let codes = json!({"codes": [1, 0, -1, -800]});
        let said = parse_existence(&codes, 4).unwrap();
        assert_eq!(said, [Existence::Yes, Existence::No, Existence::Unknown, Existence::Unknown]);
    }

    #[test]
    fn an_answer_for_another_number_of_keys_is_refused() {
        assert!(parse_existence(&json!({"codes": [1]}), 2).is_err());
        assert!(parse_copies(&json!({"memory": [1, 1], "disk": [0]}), 2).is_err());
    }
}
