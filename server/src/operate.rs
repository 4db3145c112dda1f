//! The Operate service, as far as this node answers it by itself.

use hearth_proto::v1;
use hearth_proto::v1::operate_server::Operate;
use tonic::{Request, Response, Status};

use crate::progress::Progress;

/// What operators ask.
pub(crate) struct OperateService {
    pub(crate) progress: Progress,
}

/// What this build does not answer.
fn unknown<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("this build does not answer that; ask a newer node"))
}

#[tonic::async_trait]
impl Operate for OperateService {
    async fn progress(
        &self,
        _: Request<v1::ProgressRequest>,
    ) -> Result<Response<v1::ProgressResponse>, Status> {
        Ok(Response::new(self.progress.answer().await))
    }

    async fn drain(&self, _: Request<v1::DrainRequest>) -> Result<Response<v1::DrainResponse>, Status> {
        unknown()
    }

    async fn undrain(&self, _: Request<v1::UndrainRequest>) -> Result<Response<v1::UndrainResponse>, Status> {
        unknown()
    }

    async fn remove(&self, _: Request<v1::RemoveRequest>) -> Result<Response<v1::RemoveResponse>, Status> {
        unknown()
    }

    async fn put_namespace(
        &self,
        _: Request<v1::PutNamespaceRequest>,
    ) -> Result<Response<v1::PutNamespaceResponse>, Status> {
        unknown()
    }

    async fn delete_namespace(
        &self,
        _: Request<v1::DeleteNamespaceRequest>,
    ) -> Result<Response<v1::DeleteNamespaceResponse>, Status> {
        unknown()
    }

    async fn namespaces(
        &self,
        _: Request<v1::NamespacesRequest>,
    ) -> Result<Response<v1::NamespacesResponse>, Status> {
        unknown()
    }

    async fn put_policy(
        &self,
        _: Request<v1::PutPolicyRequest>,
    ) -> Result<Response<v1::PutPolicyResponse>, Status> {
        unknown()
    }

    async fn policy(&self, _: Request<v1::PolicyRequest>) -> Result<Response<v1::PolicyResponse>, Status> {
        unknown()
    }

    async fn finalize_version(
        &self,
        _: Request<v1::FinalizeVersionRequest>,
    ) -> Result<Response<v1::FinalizeVersionResponse>, Status> {
        unknown()
    }
}
