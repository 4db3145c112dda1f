//! The probes that watch a system through a failure, the same for every system.

use std::time::{Duration, Instant};

use anyhow::Context;

use super::timeline::{Call, Existence, Got, Key, PROMPT_S, Sample, Seen};

/// Pauses between the calls of each probe.
const EXISTS_PAUSE: Duration = Duration::from_millis(100);
const GET_PAUSE: Duration = Duration::from_millis(2);
const PUT_PAUSE: Duration = Duration::from_millis(100);
const FIND_PAUSE: Duration = Duration::from_millis(10);
const COPIES_PAUSE: Duration = Duration::from_millis(250);
/// Keys that the probe of puts makes begin here.
const FIRST_NEW_KEY: Key = 1_000_000;

/// A system as a client sees it. Each call is made by a client of its own, so that one that hangs holds up
/// no other. An error is a bench that cannot go on; a system that fails is in the answer.
pub(crate) trait Probed {
    async fn exists(&self, keys: &[Key]) -> anyhow::Result<Vec<Existence>>;
    async fn get(&self, key: Key) -> anyhow::Result<Got>;
    /// Gets every key once; what does not come in tens of seconds is missing.
    async fn get_all(&self, keys: &[Key]) -> anyhow::Result<Vec<Got>>;
    /// Stores a new key, as surely as the others were stored; true when that was acknowledged.
    async fn put(&self, key: Key) -> anyhow::Result<bool>;
    /// Whether another client finds it.
    async fn is_found(&self, key: Key) -> anyhow::Result<bool>;
    /// Copies of each key on nodes of their own, as far as the system knows.
    async fn copies(&self, keys: &[Key]) -> anyhow::Result<Vec<u32>>;
}

/// Watches for so long from now on, while `recovery` does what the system needs; then reads every key.
pub(crate) async fn watch(
    system: &impl Probed,
    keys: Key,
    time: Duration,
    recovery: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<Seen> {
    let began = Instant::now();
    let until = began + time;
    let all: Vec<Key> = (0..keys).collect();
    let (exists, gets, puts, copies, ()) = tokio::try_join!(
        every(began, until, EXISTS_PAUSE, async |_| system.exists(&all).await),
        every(began, until, GET_PAUSE, async |turn| system.get(scattered(turn, keys)).await),
        every(began, until, PUT_PAUSE, async |turn| put_and_find(system, FIRST_NEW_KEY + turn).await),
        every(began, until, COPIES_PAUSE, async |_| system.copies(&all).await),
        recovery,
    )?;
    let mut seen = Seen { exists: samples(exists), copies: samples(copies), ..Seen::default() };
    seen.gets = gets.into_iter().map(|call| Call { key: scattered(call.key, keys), ..call }).collect();
    seen.puts = puts.into_iter().map(|call| Call { key: FIRST_NEW_KEY + call.key, ..call }).collect();
    seen.last = system.get_all(&all).await?;
    let said = system.exists(&all).await?;
    seen.exists.push(Sample { at_s: began.elapsed().as_secs_f64(), of: said });
    Ok(seen)
}

/// True when a put was acknowledged and another client found the key while the call was still prompt.
async fn put_and_find(system: &impl Probed, key: Key) -> anyhow::Result<bool> {
    let began = Instant::now();
    if !system.put(key).await? {
        return Ok(false);
    }
    while !system.is_found(key).await? {
        if began.elapsed().as_secs_f64() > PROMPT_S {
            return Ok(false);
        }
        tokio::time::sleep(FIND_PAUSE).await;
    }
    Ok(true)
}

/// Calls again and again until then; each call has its turn as its key.
async fn every<T>(
    began: Instant,
    until: Instant,
    pause: Duration,
    mut call: impl AsyncFnMut(Key) -> anyhow::Result<T>,
) -> anyhow::Result<Vec<Call<T>>> {
    let mut calls = Vec::new();
    while Instant::now() < until {
        let turn = Key::try_from(calls.len()).context("calls are few")?;
        let began_s = began.elapsed().as_secs_f64();
        let result = call(turn).await?;
        calls.push(Call { key: turn, began_s, ended_s: began.elapsed().as_secs_f64(), result });
        tokio::time::sleep(pause).await;
    }
    Ok(calls)
}

fn samples<T>(calls: Vec<Call<Vec<T>>>) -> Vec<Sample<T>> {
    calls.into_iter().map(|call| Sample { at_s: call.ended_s, of: call.result }).collect()
}

/// The key of a turn: all keys come round, neighbours in time lie far apart.
fn scattered(turn: Key, keys: Key) -> Key {
    // A prime that is greater than any number of keys we take.
    (u64::from(turn) * 1_000_003 % u64::from(keys)) as Key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_comes_round_once_before_any_comes_twice() {
        for keys in [1, 2, 300, 1_000] {
            let mut seen: Vec<_> = (0..keys).map(|turn| scattered(turn, keys)).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..keys).collect::<Vec<_>>());
        }
    }
}
