//! What is answered, in the words of who asked.

use hearth_router::catalog::{Answer, InstanceMatch};
use serde_json::{Map, Value, json};

use super::WorkerView;
use super::requests::{Question, model_and_salt};

/// The answer to a question about a chain. All figures are tokens.
pub(super) fn matches(question: &Question, answer: &Answer) -> Value {
    let wanted = question.instance.as_deref();
    let instances = answer.instances().filter(|found| wanted.is_none_or(|wanted| wanted == found.instance));
    if question.is_dynamos { dynamos(instances) } else { mooncakes(&question.tenant, instances) }
}

/// As `dynamo.indexer` answers. It tells what the accelerators hold twice, and of frequencies none.
fn dynamos<'a>(instances: impl Iterator<Item = InstanceMatch<'a>>) -> Value {
    let (mut scores, mut all) = (Map::new(), Map::new());
    for found in instances {
        let held: Map<String, Value> = found
            .dp()
            .filter(|(_, tokens)| *tokens > 0)
            .map(|(rank, tokens)| (rank.to_string(), tokens.into()))
            .collect();
        if !held.is_empty() {
            scores.insert(found.instance.to_owned(), held.into());
        }
        all.insert(found.instance.to_owned(), summary(&found, ["gpu", "dp", "cpu", "disk"]));
    }
    json!({ "scores": scores, "frequencies": [], "instances": all })
}

/// As Mooncake's RFC #1403 has it.
fn mooncakes<'a>(tenant: &str, instances: impl Iterator<Item = InstanceMatch<'a>>) -> Value {
    let named =
        |found: InstanceMatch<'a>| (found.instance.to_owned(), summary(&found, ["GPU", "DP", "CPU", "DISK"]));
    let all: Map<String, Value> = instances.map(named).collect();
    json!({ tenant: all })
}

/// What one instance holds, under the names that who asks has for the tiers and ranks.
fn summary(found: &InstanceMatch<'_>, names: [&str; 4]) -> Value {
    let [gpu, dp, cpu, disk] = names;
    let ranks: Map<String, Value> =
        found.dp().map(|(rank, tokens)| (rank.to_string(), tokens.into())).collect();
    json!({
        "longest_matched": found.longest_tokens,
        gpu: found.gpu_tokens,
        dp: ranks,
        cpu: found.host_tokens,
        disk: found.disk_tokens,
    })
}

/// The workers that are followed.
pub(super) fn workers(workers: &[WorkerView]) -> Value {
    let view = |view: &WorkerView| {
        let (model, salt) = model_and_salt(&view.pool);
        json!({
            "instance_id": view.worker.instance(),
            "dp_rank": view.worker.dp_rank(),
            "model_name": model,
            "additional_salt": salt,
            "tenant_id": view.pool.tenant(),
            "lora_name": view.pool.lora(),
            "block_size": view.pool.block_size(),
            "endpoint": view.endpoint,
            "replay_endpoint": view.replay,
            "status": if view.status.is_connected { "active" } else { "pending" },
            "last_error": view.status.last_error,
            "is_behind": view.status.is_behind,
            "batches": {
                "applied": view.status.stats.applied,
                "ignored": view.status.stats.ignored,
                "replays": view.status.stats.replays,
                "losses": view.status.stats.losses,
            },
        })
    };
    workers.iter().map(view).collect()
}
