//! TCP peers that break the protocol: what they say is refused, what they hold up is ended, and nobody
//! else notices.

#[path = "../support/mod.rs"]
mod support;

mod clients;
mod raw;
mod servers;
