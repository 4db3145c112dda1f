//! What the simulated fleet is made of, and how long things take on it.

use hearth_router::placement::{DecodeSpeed, LinkSpeed, PrefillCurve, PrefillWork, RangeError};

/// One worker, its links and its memory; all workers of a fleet are alike.
///
/// The defaults stand for a dense model of eight billion parameters with a cache of eight bits an element, on one
/// accelerator with 80 GB: 64 KiB of cache a token, 54 GB of it beside the weights. Prefills are slower than the
/// router's prior says by a third to a half, as real ones are, and each step is off by a tenth or so.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Hardware {
    /// Seconds of one prefill, of one new token, and of one pair of tokens that attention looks at.
    pub(super) prefill_s: [f64; 3],
    /// Spread of a step's time about what it takes on average: the deviation of its logarithm. Beyond two of them it is
    /// cut off.
    pub(super) noise: f64,
    /// Seconds of one decoded token, of each sequence beside it, and of each cached token that it reads.
    pub(super) decode_s: [f64; 3],
    /// What the router believes of those: nobody measures them for it.
    pub(super) decode_believed_s: [f64; 3],
    /// Prompt tokens that are computed in one step.
    pub(super) chunk_tokens: u32,
    /// Sequences that are loaded, computed or decoded at a time.
    pub(super) sequences_max: usize,
    /// Bytes of cache that one token takes.
    pub(super) token_bytes: u64,
    /// Tokens that fit into the accelerator's memory.
    pub(super) gpu_tokens: u64,
    /// Tokens that fit into the memory of the worker's own machine; none without one.
    pub(super) host_tokens: u64,
    /// Latency, and bytes a second, from there.
    pub(super) host_link: [f64; 2],
    /// Tokens that fit into the store beneath the fleet, for each worker; none without one.
    pub(super) store_tokens: u64,
    /// Latency, and bytes a second, from the store to one worker.
    pub(super) store_link: [f64; 2],
    /// Bytes a second that the store serves to all workers together, for each of them.
    pub(super) store_bytes_per_second: f64,
    /// What the router believes of both links at first, as a multiple of the truth.
    pub(super) link_believed: f64,
    /// Seconds after which a request is served as if it were urgent.
    pub(super) urgent_ahead_s: f64,
    /// Seconds for which the blocks of urgent requests are kept before all others.
    pub(super) retained_s: f64,
}

impl Default for Hardware {
    fn default() -> Self {
        Self {
            prefill_s: [8e-3, 5.2e-5, 1.9e-9],
            noise: 0.1,
            decode_s: [9e-3, 1e-4, 2.4e-8],
            decode_believed_s: [7e-3, 1e-4, 2e-8],
            chunk_tokens: 2_048,
            sequences_max: 64,
            token_bytes: 64 << 10,
            gpu_tokens: 832_000,
            host_tokens: 2_000_000,
            host_link: [2e-4, 40e9],
            store_tokens: 40_000_000,
            store_link: [2e-3, 12.5e9],
            store_bytes_per_second: 12.5e9,
            link_believed: 0.7,
            urgent_ahead_s: 30.0,
            retained_s: 600.0,
        }
    }
}

impl Hardware {
    /// How long prefills take on average.
    pub(super) fn prefill(&self) -> Result<PrefillCurve, RangeError> {
        let [base, token, pair] = self.prefill_s;
        PrefillCurve::new(base, token, pair)
    }

    /// How long decoding takes, in blocks of so many tokens.
    pub(super) fn decode(seconds: [f64; 3], block_tokens: u32) -> Result<DecodeSpeed, RangeError> {
        let [fixed, sequence, token] = seconds;
        DecodeSpeed::new(fixed, sequence, token * f64::from(block_tokens))
    }

    /// The least that a prefill takes, with all luck there is.
    pub(super) fn least_prefill_s(&self, work: PrefillWork) -> f64 {
        let [base, token, pair] = self.prefill_s;
        (base + token * work.tokens() as f64 + pair * work.pairs()) * (-2.0 * self.noise).exp()
    }

    /// A link as the router believes it to be.
    pub(super) fn believed(&self, link: [f64; 2]) -> Result<LinkSpeed, RangeError> {
        LinkSpeed::new(link[0], link[1] * self.link_believed)
    }

    /// The same with so much of each worker's memory.
    pub(super) fn with_memory(self, gpu_tokens: u64, host_tokens: u64, store_tokens: u64) -> Self {
        Self { gpu_tokens, host_tokens, store_tokens, ..self }
    }

    /// All of it, for the report.
    pub(super) fn told(&self) -> serde_json::Value {
        serde_json::json!({
            "prefill_s_each_and_per_token_and_pair": self.prefill_s,
            "router_prior_s_each_and_per_token_and_pair": PrefillCurve::PRIOR.coefficients(),
            "noise_of_a_step_log_deviation": self.noise,
            "decode_s_per_token_and_sequence_and_cached_token": self.decode_s,
            "router_believes_decode_s": self.decode_believed_s,
            "chunk_tokens": self.chunk_tokens,
            "sequences_max": self.sequences_max,
            "cache_bytes_per_token": self.token_bytes,
            "gpu_tokens": self.gpu_tokens,
            "host_tokens": self.host_tokens,
            "host_latency_s_and_bytes_per_s": self.host_link,
            "store_tokens_per_worker": self.store_tokens,
            "store_latency_s_and_bytes_per_s_to_a_worker": self.store_link,
            "store_bytes_per_s_per_worker_all_together": self.store_bytes_per_second,
            "router_believes_bandwidth_times": self.link_believed,
            "urgent_ahead_s": self.urgent_ahead_s,
            "retained_s": self.retained_s,
        })
    }
}
