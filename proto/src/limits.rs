//! Every bound of Hearth, in one place, with the relations between them checked when compiling.
//!
//! Units come last in each name. Full means back-pressure or a typed refusal, never growth.

/// Shortest prefix hash that an engine may use.
pub const PREFIX_HASH_BYTES_MIN: usize = 8;
/// Longest prefix hash that an engine may use.
pub const PREFIX_HASH_BYTES_MAX: usize = 64;
/// Raft groups that may share the directory of one cluster.
pub const DIRECTORY_GROUPS_MAX: u32 = 64;
/// Blocks that one request may name.
pub const CHAIN_BLOCKS_MAX: usize = 4_096;
/// Largest payload of one block.
pub const BLOCK_BYTES_MAX: usize = 64 << 20;

/// Unit of direct I/O and of slot sizes: logical sectors of every supported device divide it.
pub const SECTOR_BYTES: usize = 4_096;
/// Size of one extent: the unit in which memory and disk are given to a record size.
pub const EXTENT_BYTES: usize = 128 << 20;
/// Extents of the arena that are considered when one is emptied for another record size.
pub const DRAIN_EXTENTS_TRIED_MAX: usize = 8;
/// Smallest arena that a store opens.
pub const ARENA_BYTES_MIN: u64 = EXTENT_BYTES as u64;
/// Largest piece of the arena that the kernel takes as one fixed buffer.
pub const FIXED_BUFFER_BYTES_MAX: usize = 1 << 30;
/// Files and devices of one store.
pub const SLABS_MAX: usize = 64;
/// Blocks of one record size go to the slabs of a store in turn, so many bytes at a time: short enough that
/// a burst of puts keeps all of them busy.
pub const STRIPE_BYTES: usize = 4 << 20;
/// Blocks that go to one slab in a row at the least, however large they are, so that a chain lies in few
/// places.
pub const STRIPE_BLOCKS_MIN: u32 = 8;
/// Reads and writes in flight on one ring.
pub const RING_IN_FLIGHT_MAX: usize = 64;
/// Threads of the portable disk driver; each performs one transfer at a time.
pub const DISK_THREADS: usize = 16;
/// How often one transfer is submitted, the first time included: after an interruption or a short count.
pub const TRANSFER_SUBMISSIONS_MAX: u32 = 64;
/// How long opening a block device waits for its last user to be gone: the kernel takes the rings of a
/// process that has ended apart a little later.
pub const DEVICE_BUSY_MS_MAX: u64 = 1_000;
/// Pause between attempts to open a block device that is busy.
pub const DEVICE_BUSY_RETRY_MS: u64 = 10;
/// How long the kernel's submission thread keeps looking before it sleeps.
pub const SQPOLL_IDLE_MS: u32 = 50;
/// Requests that may wait for the disk thread.
pub const DISK_QUEUE_MAX: usize = 8_192;
/// Blocks on their way from the arena to NVMe; beyond it puts wait.
pub const WRITE_THROUGH_MAX: usize = 65_536;
/// Part of a file system, as a divisor, that the slab leaves to the metadata beside it: an entry of the
/// index takes some 120 bytes, so this is the index of a disk full of blocks of 16 KiB.
pub const METADATA_RESERVE_DIVISOR: u64 = 128;
/// What the slab leaves at the least: the write-ahead logs of both databases at their longest, what
/// flushing them takes, and a compaction.
pub const METADATA_RESERVE_BYTES: u64 = 512 << 20;
/// What the slab leaves of a file system so small that a quarter of it is less than the reserve.
pub const METADATA_RESERVE_BYTES_MIN: u64 = 64 << 20;
/// How long the slab makes do with its size after growing failed, before it tries again.
pub const GROWTH_RETRY_MS: u64 = 5_000;
/// Length of the footer that ends every record on NVMe.
pub const RECORD_FOOTER_BYTES: usize = 128;
/// Length of the superblock that begins every slab file and device.
pub const SUPERBLOCK_BYTES: usize = SECTOR_BYTES;
/// Where the extents of a slab begin: behind the superblock, aligned for any device.
pub const SLAB_DATA_OFFSET_BYTES: u64 = 1 << 20;
/// Layouts for which a store decides about compression; the blocks of others are stored raw.
pub const CODEC_LAYOUTS_MAX: usize = 1_024;
/// Blocks of a new layout on which codecs are tried before one is chosen.
pub const CODEC_TRIALS_FIRST: u32 = 16;
/// After those, codecs are tried on one block of the layout in this many.
pub const CODEC_TRIAL_EVERY: u64 = 128;
/// What a codec must save of a layout's records, in whole sectors, to be used.
pub const CODEC_SAVING_PERMILLE_MIN: u64 = 125;
/// What must be saved on top of that, or of any other bar, by a codec that is not the layout's already.
pub const CODEC_SAVING_PERMILLE_MARGIN: u64 = 30;
/// What byte planes must save more than plain lz4, which is several times as fast.
pub const CODEC_PLANES_PERMILLE_LEAD: u64 = 100;
/// Part of its record, as a divisor, that a single block must save, or it is stored raw.
pub const CODEC_BLOCK_SAVING_DIVISOR: usize = 16;
/// Blocks of the arena that may be lent at a time to readers outside the process.
pub const LOANS_MAX: usize = 65_536;
/// The longest that a block may be lent.
pub const LOAN_MS_MAX: u64 = 60_000;
/// Part of a tier, in thousandths, that may be pinned.
pub const PINNED_PERMILLE_MAX: u64 = 500;
/// Slots of NVMe that are kept ready for records of one size, at the most.
pub const READY_SLOTS_MAX: usize = 512;
/// The fewest that are worth it.
pub const READY_SLOTS_MIN: usize = 4;
/// How many become ready at a time.
pub const READY_SLOTS_STEP: usize = 128;
/// The most bytes of slots that are ready, shared by the record sizes in use: about so much is read when a store
/// opens.
pub const READY_BYTES_MAX: u64 = 128 << 20;
/// They take no more of the tier than this part of it.
pub const READY_TIER_DIVISOR: u64 = 32;
/// Changes of holdings that wait to be reported; beyond it the inventory is sent anew.
pub const DELTA_QUEUE_MAX: usize = 262_144;

/// Header of a data-plane frame.
pub const FRAME_HEADER_BYTES: usize = 32;
/// Body of a data-plane frame, payload not counted.
pub const FRAME_BODY_BYTES_MAX: usize = 512 << 10;
/// Data-plane connections that one node accepts.
pub const CONNECTIONS_MAX: usize = 1_024;
/// Requests that one connection may have open.
pub const CONNECTION_REQUESTS_MAX: usize = 256;
/// Blocks that one connection may have in work on the server at a time.
pub const CONNECTION_BLOCKS_IN_WORK_MAX: usize = 128;
/// Orders of one connection that may wait for its sending task; when they do, the client is not read.
pub const CONNECTION_ORDERS_MAX: usize = 64;
/// Answers of one connection that may wait for its socket; when they do, nothing more is looked up.
pub const CONNECTION_ANSWERS_MAX: usize = 2 * CONNECTION_BLOCKS_IN_WORK_MAX;
/// Frames that may wait at the client's end: the request and the cancel of each that may be open.
pub const CONNECTION_COMMANDS_MAX: usize = 2 * CONNECTION_REQUESTS_MAX;
/// Pause of a listener for which the system has no descriptor.
pub const ACCEPT_PAUSE_MS: u64 = 50;
/// Buffers that one vectored write takes.
pub const WRITEV_BUFFERS_MAX: usize = 64;
/// Payload bytes that one connection may have in work on the server at a time.
pub const CONNECTION_BYTES_IN_WORK_MAX: usize = 128 << 20;
/// Payload bytes after which a batch of frames is written out.
pub const WRITE_BATCH_BYTES: usize = 4 << 20;
/// Bytes that a connection reads ahead of the frame it is at.
pub const READ_AHEAD_BYTES: usize = 16 << 10;
/// Text of the last frame of a connection.
pub const GOODBYE_TEXT_BYTES_MAX: usize = 256;
/// How long a new connection may take to say hello.
pub const HANDSHAKE_MS_MAX: u64 = 2_000;
/// How long a frame once begun may stand still, to either side.
pub const FRAME_STALL_MS_MAX: u64 = 10_000;
/// What a peer must move: a frame may take this long for its bytes on top of one stall, however often
/// it moves a little.
pub const TRANSFER_BYTES_PER_SECOND_MIN: u64 = 4 << 20;
/// How long a connection may say nothing.
pub const CONNECTION_IDLE_MS_MAX: u64 = 600_000;
/// How long a put may hold up its connection while it waits for a slot.
pub const SLOT_WAIT_MS_MAX: u64 = 250;
/// After a put waited in vain, those behind it do not wait for as many times that long, unless one
/// finds a slot.
pub const SLOT_PAUSE_FACTOR: u32 = 9;
/// How long a server that shuts down waits for requests in work.
pub const DRAIN_MS_MAX: u64 = 5_000;
/// How long a refused peer may take to read why.
pub const LINGER_MS_MAX: u64 = 1_000;
/// Refused connections that are told why at the same time.
pub const REFUSALS_MAX: usize = 32;

/// Deltas in one report of a node.
pub const REPORT_DELTAS_MAX: usize = 8_192;
/// How soon after a report to a directory group the next one is sent if it is not full: under load an entry of
/// the log costs more than what is in it.
pub const REPORT_LINGER_MS: u64 = 5;
/// Full reports to one directory group that may be on their way at a time.
pub const REPORTS_IN_FLIGHT_MAX: usize = 4;
/// Changes that may wait to be reported to the directory before the store is held back.
pub const REPORT_QUEUE_MAX: usize = 1 << 18;
/// How long a directory group that takes nothing may hold the store back: then what waits for it is let go of, and
/// its inventory is compared once it listens. Longer than the election of a leader.
pub const REPORT_STALL_MS: u64 = 1_500;
/// Of the 256 ranges of a directory group, how many are compared at a time when a node returns: lookups wait
/// while what differs is dropped.
pub const RESYNC_RANGES: usize = 4;
/// Of the same, in how many one purge drops what a node claimed. Every replica has to drop the same.
pub const PURGE_RANGES: usize = 16;
/// How long the claims of a node that is down are kept for its return.
pub const SUSPENDED_CLAIMS_MS: u64 = 3_600_000;
/// Largest Raft message or gRPC message.
pub const GRPC_MESSAGE_BYTES_MAX: usize = 32 << 20;
/// Blocks in one announcement to the other nodes.
pub const ANNOUNCE_BLOCKS_MAX: usize = 8_192;
/// Blocks that may wait to be announced; beyond it the directory alone spreads the news.
pub const ANNOUNCE_QUEUE_MAX: usize = 65_536;
/// How long an acknowledgement waits for the other nodes to have heard of the block.
pub const ANNOUNCE_WAIT_MS: u64 = 20;
/// How long a node that did not answer an announcement is left out.
pub const ANNOUNCE_PAUSE_MS: u64 = 1_000;
/// Nodes up to which each announces to all others; in larger clusters the directory alone does it.
pub const ANNOUNCE_NODES_MAX: usize = 16;
/// Announced blocks that a node remembers.
pub const EARLY_CLAIMS_MAX: usize = 262_144;
/// How long an announcement counts; the directory has the block long before.
pub const EARLY_CLAIM_MS: u64 = 5_000;

/// What may be on its way to one end of a gRPC connection.
pub const GRPC_CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// What may be on its way to one end of a gRPC call.
pub const GRPC_STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// Largest frame of a gRPC connection.
pub const GRPC_FRAME_BYTES_MAX: u32 = 1 << 20;
/// gRPC calls that one connection may have open.
pub const GRPC_STREAMS_MAX: u32 = 1_024;
/// Nodes of one cluster.
pub const NODES_MAX: usize = 1_024;
/// Voters that a cluster fills up to by itself.
pub const VOTERS_TARGET: usize = 3;

/// Deadline of a client call when the caller names none.
pub const CALL_DEADLINE_MS_DEFAULT: u64 = 2_000;
/// Longest deadline that a call may ask for.
pub const CALL_DEADLINE_MS_MAX: u64 = 600_000;
/// How far beyond its deadline a call may return (INV-DEADLINE).
pub const DEADLINE_GRACE_MS: u64 = 50;
/// Attempts of one client call, the first included.
pub const CALL_ATTEMPTS_MAX: u32 = 3;
/// How long a client leaves a node alone after it failed; doubles with each failure.
pub const BREAKER_PAUSE_MS_MIN: u64 = 100;
/// What a node must have had to answer before its silence counts against it.
pub const ANSWER_MS_MIN: u64 = 50;
/// The longest that a client leaves a failed node alone.
pub const BREAKER_PAUSE_MS_MAX: u64 = 5_000;

/// Interval of a node's heartbeat to the control leader.
pub const HEARTBEAT_MS: u64 = 500;
/// Silence after which the control leader declares a node down.
pub const NODE_DOWN_AFTER_MS: u64 = 3_000;
/// How long nothing is heard of a group's majority before a node says so and is not ready.
pub const QUORUM_LOST_MS: u64 = 10_000;
/// How long a voter may be down before another node votes in its place.
pub const VOTER_LOST_AFTER_MS: u64 = 60_000;
/// Interval of the Raft leader's heartbeat.
pub const RAFT_HEARTBEAT_MS: u64 = 60;
/// Shortest Raft election time-out. It runs after the lease of a leader that fell silent, which lasts
/// [`RAFT_ELECTION_MS_MAX`]: nobody is elected before the sum of both.
pub const RAFT_ELECTION_MS_MIN: u64 = 250;
/// Longest Raft election time-out. A new leader is there after twice that and one round of votes, unless
/// the first round fails: within a second (`hearth-bench failover`).
pub const RAFT_ELECTION_MS_MAX: u64 = 400;
/// How long a follower may take to sync and answer one append of a stream; the election does not wait for it.
pub const RAFT_APPEND_MS: u64 = 1_200;
/// Silence after which a connection to a peer is asked whether it lives.
pub const PEER_KEEP_ALIVE_MS: u64 = 600;
/// How long a peer may take to answer that; one that is only busy keeps its connection.
pub const PEER_KEEP_ALIVE_ANSWER_MS: u64 = 1_200;
/// How long opening a connection to a peer may take.
pub const PEER_CONNECT_MS: u64 = 600;
/// Entries after which a group takes a snapshot, however small they are.
pub const SNAPSHOT_EVERY_ENTRIES: u64 = 500_000;
/// Bytes of the log after which a group takes a snapshot, or as many as its last snapshot has if that is more.
pub const SNAPSHOT_EVERY_BYTES: u64 = 64 << 20;
/// Blocks of a snapshot that are written at a time, while which no entry is applied.
pub const SNAPSHOT_PIECE_SLOTS: u32 = 1_024;
/// Log entries by which a new member may be behind and still count as up to date.
pub const RAFT_LAG_ENTRIES_MAX: u64 = 5_000;
/// Log entries that a group keeps behind its snapshot, for followers that lag a little.
pub const SNAPSHOT_KEEP_ENTRIES: u64 = 200;
/// Largest command that a leader takes into the log.
pub const COMMAND_BYTES_MAX: usize = 1 << 20;
/// Longest name or address of a node.
pub const NODE_TEXT_BYTES_MAX: usize = 256;
/// Log bytes in one append message, at least one entry.
pub const RAFT_APPEND_BYTES_MAX: usize = 8 << 20;
/// Log that a group keeps in memory as well, for followers and for being applied.
pub const RAFT_RECENT_BYTES_MAX: usize = 8 << 20;
/// Log entries in one append message.
pub const RAFT_APPEND_ENTRIES_MAX: u64 = 256;
/// How long sending and installing one snapshot may take.
pub const SNAPSHOT_SEND_MS: u64 = 120_000;
/// Log writes that may wait for the sync they share.
pub const SYNC_QUEUE_MAX: usize = 4_096;
/// Pause between attempts to reach a leader.
pub const PROPOSE_RETRY_MS: u64 = 25;
/// How long one attempt to commit a command may take before it is tried anew.
pub const PROPOSE_ATTEMPT_MS: u64 = 5_000;
/// How many entries behind the leader a learner may be and still be made a voter.
pub const VOTER_LAG_ENTRIES_MAX: u64 = 1_000;
/// How fast a snapshot is sent at the most, so that the log beside it goes on.
pub const SNAPSHOT_BYTES_PER_SECOND: u64 = 256 << 20;
/// How fast a snapshot is written where nothing is applied beside it.
pub const SNAPSHOT_WRITE_BYTES_PER_SECOND: u64 = 64 << 20;
/// How fast at the least. Beside much that is applied it is twice as fast as the log grows.
pub const SNAPSHOT_WRITE_BYTES_PER_SECOND_MIN: u64 = 16 << 20;
/// How often a snapshot looks how fast the log beside it grows.
pub const SNAPSHOT_LOOK_MS: u64 = 100;
/// How much of it waits to be synced: the log's syncs wait behind it.
pub const SNAPSHOT_SYNC_BYTES: usize = 8 << 20;
/// Pause before a snapshot is asked for again, while another one is being written.
pub const SNAPSHOT_RETRY_MS: u64 = 100;
/// Piece of a snapshot in one message.
pub const SNAPSHOT_CHUNK_BYTES: usize = 1 << 20;

/// Namespaces of one cluster.
pub const NAMESPACES_MAX: usize = 1_024;
/// Longest name of a namespace or of a sharing group.
pub const NAMESPACE_NAME_BYTES_MAX: usize = 64;
/// What the namespace that is there from the start may pin until somebody says otherwise.
pub const DEFAULT_PIN_QUOTA_BYTES: u64 = 1 << 30;
/// The longest that a policy may ramp in a node.
pub const RAMP_MS_MAX: u64 = 24 * 3_600_000;
/// Pins of one namespace.
pub const PINS_MAX: usize = 4_096;
/// Blocks that all pins of a cluster name together.
pub const PINNED_BLOCKS_MAX: usize = 262_144;
/// The shortest that a pin may hold.
pub const PIN_TTL_MS_MIN: u64 = 1_000;
/// The longest that a pin may hold without being renewed.
pub const PIN_TTL_MS_MAX: u64 = 30 * 24 * 3_600_000;
/// Claims on missing blocks that one directory group keeps.
pub const CLAIMS_MAX: usize = 65_536;
/// The shortest that a claim may hold.
pub const CLAIM_TTL_MS_MIN: u64 = 100;
/// The longest that a claim may hold without being renewed: nobody else computes the block meanwhile.
pub const CLAIM_TTL_MS_MAX: u64 = 600_000;
/// Longest name of a claimant.
pub const CLAIMANT_BYTES_MAX: usize = 128;
/// Times that one call claims anew because the block it chose had come meanwhile.
pub const CLAIM_ROUNDS_MAX: usize = 8;
/// Calls that may wait on one node for claims of one directory group to end.
pub const WAITERS_MAX: usize = 16_384;
/// Blocks whose retention one directory group remembers; beyond it the oldest make place.
pub const RETENTIONS_MAX: usize = 131_072;
/// Retentions that end with one command; the rest go with the next.
pub const RETENTION_SWEEP_MAX: usize = 4_096;
/// The longest that a retention may last before it falls back, unless it never does.
pub const RETENTION_MS_MAX: u64 = 366 * 24 * 3_600_000;
/// Blocks whose pins or retention changed and whose store has not been told; beyond it all are told anew.
pub const KEPT_QUEUE_MAX: usize = 65_536;
/// Pause between looks at what is due to end, at the longest.
pub const EXPIRY_MS_MAX: u64 = 500;
/// The same, at the shortest.
pub const EXPIRY_MS_MIN: u64 = 10;
/// How long a new or returned node is ramped in when the policy does not say.
pub const RAMP_MS_DEFAULT: u64 = 300_000;
/// What a node counts for as soon as it is up, as a part of its full weight.
pub const RAMP_WEIGHT_MIN: f64 = 1.0 / 16.0;
/// Copies of one block that a policy may ask for.
pub const REPLICAS_MAX: u32 = 8;
/// What all nodes together move a second to make replicas again or to drain, when the policy does not say.
pub const REPAIR_BYTES_PER_SECOND_DEFAULT: u64 = 512 << 20;
/// How long after a change among the nodes replicas are made again: nodes that merely restart come back.
pub const REPAIR_GRACE_MS: u64 = 10_000;
/// The longest that changes which do not end may put repair off, in such times.
pub const REPAIR_GRACES_MAX: u32 = 6;
/// Blocks that wait to be copied; what does not fit is found again.
pub const COPY_QUEUE_MAX: usize = 65_536;
/// Copies that one node sends at a time.
pub const COPIES_IN_FLIGHT_MAX: usize = 16;
/// Of those, copies of new blocks: a repair goes on beside them.
pub const COPIES_OF_NEW_IN_FLIGHT_MAX: usize = 12;
/// Payload bytes of the copies that one node sends at a time; a single one may be larger.
pub const COPY_BYTES_IN_FLIGHT_MAX: usize = 64 << 20;
/// How long one copy may take.
pub const COPY_MS_MAX: u64 = 15_000;
/// How often one copy is tried before it is left to the next look at the directory.
pub const COPY_ATTEMPTS_MAX: u32 = 3;
/// How long a node that failed a copy is given none.
pub const COPY_PAUSE_MS: u64 = 1_000;
/// How long a new block waits before it is copied, so that copies which others made of it are known.
pub const COPY_DELAY_MS: u64 = 200;
/// How long a copy that was made counts although the directory does not have it yet.
pub const COPY_SETTLE_MS: u64 = 10_000;
/// Pause between looks at the cluster's state and at ranges of the directory.
pub const REPAIR_TICK_MS: u64 = 100;
/// Searches of the directory after a change, the pause before each twice as long unless the last one gained.
pub const REPAIR_SEARCHES_MIN: u32 = 4;
/// The longest that replicas which were lost without a change among the nodes are not looked for.
pub const REPAIR_SEARCH_EVERY_MS: u64 = 3_600_000;
/// How old may be what is known of the room on other nodes.
pub const REPAIR_SITES_MS: u64 = 1_000;
/// Pause before the directory is searched again for what could not be copied, or for what a drain left;
/// doubles while nothing is gained by it.
pub const REPAIR_RESCAN_MS: u64 = 2_000;
/// The longest such pause.
pub const REPAIR_RESCAN_MS_MAX: u64 = 60_000;
/// How long an answer about the progress of drains is given again.
pub const PROGRESS_FRESH_MS: u64 = 500;
/// The time over which the rate of a drain is taken.
pub const PROGRESS_RATE_MS: u64 = 60_000;

/// Tokens that one prompt may have, and as many may be cached before those that are computed.
pub const PLACEMENT_TOKENS_MAX: u32 = 1 << 22;
/// Bytes that one block may have in all ranks of a worker together.
pub const PLACEMENT_BLOCK_BYTES_MAX: u64 = 1 << 32;
/// Workers among which one request is placed.
pub const PLACEMENT_CANDIDATES_MAX: usize = 4_096;
/// The longest that anything may take that a placement reckons with.
pub const PLACEMENT_SECONDS_MAX: f64 = 3_600.0;
/// The shortest time that a measurement may report.
pub const PLACEMENT_SECONDS_MIN: f64 = 1e-9;
/// Places from which one worker may load parts of one chain.
pub const LOAD_SOURCES_MAX: usize = 4;
/// How far measurements may move any coefficient of a model from its prior, as a factor either way.
pub const MODEL_PRIOR_FACTOR_MAX: f64 = 64.0;
/// What a measurement counts for at the most, as a factor of what the model expects, either way.
pub const MODEL_OUTLIER_FACTOR: f64 = 1.5;
/// Prefills after which an older one counts for about a third.
pub const PREFILL_WINDOW_REPORTS: u32 = 256;
/// Transfers after which an older one counts for about a third.
pub const LINK_WINDOW_TRANSFERS: u32 = 64;
/// Links that one router measures.
pub const LINKS_MAX: usize = 65_536;
/// Bytes that one transfer over a link may have.
pub const LINK_TRANSFER_BYTES_MAX: u64 = 1 << 42;
/// Fastest link, in bytes a second.
pub const LINK_BYTES_PER_SECOND_MAX: f64 = 1e15;
/// Requests that workers are reserved for at a time.
pub const RESERVATIONS_MAX: usize = 131_072;
/// Requests that are remembered although they are over or unknown, so that what comes late about them is
/// understood. Beyond it those that would be forgotten first make place.
pub const RESERVATION_MARKS_MAX: usize = 131_072;
/// The longest that a worker may be reserved for one request.
pub const RESERVATION_MS_MAX: u64 = 3_600_000;
/// Longest payload of one batch of an engine's events. A prompt of a million tokens in blocks of 16 takes 8 MB.
pub const EVENT_BATCH_BYTES_MAX: usize = 32 << 20;
/// Events of one batch. SGLang makes one for each page, which may be a single token.
pub const EVENT_BATCH_EVENTS_MAX: usize = 1 << 18;
/// Blocks that one event may name.
pub const EVENT_BLOCKS_MAX: usize = 1 << 18;
/// Batches of one publisher that wait for those before them; beyond it they are asked for again. vLLM and SGLang keep
/// the last 10,000 for replays.
pub const EVENT_HELD_BATCHES_MAX: usize = 16_384;
/// Their bytes.
pub const EVENT_HELD_BYTES_MAX: usize = 64 << 20;
/// How long a replay of batches may stand still. vLLM looks for requests ten times a second at the least.
pub const EVENT_REPLAY_STALL_MS: u64 = 2_000;
/// How often one replay is asked for in vain before the batches count as lost.
pub const EVENT_REPLAY_ATTEMPTS_MAX: u32 = 2;
/// Publishers of events that one node follows.
pub const ROUTER_PUBLISHERS_MAX: usize = 4_096;
/// Longest request to a node's router: a million tokens as JSON.
pub const ROUTER_REQUEST_BYTES_MAX: usize = 8 << 20;
/// Requests up to here are read where they arrive; longer ones would hold up others.
pub const ROUTER_SHORT_REQUEST_BYTES: usize = 64 << 10;
/// Longest address of a publisher.
pub const PUBLISHER_ADDRESS_BYTES_MAX: usize = 1_024;
/// How long a connection to a publisher may take.
pub const PUBLISHER_CONNECT_MS: u64 = 2_000;
/// Pause between attempts to reach a publisher that is away.
pub const PUBLISHER_RETRY_MS: u64 = 500;
/// How long a publisher that says nothing is taken for idle before its port is tried, and how long one that cannot be
/// reached is taken for alive.
pub const PUBLISHER_GONE_MS: u64 = 10_000;
/// Pools that one publisher may be a worker of: its model's, and one for each adapter.
pub const FEED_POOLS_MAX: usize = 64;
/// How long an engine with work to do says nothing about its blocks.
pub const EVENT_SILENCE_MS: u64 = 30_000;

/// Pools of one router: a model of one tenant, with an adapter or without, in blocks of one size.
pub const POOLS_MAX: usize = 1_024;
/// Workers of one pool.
pub const POOL_WORKERS_MAX: usize = 4_096;
/// Longest name of a model, a tenant, an adapter or an instance.
pub const POOL_NAME_BYTES_MAX: usize = 256;
/// Tokens of one block.
pub const BLOCK_TOKENS_MAX: u32 = 65_536;
/// Blocks that one query may ask for: a prompt of a million tokens in blocks of 16.
pub const QUERY_BLOCKS_MAX: usize = 65_536;
/// How often a query starts over because workers came or went, before they have to wait for it.
pub const QUERY_ATTEMPTS_MAX: usize = 4;
/// Blocks of one worker that a router knows by the engine's names; beyond it the oldest are forgotten.
pub const WORKER_BLOCKS_MAX: usize = 1 << 22;

/// Longest line of a trace.
pub const TRACE_LINE_BYTES_MAX: usize = 64 << 20;
/// Bytes of blocks that a replay names in one call.
pub const REPLAY_BATCH_BYTES_MAX: usize = 32 << 20;
/// Sessions that a replay keeps in work at a time.
pub const REPLAY_CONCURRENCY_MAX: usize = 1_024;

const _: () = {
    assert!(EXTENT_BYTES.is_multiple_of(SECTOR_BYTES));
    assert!(FIXED_BUFFER_BYTES_MAX.is_multiple_of(EXTENT_BYTES));
    assert!(BLOCK_BYTES_MAX + SECTOR_BYTES <= EXTENT_BYTES);
    assert!(STRIPE_BYTES >= SECTOR_BYTES && STRIPE_BYTES < EXTENT_BYTES);
    assert!(RECORD_FOOTER_BYTES < SECTOR_BYTES);
    assert!(SUPERBLOCK_BYTES as u64 <= SLAB_DATA_OFFSET_BYTES);
    assert!(SLAB_DATA_OFFSET_BYTES.is_multiple_of(SECTOR_BYTES as u64));
    assert!(CODEC_TRIALS_FIRST > 0);
    assert!(CODEC_TRIAL_EVERY > 1);
    // A block that is as good as its layout has to be must pass for itself.
    assert!(1_000 <= CODEC_SAVING_PERMILLE_MIN * CODEC_BLOCK_SAVING_DIVISOR as u64);
    assert!(BLOCK_BYTES_MAX <= u32::MAX as usize);
    assert!(CHAIN_BLOCKS_MAX * 64 <= FRAME_BODY_BYTES_MAX);
    assert!(BLOCK_BYTES_MAX <= CONNECTION_BYTES_IN_WORK_MAX);
    assert!(CALL_DEADLINE_MS_MAX <= CONNECTION_IDLE_MS_MAX);
    assert!(FRAME_HEADER_BYTES < READ_AHEAD_BYTES);
    assert!(RAFT_HEARTBEAT_MS * 3 < RAFT_ELECTION_MS_MIN);
    assert!(RAFT_ELECTION_MS_MIN < RAFT_ELECTION_MS_MAX);
    assert!(HEARTBEAT_MS * 4 <= NODE_DOWN_AFTER_MS);
    // A node must not be declared down while the control group is without a leader.
    assert!(RAFT_ELECTION_MS_MAX * 3 < NODE_DOWN_AFTER_MS);
    assert!(RAFT_ELECTION_MS_MAX * 2 < PEER_KEEP_ALIVE_MS + PEER_KEEP_ALIVE_ANSWER_MS);
    assert!(PROPOSE_RETRY_MS * 4 <= RAFT_ELECTION_MS_MIN);
    assert!(RAFT_ELECTION_MS_MAX * 2 < REPORT_STALL_MS);
    assert!(NODE_DOWN_AFTER_MS < VOTER_LOST_AFTER_MS);
    assert!(RAFT_ELECTION_MS_MAX * 4 < QUORUM_LOST_MS);
    assert!(BREAKER_PAUSE_MS_MIN <= BREAKER_PAUSE_MS_MAX);
    assert!(SNAPSHOT_CHUNK_BYTES < GRPC_MESSAGE_BYTES_MAX);
    assert!(RAFT_APPEND_BYTES_MAX * 2 <= GRPC_MESSAGE_BYTES_MAX);
    assert!(REPORT_DELTAS_MAX * 64 <= COMMAND_BYTES_MAX);
    assert!(COMMAND_BYTES_MAX <= RAFT_APPEND_BYTES_MAX);
    assert!(SNAPSHOT_KEEP_ENTRIES < SNAPSHOT_EVERY_ENTRIES);
    assert!(METADATA_RESERVE_BYTES_MIN <= METADATA_RESERVE_BYTES);
    assert!(CLAIM_TTL_MS_MIN < CLAIM_TTL_MS_MAX && PIN_TTL_MS_MIN < PIN_TTL_MS_MAX);
    assert!(CHAIN_BLOCKS_MAX <= PINNED_BLOCKS_MAX && CHAIN_BLOCKS_MAX <= RETENTIONS_MAX);
    assert!(CHAIN_BLOCKS_MAX * 32 + 4_096 <= COMMAND_BYTES_MAX);
    assert!(EXPIRY_MS_MIN <= CLAIM_TTL_MS_MIN && EXPIRY_MS_MIN < EXPIRY_MS_MAX);
    assert!(COPIES_OF_NEW_IN_FLIGHT_MAX < COPIES_IN_FLIGHT_MAX);
    assert!(COPIES_IN_FLIGHT_MAX <= CONNECTION_BLOCKS_IN_WORK_MAX);
    assert!(REPAIR_TICK_MS <= REPAIR_RESCAN_MS && REPAIR_RESCAN_MS <= REPAIR_RESCAN_MS_MAX);
    assert!(COPY_DELAY_MS < COPY_SETTLE_MS && COPY_PAUSE_MS < COPY_MS_MAX);
    // The work of all requests that workers are reserved for is added up exactly: twice the pairs of tokens of one
    // are at most three times the square of its tokens.
    assert!(
        RESERVATIONS_MAX as u64 <= u64::MAX / 3 / PLACEMENT_TOKENS_MAX as u64 / PLACEMENT_TOKENS_MAX as u64
    );
    assert!(PLACEMENT_SECONDS_MIN < PLACEMENT_SECONDS_MAX);
    assert!(MODEL_OUTLIER_FACTOR > 1.0 && MODEL_OUTLIER_FACTOR < MODEL_PRIOR_FACTOR_MAX);
    assert!(PREFILL_WINDOW_REPORTS > 1 && LINK_WINDOW_TRANSFERS > 1);
    // A node that is silent is not yet down for as long; then it has the grace.
    assert!(REPAIR_GRACE_MS > NODE_DOWN_AFTER_MS);
    assert!(CHAIN_BLOCKS_MAX <= EVENT_BLOCKS_MAX && EVENT_BLOCKS_MAX < EVENT_BATCH_BYTES_MAX);
    // One event does not make the router forget what it is about.
    assert!(EVENT_BLOCKS_MAX * 8 <= WORKER_BLOCKS_MAX);
    // Each worker is up to three members of an index, which have numbers of 16 bits.
    assert!(POOL_WORKERS_MAX * 3 <= u16::MAX as usize);
    assert!(CHAIN_BLOCKS_MAX <= QUERY_BLOCKS_MAX);
    assert!(EVENT_BATCH_BYTES_MAX <= EVENT_HELD_BYTES_MAX && EVENT_BATCH_BYTES_MAX <= u32::MAX as usize);
    assert!(EVENT_REPLAY_STALL_MS * EVENT_REPLAY_ATTEMPTS_MAX as u64 <= EVENT_SILENCE_MS);
};
