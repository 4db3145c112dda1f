//! What operators ask of a cluster: nodes and versions. Every call may be repeated without harm.

use std::time::Instant;

use hearth_proto::v1;
use hearth_proto::v1::operate_client::OperateClient;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::client::{Client, cause_of, share_of};
use crate::error::OperateError;

impl Client {
    /// Begins to move off a node what only it holds. Whether that changed anything.
    ///
    /// # Errors
    /// [`OperateError`]
    pub async fn drain_node(&self, node_id: u64) -> Result<bool, OperateError> {
        let ask = async |mut service: OperateClient<Channel>, request| service.drain(request).await;
        self.operate(v1::DrainRequest { node_id }, ask).await.map(|answer| answer.changed)
    }

    /// Ends a drain.
    ///
    /// # Errors
    /// [`OperateError`]
    pub async fn undrain_node(&self, node_id: u64) -> Result<bool, OperateError> {
        let ask = async |mut service: OperateClient<Channel>, request| service.undrain(request).await;
        self.operate(v1::UndrainRequest { node_id }, ask).await.map(|answer| answer.changed)
    }

    /// Takes a node out for good; with `force` also one that is not drained.
    ///
    /// # Errors
    /// [`OperateError`]
    pub async fn remove_node(&self, node_id: u64, force: bool) -> Result<bool, OperateError> {
        let ask = async |mut service: OperateClient<Channel>, request| service.remove(request).await;
        self.operate(v1::RemoveRequest { node_id, force }, ask).await.map(|answer| answer.changed)
    }

    /// Lets commands up to `version` into the logs; zero is the newest that the answering node knows.
    ///
    /// # Errors
    /// [`OperateError`]; the refusal names the nodes that know less.
    pub async fn finalize_version(&self, version: u32) -> Result<v1::FinalizeVersionResponse, OperateError> {
        let ask =
            async |mut service: OperateClient<Channel>, request| service.finalize_version(request).await;
        self.operate(v1::FinalizeVersionRequest { version }, ask).await
    }

    /// Asks one member after the other until one has done it, or refused it.
    async fn operate<Q: Clone, A>(
        &self,
        message: Q,
        ask: impl AsyncFn(OperateClient<Channel>, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, OperateError> {
        let deadline = self.deadline(None);
        let routers = self.inner.topology.routers();
        let mut problem = "no member is known".to_owned();
        for (position, router) in routers.iter().enumerate() {
            let asked = Instant::now();
            if !router.admits(asked) {
                continue;
            }
            let until = share_of(deadline, routers.len() - position);
            let mut request = Request::new(message.clone());
            request.set_timeout(until.saturating_duration_since(asked));
            let service = OperateClient::new(router.channel.clone());
            match tokio::time::timeout_at(until.into(), ask(service, request)).await {
                Ok(Ok(answer)) => {
                    router.succeeded();
                    return Ok(answer.into_inner());
                }
                Ok(Err(status)) if status.code() == Code::FailedPrecondition => {
                    router.succeeded();
                    return Err(OperateError::Refused { detail: status.message().to_owned() });
                }
                Ok(Err(status)) => problem = format!("{}: {}", router.address, cause_of(&status)),
                Err(_) => {
                    router.was_silent(asked, until);
                    problem = format!("{}: no answer in time", router.address);
                }
            }
        }
        Err(OperateError::NotDone { problem })
    }
}
