//! The router's part of a node: which engines there are, what they hold, and what routers ask of it.
//!
//! Owns a task for each publisher of events. What is known of blocks lies in the catalog (`hearth_router::catalog`).

mod address;
mod answers;
mod feed;
mod http;
mod publisher;
mod requests;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_proto::limits::ROUTER_PUBLISHERS_MAX;
use hearth_router::catalog::{Catalog, PoolKey, RegisterError, Settings, WorkerKey};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::address::Address;
use self::feed::Feed;
pub(crate) use self::http::routes;
use self::publisher::Publisher;
use self::status::{Status, StatusView};

/// See the module.
#[derive(Clone)]
pub(crate) struct Routing(Arc<Inner>);

struct Inner {
    catalog: Arc<Catalog>,
    clock: Clock,
    /// Held while a publisher comes or goes, so that who goes has gone before who takes the place.
    followed: Mutex<BTreeMap<(PoolKey, WorkerKey), Followed>>,
    stop: CancellationToken,
}

/// A publisher that is followed.
struct Followed {
    endpoint: Address,
    replay: Option<Address>,
    status: Arc<Status>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// A publisher as somebody registers it.
#[derive(Clone, Debug)]
struct Registration {
    pool: PoolKey,
    worker: WorkerKey,
    endpoint: Address,
    replay: Option<Address>,
}

/// One that is followed, as it is shown.
struct WorkerView {
    pool: PoolKey,
    worker: WorkerKey,
    endpoint: String,
    replay: Option<String>,
    status: StatusView,
}

/// Why a publisher cannot be followed.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error("{ROUTER_PUBLISHERS_MAX} publishers are followed, and no more can be: unregister one")]
    TooMany,
    #[error(transparent)]
    Register(#[from] RegisterError),
    #[error("this node is stopping: register with another one")]
    Stopping,
}

/// Milliseconds since the node began.
#[derive(Clone, Copy, Debug)]
struct Clock(Instant);

impl Clock {
    fn now_ms(self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn instant(self, at_ms: u64) -> Instant {
        self.0 + Duration::from_millis(at_ms)
    }
}

impl Routing {
    /// Follows nobody yet. Whatever it follows later ends with `stop`.
    pub(crate) fn new(index_bytes_max: usize, stop: CancellationToken) -> Self {
        let id = uuid::Uuid::new_v4().as_u64_pair();
        let settings = Settings::new(index_bytes_max, [id.0, id.1]);
        Self(Arc::new(Inner {
            catalog: Arc::new(Catalog::new(settings)),
            clock: Clock(Instant::now()),
            followed: Mutex::default(),
            stop,
        }))
    }

    /// Waits for all that it follows to end; `stop` has fired.
    pub(crate) async fn close(&self) {
        let followed = std::mem::take(&mut *self.0.followed.lock().await);
        for (_, followed) in followed {
            // One that broke has ended too.
            let _ = followed.task.await;
        }
    }

    /// Follows a publisher. One that registers anew has been started anew: what it held is forgotten.
    async fn register(&self, registration: Registration) -> Result<(), FollowError> {
        let Registration { pool, worker, endpoint, replay } = registration;
        let mut followed = self.0.followed.lock().await;
        if self.0.stop.is_cancelled() {
            return Err(FollowError::Stopping);
        }
        let key = (pool, worker);
        if let Some(before) = followed.remove(&key) {
            before.end().await;
        } else if followed.len() >= ROUTER_PUBLISHERS_MAX {
            return Err(FollowError::TooMany);
        }
        let clock = self.0.clock;
        let feed = Feed::new(Arc::clone(&self.0.catalog), &key.0, key.1.clone(), clock.now_ms())?;
        let status = Arc::new(Status::default());
        let stop = self.0.stop.child_token();
        tracing::info!(pool = %key.0, worker = %key.1, %endpoint, "a publisher of events is followed");
        let publisher = Publisher {
            endpoint: endpoint.clone(),
            replay: replay.clone(),
            feed,
            clock,
            status: Arc::clone(&status),
        };
        let task = tokio::spawn(publisher.follow(stop.clone()));
        followed.insert(key, Followed { endpoint, replay, status, stop, task });
        Ok(())
    }

    /// Follows none any more of those that `is_meant`. Gives their names.
    async fn unregister(&self, is_meant: impl Fn(&PoolKey, &WorkerKey) -> bool) -> Vec<(PoolKey, WorkerKey)> {
        let mut followed = self.0.followed.lock().await;
        let meant = followed.keys().filter(|(pool, worker)| is_meant(pool, worker)).cloned();
        let meant: Vec<_> = meant.collect();
        for key in &meant {
            if let Some(followed) = followed.remove(key) {
                followed.end().await;
            }
        }
        meant
    }

    /// All that are followed, in the order of their names.
    async fn workers(&self) -> Vec<WorkerView> {
        let followed = self.0.followed.lock().await;
        let view = |((pool, worker), followed): (&(PoolKey, WorkerKey), &Followed)| WorkerView {
            pool: pool.clone(),
            worker: worker.clone(),
            endpoint: followed.endpoint.to_string(),
            replay: followed.replay.as_ref().map(ToString::to_string),
            status: followed.status.view(),
        };
        followed.iter().map(view).collect()
    }

    /// Copies the figures of the catalog into the exporter.
    pub(crate) fn refresh_metrics(&self) {
        for pool in self.0.catalog.pools() {
            let (key, stats) = (pool.key(), pool.stats());
            let labels = [
                ("model", key.model().to_owned()),
                ("tenant", key.tenant().to_owned()),
                ("lora", key.lora().unwrap_or_default().to_owned()),
                ("block_size", key.block_size().to_string()),
            ];
            metrics::gauge!("hearth_router_workers", &labels).set(stats.workers as f64);
            metrics::gauge!("hearth_router_blocks", &labels).set(stats.index.blocks as f64);
            metrics::gauge!("hearth_router_held_blocks", &labels).set(stats.held as f64);
            metrics::gauge!("hearth_router_index_bytes", &labels).set(stats.index.bytes as f64);
            metrics::counter!("hearth_router_shed_runs_total", &labels).absolute(stats.index.shed_runs);
        }
    }
}

impl Followed {
    async fn end(self) {
        self.stop.cancel();
        // One that broke has ended too.
        let _ = self.task.await;
    }
}
