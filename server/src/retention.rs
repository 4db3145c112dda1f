//! The Retention service: what is kept, how long, and at whose cost.

use hearth_cluster::Cluster;
use hearth_proto::v1::retention_server::Retention as RetentionRpc;
use hearth_proto::{NamespaceId, Priority, Retention, v1};
use hearth_store::Store;
use tonic::{Request, Response, Status};

use crate::calls::{deadline_of, keys_of, malformed, pin_id_of, refresh_deadline_of, status_of};

/// Pins and retentions are committed; every node's store is told of them by what it applies.
#[derive(Clone)]
pub(crate) struct RetentionService {
    pub(crate) cluster: Cluster,
    pub(crate) store: Store,
}

#[tonic::async_trait]
impl RetentionRpc for RetentionService {
    async fn pin(&self, request: Request<v1::PinRequest>) -> Result<Response<v1::PinResponse>, Status> {
        let deadline = deadline_of(request.metadata());
        let v1::PinRequest { pin_id, keys, ttl_ms } = request.into_inner();
        let (pin_id, keys) = (pin_id_of(&pin_id)?, keys_of(&keys, 0)?);
        // The directory hears of a block a little later than the node that it was put to.
        let own_len = |id: &_| self.store.payload_len(id);
        let pinned = self.cluster.pin(NamespaceId::DEFAULT, pin_id, &keys, ttl_ms, own_len, deadline);
        let pinned = pinned.await.map_err(|error| status_of(&error))?;
        Ok(Response::new(v1::PinResponse {
            expires_at_ms: pinned.expires_at_ms,
            pinned_bytes: pinned.pinned_bytes,
            pin_quota_bytes: pinned.pin_quota_bytes,
            absent_blocks: pinned.absent_blocks as u32,
        }))
    }

    async fn unpin(&self, request: Request<v1::UnpinRequest>) -> Result<Response<v1::UnpinResponse>, Status> {
        let deadline = deadline_of(request.metadata());
        let pin_id = pin_id_of(&request.get_ref().pin_id)?;
        let unpinned = self.cluster.unpin(NamespaceId::DEFAULT, pin_id, deadline).await;
        let changed = unpinned.map_err(|error| status_of(&error))?;
        Ok(Response::new(v1::UnpinResponse { changed }))
    }

    async fn pins(&self, request: Request<v1::PinsRequest>) -> Result<Response<v1::PinsResponse>, Status> {
        self.cluster.refresh_control(refresh_deadline_of(request.metadata())).await;
        Ok(Response::new(self.cluster.pins(NamespaceId::DEFAULT)))
    }

    async fn set_retention(
        &self,
        request: Request<v1::SetRetentionRequest>,
    ) -> Result<Response<v1::SetRetentionResponse>, Status> {
        let deadline = deadline_of(request.metadata());
        let v1::SetRetentionRequest { keys, priority, duration_ms } = request.into_inner();
        let keys = keys_of(&keys, 1)?;
        let priority = u8::try_from(priority).ok().and_then(|priority| Priority::new(priority).ok());
        let priority = priority.ok_or_else(|| malformed("a retention priority must be 0 to 100"))?;
        let duration_ms = Some(duration_ms).filter(|duration_ms| *duration_ms != 0);
        let retention = Retention { priority, duration_ms };
        let set = self.cluster.set_retention(NamespaceId::DEFAULT, &keys, retention, deadline).await;
        set.map_err(|error| status_of(&error))?;
        Ok(Response::new(v1::SetRetentionResponse {}))
    }
}
