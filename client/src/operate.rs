//! What an operator changes in a cluster: namespaces and the policy.

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
}
