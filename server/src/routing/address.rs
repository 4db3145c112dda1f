//! Where a publisher is.

use std::fmt;

use hearth_proto::limits::PUBLISHER_ADDRESS_BYTES_MAX;

/// `tcp://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address(String);

/// An address that nobody can be reached at; the caller mends it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AddressError {
    #[error("{0:?} is no address of a publisher: give it as tcp://host:port")]
    Form(String),
    #[error(
        "{0:?} says where a publisher listens, not where it is: give the name of its host in the place of {1:?}"
    )]
    Wildcard(String, String),
    #[error("an address has {PUBLISHER_ADDRESS_BYTES_MAX} bytes at the most: shorten it")]
    TooLong,
}

const SCHEME: &str = "tcp://";

impl Address {
    pub(super) fn parse(text: &str) -> Result<Self, AddressError> {
        if text.len() > PUBLISHER_ADDRESS_BYTES_MAX {
            return Err(AddressError::TooLong);
        }
        let form = || AddressError::Form(text.to_owned());
        let (host, port) =
            text.strip_prefix(SCHEME).and_then(|rest| rest.rsplit_once(':')).ok_or_else(form)?;
        if host.is_empty() || port.parse::<u16>().map_or(true, |port| port == 0) {
            return Err(form());
        }
        if ["*", "0.0.0.0", "[::]"].contains(&host) {
            return Err(AddressError::Wildcard(text.to_owned(), host.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// `host:port`.
    pub(super) fn authority(&self) -> &str {
        &self.0[SCHEME.len()..]
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_reached_is_an_address() {
        for good in ["tcp://127.0.0.1:5557", "tcp://worker-0.engines:1", "tcp://[::1]:65535"] {
            let address = Address::parse(good).expect("it is one");
            assert_eq!(format!("tcp://{}", address.authority()), good);
        }
        for bad in [
            "",
            "127.0.0.1:5557",
            "ipc:///tmp/a",
            "tcp://:5557",
            "tcp://host",
            "tcp://host:0",
            "tcp://host:x",
        ] {
            assert_eq!(Address::parse(bad), Err(AddressError::Form(bad.to_owned())));
        }
        for bad in ["tcp://*:5557", "tcp://0.0.0.0:5557", "tcp://[::]:5557"] {
            assert!(matches!(Address::parse(bad), Err(AddressError::Wildcard(..))), "{bad}");
        }
        assert_eq!(Address::parse(&format!("tcp://{}:1", "h".repeat(2_000))), Err(AddressError::TooLong));
    }
}
