//! What happened in a simulation, in order: a running hash of every event, and the events in words if
//! somebody wants to read them.

/// Every event of a run. Equal digests mean equal runs.
pub(super) struct Trace {
    digest: u64,
    events: u64,
    log: Option<Vec<String>>,
}

impl Trace {
    pub(super) fn new(verbose: bool) -> Self {
        Self { digest: 0xcbf2_9ce4_8422_2325, events: 0, log: verbose.then(Vec::new) }
    }

    /// Notes an event: what it is called, and the numbers that tell it from others.
    pub(super) fn event(&mut self, time_us: u64, name: &'static str, numbers: &[u64]) {
        self.events += 1;
        self.mix(time_us);
        for byte in name.bytes() {
            self.mix(u64::from(byte));
        }
        for number in numbers {
            self.mix(*number);
        }
        if let Some(log) = &mut self.log {
            log.push(format!("{:>7} {time_us:>10} us  {name} {numbers:?}", self.events));
        }
    }

    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    pub(super) fn events(&self) -> u64 {
        self.events
    }

    pub(super) fn take_log(&mut self) -> Vec<String> {
        self.log.take().unwrap_or_default()
    }

    fn mix(&mut self, number: u64) {
        self.digest = (self.digest.rotate_left(23) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
