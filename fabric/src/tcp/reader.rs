//! Reads frames off a socket: heads through a small buffer, payloads straight to where they go.

use std::io::{self, IoSliceMut};
use std::time::Duration;

use hearth_proto::frame::{Body, Header};
use hearth_proto::limits::{FRAME_HEADER_BYTES, READ_AHEAD_BYTES};
use tokio::net::tcp::OwnedReadHalf;

use super::error::EndError;

/// The reading half of a connection.
pub(super) struct FrameReader {
    socket: OwnedReadHalf,
    /// Bytes `start..end` are read and not yet used. It grows only for the body of the frame at hand,
    /// whose length the header's kind bounds.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    stall: Duration,
}

impl FrameReader {
    pub(super) fn new(socket: OwnedReadHalf, stall: Duration) -> Self {
        Self { socket, buffer: vec![0; READ_AHEAD_BYTES], start: 0, end: 0, stall }
    }

    /// The next header and body; the caller then takes the payload if there is one. `idle` bounds the
    /// wait for the first byte.
    ///
    /// *Cancel safety*: what was read stays in the buffer.
    pub(super) async fn frame(&mut self, idle: Duration) -> Result<(Header, Body), EndError> {
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
        Ok((header, body))
    }

    /// Waits until `len` bytes are in the buffer.
    async fn want(&mut self, len: usize, idle: Duration) -> Result<(), EndError> {
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
        while self.end - self.start < len {
            match self.socket.try_read(&mut self.buffer[self.end..]) {
                Ok(0) => return Err(self.closed()),
                Ok(count) => self.end += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let begun = self.end > self.start;
                    let patience = if begun { self.stall } else { idle };
                    match tokio::time::timeout(patience, self.socket.readable()).await {
                        Ok(ready) => ready?,
                        Err(_) if begun => return Err(EndError::Stalled),
                        Err(_) => return Err(EndError::Idle),
                    }
                }
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

    /// Receives a payload that fills `room` and gives its crc32. What comes after it in the same system
    /// call lands in the buffer, so that the next head costs no call of its own.
    pub(super) async fn payload(&mut self, room: &mut [u8]) -> Result<u32, EndError> {
        let mut hasher = crc32fast::Hasher::new();
        let mut filled = room.len().min(self.end - self.start);
        room[..filled].copy_from_slice(&self.buffer[self.start..self.start + filled]);
        hasher.update(&room[..filled]);
        self.start += filled;
        while filled < room.len() {
            let missing = room.len() - filled;
            let mut parts =
                [IoSliceMut::new(&mut room[filled..]), IoSliceMut::new(&mut self.buffer[..READ_AHEAD_BYTES])];
            match self.socket.try_read_vectored(&mut parts) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(count) => {
                    let landed = count.min(missing);
                    // Hashed piece by piece, while the piece is still in the cache.
                    hasher.update(&room[filled..filled + landed]);
                    filled += landed;
                    (self.start, self.end) = (0, count - landed);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.ready().await?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(hasher.finalize())
    }

    /// Reads a payload of `len` bytes and throws it away.
    pub(super) async fn discard(&mut self, len: usize) -> Result<(), EndError> {
        let mut missing = len;
        loop {
            let taken = missing.min(self.end - self.start);
            self.start += taken;
            missing -= taken;
            if missing == 0 {
                return Ok(());
            }
            (self.start, self.end) = (0, 0);
            match self.socket.try_read(&mut self.buffer) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(count) => self.end = count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.ready().await?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn ready(&self) -> Result<(), EndError> {
        tokio::time::timeout(self.stall, self.socket.readable())
            .await
            .map_err(|_| EndError::Stalled)?
            .map_err(Into::into)
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
