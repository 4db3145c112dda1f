//! `namespace`, `pin`, `unpin`, `pins`, `retain` and `policy`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hearth_client::{Chain, Client};
use hearth_proto::{BlockKey, Priority, Retention, hex, v1};
use serde_json::json;

use crate::args::{
    NamespaceCommand, NamespacePutArgs, Output, PinArgs, PinName, PolicyCommand, PolicySetArgs, RetainArgs,
};
use crate::exit::Exit;
use crate::output;

/// Makes, lists and removes namespaces.
pub(crate) async fn namespace(
    client: &Client,
    form: Output,
    command: NamespaceCommand,
) -> anyhow::Result<Exit> {
    match command {
        NamespaceCommand::Put(args) => {
            let known = client.namespaces().await?.into_iter().filter_map(|known| known.spec);
            let known = known.into_iter().find(|spec| spec.name == args.name);
            let changed = client.put_namespace(changed_namespace(known, args)).await?;
            report_change(form, changed, "the namespace is as asked", "it was so already")
        }
        NamespaceCommand::List => list_namespaces(&client.namespaces().await?, form),
        NamespaceCommand::Delete { name } => {
            let changed = client.delete_namespace(&name).await?;
            report_change(form, changed, "the namespace is gone", "there is none of that name")
        }
    }
}

fn changed_namespace(known: Option<v1::NamespaceSpec>, args: NamespacePutArgs) -> v1::NamespaceSpec {
    let new = v1::NamespaceSpec {
        default_priority: u32::from(Priority::DEFAULT.value()),
        name: args.name,
        ..Default::default()
    };
    let mut spec = known.unwrap_or(new);
    spec.quota_bytes = args.quota.unwrap_or(spec.quota_bytes);
    spec.floor_bytes = args.floor.unwrap_or(spec.floor_bytes);
    spec.pin_quota_bytes = args.pin_quota.unwrap_or(spec.pin_quota_bytes);
    spec.default_priority = args.priority.map_or(spec.default_priority, u32::from);
    spec.default_duration_ms =
        args.ttl.map_or(spec.default_duration_ms, |seconds| seconds.saturating_mul(1_000));
    spec.sharing_group = args.sharing_group.unwrap_or(spec.sharing_group);
    spec.replicas = args.replicas.unwrap_or(spec.replicas);
    spec
}

fn list_namespaces(namespaces: &[v1::NamespaceUse], form: Output) -> anyhow::Result<Exit> {
    let rows = namespaces.iter().filter_map(|used| Some((used.spec.as_ref()?, used.pinned_bytes)));
    if form == Output::Json {
        let rows: Vec<_> = rows
            .map(|(spec, pinned_bytes)| {
                json!({
                    "namespace_id": spec.namespace_id, "name": spec.name, "quota_bytes": spec.quota_bytes,
                    "floor_bytes": spec.floor_bytes, "pin_quota_bytes": spec.pin_quota_bytes,
                    "pinned_bytes": pinned_bytes, "default_priority": spec.default_priority,
                    "default_duration_ms": spec.default_duration_ms, "sharing_group": spec.sharing_group,
                    "replicas": spec.replicas,
                })
            })
            .collect();
        output::json(&json!({ "namespaces": rows }))?;
    } else {
        let header =
            ["ID", "NAME", "QUOTA", "FLOOR", "PINNED", "PIN QUOTA", "PRIORITY", "SHARES WITH", "COPIES"];
        output::table(
            &header,
            rows.map(|(spec, pinned_bytes)| {
                vec![
                    spec.namespace_id.to_string(),
                    spec.name.clone(),
                    if spec.quota_bytes == 0 { "none".into() } else { output::bytes(spec.quota_bytes) },
                    output::bytes(spec.floor_bytes),
                    output::bytes(pinned_bytes),
                    output::bytes(spec.pin_quota_bytes),
                    spec.default_priority.to_string(),
                    spec.sharing_group.clone(),
                    if spec.replicas == 0 { "policy".into() } else { spec.replicas.to_string() },
                ]
            }),
        );
    }
    Ok(Exit::Done)
}

/// Keeps blocks from eviction until the pin ends.
pub(crate) async fn pin(client: &Client, form: Output, args: PinArgs) -> anyhow::Result<Exit> {
    let keys = args.layout.keys(&args.hashes);
    let PinName(id) = args.id.unwrap_or_else(|| digest_of(&keys));
    let chain = Chain::from_keys(keys)?;
    let pinned = client.pin(id, &chain, Duration::from_secs(args.ttl), None).await?;
    if form == Output::Json {
        output::json(&json!({
            "pin_id": hex::encode(&id), "expires_at_ms": pinned.expires_at_ms,
            "pinned_bytes": pinned.pinned_bytes, "pin_quota_bytes": pinned.pin_quota_bytes,
            "absent_blocks": pinned.absent_blocks,
        }))?;
    } else {
        output::line(format_args!(
            "pin {} ends in {} s; {} of {} are pinned",
            hex::encode(&id),
            args.ttl,
            output::bytes(pinned.pinned_bytes),
            output::bytes(pinned.pin_quota_bytes)
        ));
        if pinned.absent_blocks > 0 {
            output::line(format_args!(
                "{} of the blocks are held by nobody, and pinned as soon as they come",
                pinned.absent_blocks
            ));
        }
    }
    Ok(Exit::Done)
}

/// Ends a pin.
pub(crate) async fn unpin(client: &Client, form: Output, PinName(id): PinName) -> anyhow::Result<Exit> {
    let changed = client.unpin(id, None).await?;
    report_change(form, changed, "the pin is gone", "there is no such pin, or none any more")
}

/// Lists the pins.
pub(crate) async fn pins(client: &Client, form: Output) -> anyhow::Result<Exit> {
    let answer = client.pins(None).await?;
    // The replicated time stands still while nothing happens.
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let now_ms = now_ms.max(answer.time_ms);
    if form == Output::Json {
        let pins: Vec<_> = answer
            .pins
            .iter()
            .map(|pin| {
                json!({"pin_id": hex::encode(&pin.pin_id), "blocks": pin.blocks,
                       "size_bytes": pin.size_bytes, "expires_at_ms": pin.expires_at_ms})
            })
            .collect();
        output::json(&json!({
            "pins": pins, "pinned_bytes": answer.pinned_bytes, "pin_quota_bytes": answer.pin_quota_bytes,
            "time_ms": answer.time_ms,
        }))?;
    } else {
        output::table(
            &["PIN", "BLOCKS", "SIZE", "ENDS IN"],
            answer.pins.iter().map(|pin| {
                vec![
                    hex::encode(&pin.pin_id),
                    pin.blocks.to_string(),
                    output::bytes(pin.size_bytes),
                    format!("{} s", pin.expires_at_ms.saturating_sub(now_ms).div_ceil(1_000)),
                ]
            }),
        );
        output::line(format_args!(
            "{} of {} are pinned",
            output::bytes(answer.pinned_bytes),
            output::bytes(answer.pin_quota_bytes)
        ));
    }
    Ok(Exit::Done)
}

/// Changes how blocks are kept, wherever they lie.
pub(crate) async fn retain(client: &Client, form: Output, args: RetainArgs) -> anyhow::Result<Exit> {
    let chain = Chain::from_keys(args.layout.keys(&args.hashes))?;
    let retention = Retention {
        priority: Priority::new(args.priority)?,
        duration_ms: args.ttl.map(|seconds| seconds.saturating_mul(1_000)),
    };
    client.set_retention(&chain, retention, None).await?;
    report_change(form, true, "the blocks are kept so from now on", "")
}

/// Shows and changes the policy of the cluster.
pub(crate) async fn policy(client: &Client, form: Output, command: PolicyCommand) -> anyhow::Result<Exit> {
    let known = client.policy().await?;
    let policy = known.policy.unwrap_or_default();
    match command {
        PolicyCommand::Set(PolicySetArgs { replicas, repair_rate, ramp }) => {
            let changed = client
                .put_policy(v1::ClusterPolicy {
                    replicas: replicas.unwrap_or(policy.replicas),
                    repair_bytes_per_second: repair_rate.unwrap_or(policy.repair_bytes_per_second),
                    ramp_ms: ramp.map_or(policy.ramp_ms, |seconds| seconds.saturating_mul(1_000)),
                })
                .await?;
            report_change(form, changed, "the policy is as asked", "it was so already")
        }
        PolicyCommand::Show if form == Output::Json => {
            output::json(&json!({
                "replicas": policy.replicas, "repair_bytes_per_second": policy.repair_bytes_per_second,
                "ramp_ms": policy.ramp_ms, "finalized_version": known.finalized_version,
            }))?;
            Ok(Exit::Done)
        }
        PolicyCommand::Show => {
            let or_default = |is_set: bool, text: String| if is_set { text } else { "default".into() };
            let rate = output::bytes(policy.repair_bytes_per_second);
            output::table(
                &["COPIES", "REPAIR PER SECOND", "RAMP", "COMMAND VERSION"],
                [vec![
                    policy.replicas.max(1).to_string(),
                    or_default(policy.repair_bytes_per_second != 0, rate),
                    or_default(policy.ramp_ms != 0, format!("{} s", policy.ramp_ms / 1_000)),
                    known.finalized_version.to_string(),
                ]],
            );
            Ok(Exit::Done)
        }
    }
}

fn report_change(form: Output, changed: bool, done: &str, was_so: &str) -> anyhow::Result<Exit> {
    if form == Output::Json {
        output::json(&json!({ "changed": changed }))?;
    } else {
        output::line(if changed { done } else { was_so });
    }
    Ok(Exit::Done)
}

fn digest_of(keys: &[BlockKey]) -> PinName {
    let mut hasher = blake3::Hasher::new_derive_key("hearth cli pin of blocks");
    keys.iter().for_each(|key| {
        hasher.update(&key.0);
    });
    let mut id = [0; 16];
    id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    PinName(id)
}
