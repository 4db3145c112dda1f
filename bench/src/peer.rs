//! The limit that the fabric is held against: a process that does nothing but write to a socket.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct TcpPeerArgs {
    /// Bytes of memory that are sent round and round: as many as the blocks that Hearth serves, so that
    /// neither side reads from a cache that the other cannot use.
    #[arg(long)]
    working_set_bytes: usize,
}

/// Sends the bytes that each connection asks for: it writes a count as 8 little-endian bytes and
/// reads that many.
pub(crate) fn serve(args: &TcpPeerArgs) -> anyhow::Result<()> {
    let memory: Vec<u8> = (0..args.working_set_bytes).map(|i| i as u8).collect();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    announce(listener.local_addr()?.port())?;
    let mut at = 0;
    loop {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut count = [0; 8];
        while stream.read_exact(&mut count).is_ok() {
            let mut left = u64::from_le_bytes(count) as usize;
            while left > 0 {
                let part = left.min(1 << 20).min(memory.len() - at);
                stream.write_all(&memory[at..at + part])?;
                at = (at + part) % memory.len();
                left -= part;
            }
        }
    }
}

#[allow(clippy::print_stdout)]
fn announce(port: u16) -> std::io::Result<()> {
    println!("{port}");
    std::io::stdout().flush()
}

/// The peer as a process of its own; ended when dropped.
pub(crate) struct TcpPeer {
    child: Child,
    pub(crate) port: u16,
}

impl TcpPeer {
    pub(crate) fn start(working_set_bytes: usize) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["tcp-peer", "--working-set-bytes", &working_set_bytes.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the bare TCP sender")?;
        let mut line = String::new();
        let mut out = std::io::BufReader::new(child.stdout.take().context("the peer's output is a pipe")?);
        std::io::BufRead::read_line(&mut out, &mut line)?;
        let port = line.trim().parse().context("the peer says its port")?;
        Ok(Self { child, port })
    }
}

impl Drop for TcpPeer {
    fn drop(&mut self) {
        // It may have ended already; there is nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
