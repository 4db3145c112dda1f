//! The Operate service: what an operator changes in a cluster, asked of any member.

use hearth_cluster::Cluster;
use hearth_proto::v1;
use hearth_proto::v1::operate_server::Operate;
use tonic::{Request, Response, Status};

use crate::calls::{deadline_of, malformed, refresh_deadline_of, status_of};
use crate::operate_nodes;
use crate::progress::Progress;

/// Changes go to the control group; lists are this node's copy of it.
pub(crate) struct OperateService {
    pub(crate) cluster: Cluster,
    pub(crate) progress: Progress,
}

#[tonic::async_trait]
impl Operate for OperateService {
    async fn drain(&self, request: Request<v1::DrainRequest>) -> Result<Response<v1::DrainResponse>, Status> {
        let deadline = deadline_of(request.metadata());
        let node = request.into_inner().node_id;
        let changed = operate_nodes::drain(&self.cluster, node, false, deadline).await?;
        Ok(Response::new(v1::DrainResponse { changed }))
    }

    async fn undrain(
        &self,
        request: Request<v1::UndrainRequest>,
    ) -> Result<Response<v1::UndrainResponse>, Status> {
        let deadline = deadline_of(request.metadata());
        let node = request.into_inner().node_id;
        let changed = operate_nodes::drain(&self.cluster, node, true, deadline).await?;
        Ok(Response::new(v1::UndrainResponse { changed }))
    }

    async fn progress(
        &self,
        request: Request<v1::ProgressRequest>,
    ) -> Result<Response<v1::ProgressResponse>, Status> {
        let answer = self.progress.answer(refresh_deadline_of(request.metadata())).await;
        answer.map(Response::new).map_err(|unknown| Status::unavailable(unknown.to_string()))
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveRequest>,
    ) -> Result<Response<v1::RemoveResponse>, Status> {
        let deadline = deadline_of(request.metadata());
        let removed =
            operate_nodes::remove(&self.cluster, &self.progress, request.into_inner(), deadline).await;
        removed.map(Response::new)
    }

    async fn put_namespace(
        &self,
        request: Request<v1::PutNamespaceRequest>,
    ) -> Result<Response<v1::PutNamespaceResponse>, Status> {
        let deadline = deadline_of(request.metadata());
        let spec = request.into_inner().spec.ok_or_else(|| malformed("the namespace is missing"))?;
        let put = self.cluster.put_namespace(spec, deadline).await;
        let changed = put.map_err(|error| status_of(&error))?;
        Ok(Response::new(v1::PutNamespaceResponse { changed }))
    }

    async fn delete_namespace(
        &self,
        request: Request<v1::DeleteNamespaceRequest>,
    ) -> Result<Response<v1::DeleteNamespaceResponse>, Status> {
        let deadline = deadline_of(request.metadata());
        let deleted = self.cluster.delete_namespace(&request.get_ref().name, deadline).await;
        let changed = deleted.map_err(|error| status_of(&error))?;
        Ok(Response::new(v1::DeleteNamespaceResponse { changed }))
    }

    async fn namespaces(
        &self,
        request: Request<v1::NamespacesRequest>,
    ) -> Result<Response<v1::NamespacesResponse>, Status> {
        // Who changes part of what is listed must not bring back what somebody else has changed.
        self.cluster.refresh_control(refresh_deadline_of(request.metadata())).await;
        Ok(Response::new(v1::NamespacesResponse { namespaces: self.cluster.namespaces() }))
    }

    async fn put_policy(
        &self,
        request: Request<v1::PutPolicyRequest>,
    ) -> Result<Response<v1::PutPolicyResponse>, Status> {
        let deadline = deadline_of(request.metadata());
        let policy = request.into_inner().policy.ok_or_else(|| malformed("the policy is missing"))?;
        let put = self.cluster.put_policy(policy, deadline).await;
        let changed = put.map_err(|error| status_of(&error))?;
        Ok(Response::new(v1::PutPolicyResponse { changed }))
    }

    async fn policy(
        &self,
        request: Request<v1::PolicyRequest>,
    ) -> Result<Response<v1::PolicyResponse>, Status> {
        self.cluster.refresh_control(refresh_deadline_of(request.metadata())).await;
        Ok(Response::new(self.cluster.policy()))
    }

    async fn finalize_version(
        &self,
        request: Request<v1::FinalizeVersionRequest>,
    ) -> Result<Response<v1::FinalizeVersionResponse>, Status> {
        let deadline = deadline_of(request.metadata());
        operate_nodes::finalize_version(&self.cluster, request.into_inner(), deadline)
            .await
            .map(Response::new)
    }
}
