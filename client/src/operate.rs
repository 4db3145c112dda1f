//! What an operator changes in a cluster: nodes, versions, namespaces and the policy.

use hearth_proto::v1;
use hearth_proto::v1::operate_client::OperateClient;

use crate::ask::{CallError, Turn};
use crate::client::Client;

impl Client {
    /// Makes a namespace or changes it; false if it was so already.
    ///
    /// # Errors
    /// [`CallError`]; repeating it is harmless.
    pub async fn put_namespace(&self, spec: v1::NamespaceSpec) -> Result<bool, CallError> {
        let request = v1::PutNamespaceRequest { spec: Some(spec) };
        let call = async |channel, request| OperateClient::new(channel).put_namespace(request).await;
        Ok(self.ask(request, self.deadline(None), Turn::Share, call).await?.changed)
    }

    /// Removes a namespace that pins nothing; false if there is none of that name.
    ///
    /// # Errors
    /// [`CallError`]; repeating it is harmless.
    pub async fn delete_namespace(&self, name: &str) -> Result<bool, CallError> {
        let request = v1::DeleteNamespaceRequest { name: name.to_owned() };
        let call = async |channel, request| OperateClient::new(channel).delete_namespace(request).await;
        Ok(self.ask(request, self.deadline(None), Turn::Share, call).await?.changed)
    }

    /// Every namespace with what it pins, as the member that answers has them.
    ///
    /// # Errors
    /// [`CallError`] if none answers.
    pub async fn namespaces(&self) -> Result<Vec<v1::NamespaceUse>, CallError> {
        let call = async |channel, request| OperateClient::new(channel).namespaces(request).await;
        let answer = self.ask(v1::NamespacesRequest {}, self.deadline(None), Turn::Share, call).await?;
        Ok(answer.namespaces)
    }

    /// Replaces the policy of the cluster; false if it was so already.
    ///
    /// # Errors
    /// [`CallError`]; repeating it is harmless.
    pub async fn put_policy(&self, policy: v1::ClusterPolicy) -> Result<bool, CallError> {
        let request = v1::PutPolicyRequest { policy: Some(policy) };
        let call = async |channel, request| OperateClient::new(channel).put_policy(request).await;
        Ok(self.ask(request, self.deadline(None), Turn::Share, call).await?.changed)
    }

    /// The policy of the cluster, as the member that answers has it.
    ///
    /// # Errors
    /// [`CallError`] if none answers.
    pub async fn policy(&self) -> Result<v1::PolicyResponse, CallError> {
        let call = async |channel, request| OperateClient::new(channel).policy(request).await;
        self.ask(v1::PolicyRequest {}, self.deadline(None), Turn::Share, call).await
    }

    /// Begins to move off a node what only it holds; false if it is drained already.
    ///
    /// # Errors
    /// [`CallError`]; repeating it is harmless.
    pub async fn drain_node(&self, node_id: u64) -> Result<bool, CallError> {
        let call = async |channel, request| OperateClient::new(channel).drain(request).await;
        let request = v1::DrainRequest { node_id };
        Ok(self.ask(request, self.deadline(None), Turn::Share, call).await?.changed)
    }

    /// Ends a drain; false if there is none.
    ///
    /// # Errors
    /// [`CallError`]; repeating it is harmless.
    pub async fn undrain_node(&self, node_id: u64) -> Result<bool, CallError> {
        let call = async |channel, request| OperateClient::new(channel).undrain(request).await;
        let request = v1::UndrainRequest { node_id };
        Ok(self.ask(request, self.deadline(None), Turn::Share, call).await?.changed)
    }

    /// How far drains and repairs are, as the member that answers sees it.
    ///
    /// # Errors
    /// [`CallError`] if none answers.
    pub async fn progress(&self) -> Result<v1::ProgressResponse, CallError> {
        let call = async |channel, request| OperateClient::new(channel).progress(request).await;
        self.ask(v1::ProgressRequest {}, self.deadline(None), Turn::Share, call).await
    }

    /// Takes a node out for good; with `force` also one that is not drained.
    ///
    /// # Errors
    /// [`CallError`]; repeating it is harmless.
    pub async fn remove_node(&self, node_id: u64, force: bool) -> Result<bool, CallError> {
        let call = async |channel, request| OperateClient::new(channel).remove(request).await;
        let request = v1::RemoveRequest { node_id, force };
        Ok(self.ask(request, self.deadline(None), Turn::Share, call).await?.changed)
    }

    /// Lets commands up to `version` into the logs; zero is the newest that the answering node knows.
    ///
    /// # Errors
    /// [`CallError`]; the refusal names the nodes that know less.
    pub async fn finalize_version(&self, version: u32) -> Result<v1::FinalizeVersionResponse, CallError> {
        let call = async |channel, request| OperateClient::new(channel).finalize_version(request).await;
        self.ask(v1::FinalizeVersionRequest { version }, self.deadline(None), Turn::Share, call).await
    }
}
