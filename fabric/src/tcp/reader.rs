//! Reads frames off a socket: heads through a small buffer, payloads straight to where they go.

use std::io::{self, IoSliceMut};
use std::time::{Duration, Instant};

use hearth_proto::frame::{Body, Header};
use hearth_proto::limits::{FRAME_HEADER_BYTES, READ_AHEAD_BYTES};
use tokio::net::tcp::OwnedReadHalf;

use super::error::EndError;
use super::timeouts::transfer_time_max;

/// The reading half of a connection.
pub(super) struct FrameReader {
    socket: OwnedReadHalf,
    /// Bytes `start..end` are read and not yet used. It grows only for the body of the frame at hand,
    /// whose length the header's kind bounds.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes of the payload of the frame at hand that were not yet taken.
    payload_left: usize,
    /// When all of the payload must have arrived, once it was waited for.
    payload_until: Option<Instant>,
    stall: Duration,
}

/// How the receiving of a payload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// All of it is there.
    Whole,
    /// The deadline passed first; [`FrameReader::skip_payload`] takes what is missing.
    Late,
}

impl FrameReader {
    pub(super) fn new(socket: OwnedReadHalf, stall: Duration) -> Self {
        Self {
            socket,
            buffer: vec![0; READ_AHEAD_BYTES],
            start: 0,
            end: 0,
            payload_left: 0,
            payload_until: None,
            stall,
        }
    }

    /// The next header and body; the caller then takes the payload if there is one. `idle` bounds the
    /// wait for the first byte, if anything does.
    ///
    /// *Cancel safety*: what was read stays in the buffer.
    pub(super) async fn frame(&mut self, idle: Option<Duration>) -> Result<(Header, Body), EndError> {
        assert_eq!(self.payload_left, 0, "the payload of one frame is taken before the next frame");
        // A socket that always has more shall not keep the other tasks of this thread waiting.
        tokio::task::coop::consume_budget().await;
        self.want(FRAME_HEADER_BYTES, idle).await?;
        let (head, _) = self.buffer[self.start..].split_first_chunk().expect("a header is in the buffer");
        let header = Header::decode(head)?;
        let body_len = header.body_len as usize;
        self.want(FRAME_HEADER_BYTES + body_len, idle).await?;
        let body_start = self.start + FRAME_HEADER_BYTES;
        let body = Body::decode(&header, &self.buffer[body_start..body_start + body_len])?;
        self.start = body_start + body_len;
        if self.start == self.end && self.buffer.len() > READ_AHEAD_BYTES {
            // A thousand connections that once had a long body each must not keep its memory.
            self.buffer.truncate(READ_AHEAD_BYTES);
            self.buffer.shrink_to_fit();
            (self.start, self.end) = (0, 0);
        }
        (self.payload_left, self.payload_until) = (header.payload_len as usize, None);
        Ok((header, body))
    }

    /// Waits until `len` bytes are in the buffer.
    async fn want(&mut self, len: usize, idle: Option<Duration>) -> Result<(), EndError> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.start + len > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if len > self.buffer.len() {
                self.buffer.resize(len, 0);
            }
        }
        let mut until = None;
        while self.end - self.start < len {
            match self.socket.try_read(&mut self.buffer[self.end..]) {
                Ok(0) => return Err(self.closed()),
                Ok(count) => self.end += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.end > self.start => {
                    // All of it within one stall, and not a stall for every byte of it.
                    let until = *until.get_or_insert_with(|| Instant::now() + self.stall);
                    self.readable_by(until).await?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match idle {
                    None => self.socket.readable().await?,
                    Some(idle) => tokio::time::timeout(idle, self.socket.readable())
                        .await
                        .map_err(|_| EndError::Idle)??,
                },
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The peer closed: politely between two frames, or in the middle of one.
    fn closed(&self) -> EndError {
        if self.end == self.start {
            EndError::Closed
        } else {
            io::Error::from(io::ErrorKind::UnexpectedEof).into()
        }
    }

    /// Receives the payload of the frame at hand into `room`, which is as long as it is, and shows each
    /// piece that landed to `landed` while it is still in the cache. What comes after the payload in the
    /// same system call lands in the buffer, so that the next head costs no call of its own.
    pub(super) async fn payload(
        &mut self,
        room: &mut [u8],
        deadline: Instant,
        mut landed: impl FnMut(&[u8]),
    ) -> Result<Arrival, EndError> {
        assert_eq!(room.len(), self.payload_left, "a payload has exactly the room that it needs");
        let buffered = room.len().min(self.end - self.start);
        room[..buffered].copy_from_slice(&self.buffer[self.start..self.start + buffered]);
        landed(&room[..buffered]);
        self.start += buffered;
        self.payload_left -= buffered;
        while self.payload_left > 0 {
            let missing = self.payload_left;
            let filled = room.len() - missing;
            let mut parts =
                [IoSliceMut::new(&mut room[filled..]), IoSliceMut::new(&mut self.buffer[..READ_AHEAD_BYTES])];
            match self.socket.try_read_vectored(&mut parts) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(count) => {
                    let taken = count.min(missing);
                    landed(&room[filled..filled + taken]);
                    self.payload_left -= taken;
                    (self.start, self.end) = (0, count - taken);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let until = self.payload_limit();
                    if until < deadline {
                        self.readable_by(until).await?;
                    } else {
                        match self.readable_by(deadline).await {
                            Err(EndError::Stalled) => return Ok(Arrival::Late),
                            ready => ready?,
                        }
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Arrival::Whole)
    }

    /// Reads what is left of the payload of the frame at hand and throws it away.
    pub(super) async fn skip_payload(&mut self) -> Result<(), EndError> {
        loop {
            let taken = self.payload_left.min(self.end - self.start);
            self.start += taken;
            self.payload_left -= taken;
            if self.payload_left == 0 {
                return Ok(());
            }
            (self.start, self.end) = (0, 0);
            match self.socket.try_read(&mut self.buffer) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(count) => self.end = count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let until = self.payload_limit();
                    self.readable_by(until).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// How long the peer may now leave this end waiting for more of a payload: for one stall, and not
    /// beyond the time that the payload has as a whole.
    fn payload_limit(&mut self) -> Instant {
        let now = Instant::now();
        let all = transfer_time_max(self.stall, self.payload_left);
        (*self.payload_until.get_or_insert(now + all)).min(now + self.stall)
    }

    /// Waits for the socket. A moment that has passed is too late even if there is something to read:
    /// there always is, when a peer trickles fast enough.
    async fn readable_by(&self, until: Instant) -> Result<(), EndError> {
        if until <= Instant::now() {
            return Err(EndError::Stalled);
        }
        let ready = tokio::time::timeout_at(until.into(), self.socket.readable()).await;
        ready.map_err(|_| EndError::Stalled)?.map_err(Into::into)
    }

    /// Reads and forgets until the peer closes, so that closing here does not throw away what it has
    /// not yet read of our last words.
    pub(super) async fn linger(&mut self, patience: Duration) {
        let drained = async {
            loop {
                match self.socket.try_read(&mut self.buffer) {
                    Ok(0) => return,
                    Ok(_) => tokio::task::coop::consume_budget().await,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        if self.socket.readable().await.is_err() {
                            return;
                        }
                    }
                    Err(_) => return,
                }
            }
        };
        let _out_of_patience = tokio::time::timeout(patience, drained).await;
    }
}
