//! Every bound of the system, with its unit and its reason.

use std::time::Duration;

/// Longest chunk, in bytes: the largest piece that is ever hashed, stored, sent or held as one.
pub const MAX_CHUNK_LEN: usize = 1 << 20;
/// Default average chunk, in bytes: `docs/decisions/0002-chunk-size.md` says why.
pub const DEFAULT_CHUNK_AVG: u32 = 64 << 10;
/// Largest manifest page, in bytes: one page is decoded as a whole.
pub const MAX_PAGE_LEN: usize = 256 << 10;
/// Most levels of index pages between a manifest's root and its leaves; 2 hold more than a petabyte.
pub const MAX_PAGE_DEPTH: u8 = 4;

/// Largest peer frame, in bytes: a chunk and its envelope, or a page of operations.
pub const MAX_PEER_FRAME: usize = 2 << 20;
/// Largest control frame, in bytes.
pub const MAX_CONTROL_FRAME: usize = 1 << 20;
/// Bytes of content in one control data frame: leaves room for the envelope below [`MAX_CONTROL_FRAME`].
pub const CONTROL_DATA_LEN: usize = 256 << 10;
/// Largest gossip message, in bytes.
pub const MAX_GOSSIP_LEN: usize = 64 << 10;
/// Largest encoded operation, in bytes.
pub const MAX_OP_LEN: usize = 64 << 10;
/// Most parents, and most keeps, of one operation: more heads than that are merged first.
pub const MAX_OP_PARENTS: usize = 256;

/// Connections that are being set up, of each direction; the next one is refused.
pub const MAX_PENDING_CONNECTIONS: usize = 32;
/// Connections with one peer.
pub const MAX_CONNECTIONS_PER_PEER: usize = 4;
/// A connection that is not encrypted, authenticated and multiplexed by then is dropped.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// Pause of a listener after an error that concerns the whole process, such as no descriptors left.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(500);
/// A connection whose sent bytes are not acknowledged for so long is dead.
pub const TCP_UNACKNOWLEDGED: Duration = Duration::from_secs(30);
/// Bytes that a socket is asked for at once: a record of the encryption and what follows it. Held only while in use.
pub const SOCKET_READ_AHEAD: usize = 64 << 10;
/// Streams of one connection, of both directions and all protocols: [`MAX_STREAMS_PER_PEER`] and some for libp2p's own.
pub const MUXER_STREAMS: usize = 48;
/// Bytes that all streams of one connection may receive ahead of their readers: 256 KiB for each as yamux prescribes,
/// and 4 MiB that the busy ones get in addition on links with much bandwidth and delay.
pub const MUXER_WINDOWS: usize = MUXER_STREAMS * (256 << 10) + (4 << 20);
/// Bytes of payload in one frame of the muxer: with its header two whole records of Noise, and below the size from
/// which glibc asks the kernel for each allocation.
pub const MUXER_FRAME: usize = 2 * 64_511 - 12;
/// Bytes that the muxer writes before it flushes, when there is more to write.
pub const MUXER_UNFLUSHED: usize = 128 << 10;
/// Streams of bib protocols with one peer, both directions together; the next one is refused.
pub const MAX_STREAMS_PER_PEER: u32 = 32;
/// Streams of one connection on which both sides have not agreed on a protocol yet.
pub const MAX_NEGOTIATING_STREAMS: usize = 16;
/// How long such an agreement may take.
pub const STREAM_NEGOTIATION: Duration = Duration::from_secs(10);
/// Bytes allocated for a frame before any of it has come; afterwards at most twice what came.
pub const FRAME_FIRST_ALLOCATION: usize = 16 << 10;
/// Bytes of a frame that are copied behind its header, so that short frames leave as one piece.
pub const FRAME_JOINED_WRITE: usize = 8 << 10;
/// Time between two pings of a connection: a minute keeps 20 idle peers far below half a KiB a second.
pub const PING_INTERVAL: Duration = Duration::from_secs(60);
/// A ping without an answer by then has failed.
pub const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Failed pings in a row that end a connection.
pub const PING_FAILURES_TO_CLOSE: u32 = 2;
/// Time between two introductions of a node to a connected peer; changes are rare.
pub const IDENTIFY_INTERVAL: Duration = Duration::from_secs(3_600);
/// Characters of the name that a peer's program gives itself.
pub const MAX_AGENT_CHARS: usize = 128;
/// Addresses of one peer that are looked at.
pub const MAX_ADDRESSES_PER_PEER: usize = 16;
/// Bytes of a gossip message beside its content: topic, author, number, signature.
pub const GOSSIP_ENVELOPE: usize = 1 << 10;
/// Time between two rounds of upkeep of the gossip mesh; nothing is sent in one unless there is something to say.
pub const GOSSIP_HEARTBEAT: Duration = Duration::from_secs(5);
/// How long the ids of gossip messages are remembered so that a message is handled once.
pub const GOSSIP_MEMORY: Duration = Duration::from_secs(120);
/// Gossip messages that wait for one slow peer; those above are dropped.
pub const GOSSIP_QUEUE: usize = 32;
/// Gossip topics that one peer may subscribe to.
pub const MAX_GOSSIP_TOPICS_PER_PEER: usize = 4_096;

/// Requests in flight on one peer stream.
pub const MAX_REQUESTS_PER_STREAM: usize = 16;
/// A peer stream without traffic is closed after this.
pub const STREAM_IDLE: Duration = Duration::from_secs(30);
/// Chunk ids in one request.
pub const MAX_CHUNKS_PER_REQUEST: usize = 64;
/// Page ids in one request: eight pages are at most one frame.
pub const MAX_PAGES_PER_REQUEST: usize = 7;
/// Operation ids in one request.
pub const MAX_OPS_PER_REQUEST: usize = 256;
/// Ranges in one reconciliation message: 24 bytes each.
pub const MAX_RANGES_PER_MESSAGE: usize = 256;
/// Operation ids listed in one reconciliation message, over all its ranges: 70 KiB.
pub const MAX_RANGE_IDS: usize = 2_048;
/// Pieces into which a whole log is cut for the first comparison.
pub const SYNC_FIRST_SPLIT: usize = 64;
/// Most pieces into which the asking side cuts a range that differs.
pub const SYNC_SPLIT: usize = 16;
/// Pieces into which the answering side cuts a range that differs; fewer, since the asking side cuts them again.
pub const SYNC_ANSWER_SPLIT: usize = 8;
/// A range of so few operations is listed instead of cut.
pub const SYNC_LEAF: u64 = 8;
/// Ranges of one log that wait for their comparison; the last ones are joined when there are more.
pub const SYNC_MAX_PENDING: usize = 1_024;
/// Topics that one peer is reconciled about at the same time.
pub const SYNC_TOPICS_AT_ONCE: usize = 8;
/// Topics that wait for their reconciliation with one peer; further ones are found by the next listing.
pub const SYNC_MAX_WAITING: usize = 16_384;
/// Operations in one request of a reconciliation: their signatures are checked in one go, a few milliseconds.
pub const SYNC_OPS_PER_REQUEST: usize = 64;
/// Bytes of operations in one message of a reconciliation.
pub const SYNC_OPS_BYTES: usize = 256 << 10;
/// Batches of operations of one peer that are asked for, or arrived and not yet applied.
pub const SYNC_BATCHES: usize = 4;
/// Comparisons that may bring nothing before a log counts as one that never converges; each four operations that
/// moved allow another.
pub const SYNC_IDLE_ROUNDS: u32 = 32;
/// A request of a reconciliation, or of discovery, that is not answered by then has failed.
pub const SYNC_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a peer said that it is busy; doubles up to [`STREAM_IDLE`].
pub const SYNC_PAUSE: Duration = Duration::from_secs(1);
/// Times in a row that a peer may say it is busy before its reconciliation is given up.
pub const SYNC_MAX_PAUSES: u32 = 6;
/// Keys of operations that a peer may let this node visit for one of its requests; more count as further ones.
pub const SYNC_KEYS_PER_REQUEST: u64 = 4_096;
/// Topics, heads or catalog entries in one discovery message.
pub const MAX_ITEMS_PER_MESSAGE: usize = 256;
/// Requests a second that one peer may make, and how many at once.
pub const PEER_REQUESTS_PER_SECOND: u32 = 100;
/// Burst of requests that one peer may make.
pub const PEER_REQUEST_BURST: u32 = 200;
/// Requests a second that this node makes of one peer, and how many at once: some room below what the peer allows.
pub const OWN_REQUESTS_PER_SECOND: u32 = 80;
/// Burst of requests that this node makes of one peer.
pub const OWN_REQUEST_BURST: u32 = 150;
/// Peers whose rates of requests are remembered; the ones that have been quiet are forgotten first.
pub const MAX_RATED_PEERS: usize = 1_024;
/// Bytes that may be on their way to one peer.
pub const PEER_BYTES_IN_FLIGHT: usize = 4 << 20;

/// Providers that one fetch uses at the same time.
pub const FETCH_PROVIDERS: usize = 4;
/// Chunks in flight at one provider.
pub const FETCH_CHUNKS_PER_PROVIDER: usize = 32;
/// A chunk that has not arrived by then is asked of another provider, while nothing is known of how fast this one is;
/// then four times what was observed decides, and this is when the first one is given up.
pub const CHUNK_TIMEOUT: Duration = Duration::from_secs(30);
/// Shortest wait for a chunk, however fast the provider was: a disk may pause for as long.
pub const MIN_CHUNK_TIMEOUT: Duration = Duration::from_millis(500);
/// Providers that one fetch knows: those it uses and those in reserve, one bit each in a word.
pub const MAX_FETCH_PROVIDERS: usize = 64;
/// Chunks that one fetch has in view: looked up, missing, in flight or being verified. As many as a page of the
/// manifest usually names: enough to choose the rarest from, and to have the next page before they are all asked.
pub const FETCH_WINDOW: usize = 1_024;
/// Bytes that one fetch has in flight or in verification: what four providers with 32 chunks of the default average need.
pub const FETCH_BYTES_IN_FLIGHT: usize = 8 << 20;
/// Ids in one question of a fetch to the chunk store.
pub const MAX_LOOKUP_IDS: usize = 256;
/// Manifest pages of one list that a fetch asks for at once.
pub const FETCH_PAGES_AHEAD: usize = MAX_PAGES_PER_REQUEST;
/// Time between two reports of a fetch's progress.
pub const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// First wait before a provider that was busy, or did not have a chunk, is asked again; it doubles.
pub const FETCH_RETRY: Duration = Duration::from_millis(500);
/// Longest such wait.
pub const MAX_FETCH_RETRY: Duration = Duration::from_secs(30);
/// Time until a provider that holds a part is asked again what it holds.
pub const HAVE_INTERVAL: Duration = Duration::from_secs(10);
/// Of a data response that has begun, [`DATA_FRAME_PROGRESS`] more bytes, or the rest, must be here in each such time;
/// else the stream is given up, and what was asked on it is asked of others.
pub const DATA_FRAME_STALL: Duration = Duration::from_secs(30);
/// Least progress of a data response in bytes: half a KiB a second.
pub const DATA_FRAME_PROGRESS: usize = 16 << 10;
/// A fetch without progress for so long reports why.
pub const FETCH_STALL: Duration = Duration::from_secs(20);
/// Answers in a row that a provider does not have what it is asked for, until it rests; and what it said to have, until
/// it is left alone.
pub const MAX_MISSES: u32 = 16;
/// Answers beside the question (late, doubled) that a provider may give, and one more for each good chunk.
pub const MAX_STRAYS: u32 = 32;

/// Chunks of a manifest of which a provider says one by one whether it holds them: 128 KiB of bits.
pub const MAX_HAVE_CHUNKS: u64 = 1 << 20;
/// Tokens that the search for these bits costs the asking peer, of its [`PEER_REQUEST_BURST`].
pub const HAVE_COST: u32 = 20;
/// A request that moved so many bytes does not count against [`PEER_REQUESTS_PER_SECOND`]: the line limits it.
pub const FREE_REQUEST_BYTES: usize = 16 << 10;
/// Frames that wait for the writer of a stream, beyond which its reader waits.
pub const MAX_WAITING_FRAMES: usize = 64;
/// How long a stream remembers that its peer may read a version.
pub const ACCESS_MEMORY: Duration = Duration::from_secs(10);
/// Versions of which a stream remembers that.
pub const MAX_ACCESS_ENTRIES: usize = 32;
/// A provider that sent this many chunks with a wrong hash is banned.
pub const BAD_CHUNKS_TO_BAN: u32 = 3;
/// How long such a ban lasts.
pub const BAN_DURATION: Duration = Duration::from_secs(3_600);

/// Bytes of memory that the access operations of one tree of topics may take, as they are counted: some five thousand
/// of the usual kind. A node keeps such a log twice while the tree is in use. It is a bound of the node and no rule.
pub const MAX_ACCESS_LOG_BYTES: usize = 6 << 20;
/// The last part of it, in bytes: for removals, and for what owners of the root do, so that whoever filled a log can be
/// removed.
pub const ACCESS_LOG_RESERVE: usize = MAX_ACCESS_LOG_BYTES / 8;
/// Operations of one topic that wait for their parents.
pub const MAX_PARKED_OPS: usize = 10_000;
/// Bytes of operations of one topic that wait for their parents.
pub const MAX_PARKED_BYTES: usize = 16 << 20;
/// How long an operation waits for its parents.
pub const PARKED_FOR: Duration = Duration::from_secs(7 * 86_400);
/// Waiting operations that one command releases because their time has come; the next command goes on.
pub const MAX_DUE_PER_COMMAND: usize = 1_024;
/// Waiting operations, and pins, that one `Expire` forgets; the next one goes on.
pub const MAX_EXPIRED_PER_COMMAND: usize = 10_000;
/// How long staged content is kept for the operation that will name it.
pub const STAGED_FOR: Duration = Duration::from_secs(86_400);
/// The most bytes that one content counts in a quota: the size of a version is what its author says.
pub const MAX_CHARGE: u64 = 1 << 48;
/// Topics over their quota that `bib status` names.
pub const MAX_OVER_QUOTA: usize = 16;
/// How long released content is kept when nothing else is configured.
pub const RELEASED_FOR: Duration = Duration::from_secs(7 * 86_400);
/// The most that the clock of periods of grace goes forth at once, however far the system clock was set. Each period is
/// longer by as much, so that one such jump does not shorten it.
pub const MAX_GRACE_STEP: Duration = Duration::from_secs(43_200);
/// The clock of periods of grace is written when it has gone forth so far; a commit takes some 40 KiB of flash.
pub const GRACE_CLOCK_INTERVAL: Duration = Duration::from_secs(21_600);
/// Contents that users of a node keep: a person pins by hand.
pub const MAX_KEPT: usize = 4_096;
/// Pages of manifests that a walk over everything in use remembers, so that shared ones are walked once: half a MiB.
pub const MARK_MEMORY: usize = 8_192;
/// Pins that such a walk reads from the catalog at a time.
pub const MARK_PINS: usize = 256;
/// Records that the other steps of a collection read at a time.
pub const COLLECT_STEP: usize = 256;
/// Bytes of the filter that holds which manifests users can see: with more than 800,000 versions some content of deleted
/// topics waits for a later run.
pub const MAX_HIDDEN_FILTER: u64 = 1 << 20;
/// Topics of which a collection remembers whether users can see them.
pub const MAX_SHOWN_TOPICS: usize = 4_096;
/// How long what nothing names is kept where space is short.
pub const PRESSED_AGE: Duration = Duration::from_secs(3_600);
/// Contents that are given up at once where space is short.
pub const MAX_EVICTED: usize = 1_024;
/// When a use of fetched content was noted, further ones are not for so long.
pub const USE_INTERVAL: Duration = Duration::from_secs(86_400);
/// Access operations that do not know each other and that one content operation knows, directly or through others.
pub const MAX_FRONTIER: usize = 1_024;
/// Void heads, and operations behind them, that are looked at for valid ones when a new operation asks for its parents.
pub const MAX_VOID_HEADS: usize = 4_096;
/// Entries of the catalog that one page of a scan for missing content looks at.
pub const MAX_SCANNED: usize = 4_096;
/// Most candidates that are named for an ambiguous reference.
pub const MAX_CANDIDATES: usize = 8;
/// How far the time of an operation or gossip message may lie ahead of, and gossip behind, the clock.
pub const CLOCK_SKEW: Duration = Duration::from_secs(300);
/// How long a gossip message is remembered against replay.
pub const REPLAY_MEMORY: Duration = Duration::from_secs(900);
/// Gossip messages remembered against replay; the oldest is forgotten first.
pub const MAX_REPLAY_ENTRIES: usize = 8_192;
/// Gossip messages a second that are looked at of one author.
pub const GOSSIP_PER_SECOND: u32 = 20;
/// Burst of gossip messages that is looked at of one author.
pub const GOSSIP_BURST: u32 = 200;
/// Gossip messages a second that this node sends, well below what others look at; what does not fit is announced.
pub const OWN_GOSSIP_PER_SECOND: u32 = 10;
/// Burst of gossip messages that this node sends.
pub const OWN_GOSSIP_BURST: u32 = 100;
/// Gossip topics that a node is subscribed to; the one without changes for longest goes first, its changes come by
/// announcement and reconciliation.
pub const MAX_GOSSIP_TOPICS: usize = 512;
/// How long changes are gathered before neighbours are told of the new heads: gossip is faster where it works.
pub const ANNOUNCE_DELAY: Duration = Duration::from_millis(250);
/// Topics of one peer that wait to be announced; further ones are found by the next comparison.
pub const MAX_ANNOUNCED: usize = 4_096;
/// Topics of one peer that are being reconciled before its list of topics is read on.
pub const MAX_TOPICS_OUTSTANDING: usize = 1_024;
/// Of two nodes that connect, the one with the higher id waits so long before it compares catalogs: the other one's
/// comparison mostly serves both.
pub const COMPARE_GRACE: Duration = Duration::from_secs(3);
/// First pause before a failed comparison is tried again, and before a configured peer is dialled again; doubles.
pub const RETRY_MIN: Duration = Duration::from_secs(5);
/// Longest pause before a configured peer is dialled again.
pub const REDIAL_MAX: Duration = Duration::from_secs(3_600);
/// Peers that are remembered; of those not connected, the one not seen for longest is forgotten first.
pub const MAX_PEERS: usize = 1_024;
/// Addresses remembered of a peer.
pub const MAX_PEER_ADDRESSES: usize = 8;
/// Time between two reconciliations with the same peer without other cause.
pub const SYNC_INTERVAL: Duration = Duration::from_secs(300);

/// Characters in a name.
pub const MAX_NAME_CHARS: usize = 64;
/// Topics above and including a topic.
pub const MAX_TOPIC_DEPTH: usize = 8;
/// Bytes of a description.
pub const MAX_DESCRIPTION_LEN: usize = 4 << 10;
/// Bytes of a version message.
pub const MAX_MESSAGE_LEN: usize = 4 << 10;
/// Tags of a topic or dataset.
pub const MAX_TAGS: usize = 32;
/// Bytes of a tag.
pub const MAX_TAG_LEN: usize = 64;
/// Keys of a metadata map.
pub const MAX_METADATA_KEYS: usize = 64;
/// Bytes of a metadata map, keys and values together.
pub const MAX_METADATA_LEN: usize = 16 << 10;
/// Bytes of a schema; below [`MAX_OP_LEN`] less the rest of an operation.
pub const MAX_SCHEMA_LEN: usize = 48 << 10;
/// Bytes of a topic, dataset or version in the catalog: what operations set in it, each within one operation.
pub const MAX_RECORD_LEN: usize = 96 << 10;
/// Bytes of the grants of one user on one resource in the catalog: one entry for each grant that is in force.
pub const MAX_GRANTS_LEN: usize = 1 << 20;
/// Bytes of a path inside a dataset.
pub const MAX_DATASET_PATH_LEN: usize = 1_024;
/// Patterns for paths in one request, each at most as long as a path.
pub const MAX_PATH_PATTERNS: usize = 32;
/// Bytes of the path of a file that stays where it is: what Linux takes at most.
pub const MAX_LOCAL_PATH_LEN: usize = 4 << 10;
/// Bytes of a record that names a place in such a file: path, offset and what stands around them.
pub const MAX_FILE_PLACE_LEN: usize = MAX_LOCAL_PATH_LEN + 32;
/// Such files named in one request: half a control frame at most.
pub const MAX_LOCAL_FILES: usize = 120;
/// Files of an ingest whose bytes are not all cut yet, and that may stay in place; of earlier ones what is left is
/// stored.
pub const MAX_FILES_IN_PLACE: usize = 64;
/// Ways to open a backup: passphrases, users and nodes.
pub const MAX_BACKUP_SLOTS: usize = 64;
/// Bytes of the header of a backup: its slots have some 130 bytes each.
pub const MAX_BACKUP_HEADER_LEN: usize = 16 << 10;
/// Bytes of the file of a snapshot.
pub const MAX_SNAPSHOT_LEN: usize = 4 << 10;
/// KiB of memory that the derivation of a key from a passphrase takes: of what OWASP recommends the least, which fits
/// beside a node within the smallest `limits.memory`.
pub const BACKUP_KDF_MEMORY: u32 = 7 << 10;
/// Passes of that derivation over its memory: with little memory, as many as OWASP recommends.
pub const BACKUP_KDF_PASSES: u32 = 5;
/// KiB of memory that the header of a backup may ask for.
pub const MAX_BACKUP_KDF_MEMORY: u32 = 32 << 10;
/// Passes and lanes that it may ask for.
pub const MAX_BACKUP_KDF_PASSES: u32 = 16;
/// Bytes of a passphrase.
pub const MAX_PASSPHRASE_LEN: usize = 4 << 10;
/// Bytes of a key of the catalog in a backup; the longest has names and ids, some 300 bytes.
pub const MAX_CATALOG_KEY_LEN: usize = 8 << 10;
/// Bytes of a value of the catalog in a backup: above [`MAX_GRANTS_LEN`], the longest.
pub const MAX_CATALOG_VALUE_LEN: usize = 2 << 20;
/// Average length of the chunks into which a backup cuts the catalog: small ones share more with the snapshot before.
pub const BACKUP_CHUNK_AVG: u32 = 16 << 10;
/// Chunks that a backup has written and not read back yet.
pub const BACKUP_UNVERIFIED: usize = 4_096;
/// Bytes of such chunks.
pub const BACKUP_UNVERIFIED_BYTES: u64 = 32 << 20;
/// Manifests that one page of a walk over pins names.
pub const BACKUP_PINS: usize = 256;
/// Manifests of which a snapshot says that their content is not whole.
pub const MAX_INCOMPLETE: usize = 65_536;
/// Bytes of catalog entries that a restore puts in one commit.
pub const RESTORE_COMMIT_BYTES: usize = 1 << 20;
/// Entries of an archive: as many segments as 4 TiB take.
pub const MAX_ARCHIVE_ENTRIES: usize = 65_536;
/// Snapshots that are kept, however old they are.
pub const BACKUP_KEEP: usize = 7;
/// How long a snapshot is kept.
pub const BACKUP_KEEP_FOR: Duration = Duration::from_secs(30 * 86_400);
/// Bytes of the marks of a collection in a backup: eight bits for each of a million chunks.
pub const BACKUP_MARKS: usize = 1 << 20;
/// Entries of the index that one step of such a collection looks at.
pub const BACKUP_SWEEP: usize = 4_096;
/// Bytes of a textual reference.
pub const MAX_REFERENCE_LEN: usize = 2_048;
/// Bytes of a licence name, and of a source address.
pub const MAX_ATTRIBUTION_LEN: usize = 1_024;
/// Bytes of a config file.
pub const MAX_CONFIG_LEN: usize = 256 << 10;

/// Calls in flight in one control session.
pub const MAX_CALLS_PER_SESSION: usize = 64;
/// Control sessions at the same time.
pub const MAX_SESSIONS: usize = 64;
/// A control session without traffic is closed after this; when all are taken, after [`CONTROL_STALL`].
pub const SESSION_IDLE: Duration = Duration::from_secs(1_800);
/// Peers that are remembered, connected or not; the ones that were away for longest are forgotten first.
pub const MAX_KNOWN_PEERS: usize = 512;
/// Bytes of a frame on `/bib/discovery` and `/bib/sync`: the largest page of entries or operations has less.
pub const MAX_CATALOG_FRAME: usize = 1 << 20;
/// Bytes of a request on `/bib/sync`: a batch of operations and what stands around them; all others are shorter.
pub const MAX_SYNC_REQUEST_LEN: usize = SYNC_OPS_BYTES + (4 << 10);
/// Bytes of a request on `/bib/discovery`: an announcement has 64 bytes for each of its topics, 16 KiB in all.
pub const MAX_DISCOVERY_REQUEST_LEN: usize = 32 << 10;
/// Streams of `/bib/discovery`, and of `/bib/sync`, that one peer may have opened; a node needs one of each.
pub const MAX_INBOUND_CATALOG_STREAMS: u32 = 4;
/// A catalog frame that was begun, and for which there is memory, must be here by then, or its stream is closed.
pub const FRAME_DEADLINE: Duration = Duration::from_secs(30);
/// Versions without content that are read from the catalog at a time.
pub const REPLICATE_PAGE: usize = 16;
/// First wait before a version that no peer had is asked for again; it doubles. A new peer ends it.
pub const FETCH_PAUSE: Duration = Duration::from_secs(20);
/// Longest such wait, and the wait after the disk was full.
pub const MAX_FETCH_PAUSE: Duration = Duration::from_secs(300);
/// Versions of which such a wait is remembered; others are asked for again with each look.
pub const MAX_PAUSED_VERSIONS: usize = 4_096;
/// Time between two looks for what waited too long.
pub const EXPIRE_INTERVAL: Duration = Duration::from_secs(3_600);
/// Orders that wait for the event loop; whoever comes then waits.
pub const MAX_ORDERS: usize = 64;
/// Streams that are being opened, over all peers; whoever asks for another one is refused.
pub const MAX_OPENING_STREAMS: usize = 256;
/// Bytes of a request on `/bib/data`: 64 ids and what stands around them.
pub const MAX_DATA_REQUEST_LEN: usize = 4 << 10;

/// Time between two lines of the log about what others may cause as often as they like.
pub const SELDOM: Duration = Duration::from_secs(60);
/// A client that has not said by then who it is, is turned away: a person may have to confirm the use of a key.
pub const LOGIN: Duration = Duration::from_secs(60);
/// A client that takes or sends nothing for so long, in the middle of a frame and while others wait for memory or for a
/// place, has had its session; so has one that has said its last and does not take the rest of what it asked for.
pub const CONTROL_STALL: Duration = Duration::from_secs(60);
/// Control frames, and catalog frames of peers, of at most this many bytes are read without asking for memory first.
pub const MAX_FRAME_UNCOUNTED: usize = 4 << 10;
/// How often it is looked whether a client is still there while nothing is read of it: it may wait for long.
pub const GONE_CHECK: Duration = Duration::from_secs(1);
/// Parts of an upload that wait for their call; each is counted in the memory of the sessions. A call that has no place
/// yet has at most one small part.
pub const MAX_WAITING_PARTS: usize = 256;
/// Bytes of content that one step of an ingest or of a read handles.
pub const CONTENT_STEP: usize = 512 << 10;
/// Ranges of a version's stream that one read names to its fetch; what lies between further ones is fetched too.
pub const MAX_WANTED_RANGES: usize = 4_096;
/// Files that are not whole after which a step of a check ends; the last chunk of the step may add more.
pub const MAX_HURT_PER_STEP: usize = 64;
/// Versions that are named when stored bytes are damaged; the log has no use for more.
pub const MAX_HURT_VERSIONS: usize = 64;
/// Pages of manifests, and pins, that one step of a collection reads.
pub const COLLECT_PAGES: u64 = 16;
/// Entries of the chunk index that one step of a collection looks at.
pub const SWEEP_CHUNKS: usize = 4_096;
/// Bytes of stored chunks that one step of a scrub reads.
pub const SCRUB_STEP: u64 = 4 << 20;
/// Bytes of stored chunks between two notes of where a scrub stands: what is read again after a kill.
pub const SCRUB_NOTE: u64 = 4 << 30;
/// Files that are named for one bad chunk; further ones are counted.
pub const MAX_HURT_NAMED: usize = 1_024;
/// Bytes of content between two looks at the free space of the disk.
pub const SPACE_CHECK: u64 = 32 << 20;
/// Grants in one answer to a question for the members of a topic, and in all.
pub const MAX_MEMBERS: usize = 4_096;
/// Items of a list that are read from the catalog at a time: the largest have some 64 KiB.
pub const LIST_STEP: u32 = 32;
/// Items in a list answer when the caller names no number.
pub const DEFAULT_PAGE: u32 = 50;
/// Most items in a list answer.
pub const MAX_PAGE: u32 = 1_000;
/// How long a stopping node waits for work under way.
pub const DRAIN: Duration = Duration::from_secs(30);
/// The part of [`DRAIN`] that is left for the store to do what waits for it.
pub const STORE_STOP: Duration = Duration::from_secs(5);

/// A segment file of the chunk store takes no more records when it is as long as this, in bytes.
pub const SEGMENT_LEN: u64 = 64 << 20;
/// Bytes of chunks that the index of the chunk store does not name yet; when there are as many, they are indexed before
/// more are taken. A start after a kill reads at most as many. Two segments: an index commit is two syncs.
pub const MAX_UNINDEXED_BYTES: u64 = 2 * SEGMENT_LEN;
/// Chunks that the index does not name yet, in the same way: their places are held in memory, some 200 bytes each.
pub const MAX_UNINDEXED_CHUNKS: usize = 32_768;
/// Entries of the index of the chunk store that wait for their places in it: 57 bytes each, in memory and in the file. When
/// there are as many, they are put there together, which writes a page for each or less; a start reads at most as many.
pub const MAX_RECENT_ENTRIES: usize = 16_384;
/// Who puts chunks makes them durable when the first has waited as long as this; stores have no clock. A power cut loses at
/// most so much of an ingest or fetch that is under way. A flush is three syncs: at 5 s a slow card would see one for each
/// few MiB.
pub const FLUSH_INTERVAL: Duration = Duration::from_secs(30);
/// Segment files that a chunk store holds open for reading; the one longest unused is closed first.
pub const MAX_OPEN_SEGMENTS: usize = 32;

/// Fewest shares that are needed for a key: with one, each share would be the key.
pub const MIN_THRESHOLD: u8 = 2;
/// Most shares of a key: more people than that cannot be brought together, and a wrong one among them is found by trying.
pub const MAX_SHARES: u8 = 16;
/// Longest line that is looked at for a share, in bytes: the longest share with a space behind each letter.
pub const MAX_SHARE_LINE: usize = 512;

/// Names of an encrypted catalog that a scan holds to show them in order; where more lie in its range, it reads them
/// again. Some 400 bytes each, and at most one scan for each level of topics at a time.
pub const MAX_SORTED_NAMES: usize = 1_024;
/// Bytes that are read for shares: as many of the longest as there can be, with remarks between them.
pub const MAX_SHARES_TEXT: usize = 32 << 10;
/// Data keys of a node: one a week for twenty years.
pub const MAX_DATA_KEYS: usize = 1_024;
/// Longest file of a node's keys, in bytes: [`MAX_DATA_KEYS`] of 80 bytes and what is beside them.
pub const MAX_VAULT_LEN: usize = 128 << 10;

/// Bytes of the notes that a chunk store keeps for leases, one of [`MAX_LEASE_FILTERS`]: exact enough for 100,000 chunks,
/// and with more only garbage stays longer.
pub const LEASE_FILTER_BYTES: usize = 128 << 10;
/// Notes for leases of different age.
pub const MAX_LEASE_FILTERS: usize = 3;
/// Records whose places a collection holds at a time while it looks for gaps between them: 1.5 MiB.
pub const RECLAIM_RECORDS: usize = 32_768;
/// Records whose places a scrub holds at a time: 1 MiB.
pub const SCRUB_RECORDS: usize = 16_384;
/// Damaged chunks that a store remembers; what is not remembered is reported at each read.
pub const MAX_DAMAGED: usize = 32_768;
/// Entries of the index that are made in one commit when it is made anew.
pub const REBUILD_BATCH: usize = 8_192;
