//! The threads that move block bytes: a runtime of their own, so that a lookup or a Raft message
//! never waits behind a megabyte on its way to a socket (INV-BOUND: control traffic still flows).

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::block_service::StoreService;
use crate::node::NodeError;

/// How long the threads get to end once their requests have drained.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// The runtime of the block service.
pub(crate) struct DataPlane(Option<Runtime>);

impl DataPlane {
    pub(crate) fn start() -> Result<Self, NodeError> {
        let runtime = Builder::new_multi_thread().enable_all().thread_name("hearth-data").build();
        runtime.map(|runtime| Self(Some(runtime))).map_err(|e| failed(&e))
    }

    /// Serves blocks until `stop` fires; the future ends when all requests have drained.
    pub(crate) fn serve(
        &self,
        listener: TcpListener,
        blocks: Arc<StoreService>,
        stop: CancellationToken,
    ) -> Result<impl Future<Output = Result<(), JoinError>> + use<>, NodeError> {
        let runtime = self.0.as_ref().expect("the data plane serves before it is stopped");
        // The listener must be driven by the runtime that serves it.
        let listener = listener.into_std().map_err(|e| failed(&e))?;
        let _inside = runtime.enter();
        let listener = TcpListener::from_std(listener).map_err(|e| failed(&e))?;
        Ok(runtime.spawn(hearth_fabric::serve_tcp(listener, blocks, stop)))
    }

    /// Runs something else that moves blocks.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.0.as_ref().expect("the data plane works before it is stopped").spawn(work)
    }

    pub(crate) async fn stop(&mut self) {
        if let Some(runtime) = self.0.take() {
            let ended = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(STOP_PATIENCE)).await;
            ended.expect("stopping a runtime does not panic");
        }
    }
}

impl Drop for DataPlane {
    /// For a start that fails or is given up. What the threads hold must be gone when this returns, and
    /// a runtime may not be waited for on a thread of another one.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            let ended = std::thread::spawn(move || runtime.shutdown_timeout(STOP_PATIENCE)).join();
            ended.expect("stopping a runtime does not panic");
        }
    }
}

fn failed(error: &io::Error) -> NodeError {
    NodeError::Listener { service: "block", problem: error.to_string() }
}
