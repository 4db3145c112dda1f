//! Every call is answered by its deadline, or has ended without an answer (INV-DEADLINE): whatever became of leaders,
//! links and clocks meanwhile.
//!
//! *Source*: DESIGN.md, section 7, INV-DEADLINE: "every call returns by its deadline (+50 ms)".

use std::time::{Duration, Instant};

use hearth_proto::NodeId;

use crate::world::world;

/// What a call may take more.
const SLACK: Duration = Duration::from_millis(50);

/// A call that is being answered; it looks at the time when it is dropped.
#[derive(Debug)]
pub(crate) struct OnTime {
    node: NodeId,
    what: &'static str,
    begun: Instant,
    limit: Duration,
}

impl OnTime {
    /// A call that began now and may take so long.
    pub(crate) fn new(node: NodeId, what: &'static str, limit: Duration) -> Self {
        Self { node, what, begun: Instant::now(), limit: limit + SLACK }
    }
}

impl Drop for OnTime {
    fn drop(&mut self) {
        let took = self.begun.elapsed();
        if took > self.limit {
            let Self { node, what, limit, .. } = self;
            world().went_wrong(format!(
                "INV-DEADLINE: {what} took {took:?} on node {node}, which had {limit:?}"
            ));
        }
    }
}
