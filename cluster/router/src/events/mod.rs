//! What engines say about their blocks: KV events as vLLM and SGLang publish them over ZMQ.
//!
//! [`Message`] takes the parts of a ZMQ message apart, [`Stream`] puts the batches of one publisher in order and says
//! when to ask for a replay, and [`decode`] reads a batch. None of them has a socket, a clock or a task: whoever
//! subscribes brings messages and the time.
//!
//! Bytes come from whoever reaches the port. Nothing here recurses, and nothing is allocated for a length that was
//! only claimed: each list is as long as the bytes that it was read from allow.
//!
//! *Source*: `vllm/distributed/kv_events.py` of vLLM and `sglang/srt/disaggregation/kv_events.py` of SGLang.

mod batch;
mod decode;
mod dropped;
mod event;
mod fields;
mod frame;
mod held;
mod reader;
mod step;
mod stream;
#[cfg(test)]
mod tests;

pub use batch::{Batch, Event, Removed, SpecKind, Stored, Tokens};
pub use decode::{DecodeError, Options, decode};
pub use dropped::{DropReason, Dropped};
pub use frame::{FrameError, Message, replay_request};
pub use step::{ClearReason, Step, StreamStats, Taken};
pub use stream::Stream;
