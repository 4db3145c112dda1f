//! What routers ask for, in the words of Mooncake's RFC #1403 and in those of Dynamo's indexer.
//!
//! *Source*: github.com/kvcache-ai/Mooncake/issues/1403 and its document of the conductor's API; the requests of
//! `dynamo.indexer` 1.6.1.

use std::fmt;

use hearth_router::catalog::{KeyError, PoolKey, PoolSelector, WorkerKey};
use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

use super::Registration;
use super::address::{Address, AddressError};

const DEFAULT_TENANT: &str = "default";
/// Between a model and what keeps its blocks apart from those of the same name.
const SALT: char = '\u{1f}';

/// A request that cannot be taken; the caller mends it.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error("the request is no JSON that is known here: {0}")]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error("{0} is missing: say it")]
    Missing(&'static str),
    #[error("`lora_id` is a number of one process: name the adapter in `lora_name`")]
    LoraId,
    #[error("hashes hold their salt already: leave `cache_salt` out")]
    Salted,
}

/// The names of an instance: Dynamo has numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name(pub(super) String);

/// A hash as a number of 64 bits with or without a sign, or as text where numbers lose their last digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hash(u64);

/// Whose blocks, in any of the words.
#[derive(Clone, Debug, Default, Deserialize)]
struct Scope {
    /// Mooncake's queries.
    model: Option<String>,
    /// Dynamo's.
    model_name: Option<String>,
    /// Mooncake's registrations.
    modelname: Option<String>,
    #[serde(alias = "routing_group")]
    tenant_id: Option<String>,
    lora_name: Option<String>,
    lora_id: Option<serde_json::Value>,
    block_size: Option<u32>,
    #[serde(alias = "additionalsalt")]
    additional_salt: Option<String>,
}

/// `POST /register`.
#[derive(Debug, Deserialize)]
pub(super) struct Register {
    instance_id: Name,
    endpoint: String,
    replay_endpoint: Option<String>,
    dp_rank: Option<u32>,
    #[serde(flatten)]
    scope: Scope,
}

/// `POST /unregister`.
#[derive(Debug, Deserialize)]
pub(super) struct Unregister {
    instance_id: Name,
    dp_rank: Option<u32>,
    #[serde(flatten)]
    scope: Scope,
}

/// `POST /query` and `POST /query_by_hash`.
#[derive(Debug, Deserialize)]
pub(super) struct Ask {
    token_ids: Option<Vec<u32>>,
    /// Of each block and all before it.
    #[serde(alias = "block_hash")]
    seq_hashes: Option<Vec<Hash>>,
    /// Of each block's tokens alone.
    block_hashes: Option<Vec<Hash>>,
    cache_salt: Option<String>,
    instance_id: Option<Name>,
    #[serde(flatten)]
    scope: Scope,
}

/// What is asked about.
#[derive(Debug)]
pub(super) enum Chain {
    Tokens(Vec<u32>),
    Sequence(Vec<u64>),
    Local(Vec<u64>),
}

/// A question, understood.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) chain: Chain,
    pub(super) salt: Option<String>,
    pub(super) instance: Option<String>,
    pub(super) tenant: String,
    /// Asked in Dynamo's words, and to be answered so.
    pub(super) is_dynamos: bool,
    model: String,
    lora: Option<String>,
    block_size: Option<u32>,
}

/// Which workers are meant; what is not said is any.
#[derive(Debug)]
pub(super) struct Meant {
    instance: String,
    dp_rank: Option<u32>,
    model: String,
    tenant: Option<String>,
    lora: Option<String>,
    block_size: Option<u32>,
}

impl Scope {
    fn model(&self) -> Result<String, RequestError> {
        let named = [&self.model_name, &self.modelname, &self.model].into_iter().flatten().next();
        let model = named.ok_or(RequestError::Missing("`model_name` or `model`"))?;
        match self.additional_salt.as_deref() {
            None | Some("") => Ok(model.clone()),
            Some(salt) => Ok(format!("{model}{SALT}{salt}")),
        }
    }

    fn tenant(&self) -> String {
        self.tenant_id.clone().unwrap_or_else(|| DEFAULT_TENANT.to_owned())
    }

    fn lora(&self) -> Result<Option<String>, RequestError> {
        match (&self.lora_name, &self.lora_id) {
            (None, Some(id)) if !id.is_null() => Err(RequestError::LoraId),
            (name, _) => Ok(name.clone().filter(|name| !name.is_empty())),
        }
    }
}

impl Register {
    pub(super) fn understand(self) -> Result<Registration, RequestError> {
        let block_size = self.scope.block_size.ok_or(RequestError::Missing("`block_size`"))?;
        let lora = self.scope.lora()?;
        Ok(Registration {
            pool: PoolKey::new(&self.scope.model()?, &self.scope.tenant(), lora.as_deref(), block_size)?,
            worker: WorkerKey::new(&self.instance_id.0, self.dp_rank.unwrap_or(0))?,
            endpoint: Address::parse(&self.endpoint)?,
            replay: self.replay_endpoint.as_deref().map(Address::parse).transpose()?,
        })
    }
}

impl Unregister {
    pub(super) fn understand(self) -> Result<Meant, RequestError> {
        Ok(Meant {
            model: self.scope.model()?,
            lora: self.scope.lora()?,
            tenant: self.scope.tenant_id,
            block_size: self.scope.block_size,
            instance: self.instance_id.0,
            dp_rank: self.dp_rank,
        })
    }
}

impl Meant {
    pub(super) fn has(&self, pool: &PoolKey, worker: &WorkerKey) -> bool {
        pool.model() == self.model
            && worker.instance() == self.instance
            && self.dp_rank.is_none_or(|rank| rank == worker.dp_rank())
            && self.tenant.as_deref().is_none_or(|tenant| tenant == pool.tenant())
            && self.lora.as_deref().is_none_or(|lora| pool.lora() == Some(lora))
            && self.block_size.is_none_or(|size| size == pool.block_size())
    }
}

impl Ask {
    /// `/query`.
    pub(super) fn by_tokens(mut self) -> Result<Question, RequestError> {
        let tokens = self.token_ids.take().ok_or(RequestError::Missing("`token_ids`"))?;
        self.question(Chain::Tokens(tokens))
    }

    /// `/query_by_hash`.
    pub(super) fn by_hash(mut self) -> Result<Question, RequestError> {
        if self.cache_salt.as_deref().is_some_and(|salt| !salt.is_empty()) {
            return Err(RequestError::Salted);
        }
        let numbers = |hashes: Vec<Hash>| hashes.into_iter().map(|hash| hash.0).collect();
        let chain = match (self.seq_hashes.take(), self.block_hashes.take()) {
            (Some(hashes), _) => Chain::Sequence(numbers(hashes)),
            (None, Some(hashes)) => Chain::Local(numbers(hashes)),
            (None, None) => return Err(RequestError::Missing("`seq_hashes` or `block_hashes`")),
        };
        self.question(chain)
    }

    fn question(self, chain: Chain) -> Result<Question, RequestError> {
        Ok(Question {
            chain,
            is_dynamos: self.scope.model.is_none(),
            model: self.scope.model()?,
            tenant: self.scope.tenant(),
            lora: self.scope.lora()?,
            block_size: self.scope.block_size,
            salt: self.cache_salt.filter(|salt| !salt.is_empty()),
            instance: self.instance_id.map(|name| name.0),
        })
    }
}

impl Question {
    pub(super) fn pool(&self) -> PoolSelector<'_> {
        PoolSelector {
            model: &self.model,
            tenant: &self.tenant,
            lora: self.lora.as_deref(),
            block_size: self.block_size,
        }
    }
}

/// A model's name and its salt, as they were given.
pub(super) fn model_and_salt(pool: &PoolKey) -> (&str, Option<&str>) {
    match pool.model().split_once(SALT) {
        Some((model, salt)) => (model, Some(salt)),
        None => (pool.model(), None),
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl Visitor<'_> for Names {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name or a number")
            }

            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(Name(name.to_owned()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Name, E> {
                Ok(Name(number.to_string()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Name, E> {
                Ok(Name(number.to_string()))
            }
        }
        deserializer.deserialize_any(Names)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Hashes;
        impl Visitor<'_> for Hashes {
            type Value = Hash;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a hash: a number of 64 bits, or one as text, decimal or 0x and hexadecimal")
            }

            fn visit_u64<E>(self, number: u64) -> Result<Hash, E> {
                Ok(Hash(number))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Hash, E> {
                Ok(Hash(number.cast_unsigned()))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Hash, E> {
                let parsed = match text.strip_prefix("0x") {
                    Some(digits) => u64::from_str_radix(digits, 16).ok(),
                    None => text.parse().ok().or_else(|| text.parse::<i64>().ok().map(i64::cast_unsigned)),
                };
                parsed.map(Hash).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Hashes)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn register(request: serde_json::Value) -> Result<Registration, RequestError> {
        serde_json::from_value::<Register>(request)?.understand()
    }

    #[test]
    fn a_registration_is_understood_in_either_words() {
        let mooncakes = json!({
            "endpoint": "tcp://1.1.1.1:5557", "replay_endpoint": "tcp://1.1.1.1:5558", "type": "vLLM",
            "modelname": "deepseek", "lora_name": "sql-adapter", "tenant_id": "a", "instance_id": "node1",
            "block_size": 128, "dp_rank": 1, "additionalsalt": "w8a8",
        });
        let registration = register(mooncakes).expect("it is understood");
        assert_eq!(model_and_salt(&registration.pool), ("deepseek", Some("w8a8")));
        assert_eq!((registration.pool.tenant(), registration.pool.lora()), ("a", Some("sql-adapter")));
        assert_eq!((registration.worker.instance(), registration.worker.dp_rank()), ("node1", 1));
        let dynamos = json!({
            "instance_id": 7, "endpoint": "tcp://h:1", "model_name": "m", "routing_group": "b", "block_size": 16,
        });
        let registration = register(dynamos).expect("it is understood");
        assert_eq!(model_and_salt(&registration.pool), ("m", None));
        assert_eq!((registration.pool.tenant(), registration.pool.block_size()), ("b", 16));
        assert_eq!((registration.worker.instance(), registration.worker.dp_rank()), ("7", 0));
    }

    #[test]
    fn what_is_wrong_with_a_registration_is_said() {
        let good = json!({ "instance_id": 1, "endpoint": "tcp://h:1", "model_name": "m", "block_size": 16 });
        for (key, value, says) in [
            ("block_size", json!(0), "from 1"),
            ("block_size", json!(null), "`block_size` is missing"),
            ("block_size", json!(-5), "invalid value"),
            ("model_name", json!(null), "`model_name` or `model` is missing"),
            ("endpoint", json!("tcp://*:5557"), "name of its host"),
            ("instance_id", json!(""), "no name"),
            ("instance_id", json!([]), "a name or a number"),
            ("lora_id", json!(3), "`lora_name`"),
        ] {
            let mut request = good.clone();
            request[key] = value;
            let error = register(request).expect_err(key).to_string();
            assert!(error.contains(says), "{key}: {error}");
        }
    }

    #[test]
    fn hashes_are_read_in_every_form() {
        let ask = json!({
            "model": "m", "block_size": 16,
            "seq_hashes": [1, -1, 18_446_744_073_709_551_615_u64, "2", "-2", "0xff"],
        });
        let question = serde_json::from_value::<Ask>(ask).expect("it is one").by_hash().expect("it is one");
        let Chain::Sequence(hashes) = &question.chain else { panic!("{question:?}") };
        assert_eq!(hashes, &[1, u64::MAX, u64::MAX, 2, u64::MAX - 1, 0xff]);
        assert!(!question.is_dynamos);
        for bad in [json!([1.5]), json!(["x"]), json!([null]), json!("1")] {
            assert!(serde_json::from_value::<Ask>(json!({ "model": "m", "seq_hashes": bad })).is_err());
        }
    }

    #[test]
    fn a_question_by_hash_has_no_salt_and_says_which_hashes() {
        let by_hash = |ask: serde_json::Value| serde_json::from_value::<Ask>(ask).expect("JSON").by_hash();
        let salted = json!({ "model_name": "m", "block_hashes": [1], "cache_salt": "s" });
        assert!(matches!(by_hash(salted), Err(RequestError::Salted)));
        assert!(matches!(by_hash(json!({ "model_name": "m" })), Err(RequestError::Missing(_))));
        let dynamos = by_hash(json!({ "model_name": "m", "block_hashes": [-3] })).expect("it is one");
        assert!(
            dynamos.is_dynamos && matches!(dynamos.chain, Chain::Local(hashes) if hashes == [u64::MAX - 2])
        );
    }
}
