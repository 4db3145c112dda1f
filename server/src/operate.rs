//! The Operate service: what an operator changes in a cluster, asked of any member.

use hearth_cluster::Cluster;
use hearth_proto::v1;
use hearth_proto::v1::operate_server::Operate;
use tonic::{Request, Response, Status};

use crate::freshness::deadline_of;
use crate::operate_nodes;

/// Changes go to the control group.
#[derive(Clone)]
pub(crate) struct OperateService {
    pub(crate) cluster: Cluster,
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
        _: Request<v1::ProgressRequest>,
    ) -> Result<Response<v1::ProgressResponse>, Status> {
        Err(not_built("the progress of drains and repairs"))
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveRequest>,
    ) -> Result<Response<v1::RemoveResponse>, Status> {
        let deadline = deadline_of(request.metadata());
        operate_nodes::remove(&self.cluster, request.into_inner(), deadline).await.map(Response::new)
    }

    async fn put_namespace(
        &self,
        _: Request<v1::PutNamespaceRequest>,
    ) -> Result<Response<v1::PutNamespaceResponse>, Status> {
        Err(not_built("namespaces"))
    }

    async fn delete_namespace(
        &self,
        _: Request<v1::DeleteNamespaceRequest>,
    ) -> Result<Response<v1::DeleteNamespaceResponse>, Status> {
        Err(not_built("namespaces"))
    }

    async fn namespaces(
        &self,
        _: Request<v1::NamespacesRequest>,
    ) -> Result<Response<v1::NamespacesResponse>, Status> {
        Err(not_built("namespaces"))
    }

    async fn put_policy(
        &self,
        _: Request<v1::PutPolicyRequest>,
    ) -> Result<Response<v1::PutPolicyResponse>, Status> {
        Err(not_built("policies"))
    }

    async fn policy(&self, _: Request<v1::PolicyRequest>) -> Result<Response<v1::PolicyResponse>, Status> {
        Err(not_built("policies"))
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

fn not_built(what: &str) -> Status {
    Status::unimplemented(format!("this build does not know {what}"))
}
