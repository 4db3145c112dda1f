//! What /metrics exports: the planes' own counters, read when they are asked for.

use std::sync::Arc;

use hearth_cluster::Cluster;
use hearth_store::Store;
use metrics::{counter, describe_counter, describe_gauge, gauge};

use crate::repair::CopyCounters;

/// The sources of the exported figures.
pub(crate) struct Exported {
    store: Store,
    cluster: Cluster,
    copies: Arc<CopyCounters>,
}

impl Exported {
    pub(crate) fn new(store: Store, cluster: Cluster, copies: Arc<CopyCounters>) -> Self {
        describe_gauge!("hearth_tier_capacity_bytes", "Bytes that a tier of this node can hold");
        describe_gauge!("hearth_tier_used_bytes", "Bytes that a tier of this node holds");
        describe_gauge!("hearth_tier_blocks", "Blocks that a tier of this node holds");
        describe_counter!("hearth_gets_total", "Blocks asked of this node, by the tier that had them");
        describe_counter!("hearth_puts_total", "Blocks stored on this node");
        describe_counter!("hearth_put_bytes_total", "Payload bytes stored on this node");
        describe_counter!("hearth_evicted_blocks_total", "Blocks evicted from a tier of this node");
        describe_counter!(
            "hearth_corrupt_blocks_total",
            "Blocks refused because their bytes were not theirs"
        );
        describe_counter!("hearth_io_errors_total", "Failed reads and writes of the slabs");
        describe_counter!("hearth_nvme_written_bytes_total", "Bytes written to the slabs, footers and all");
        describe_counter!(
            "hearth_nvme_written_payload_bytes_total",
            "Payload bytes of the blocks written to the slabs"
        );
        describe_gauge!("hearth_nvme_payload_bytes", "Payload bytes of the blocks on NVMe");
        describe_counter!("hearth_not_admitted_total", "Blocks kept off NVMe for their low priority");
        describe_counter!("hearth_put_conflicts_total", "Puts refused for other bytes under a stored key");
        describe_counter!("hearth_stale_blocks_total", "Records found to belong to another block");
        describe_counter!("hearth_writes_given_up_total", "Blocks that NVMe had no room for or refused");
        describe_gauge!(
            "hearth_fenced_extents",
            "Extents out of service since an I/O error, until --nvme-lift-fences"
        );
        describe_counter!("hearth_growth_failures_total", "Times that a slab could not grow");
        describe_gauge!("hearth_index_bytes", "Memory of the block index");
        describe_gauge!("hearth_pinned_bytes", "Payload bytes of pinned blocks");
        describe_gauge!("hearth_compression_raw_bytes", "What the blocks of a layout would take raw");
        describe_gauge!("hearth_compression_stored_bytes", "What the blocks of a layout take");
        describe_gauge!("hearth_pending_writes", "Blocks on their way to NVMe");
        describe_gauge!("hearth_raft_term", "Term of a Raft group as this node knows it");
        describe_gauge!("hearth_raft_leader", "Node that leads a Raft group; 0 when none is known");
        describe_gauge!("hearth_raft_applied_index", "Last log index that this node applied");
        describe_gauge!("hearth_directory_blocks", "Blocks that the directory knows a replica of");
        describe_gauge!("hearth_nodes", "Nodes of the cluster by state");
        describe_counter!("hearth_copied_blocks_total", "Copies that this node gave to other nodes");
        describe_counter!("hearth_copied_bytes_total", "Payload bytes of those copies");
        describe_counter!("hearth_copy_failures_total", "Tries to give a copy that failed");
        describe_counter!("hearth_copy_searches_total", "Searches of the directory for what lacks copies");
        describe_gauge!("hearth_missing_blocks", "Blocks that lack copies and that this node sees to");
        describe_gauge!("hearth_missing_bytes", "Payload bytes of those blocks");
        Self { store, cluster, copies }
    }

    /// Copies the counters of the planes into the exporter.
    pub(crate) fn refresh(&self) {
        self.refresh_store();
        self.refresh_copies();
        for group in self.cluster.groups() {
            let label = [("group", group.group_id.to_string())];
            gauge!("hearth_raft_term", &label).set(group.term as f64);
            gauge!("hearth_raft_leader", &label).set(group.leader as f64);
            gauge!("hearth_raft_applied_index", &label).set(group.applied_index as f64);
            if group.group_id != 0 {
                gauge!("hearth_directory_blocks", &label).set(group.blocks as f64);
            }
        }
        let nodes = self.cluster.nodes();
        for (state, label) in [(1, "up"), (2, "down"), (3, "draining"), (4, "removed")] {
            let count = nodes.iter().filter(|node| node.state == state).count();
            gauge!("hearth_nodes", "state" => label).set(count as f64);
        }
    }

    fn refresh_copies(&self) {
        let copies = &self.copies;
        counter!("hearth_copied_blocks_total").absolute(copies.copied_blocks.value());
        counter!("hearth_copied_bytes_total").absolute(copies.copied_bytes.value());
        counter!("hearth_copy_failures_total").absolute(copies.failures.value());
        counter!("hearth_copy_searches_total").absolute(copies.searches.value());
        gauge!("hearth_missing_blocks").set(copies.missing_blocks.value() as f64);
        gauge!("hearth_missing_bytes").set(copies.missing_bytes.value() as f64);
    }

    fn refresh_store(&self) {
        let s = self.store.stats();
        for (tier, capacity, used, blocks, gets, evicted) in [
            ("host", s.host_capacity_bytes, s.host_used_bytes, s.host_blocks, s.gets_host, s.evicted_host),
            ("nvme", s.nvme_capacity_bytes, s.nvme_used_bytes, s.nvme_blocks, s.gets_nvme, s.evicted_nvme),
        ] {
            gauge!("hearth_tier_capacity_bytes", "tier" => tier).set(capacity as f64);
            gauge!("hearth_tier_used_bytes", "tier" => tier).set(used as f64);
            gauge!("hearth_tier_blocks", "tier" => tier).set(blocks as f64);
            counter!("hearth_gets_total", "tier" => tier).absolute(gets);
            counter!("hearth_evicted_blocks_total", "tier" => tier).absolute(evicted);
        }
        counter!("hearth_gets_total", "tier" => "none").absolute(s.gets_missed);
        counter!("hearth_puts_total").absolute(s.puts);
        counter!("hearth_put_bytes_total").absolute(s.put_bytes);
        counter!("hearth_corrupt_blocks_total").absolute(s.corrupt_blocks);
        counter!("hearth_io_errors_total").absolute(s.io_errors);
        gauge!("hearth_pending_writes").set(s.pending_writes as f64);
        counter!("hearth_nvme_written_bytes_total").absolute(s.nvme_written_bytes);
        counter!("hearth_nvme_written_payload_bytes_total").absolute(s.nvme_written_payload_bytes);
        gauge!("hearth_nvme_payload_bytes").set(s.nvme_payload_bytes as f64);
        counter!("hearth_not_admitted_total").absolute(s.not_admitted);
        counter!("hearth_put_conflicts_total").absolute(s.conflicts);
        counter!("hearth_stale_blocks_total").absolute(s.stale_blocks);
        counter!("hearth_writes_given_up_total").absolute(s.writes_given_up);
        gauge!("hearth_fenced_extents").set(s.fenced_extents as f64);
        counter!("hearth_growth_failures_total").absolute(s.growth_failures);
        gauge!("hearth_index_bytes").set(s.index_bytes as f64);
        gauge!("hearth_pinned_bytes").set(s.pinned_bytes as f64);
        self.refresh_compression();
    }

    fn refresh_compression(&self) {
        for layout in self.store.compression() {
            let labels = [
                ("namespace", layout.namespace.0.to_string()),
                ("payload_bytes", layout.payload_len.to_string()),
                ("codec", layout.codec.name().to_string()),
            ];
            gauge!("hearth_compression_raw_bytes", &labels).set(layout.raw_bytes as f64);
            gauge!("hearth_compression_stored_bytes", &labels).set(layout.stored_bytes as f64);
        }
    }
}
