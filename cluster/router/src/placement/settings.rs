//! How a cluster wants its requests placed.

use super::range::Seconds;

/// How requests are placed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// What it is worth to stay with the worker that had the session last. Another worker is taken if it is faster by
    /// more.
    pub affinity: Seconds,
    /// How much chance there is, as a time: a worker that is slower by this much is taken `e` times less often. With
    /// none the fastest is always taken.
    pub temperature: Seconds,
    /// Workers at which the request would wait in line for longer are not taken.
    pub queue_max: Seconds,
    /// Tokens that are expected to be generated when nobody says.
    pub output_tokens: u32,
}

impl Default for Settings {
    /// 50 ms of affinity, no chance, a minute in line, 256 tokens.
    fn default() -> Self {
        Self {
            affinity: Seconds::from_ms(50),
            temperature: Seconds::ZERO,
            queue_max: Seconds::from_ms(60_000),
            output_tokens: 256,
        }
    }
}
