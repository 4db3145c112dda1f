//! Where work goes that blocks a thread.

use tokio::task::JoinHandle;

/// Runs work that blocks on a thread that may; in a simulation, which has no threads, as a task.
pub(crate) fn spawn_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    #[cfg(feature = "sim")]
    if crate::sim::is_installed() {
        return tokio::spawn(async move { work() });
    }
    tokio::task::spawn_blocking(work)
}
