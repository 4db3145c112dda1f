//! `put`, `get` and `locate`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use hearth_client::{
    BlockBuf, BlockResult, Chain, Client, Freshness, GetOptions, Lookup, MissReason, PutBlock, PutOptions,
    PutResult,
};
use hearth_proto::limits::{BLOCK_BYTES_MAX, CHAIN_BLOCKS_MAX};
use hearth_proto::{NodeId, PrefixHash, Priority, Retention, Tier};
use serde_json::json;

use crate::args::{GetArgs, LocateArgs, Output, PutArgs};
use crate::commands::sink::Sink;
use crate::exit::{BadRequest, Exit};
use crate::output;

/// Bytes of blocks that one call has in memory.
const BATCH_BYTES: usize = 256 << 20;
/// Buffers grow from here until a block fits.
const BUFFER_BYTES_FIRST: usize = 1 << 20;

/// Stores a file as a chain of blocks.
pub(crate) async fn put(client: &Client, form: Output, args: PutArgs) -> anyhow::Result<Exit> {
    let block_bytes = usize::try_from(args.block_bytes)?;
    if !(1..=BLOCK_BYTES_MAX).contains(&block_bytes) {
        let problem = format!(
            "--block-bytes {block_bytes} is outside 1 to {BLOCK_BYTES_MAX}; choose a size in between"
        );
        return Err(BadRequest(problem).into());
    }
    let retention = Retention {
        priority: Priority::new(args.priority)?,
        duration_ms: args.ttl.map(|seconds| seconds.saturating_mul(1_000)),
    };
    let content = read_all(&args.file)?;
    let blocks: Vec<PutBlock> = content
        .chunks(block_bytes)
        .enumerate()
        .map(|(index, part)| PutBlock { index, payload: content.slice_ref(part), retention })
        .collect();
    let hashes = hashes_of(&args, &blocks)?;
    let chain = Chain::from_keys(args.layout.keys(&hashes))?;
    let options = PutOptions { ack: args.ack, patience: None };
    let mut results = Vec::with_capacity(blocks.len());
    for batch in blocks.chunks((BATCH_BYTES / block_bytes).max(1)) {
        results.extend(client.put(&chain, batch, options).await?);
    }
    let stored = results.iter().filter(|r| matches!(r, PutResult::Stored { .. })).count();
    report_put(form, &hashes, &blocks, &results)?;
    Ok(if stored == blocks.len() { Exit::Done } else { Exit::Missed })
}

/// The hashes given, or chained digests: each vouches for all content up to its block's end.
fn hashes_of(args: &PutArgs, blocks: &[PutBlock]) -> anyhow::Result<Vec<PrefixHash>> {
    if blocks.len() > CHAIN_BLOCKS_MAX {
        let problem = format!(
            "the file makes {} blocks and a chain has at most {CHAIN_BLOCKS_MAX}; use larger --block-bytes",
            blocks.len()
        );
        return Err(BadRequest(problem).into());
    }
    if !args.hashes.is_empty() {
        if args.hashes.len() != blocks.len() {
            let (given, made) = (args.hashes.len(), blocks.len());
            let problem = format!(
                "{given} hashes were given and the file makes {made} blocks; give one --hash per block"
            );
            return Err(BadRequest(problem).into());
        }
        return Ok(args.hashes.clone());
    }
    let mut parent = [0u8; 32];
    blocks
        .iter()
        .map(|block| {
            let mut hasher = blake3::Hasher::new_derive_key("hearth.v1 prefix hash of raw content");
            hasher.update(&parent);
            hasher.update(&block.payload);
            parent = *hasher.finalize().as_bytes();
            Ok(PrefixHash::new(&parent)?)
        })
        .collect()
}

fn report_put(
    form: Output,
    hashes: &[PrefixHash],
    blocks: &[PutBlock],
    results: &[PutResult],
) -> anyhow::Result<()> {
    let rows = hashes.iter().zip(blocks).zip(results);
    if form == Output::Json {
        let blocks: Vec<_> = rows
            .map(|((hash, block), result)| {
                let (hash, bytes) = (hash.to_string(), block.payload.len());
                match result {
                    PutResult::Stored { node, existed, .. } => {
                        json!({"hash": hash, "bytes": bytes, "node": node, "existed": existed})
                    }
                    PutResult::NotStored(reason) => {
                        json!({"hash": hash, "bytes": bytes, "not_stored": reason.as_str()})
                    }
                }
            })
            .collect();
        return output::json(&json!({ "blocks": blocks }));
    }
    output::table(
        &["BLOCK", "BYTES", "STORED ON", "HASH"],
        rows.map(|((hash, block), result)| {
            let stored = match result {
                PutResult::Stored { node, existed: false, .. } => format!("node {node}"),
                PutResult::Stored { node, existed: true, .. } => format!("node {node} (was there)"),
                PutResult::NotStored(reason) => format!("not stored: {}", reason.as_str()),
            };
            vec![block.index.to_string(), block.payload.len().to_string(), stored, hash.to_string()]
        }),
    );
    Ok(())
}

/// Fetches blocks and writes them one after the other.
pub(crate) async fn get(client: &Client, form: Output, args: GetArgs) -> anyhow::Result<Exit> {
    let chain = Chain::from_keys(args.layout.keys(&args.hashes))?;
    let lookup = client.lookup(&chain, None).await;
    if lookup.source().is_none() {
        bail!("no node of the cluster answered the lookup in time; see `hearth status`");
    }
    let mut sink = args.out.as_deref().map(Sink::open).transpose()?;
    let mut fetched = Vec::with_capacity(chain.len());
    let mut missed = 0;
    for index in 0..chain.len() {
        match fetch(client, &lookup, index).await? {
            BlockResult::Hit(hit) => {
                // After a gap nothing is written: the bytes would stand in the wrong place.
                if let Some(sink) = sink.as_mut().filter(|_| missed == 0) {
                    sink.write(hit.buffer.as_slice())?;
                }
                fetched.push(Ok((hit.buffer.len(), hit.node, hit.tier)));
            }
            BlockResult::Miss { reason, .. } => {
                missed += 1;
                fetched.push(Err(reason));
            }
        }
    }
    report_get(form, &args, &fetched)?;
    match sink {
        Some(sink) if missed == 0 => sink.finish()?,
        Some(sink) => {
            let (count, kept) = (chain.len(), sink.give_up());
            eprintln!("hearth: {missed} of {count} blocks did not come; {kept}");
        }
        None => {}
    }
    Ok(if missed == 0 { Exit::Done } else { Exit::Missed })
}

/// One block into a buffer that grows until it fits.
async fn fetch(client: &Client, lookup: &Lookup, index: usize) -> anyhow::Result<BlockResult> {
    let mut capacity = BUFFER_BYTES_FIRST;
    loop {
        let mut result = None;
        client
            .get(lookup, vec![(index, BlockBuf::with_capacity(capacity))], GetOptions::default(), |_, r| {
                result = Some(r);
            })
            .await?;
        match result.context("every block of a get completes")? {
            BlockResult::Miss { reason: MissReason::BufferTooSmall, .. } if capacity < BLOCK_BYTES_MAX => {
                capacity = (capacity * 4).min(BLOCK_BYTES_MAX);
            }
            result => return Ok(result),
        }
    }
}

/// The length of a block and where it came from, or why it did not come.
type Fetched = Result<(usize, NodeId, Tier), MissReason>;

fn report_get(form: Output, args: &GetArgs, fetched: &[Fetched]) -> anyhow::Result<()> {
    if args.out.as_deref() == Some(Path::new("-")) {
        return Ok(());
    }
    let rows = args.hashes.iter().zip(fetched);
    if form == Output::Json {
        let blocks: Vec<_> = rows
            .map(|(hash, fetched)| {
                let hash = hash.to_string();
                match fetched {
                    Ok((len, node, tier)) => json!({"hash": hash, "bytes": len, "node": node, "tier": tier}),
                    Err(reason) => json!({"hash": hash, "miss": reason.as_str()}),
                }
            })
            .collect();
        return output::json(&json!({ "blocks": blocks }));
    }
    output::table(
        &["BYTES", "FROM", "TIER", "HASH"],
        rows.map(|(hash, fetched)| {
            let (len, from, tier) = match fetched {
                Ok((len, node, tier)) => (*len, format!("node {node}"), tier.as_str()),
                Err(reason) => (0, format!("miss: {}", reason.as_str()), "none"),
            };
            vec![len.to_string(), from, tier.to_owned(), hash.to_string()]
        }),
    );
    Ok(())
}

/// Shows who holds each block.
pub(crate) async fn locate(client: &Client, form: Output, args: LocateArgs) -> anyhow::Result<Exit> {
    let chain = Chain::from_keys(args.layout.keys(&args.hashes))?;
    let freshness = if args.linearizable { Freshness::Linearizable } else { Freshness::Any };
    let lookup = client.lookup_fresh(&chain, &freshness, Some(Duration::from_secs(5))).await?;
    let Some(source) = lookup.source() else {
        bail!("no node of the cluster answered the lookup in time; see `hearth status`");
    };
    let names: BTreeMap<u64, String> =
        client.nodes().await?.nodes.into_iter().map(|node| (node.node_id, node.name)).collect();
    let name = |id: u64| names.get(&id).cloned().unwrap_or_default();
    let rows = args.hashes.iter().zip(lookup.replicas());
    if form == Output::Json {
        let blocks: Vec<_> = rows
            .map(|(hash, replicas)| {
                let replicas: Vec<_> = replicas
                    .iter()
                    .map(|r| {
                        json!({"node_id": r.node, "node": name(r.node.0), "tier": r.tier,
                               "incarnation": r.incarnation})
                    })
                    .collect();
                json!({"hash": hash.to_string(), "replicas": replicas})
            })
            .collect();
        // As it was before a directory could be in several groups.
        let only = match source.applied.as_slice() {
            [(_, index)] => Some(index),
            _ => None,
        };
        let applied: Vec<_> =
            source.applied.iter().map(|(group, index)| json!({"group_id": group, "index": index})).collect();
        output::json(&json!({
            "answered_by": source.node, "applied": applied, "applied_index": only,
            "staleness_ms": source.staleness.map(|staleness| staleness.as_millis() as u64),
            "held_prefix": lookup.held_prefix(), "blocks": blocks,
        }))?;
    } else {
        output::table(
            &["HASH", "WHERE"],
            rows.map(|(hash, replicas)| {
                let places: Vec<String> =
                    replicas.iter().map(|r| format!("{} {} ({})", r.node, name(r.node.0), r.tier)).collect();
                let places = if places.is_empty() { "nowhere".to_owned() } else { places.join(", ") };
                vec![hash.to_string(), places]
            }),
        );
        let applied: Vec<_> = match source.applied.as_slice() {
            [(_, index)] => vec![index.to_string()],
            several => several.iter().map(|(group, index)| format!("{group}:{index}")).collect(),
        };
        output::line(format_args!(
            "{} of {} blocks held from the start; node {} answered at directory index {}, {}",
            lookup.held_prefix(),
            lookup.chain().len(),
            source.node,
            applied.join(", "),
            source.staleness.map_or_else(
                || "and has heard of no leader yet".into(),
                |staleness| format!("{} ms stale", staleness.as_millis()),
            )
        ));
    }
    let all_held = lookup.replicas().iter().all(|replicas| !replicas.is_empty());
    Ok(if all_held { Exit::Done } else { Exit::Missed })
}

fn read_all(path: &Path) -> anyhow::Result<Bytes> {
    let mut content = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_end(&mut content).context("cannot read standard input")?;
    } else {
        File::open(path)
            .and_then(|mut file| file.read_to_end(&mut content))
            .with_context(|| format!("cannot read {}", path.display()))?;
    }
    Ok(content.into())
}
