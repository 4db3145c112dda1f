//! Pins and retention: what is kept, how long, and at whose cost.

use std::time::Duration;

use bytes::Bytes;
use hearth_proto::limits::GRPC_MESSAGE_BYTES_MAX;
use hearth_proto::v1::retention_client::RetentionClient;
use hearth_proto::{Retention, v1};

use crate::ask::{CallError, Turn};
use crate::chain::Chain;
use crate::claims::millis;
use crate::client::Client;

impl Client {
    /// Keeps the blocks of a chain from eviction on every node for `ttl`, within the namespace's quota. The
    /// same id again renews the pin, or puts these blocks in the place of the former ones.
    ///
    /// # Errors
    /// [`CallError`]; repeating it is harmless.
    pub async fn pin(
        &self,
        pin_id: [u8; 16],
        chain: &Chain,
        ttl: Duration,
        patience: Option<Duration>,
    ) -> Result<v1::PinResponse, CallError> {
        let keys = chain.keys().iter().map(|key| key.0.to_vec().into()).collect();
        self.pin_keys(pin_id, keys, ttl, patience).await
    }

    /// Renews a pin as it is.
    ///
    /// # Errors
    /// [`CallError`]; `Refused` with `UnknownPin` if it has ended: pin the blocks again.
    pub async fn renew_pin(
        &self,
        pin_id: [u8; 16],
        ttl: Duration,
        patience: Option<Duration>,
    ) -> Result<v1::PinResponse, CallError> {
        self.pin_keys(pin_id, Vec::new(), ttl, patience).await
    }

    async fn pin_keys(
        &self,
        pin_id: [u8; 16],
        keys: Vec<Bytes>,
        ttl: Duration,
        patience: Option<Duration>,
    ) -> Result<v1::PinResponse, CallError> {
        let request = v1::PinRequest { pin_id: pin_id.to_vec().into(), keys, ttl_ms: millis(ttl) };
        let call = async |channel, request| RetentionClient::new(channel).pin(request).await;
        self.ask(request, self.deadline(patience), Turn::Share, call).await
    }

    /// Ends a pin; false if there was none, or none any more.
    ///
    /// # Errors
    /// [`CallError`]; repeating it is harmless.
    pub async fn unpin(&self, pin_id: [u8; 16], patience: Option<Duration>) -> Result<bool, CallError> {
        let request = v1::UnpinRequest { pin_id: pin_id.to_vec().into() };
        let call = async |channel, request| RetentionClient::new(channel).unpin(request).await;
        Ok(self.ask(request, self.deadline(patience), Turn::Share, call).await?.changed)
    }

    /// The pins of the caller's namespace, as the member that answers has them.
    ///
    /// # Errors
    /// [`CallError`] if none answers.
    pub async fn pins(&self, patience: Option<Duration>) -> Result<v1::PinsResponse, CallError> {
        let call = async |channel, request| {
            let service = RetentionClient::new(channel).max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX);
            { service }.pins(request).await
        };
        self.ask(v1::PinsRequest {}, self.deadline(patience), Turn::Share, call).await
    }

    /// Changes how the blocks of a chain are kept, wherever they lie and come to.
    ///
    /// # Errors
    /// [`CallError`]; repeating it is harmless.
    pub async fn set_retention(
        &self,
        chain: &Chain,
        retention: Retention,
        patience: Option<Duration>,
    ) -> Result<(), CallError> {
        let request = v1::SetRetentionRequest {
            keys: chain.keys().iter().map(|key| key.0.to_vec().into()).collect(),
            priority: u32::from(retention.priority.value()),
            duration_ms: retention.duration_ms.unwrap_or(0),
        };
        let call = async |channel, request| RetentionClient::new(channel).set_retention(request).await;
        self.ask(request, self.deadline(patience), Turn::Share, call).await.map(drop)
    }
}
