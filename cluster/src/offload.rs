//! Where work goes that blocks a thread.

use tokio::sync::mpsc::Sender;
use tokio::task::JoinHandle;

/// Runs work that blocks on a thread that may; in a simulation, which has no threads, as a task.
pub(crate) fn spawn_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    #[cfg(feature = "sim")]
    if crate::sim::is_installed() {
        return tokio::spawn(async move { work() });
    }
    tokio::task::spawn_blocking(work)
}

/// Sends from such work, and waits for room; in a simulation, where nobody would make room, there has to be some.
///
/// # Errors
/// If nobody receives any more.
pub(crate) fn blocking_send<T>(sender: &Sender<T>, value: T) -> Result<(), Closed> {
    #[cfg(feature = "sim")]
    if crate::sim::is_installed() {
        return sender.try_send(value).map_err(|_| Closed);
    }
    sender.blocking_send(value).map_err(|_| Closed)
}

/// Nobody receives any more.
#[derive(Debug)]
pub(crate) struct Closed;
