//! An engine as far as routers see it: it publishes what it stores, and says again what was missed.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rmp::encode::{write_array_len, write_f64, write_nil, write_str, write_uint};
use tokio::task::JoinHandle;
use zeromq::{Endpoint, PubSocket, RouterSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

/// What vLLM sends at the end of a replay.
const END: [u8; 8] = [0xff; 8];

/// See the module. All of it is gone when it is dropped.
pub(crate) struct Engine {
    live: PubSocket,
    pub(crate) endpoint: String,
    pub(crate) replay_endpoint: String,
    batches: Arc<Mutex<Vec<Bytes>>>,
    replay: JoinHandle<()>,
}

impl Engine {
    pub(crate) async fn start() -> Self {
        let mut live = PubSocket::new();
        let endpoint = address(&live.bind("tcp://127.0.0.1:0").await.expect("a free port"));
        let mut replay = RouterSocket::new();
        let replay_endpoint = address(&replay.bind("tcp://127.0.0.1:0").await.expect("a free port"));
        let batches = Arc::<Mutex<Vec<Bytes>>>::default();
        let known = Arc::clone(&batches);
        let replay = tokio::spawn(async move {
            while let Ok(asked) = replay.recv().await {
                let parts = asked.into_vec();
                let [who, _, from] = parts.as_slice() else {
                    panic!("not what engines are asked: {parts:?}")
                };
                let from = u64::from_be_bytes(from[..].try_into().expect("a number of eight bytes"));
                let missed: Vec<(usize, Bytes)> = known
                    .lock()
                    .expect("nobody broke")
                    .iter()
                    .cloned()
                    .enumerate()
                    .skip(from as usize)
                    .collect();
                for (seq, batch) in missed {
                    replay
                        .send(answer(who, (seq as u64).to_be_bytes(), batch))
                        .await
                        .expect("who asked is there");
                }
                replay.send(answer(who, END, Bytes::new())).await.expect("who asked is there");
            }
        });
        Self { live, endpoint, replay_endpoint, batches, replay }
    }

    /// Says that it holds blocks from now on.
    pub(crate) async fn stored(&mut self, hashes: &[u64], parent: Option<u64>, tokens: &[u32], medium: &str) {
        let batch = batch(&[stored(hashes, parent, tokens, medium)]);
        self.publish(batch).await;
    }

    /// Says that it holds them no longer.
    pub(crate) async fn removed(&mut self, hashes: &[u64], medium: &str) {
        let mut event = Vec::new();
        write_array_len(&mut event, 3).expect("memory");
        write_str(&mut event, "BlockRemoved").expect("memory");
        numbers(&mut event, hashes.iter().copied());
        write_str(&mut event, medium).expect("memory");
        self.publish(batch(&[event])).await;
    }

    /// Publishes a batch, or whatever else.
    pub(crate) async fn publish(&mut self, batch: Vec<u8>) {
        let seq = self.lose(batch);
        let payload = self.batches.lock().expect("nobody broke")[seq].clone();
        let mut message = ZmqMessage::from(Bytes::from_static(b"kv-events"));
        message.push_back(Bytes::copy_from_slice(&(seq as u64).to_be_bytes()));
        message.push_back(payload);
        self.live.send(message).await.expect("a publisher waits for nobody");
    }

    /// Has a batch that never arrives, and says it again if it is asked.
    pub(crate) fn lose(&mut self, batch: Vec<u8>) -> usize {
        let mut batches = self.batches.lock().expect("nobody broke");
        batches.push(batch.into());
        batches.len() - 1
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.replay.abort();
    }
}

fn address(endpoint: &Endpoint) -> String {
    endpoint.to_string()
}

fn answer(who: &Bytes, seq: [u8; 8], batch: Bytes) -> ZmqMessage {
    let mut message = ZmqMessage::from(who.clone());
    message.push_back(Bytes::new());
    message.push_back(Bytes::copy_from_slice(&seq));
    message.push_back(batch);
    message
}

/// A batch as vLLM's arrays have it.
pub(crate) fn batch(events: &[Vec<u8>]) -> Vec<u8> {
    let mut batch = Vec::new();
    write_array_len(&mut batch, 3).expect("memory");
    write_f64(&mut batch, 1.5).expect("memory");
    write_array_len(&mut batch, events.len() as u32).expect("memory");
    events.iter().for_each(|event| batch.extend_from_slice(event));
    write_nil(&mut batch).expect("memory");
    batch
}

/// Blocks of as many tokens as there are for each.
pub(crate) fn stored(hashes: &[u64], parent: Option<u64>, tokens: &[u32], medium: &str) -> Vec<u8> {
    let mut event = Vec::new();
    write_array_len(&mut event, 7).expect("memory");
    write_str(&mut event, "BlockStored").expect("memory");
    numbers(&mut event, hashes.iter().copied());
    if let Some(parent) = parent {
        write_uint(&mut event, parent).expect("memory");
    } else {
        write_nil(&mut event).expect("memory");
    }
    numbers(&mut event, tokens.iter().map(|token| u64::from(*token)));
    write_uint(&mut event, (tokens.len() / hashes.len()) as u64).expect("memory");
    write_nil(&mut event).expect("memory");
    write_str(&mut event, medium).expect("memory");
    event
}

fn numbers(event: &mut Vec<u8>, numbers: impl ExactSizeIterator<Item = u64>) {
    write_array_len(event, numbers.len() as u32).expect("memory");
    for number in numbers {
        write_uint(event, number).expect("memory");
    }
}
