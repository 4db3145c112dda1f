//! The client's side of the conversation, without the conversation: what was asked, what answers it,
//! and whether the answer may be believed.
//!
//! The session is pure. It reads no clock and no socket: frames go in as values, time as an argument,
//! and outcomes leave through each request's [`Route`]. Every transport uses it, so the verification of
//! INV-BYTES and INV-FENCE exists once.

mod request;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::Instant;

use hearth_proto::frame::{BlockStatus, Body, Get, GetBlock, GetEntry, Keys, PutDone, TierBits};
use hearth_proto::limits::{CALL_DEADLINE_MS_MAX, CHAIN_BLOCKS_MAX, CONNECTION_REQUESTS_MAX};
use hearth_proto::{BlockKey, Generation, Incarnation, Tier, Urgency};

use crate::block_buf::BlockBuf;
use crate::mover::{GetCompletion, GetItem, Got, PutAck, PutCompletion, PutItem};
pub(crate) use request::refused_put;
use request::{GetSlot, GetWork, Request, Work};

/// Where the outcomes of one request go.
pub trait Route {
    /// Takes one outcome. It must not call back into the session.
    fn deliver(&self, outcome: Outcome);
}

/// What became of a request, or of one block of it.
#[derive(Debug)]
pub enum Outcome {
    /// One block of a get.
    Got(GetCompletion),
    /// One block of a put.
    Put(PutCompletion),
    /// A whole `Contains`.
    Tiers(Vec<TierBits>),
    /// A whole `Remove`.
    Removed(Vec<BlockStatus>),
    /// A whole `Contains` or `Remove` that failed.
    Failed(BlockStatus),
}

/// What the peer may not say. The connection that said it cannot be trusted further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// It answers a request that was never made.
    #[error("an answer to request {0}, which was never made")]
    NeverAsked(u64),
    /// It answers another question than the one asked.
    #[error("an answer of another kind than request {0} asked for")]
    WrongKind(u64),
    /// It answers for a block that the request does not have, or a second time.
    #[error("an answer for block {index} of request {request_id}, which does not await one")]
    NotAwaited {
        /// The request.
        request_id: u64,
        /// The block.
        index: u32,
    },
    /// It sends more bytes than the buffer that it was told of.
    #[error("block {index} of request {request_id} is longer than its buffer")]
    Oversize {
        /// The request.
        request_id: u64,
        /// The block.
        index: u32,
    },
    /// It answers for another number of keys than were asked.
    #[error("an answer to request {0} with another number of keys")]
    WrongCount(u64),
}

/// What the transport does with the payload of a block.
#[derive(Debug)]
pub enum Step {
    /// Receives it into [`Landing::room`] and then reports [`Session::landed`].
    Land(Landing),
    /// Reads it and throws it away.
    Discard,
}

/// A block whose bytes are arriving in the caller's buffer.
#[derive(Debug)]
pub struct Landing {
    request_id: u64,
    index: u32,
    buffer: BlockBuf,
    len: usize,
    crc32: u32,
    tier: Tier,
    generation: Generation,
    deadline: Instant,
}

impl Landing {
    /// Where the payload goes: exactly as long as it is.
    pub fn room(&mut self) -> &mut [u8] {
        self.buffer.room(self.len)
    }

    /// When the caller no longer waits for it: from then on the transport may drop it, half filled as it
    /// is, and throw away the rest of the payload.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
}

/// All requests of one connection that are not yet complete.
pub struct Session<R> {
    next_id: u64,
    requests: HashMap<u64, Request<R>>,
    ended: Option<BlockStatus>,
}

impl<R: Route> Default for Session<R> {
    fn default() -> Self {
        Self { next_id: 1, requests: HashMap::new(), ended: None }
    }
}

impl<R: Route> Session<R> {
    /// Why a request over `count` blocks cannot be made now.
    fn refusal(&self, count: usize, now: Instant, deadline: Instant) -> Option<BlockStatus> {
        if let Some(why) = self.ended {
            Some(why)
        } else if count > CHAIN_BLOCKS_MAX {
            Some(BlockStatus::BadRequest)
        } else if deadline <= now {
            Some(BlockStatus::DeadlineExceeded)
        } else if self.requests.len() >= CONNECTION_REQUESTS_MAX {
            Some(BlockStatus::Overloaded)
        } else {
            None
        }
    }

    fn insert(&mut self, work: Work, route: R) -> u64 {
        let request_id = self.next_id;
        self.next_id += 1;
        self.requests.insert(request_id, Request::new(work, route));
        request_id
    }

    /// Opens a get and gives its frame to send.
    ///
    /// # Errors
    /// The completions of all blocks, if the request cannot be made or asks for nothing.
    pub fn open_get(
        &mut self,
        items: Vec<GetItem>,
        expected: Incarnation,
        urgency: Urgency,
        now: Instant,
        deadline: Instant,
        route: R,
    ) -> Result<(u64, Body), Vec<Outcome>> {
        if let Some(why) = self.refusal(items.len(), now, deadline) {
            return Err(request::refused_get(items, why));
        }
        if items.is_empty() {
            return Err(Vec::new());
        }
        let mut entries = Vec::with_capacity(items.len());
        let mut slots = Vec::with_capacity(items.len());
        for item in items {
            let capacity = u32::try_from(item.buffer.capacity()).unwrap_or(u32::MAX);
            entries.push(GetEntry { key: item.key, capacity });
            slots.push(GetSlot::awaiting(item));
        }
        let request_id = self.insert(Work::Get(GetWork { slots, expected, deadline }), route);
        let deadline_ms = relative_ms(now, deadline);
        let get = Get { deadline_ms, urgency, incarnation: expected, entries };
        Ok((request_id, Body::Get(get)))
    }

    /// Opens a put. Blocks that the peer cannot take complete at once; the others are sent as long as
    /// [`Session::awaits_put`] says so.
    ///
    /// # Errors
    /// The completions of all blocks, if the request cannot be made or asks for nothing.
    pub fn open_put(
        &mut self,
        items: &[PutItem],
        block_bytes_max: usize,
        now: Instant,
        deadline: Instant,
        route: R,
    ) -> Result<u64, Vec<Outcome>> {
        if let Some(why) = self.refusal(items.len(), now, deadline) {
            return Err(refused_put(items.len(), why));
        }
        let mut awaited = Vec::with_capacity(items.len());
        for (index, item) in (0..).zip(items) {
            let refused = match item.payload.len() {
                0 => Some(BlockStatus::BadRequest),
                len if len > block_bytes_max => Some(BlockStatus::TooLarge),
                _ => None,
            };
            awaited.push(refused.is_none());
            if let Some(why) = refused {
                route.deliver(Outcome::Put(PutCompletion { index, result: Err(why) }));
            }
        }
        let request_id = self.insert(Work::Put(awaited), route);
        self.forget_if_complete(request_id);
        Ok(request_id)
    }

    /// Opens a `Contains` and gives its frame to send.
    ///
    /// # Errors
    /// Why the request cannot be made.
    pub fn open_contains(
        &mut self,
        keys: Vec<BlockKey>,
        now: Instant,
        deadline: Instant,
        route: R,
    ) -> Result<(u64, Body), BlockStatus> {
        self.open_keys(Work::Contains(keys.len()), keys, now, deadline, route)
            .map(|(request_id, keys)| (request_id, Body::Contains(keys)))
    }

    /// Opens a `Remove` and gives its frame to send.
    ///
    /// # Errors
    /// Why the request cannot be made.
    pub fn open_remove(
        &mut self,
        keys: Vec<BlockKey>,
        now: Instant,
        deadline: Instant,
        route: R,
    ) -> Result<(u64, Body), BlockStatus> {
        self.open_keys(Work::Remove(keys.len()), keys, now, deadline, route)
            .map(|(request_id, keys)| (request_id, Body::Remove(keys)))
    }

    fn open_keys(
        &mut self,
        work: Work,
        keys: Vec<BlockKey>,
        now: Instant,
        deadline: Instant,
        route: R,
    ) -> Result<(u64, Keys), BlockStatus> {
        match self.refusal(keys.len(), now, deadline) {
            Some(why) => Err(why),
            None => Ok((self.insert(work, route), Keys { deadline_ms: relative_ms(now, deadline), keys })),
        }
    }

    /// Whether a block of a put still awaits its answer, and is thus worth sending.
    pub fn awaits_put(&self, request_id: u64, index: u32) -> bool {
        match self.requests.get(&request_id).map(|request| &request.work) {
            Some(Work::Put(awaited)) => awaited.get(index as usize).is_some_and(|awaited| *awaited),
            _ => false,
        }
    }

    /// Whether the conversation has ended: everything asked from here on fails.
    pub fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Requests that are not yet complete.
    pub fn open_requests(&self) -> usize {
        self.requests.len()
    }

    /// Takes the answer for one block of a get and says what to do with the `payload_len` bytes behind it.
    ///
    /// # Errors
    /// [`Violation`]; the transport closes the connection.
    pub fn got_block(
        &mut self,
        request_id: u64,
        block: &GetBlock,
        payload_len: u32,
    ) -> Result<Step, Violation> {
        let Some(request) = self.answered(request_id)? else { return Ok(Step::Discard) };
        let Work::Get(get) = &mut request.work else { return Err(Violation::WrongKind(request_id)) };
        let (expected, deadline) = (get.expected, get.deadline);
        let index = block.index;
        let slot = get.slots.get_mut(index as usize).ok_or(Violation::NotAwaited { request_id, index })?;
        let GetSlot::Awaiting(item) = slot else { return Err(Violation::NotAwaited { request_id, index }) };
        let len = payload_len as usize;
        if len > item.buffer.capacity() {
            return Err(Violation::Oversize { request_id, index });
        }
        let failure = match (block.status, block.tier) {
            // The node registered anew between the question and the answer (INV-FENCE).
            (BlockStatus::Ok, _) if expected.0 != 0 && block.incarnation != expected => BlockStatus::Stale,
            (BlockStatus::Ok, Some(tier)) if block.key == item.key && block.generation.0 != 0 && len > 0 => {
                let buffer = std::mem::take(&mut item.buffer);
                *slot = GetSlot::Landing;
                let (crc32, generation) = (block.crc32, block.generation);
                let landing = Landing { request_id, index, buffer, len, crc32, tier, generation, deadline };
                return Ok(Step::Land(landing));
            }
            // Bytes of another block, or from a slot that nobody wrote (INV-BYTES, INV-FENCE).
            (BlockStatus::Ok, _) => BlockStatus::Corrupt,
            (status, _) => status,
        };
        let mut buffer = std::mem::take(&mut item.buffer);
        buffer.clear();
        *slot = GetSlot::Done;
        request.complete(Outcome::Got(GetCompletion {
            index,
            buffer,
            block_len: block.block_len,
            result: Err(failure),
        }));
        self.forget_if_complete(request_id);
        Ok(Step::Discard)
    }

    /// Takes a block whose payload has arrived, of which `crc32` was computed. If the request was
    /// abandoned meanwhile, the buffer is dropped.
    pub fn landed(&mut self, landing: Landing, crc32: u32) {
        let Landing { request_id, index, mut buffer, len, .. } = landing;
        let Some(request) = self.requests.get_mut(&request_id) else { return };
        let Work::Get(get) = &mut request.work else { return };
        get.slots[index as usize] = GetSlot::Done;
        let result = if crc32 == landing.crc32 {
            buffer.set_len(len);
            Ok(Got { tier: landing.tier, generation: landing.generation, len })
        } else {
            buffer.clear();
            Err(BlockStatus::Corrupt)
        };
        let block_len = u32::try_from(len).unwrap_or(u32::MAX);
        request.complete(Outcome::Got(GetCompletion { index, buffer, block_len, result }));
        self.forget_if_complete(request_id);
    }

    /// Takes answers for blocks of a put.
    ///
    /// # Errors
    /// [`Violation`]; the transport closes the connection.
    pub fn put_done(&mut self, request_id: u64, done: &PutDone) -> Result<(), Violation> {
        let Some(request) = self.answered(request_id)? else { return Ok(()) };
        for entry in &done.entries {
            let index = entry.index;
            let Work::Put(awaited) = &mut request.work else { return Err(Violation::WrongKind(request_id)) };
            match awaited.get_mut(index as usize) {
                Some(awaited) if *awaited => *awaited = false,
                _ => return Err(Violation::NotAwaited { request_id, index }),
            }
            let result = match entry.status {
                BlockStatus::Ok if entry.generation.0 == 0 => Err(BlockStatus::Corrupt),
                BlockStatus::Ok => Ok(PutAck { generation: entry.generation, existed: entry.existed }),
                status => Err(status),
            };
            request.complete(Outcome::Put(PutCompletion { index, result }));
        }
        self.forget_if_complete(request_id);
        Ok(())
    }

    /// Takes the answer to a `Contains`.
    ///
    /// # Errors
    /// [`Violation`]; the transport closes the connection.
    pub fn tiers(&mut self, request_id: u64, tiers: Vec<TierBits>) -> Result<(), Violation> {
        let Some(request) = self.answered(request_id)? else { return Ok(()) };
        match request.work {
            Work::Contains(count) if count == tiers.len() => request.complete(Outcome::Tiers(tiers)),
            Work::Contains(_) => return Err(Violation::WrongCount(request_id)),
            _ => return Err(Violation::WrongKind(request_id)),
        }
        self.requests.remove(&request_id);
        Ok(())
    }

    /// Takes the answer to a `Remove`.
    ///
    /// # Errors
    /// [`Violation`]; the transport closes the connection.
    pub fn removed(&mut self, request_id: u64, statuses: Vec<BlockStatus>) -> Result<(), Violation> {
        let Some(request) = self.answered(request_id)? else { return Ok(()) };
        match request.work {
            Work::Remove(count) if count == statuses.len() => request.complete(Outcome::Removed(statuses)),
            Work::Remove(_) => return Err(Violation::WrongCount(request_id)),
            _ => return Err(Violation::WrongKind(request_id)),
        }
        self.requests.remove(&request_id);
        Ok(())
    }

    /// The request that an answer is for; `None` if it was abandoned, for then the answer is merely late.
    fn answered(&mut self, request_id: u64) -> Result<Option<&mut Request<R>>, Violation> {
        if (1..self.next_id).contains(&request_id) {
            Ok(self.requests.get_mut(&request_id))
        } else {
            Err(Violation::NeverAsked(request_id))
        }
    }

    fn forget_if_complete(&mut self, request_id: u64) {
        if self.requests.get(&request_id).is_some_and(Request::is_complete) {
            self.requests.remove(&request_id);
        }
    }

    /// Forgets a request and gives, with `why`, what it had not completed: nothing if it is complete.
    /// Answers that come later are discarded.
    pub fn abandon(&mut self, request_id: u64, why: BlockStatus) -> Option<Vec<Outcome>> {
        self.requests.remove(&request_id).map(|request| request.unanswered(why))
    }

    /// Ends the conversation: completes all that is outstanding with `why`, and all that is asked later.
    pub fn end(&mut self, why: BlockStatus) {
        self.ended.get_or_insert(why);
        for (_, mut request) in self.requests.drain() {
            for outcome in request.take_unanswered(why) {
                request.route.deliver(outcome);
            }
        }
    }
}

/// Milliseconds from `now` to `deadline` as they travel, at least one.
pub fn relative_ms(now: Instant, deadline: Instant) -> u32 {
    let ms = deadline.saturating_duration_since(now).as_millis();
    u32::try_from(ms.clamp(1, u128::from(CALL_DEADLINE_MS_MAX))).expect("the longest deadline fits 32 bits")
}
