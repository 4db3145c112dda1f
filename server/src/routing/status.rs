//! How it stands with a publisher, for people.

use std::sync::{Mutex, PoisonError};

use hearth_router::events::StreamStats;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Status(Mutex<StatusView>);

/// What is shown of it.
#[derive(Clone, Debug, Default)]
pub(super) struct StatusView {
    pub(super) is_connected: bool,
    /// Batches are known that were not taken in yet.
    pub(super) is_behind: bool,
    /// Why it was not there the last time.
    pub(super) last_error: Option<String>,
    pub(super) stats: StreamStats,
}

impl Status {
    pub(super) fn connected(&self) {
        self.change(|view| view.is_connected = true);
    }

    /// Notes why it is not there. False if that was known.
    pub(super) fn lost(&self, why: &str) -> bool {
        self.change(|view| {
            let is_new = view.is_connected || view.last_error.as_deref() != Some(why);
            view.is_connected = false;
            view.last_error = Some(why.to_owned());
            is_new
        })
    }

    pub(super) fn follow(&self, stats: StreamStats, is_behind: bool) {
        self.change(|view| (view.stats, view.is_behind) = (stats, is_behind));
    }

    pub(super) fn view(&self) -> StatusView {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change<T>(&self, change: impl FnOnce(&mut StatusView) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
