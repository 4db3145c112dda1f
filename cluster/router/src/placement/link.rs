//! How long it takes to move bytes over one link, learned from transfers that were.

use hearth_proto::limits::{
    LINK_BYTES_PER_SECOND_MAX, LINK_TRANSFER_BYTES_MAX, LINK_WINDOW_TRANSFERS, PLACEMENT_SECONDS_MAX,
    PLACEMENT_SECONDS_MIN,
};

use super::fit::Fit;
use super::prefill::ModelStats;
use super::range::{RangeError, check, check_count};

/// How fast a link is, with what is in its queue at the moment: `start + bytes / bandwidth` seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkSpeed {
    /// Before the first byte comes, waiting for those ahead included.
    start_s: f64,
    byte_s: f64,
}

/// One transfer that was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transfer {
    /// Bytes that it moved.
    pub bytes: u64,
    /// Bytes of others that were in flight on the link when it began, and that it had to wait for.
    pub ahead_bytes: u64,
    /// From when it was asked for until the last byte was there.
    pub seconds: f64,
}

/// The measured latency and bandwidth of one link, that is of one tier and the path from there to a worker, and the
/// bytes that are in flight on it.
///
/// It learns as a [`PrefillModel`](super::PrefillModel) does, with the same bounds on what transfers can make it
/// believe. A link that serves many at a time is taken for one that serves them in turn: whoever comes next waits for
/// all bytes in flight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkModel {
    prior: LinkSpeed,
    fit: Fit<2>,
    in_flight_bytes: u64,
    stats: ModelStats,
}

impl LinkSpeed {
    /// A link with nothing in flight.
    ///
    /// *Units*: seconds, bytes a second.
    ///
    /// # Errors
    /// [`RangeError`] if the latency is no number from zero to [`PLACEMENT_SECONDS_MAX`], or the bandwidth none from
    /// one to [`LINK_BYTES_PER_SECOND_MAX`]; the caller mends it.
    pub fn new(latency_s: f64, bytes_per_second: f64) -> Result<Self, RangeError> {
        let latency_s = check("latency in seconds", latency_s, 0.0, PLACEMENT_SECONDS_MAX)?;
        let bandwidth = check("bytes a second", bytes_per_second, 1.0, LINK_BYTES_PER_SECOND_MAX)?;
        Ok(Self { start_s: latency_s, byte_s: 1.0 / bandwidth })
    }

    /// How long so many bytes take.
    ///
    /// *Units*: seconds.
    #[inline]
    pub fn seconds(&self, bytes: u64) -> f64 {
        self.start_s + self.byte_s * bytes as f64
    }

    /// Seconds before the first byte comes, waiting for those ahead included.
    pub const fn start_s(&self) -> f64 {
        self.start_s
    }

    /// Bytes a second.
    pub fn bytes_per_second(&self) -> f64 {
        1.0 / self.byte_s
    }
}

impl LinkModel {
    /// One that knows nothing but the prior. A latency that is zero there stays zero.
    pub fn new(prior: LinkSpeed) -> Self {
        let fit = Fit::new(LINK_WINDOW_TRANSFERS);
        Self { prior, fit, in_flight_bytes: 0, stats: ModelStats::default() }
    }

    /// Learns from a transfer.
    ///
    /// # Errors
    /// [`RangeError`] if it is absurd: no bytes, more than [`LINK_TRANSFER_BYTES_MAX`], or a time that is no number,
    /// not above zero or beyond [`PLACEMENT_SECONDS_MAX`]. It is counted and changes nothing; who sent it is broken.
    pub fn report(&mut self, transfer: Transfer) -> Result<(), RangeError> {
        let Transfer { bytes, ahead_bytes, seconds } = transfer;
        check_count("bytes of a transfer", bytes, 1, LINK_TRANSFER_BYTES_MAX)
            .and_then(|()| check_count("bytes ahead of a transfer", ahead_bytes, 0, LINK_TRANSFER_BYTES_MAX))
            .and_then(|()| {
                check("seconds of a transfer", seconds, PLACEMENT_SECONDS_MIN, PLACEMENT_SECONDS_MAX)
            })
            .inspect_err(|_| self.stats.refused += 1)?;
        let terms = [self.prior.start_s, self.prior.byte_s * (bytes + ahead_bytes) as f64];
        let whole: f64 = terms.iter().sum();
        self.stats.taken += 1;
        self.stats.clamped += u64::from(self.fit.learn(terms.map(|term| term / whole), seconds / whole));
        Ok(())
    }

    /// Bytes were asked for.
    pub fn begin(&mut self, bytes: u64) {
        self.in_flight_bytes = self.in_flight_bytes.saturating_add(bytes);
    }

    /// Bytes came, or will not come.
    pub fn end(&mut self, bytes: u64) {
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(bytes);
    }

    /// Sets the bytes in flight to what somebody who knows says: of ends that are lost nobody hears.
    pub fn set_in_flight(&mut self, bytes: u64) {
        self.in_flight_bytes = bytes;
    }

    /// Bytes in flight.
    pub const fn in_flight_bytes(&self) -> u64 {
        self.in_flight_bytes
    }

    /// How fast it is for whoever comes next.
    pub fn speed(&self) -> LinkSpeed {
        let [latency, byte] = self.fit.factors();
        let byte_s = self.prior.byte_s * byte;
        LinkSpeed { start_s: self.prior.start_s * latency + byte_s * self.in_flight_bytes as f64, byte_s }
    }

    /// What became of the transfers.
    pub const fn stats(&self) -> ModelStats {
        self.stats
    }
}
