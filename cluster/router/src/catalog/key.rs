//! What pools and workers are called.

use std::fmt;

use hearth_proto::limits::{BLOCK_TOKENS_MAX, POOL_NAME_BYTES_MAX};
use hearth_proto::{Classified, ErrorKind};

/// A pool: workers of which each can use what any of them computed, if it had it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolKey {
    model: Box<str>,
    tenant: Box<str>,
    lora: Option<Box<str>>,
    block_size: u32,
}

/// A pool as a query names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSelector<'a> {
    /// The model.
    pub model: &'a str,
    /// Whose it is.
    pub tenant: &'a str,
    /// The adapter; an empty name is none.
    pub lora: Option<&'a str>,
    /// Tokens of a block; may be left out where the pools of a model have only one size.
    pub block_size: Option<u32>,
}

/// A worker of a pool: one data-parallel rank of an instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerKey {
    instance: Box<str>,
    dp_rank: u32,
}

/// A name that cannot be taken; the caller mends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A name is too long.
    #[error("the {what} has a name of {len} bytes, {POOL_NAME_BYTES_MAX} are the most: shorten it")]
    TooLong {
        /// What has the name.
        what: &'static str,
        /// How long it is.
        len: usize,
    },
    /// A name that has to be there is empty.
    #[error("the {what} has no name: give it one")]
    Empty {
        /// What has none.
        what: &'static str,
    },
    /// A size of blocks that no engine has.
    #[error("blocks of {block_size} tokens: name a size from 1 to {BLOCK_TOKENS_MAX}")]
    BlockSize {
        /// The size that was named.
        block_size: u32,
    },
}

impl Classified for KeyError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::FixRequest
    }
}

impl PoolKey {
    /// A pool's key. An empty name of a tenant is one as good as another; an empty name of an adapter is none.
    ///
    /// *Units*: the size of a block is in tokens.
    ///
    /// # Errors
    /// [`KeyError`]; the caller mends it.
    pub fn new(model: &str, tenant: &str, lora: Option<&str>, block_size: u32) -> Result<Self, KeyError> {
        if !(1..=BLOCK_TOKENS_MAX).contains(&block_size) {
            return Err(KeyError::BlockSize { block_size });
        }
        if model.is_empty() {
            return Err(KeyError::Empty { what: "model" });
        }
        let lora = lora.filter(|lora| !lora.is_empty());
        Ok(Self {
            model: checked("model", model)?,
            tenant: checked("tenant", tenant)?,
            lora: lora.map(|lora| checked("adapter", lora)).transpose()?,
            block_size,
        })
    }

    /// The model.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Whose it is.
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// The adapter, if there is one.
    pub fn lora(&self) -> Option<&str> {
        self.lora.as_deref()
    }

    /// Tokens of one block.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// All but the size of the blocks.
    pub(super) fn family(&self) -> (&str, &str, Option<&str>) {
        (&self.model, &self.tenant, self.lora())
    }
}

impl<'a> PoolSelector<'a> {
    pub(super) fn family(&self) -> (&'a str, &'a str, Option<&'a str>) {
        (self.model, self.tenant, self.lora.filter(|lora| !lora.is_empty()))
    }
}

impl WorkerKey {
    /// A worker's key.
    ///
    /// # Errors
    /// [`KeyError`]; the caller mends it.
    pub fn new(instance: &str, dp_rank: u32) -> Result<Self, KeyError> {
        if instance.is_empty() {
            return Err(KeyError::Empty { what: "instance" });
        }
        Ok(Self { instance: checked("instance", instance)?, dp_rank })
    }

    /// The instance that it belongs to.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Which of the instance's data-parallel ranks it is.
    pub fn dp_rank(&self) -> u32 {
        self.dp_rank
    }
}

impl fmt::Display for PoolKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, tenant, lora, block_size } = self;
        write!(f, "model {model:?}, tenant {tenant:?}, ")?;
        if let Some(lora) = lora {
            write!(f, "adapter {lora:?}, ")?;
        }
        write!(f, "blocks of {block_size} tokens")
    }
}

impl fmt::Display for WorkerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rank {}", self.instance, self.dp_rank)
    }
}

fn checked(what: &'static str, name: &str) -> Result<Box<str>, KeyError> {
    match name.len() {
        ..=POOL_NAME_BYTES_MAX => Ok(name.into()),
        len => Err(KeyError::TooLong { what, len }),
    }
}
