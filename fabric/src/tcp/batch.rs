//! Frames on their way out: heads in one buffer, payloads where they lie, one system call for many.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::{Duration, Instant};

use hearth_proto::frame::Body;
use hearth_proto::limits::{FRAME_BODY_BYTES_MAX, WRITE_BATCH_BYTES, WRITEV_BUFFERS_MAX};
use tokio::net::tcp::OwnedWriteHalf;

use super::error::EndError;
use super::timeouts::transfer_time_max;

/// Frames being written. A payload is dropped as soon as the kernel has all of it.
pub(super) struct Batch<P> {
    heads: Vec<u8>,
    parts: VecDeque<Part<P>>,
    /// Where the next part's head begins in `heads`.
    head_end: usize,
    payload_bytes: usize,
    /// Bytes of the first part that the kernel has.
    sent: usize,
    /// When all of it must be written, once the socket was full.
    until: Option<Instant>,
}

struct Part<P> {
    head: std::ops::Range<usize>,
    payload: Option<P>,
}

impl<P: AsRef<[u8]>> Part<P> {
    fn payload(&self) -> &[u8] {
        self.payload.as_ref().map_or(&[], AsRef::as_ref)
    }
}

impl<P: AsRef<[u8]>> Batch<P> {
    pub(super) fn new() -> Self {
        Self {
            heads: Vec::new(),
            parts: VecDeque::new(),
            head_end: 0,
            payload_bytes: 0,
            sent: 0,
            until: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether it holds as much as one write shall take.
    pub(super) fn is_full(&self) -> bool {
        self.parts.len() * 2 >= WRITEV_BUFFERS_MAX
            || self.payload_bytes >= WRITE_BATCH_BYTES
            || self.heads.len() >= FRAME_BODY_BYTES_MAX
    }

    /// Appends a frame.
    pub(super) fn push(&mut self, request_id: u64, body: &Body, payload: Option<P>) {
        let payload_len = payload.as_ref().map_or(0, |payload| payload.as_ref().len());
        let wire_len = u32::try_from(payload_len).expect("a payload is at most BLOCK_BYTES_MAX");
        body.encode(request_id, wire_len, &mut self.heads);
        self.append(payload, payload_len);
    }

    /// Appends a frame without payload that was encoded before.
    pub(super) fn push_encoded(&mut self, frame: &[u8]) {
        self.heads.extend_from_slice(frame);
        self.append(None, 0);
    }

    fn append(&mut self, payload: Option<P>, payload_len: usize) {
        let head = self.head_end..self.heads.len();
        self.head_end = head.end;
        self.payload_bytes += payload_len;
        match self.parts.back_mut() {
            // Frames without payload lie side by side and are written as one piece.
            Some(last) if last.payload.is_none() => {
                last.head.end = head.end;
                last.payload = payload;
            }
            _ => self.parts.push_back(Part { head, payload }),
        }
    }

    /// Writes all of it. `stall` bounds the wait for the peer to take anything, and with the least rate
    /// of a transfer the wait for it to take everything: a peer that reads a little now and then must
    /// not keep the payloads for ever.
    ///
    /// *Cancel safety*: what the kernel took is remembered; call again to go on.
    pub(super) async fn write(&mut self, socket: &OwnedWriteHalf, stall: Duration) -> Result<(), EndError> {
        while !self.parts.is_empty() {
            match self.write_once(socket) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Ok(count) => self.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let now = Instant::now();
                    let all = transfer_time_max(stall, self.heads.len() + self.payload_bytes);
                    let until = (*self.until.get_or_insert(now + all)).min(now + stall);
                    if until <= now {
                        return Err(EndError::Stalled);
                    }
                    let ready = tokio::time::timeout_at(until.into(), socket.writable()).await;
                    ready.map_err(|_| EndError::Stalled)??;
                }
                Err(error) => return Err(error.into()),
            }
        }
        tokio::task::coop::consume_budget().await;
        Ok(())
    }

    fn write_once(&self, socket: &OwnedWriteHalf) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); WRITEV_BUFFERS_MAX];
        let mut count = 0;
        let mut skip = self.sent;
        for part in self.parts.iter().take(WRITEV_BUFFERS_MAX / 2) {
            for piece in [&self.heads[part.head.clone()], part.payload()] {
                let skipped = skip.min(piece.len());
                skip -= skipped;
                if skipped < piece.len() {
                    slices[count] = IoSlice::new(&piece[skipped..]);
                    count += 1;
                }
            }
        }
        socket.try_write_vectored(&slices[..count])
    }

    fn advance(&mut self, count: usize) {
        self.sent += count;
        while let Some(part) = self.parts.front() {
            let len = part.head.len() + part.payload().len();
            if self.sent < len {
                return;
            }
            self.sent -= len;
            self.parts.pop_front();
        }
        assert_eq!(self.sent, 0, "the kernel takes no more than it is given");
        self.heads.clear();
        self.head_end = 0;
        self.payload_bytes = 0;
        self.until = None;
    }
}
