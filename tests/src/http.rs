//! The least of HTTP that asking a health endpoint needs.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Fetches `path` from a loopback port; returns the status code and the body.
///
/// # Errors
/// Any I/O error, `TimedOut` after `patience`, `InvalidData` if the answer is not HTTP.
pub async fn http_get(port: u16, path: &str, patience: Duration) -> io::Result<(u16, String)> {
    http_get_from(Ipv4Addr::LOCALHOST, port, path, patience).await
}

/// The same from another address.
///
/// # Errors
/// As [`http_get`].
pub async fn http_get_from(
    host: Ipv4Addr,
    port: u16,
    path: &str,
    patience: Duration,
) -> io::Result<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    call(host, port, request.as_bytes(), patience).await
}

/// Posts to a local HTTP server, and gives its status and body.
///
/// # Errors
/// As [`http_get`].
pub async fn http_post(port: u16, path: &str, body: &[u8], patience: Duration) -> io::Result<(u16, String)> {
    let len = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n"
    );
    call(Ipv4Addr::LOCALHOST, port, &[head.as_bytes(), body].concat(), patience).await
}

async fn call(host: Ipv4Addr, port: u16, request: &[u8], patience: Duration) -> io::Result<(u16, String)> {
    let fetch = async {
        let mut stream = TcpStream::connect((host, port)).await?;
        // Who is sent too much may answer and close before it has read all of it.
        let sent = stream.write_all(request).await;
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer).await;
        if answer.is_empty() {
            sent?;
            read?;
        }
        let not_http = || io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP");
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(not_http)?;
        let (_, body) = answer.split_once("\r\n\r\n").ok_or_else(not_http)?;
        Ok((status, body.to_owned()))
    };
    tokio::time::timeout(patience, fetch).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
