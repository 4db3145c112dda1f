//! The store's own time, and waiting by it.
//!
//! Every decision that depends on time takes it from here, and so does every wait with a deadline: on a
//! simulated clock a whole store runs without the passing of real time, the same way every time.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::sync::lock;

/// A century: later moments are as good as never.
const FAR_US: u64 = 100 * 365 * 86_400 * 1_000_000;

/// Microseconds since an origin that lies before every recovered block.
pub(crate) struct Clock {
    source: Source,
}

enum Source {
    Real { origin: Instant },
    Simulated(Arc<SimulatedTime>),
}

/// The deadline came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Elapsed;

/// Time that passes when it is told to.
pub(crate) struct SimulatedTime {
    /// Names the moment zero; only differences to it are ever used.
    origin: Instant,
    state: Mutex<Timers>,
}

#[derive(Default)]
struct Timers {
    now_us: u64,
    next_id: u64,
    waiting: BTreeMap<(u64, u64), Waker>,
}

impl Clock {
    /// The time at which the store opened. Recovered blocks have earlier times, in order of their puts.
    pub(crate) const OPENED_US: u64 = 1 << 50;
    /// The wall clock of a simulation at its moment zero.
    const SIMULATED_EPOCH_MS: u64 = 1_700_000_000_000;

    pub(crate) fn real() -> Self {
        Self { source: Source::Real { origin: Instant::now() } }
    }

    pub(crate) fn simulated(time: Arc<SimulatedTime>) -> Self {
        Self { source: Source::Simulated(time) }
    }

    pub(crate) fn now(&self) -> Instant {
        match &self.source {
            Source::Real { .. } => Instant::now(),
            Source::Simulated(time) => time.now(),
        }
    }

    pub(crate) fn now_us(&self) -> u64 {
        let since_origin = match &self.source {
            Source::Real { origin } => origin.elapsed().as_micros() as u64,
            Source::Simulated(time) => lock(&time.state).now_us,
        };
        Self::OPENED_US + since_origin
    }

    /// When the store's time will be `at_us`.
    pub(crate) fn instant_of(&self, at_us: u64) -> Instant {
        self.now() + Duration::from_micros(at_us.saturating_sub(self.now_us()).min(FAR_US))
    }

    /// The wall clock's name for a moment of the store's time. Only retention that outlives the process
    /// is kept in wall-clock time.
    pub(crate) fn unix_ms_at(&self, at_us: u64) -> u64 {
        let now_us = self.now_us();
        if at_us >= now_us {
            self.unix_ms().saturating_add((at_us - now_us) / 1_000)
        } else {
            self.unix_ms().saturating_sub((now_us - at_us) / 1_000)
        }
    }

    pub(crate) fn time_of_unix_ms(&self, at_ms: u64) -> u64 {
        self.now_us().saturating_add(at_ms.saturating_sub(self.unix_ms()).saturating_mul(1_000))
    }

    pub(crate) fn unix_ms(&self) -> u64 {
        match &self.source {
            Source::Real { .. } => {
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
            }
            Source::Simulated(time) => Self::SIMULATED_EPOCH_MS + lock(&time.state).now_us / 1_000,
        }
    }

    /// Waits for `future`, but not beyond `deadline`. Cancel safe if `future` is.
    pub(crate) async fn timeout_at<F: Future>(
        &self,
        deadline: Instant,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        match &self.source {
            Source::Real { .. } => {
                tokio::time::timeout_at(deadline.into(), future).await.map_err(|_| Elapsed)
            }
            Source::Simulated(time) => {
                let mut future = pin!(future);
                let mut alarm = Alarm { time, key: None };
                poll_fn(|cx| match future.as_mut().poll(cx) {
                    Poll::Ready(output) => Poll::Ready(Ok(output)),
                    Poll::Pending => alarm.poll(deadline, cx).map(|()| Err(Elapsed)),
                })
                .await
            }
        }
    }
}

impl SimulatedTime {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { origin: Instant::now(), state: Mutex::new(Timers::default()) })
    }

    pub(crate) fn now(&self) -> Instant {
        self.origin + Duration::from_micros(lock(&self.state).now_us)
    }

    pub(crate) fn now_us(&self) -> u64 {
        lock(&self.state).now_us
    }

    /// When the next wait ends, if any.
    pub(crate) fn next_alarm_us(&self) -> Option<u64> {
        lock(&self.state).waiting.first_key_value().map(|((at_us, _), _)| *at_us)
    }

    /// Moves time forward and wakes whoever waited for a moment that has come.
    pub(crate) fn advance_to(&self, now_us: u64) {
        let due = {
            let mut state = lock(&self.state);
            state.now_us = state.now_us.max(now_us);
            let next_us = state.now_us + 1;
            let later = state.waiting.split_off(&(next_us, 0));
            std::mem::replace(&mut state.waiting, later)
        };
        due.into_values().for_each(Waker::wake);
    }
}

/// One wait for a moment of simulated time.
struct Alarm<'a> {
    time: &'a SimulatedTime,
    key: Option<(u64, u64)>,
}

impl Alarm<'_> {
    fn poll(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let deadline_us = deadline.saturating_duration_since(self.time.origin).as_micros() as u64;
        let mut state = lock(&self.time.state);
        if deadline_us <= state.now_us {
            return Poll::Ready(());
        }
        let key = self.key.unwrap_or_else(|| {
            state.next_id += 1;
            (deadline_us, state.next_id)
        });
        self.key = Some(key);
        state.waiting.insert(key, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            lock(&self.time.state).waiting.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulated_wait_ends_when_time_is_moved() {
        let time = SimulatedTime::new();
        let clock = Clock::simulated(Arc::clone(&time));
        let deadline = clock.now() + Duration::from_micros(500);
        let mut waiting = Box::pin(clock.timeout_at(deadline, std::future::pending::<()>()));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        assert_eq!(time.next_alarm_us(), Some(500));
        time.advance_to(499);
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        time.advance_to(500);
        assert_eq!(waiting.as_mut().poll(&mut cx), Poll::Ready(Err(Elapsed)));
        drop(waiting);
        assert_eq!(time.next_alarm_us(), None);
        assert_eq!(clock.now_us(), Clock::OPENED_US + 500);
    }
}
