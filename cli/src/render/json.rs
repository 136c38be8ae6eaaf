//! Results as JSON. The field names are stable: they may be added to, never renamed. Ids are text, times are RFC 3339
//! in UTC, sizes are bytes.

use bib_core::api::care::{Collected, Hurt, Pinned, Rebuilt, Scrubbed, Space, Verified, Worker};
use bib_core::api::event::{KeysFigures, Peer, Staged, Status};
use bib_core::id::UserId;
use bib_core::model::dataset::DatasetStatus;
use bib_core::model::manifest::{Entry, EntryKind};
use bib_core::model::topic::{TopicStatus, Visibility};
use bib_core::model::version::VersionStatus;
use bib_core::model::{Dataset, Topic, Version};
use bib_core::op::{Resource, Role};
use bib_core::time::Timestamp;
use bib_core::wire::message::{CatalogEntry, NodeMode};
use serde_json::{Value, json};

fn text(value: &impl ToString) -> Value {
    Value::String(value.to_string())
}

fn optional(value: Option<&impl ToString>) -> Value {
    value.map_or(Value::Null, text)
}

/// The word for a mode.
pub(crate) const fn mode(mode: NodeMode) -> &'static str {
    match mode {
        NodeMode::Proxy => "proxy",
        NodeMode::Selective => "selective",
        NodeMode::Full => "full",
    }
}

/// The word for what an entry is.
pub(crate) const fn entry_kind(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::File => "file",
        EntryKind::Executable => "executable",
        EntryKind::EmptyDir => "empty_dir",
    }
}

/// The word for where a topic stands.
pub(crate) const fn topic_status(status: TopicStatus) -> &'static str {
    match status {
        TopicStatus::Active => "active",
        TopicStatus::Archived => "archived",
        TopicStatus::Deleted => "deleted",
    }
}

/// The word for where a dataset stands.
pub(crate) const fn dataset_status(status: DatasetStatus) -> &'static str {
    match status {
        DatasetStatus::Draft => "draft",
        DatasetStatus::Active => "active",
        DatasetStatus::Archived => "archived",
        DatasetStatus::Deleted => "deleted",
    }
}

/// The word for whether `latest` may name a version.
pub(crate) const fn version_status(status: VersionStatus) -> &'static str {
    match status {
        VersionStatus::Active => "active",
        VersionStatus::Withdrawn => "withdrawn",
    }
}

/// Figures of a node.
pub(crate) fn status(status: &Status) -> Value {
    let refused: serde_json::Map<String, Value> =
        status.gossip_refused.iter().map(|(reason, n)| (reason.clone(), json!(n))).collect();
    let workers: serde_json::Map<String, Value> =
        status.workers.iter().map(|(name, state)| (name.clone(), json!(state))).collect();
    json!({
        "node": text(&status.node),
        "name": status.name,
        "version": status.version,
        "mode": mode(status.mode),
        "uptime_s": status.uptime_s,
        "addresses": status.addresses,
        "peers": status.n_peers,
        "topics": status.n_topics,
        "datasets": status.n_datasets,
        "versions": status.n_versions,
        "operations": status.n_ops,
        "parked_operations": status.n_parked,
        "chunks": status.chunks.n_chunks,
        "stored_bytes": status.chunks.stored_bytes,
        "raw_bytes": status.chunks.raw_bytes,
        "referenced_bytes": status.chunks.referenced_bytes,
        "segments": status.chunks.n_segments,
        "fsyncs": status.chunks.fsyncs,
        "written_bytes": status.chunks.written_bytes,
        "wire_received": status.wire_received,
        "wire_sent": status.wire_sent,
        "data_dir": status.data_dir,
        "free_bytes": status.free_bytes,
        "memory_limit": status.memory_limit,
        "rss_bytes": status.rss_bytes,
        "threads": status.threads,
        "workers": workers,
        "gossip_refused": refused,
        "read_only": status.read_only,
        "encrypted": status.keys.is_some(),
        "keys": status.keys.as_ref().map(keys),
        "space": space(&status.space),
        "degraded": status.degraded,
    })
}

/// The keys of an encrypted node.
pub(crate) fn keys(keys: &KeysFigures) -> Value {
    let data_keys = keys.data_keys.iter().map(|(id, created)| json!({ "id": id, "created_at": text(created) }));
    json!({
        "cipher": keys.cipher,
        "generation": keys.generation,
        "fingerprint": keys.fingerprint,
        "partly_plain": keys.is_partly_plain,
        "data_keys": data_keys.collect::<Vec<_>>(),
        "shares": keys.split.as_ref().map(|split| json!({
            "set": text(&split.set),
            "threshold": split.threshold,
            "total": split.total,
            "created_at": text(&split.time),
            "stale": split.is_stale,
        })),
    })
}

/// A topic.
pub(crate) fn topic(path: &str, topic: &Topic, n_datasets: u64) -> Value {
    json!({
        "path": path,
        "id": text(&topic.id),
        "parent": optional(topic.parent.as_ref()),
        "name": text(&topic.name),
        "name_taken": topic.name_taken,
        "description": topic.description,
        "schema": topic.schema,
        "visibility": match topic.visibility { Visibility::Public => "public", Visibility::Private => "private" },
        "status": topic_status(topic.status),
        "tags": topic.tags,
        "metadata": topic.metadata,
        "datasets": n_datasets,
        "created_by": text(&topic.created_by),
        "created_at": text(&topic.created_at),
        "updated_at": text(&topic.updated_at),
    })
}

/// A grant in force.
pub(crate) fn grant(resource: &Resource, user: &UserId, role: Role, expires_at: Option<Timestamp>) -> Value {
    let (kind, id) = match resource {
        Resource::Topic(id) => ("topic", id.to_string()),
        Resource::Dataset(id) => ("dataset", id.to_string()),
    };
    json!({
        "resource": kind,
        "id": id,
        "user": text(user),
        "role": text(&role),
        "expires_at": optional(expires_at.as_ref()),
    })
}

/// A dataset.
pub(crate) fn dataset(path: &str, dataset: &Dataset, latest: Option<&Version>, here: bool) -> Value {
    json!({
        "path": path,
        "id": text(&dataset.id),
        "topic": text(&dataset.topic),
        "name": text(&dataset.name),
        "name_taken": dataset.name_taken,
        "description": dataset.description,
        "status": dataset_status(dataset.status),
        "tags": dataset.tags,
        "metadata": dataset.metadata,
        "schema": dataset.schema,
        "versions": dataset.version_count,
        "latest": latest.map_or(Value::Null, |latest| version(path, latest, here)),
        "created_by": text(&dataset.created_by),
        "created_at": text(&dataset.created_at),
        "updated_at": text(&dataset.updated_at),
    })
}

/// A version.
pub(crate) fn version(path: &str, version: &Version, here: bool) -> Value {
    json!({
        "reference": format!("{path}@{}", version.semver),
        "id": text(&version.id),
        "dataset": text(&version.dataset),
        "topic": text(&version.topic),
        "version": text(&version.semver),
        "version_taken": version.semver_taken,
        "previous": optional(version.previous.as_ref()),
        "message": version.message,
        "manifest": text(&version.manifest),
        "content": text(&version.content),
        "size": version.size,
        "files": version.n_files,
        "format": text(&version.format),
        "schema": version.schema,
        "rows": version.row_count,
        "license": version.license,
        "source": version.source_url,
        "status": version_status(version.status),
        "here": here,
        "created_by": text(&version.created_by),
        "created_at": text(&version.created_at),
    })
}

/// An entry of the catalog.
pub(crate) fn found(entry: &CatalogEntry) -> Value {
    let version = entry.version.as_ref();
    json!({
        "path": entry.path,
        "topic": text(&entry.topic),
        "dataset": text(&entry.dataset),
        "version": optional(version.map(|version| &version.semver)),
        "version_id": optional(version.map(|version| &version.id)),
        "content": optional(version.map(|version| &version.content)),
        "manifest": optional(version.map(|version| &version.manifest)),
        "size": version.map(|version| version.size),
        "format": optional(version.map(|version| &version.format)),
        "updated_at": text(&entry.updated_at),
    })
}

/// A file or empty folder of a version.
pub(crate) fn entry(entry: &Entry) -> Value {
    json!({
        "path": text(&entry.path),
        "kind": entry_kind(entry.kind),
        "size": entry.size,
        "content": text(&entry.content),
    })
}

/// A peer.
pub(crate) fn peer(peer: &Peer) -> Value {
    json!({
        "node": text(&peer.node),
        "addresses": peer.addresses,
        "connected": peer.connected,
        "agent": peer.agent,
        "mode": peer.mode.map(mode),
        "rtt_us": peer.rtt_us,
        "last_seen": optional(peer.last_seen.as_ref()),
    })
}

/// A file that is not whole.
pub(crate) fn hurt(hurt: &Hurt) -> Value {
    json!({ "path": optional(hurt.path.as_ref()), "damaged": hurt.damaged, "missing": hurt.missing })
}

/// What a check of a version came to.
pub(crate) fn verified(verified: &Verified) -> Value {
    json!({
        "reference": verified.reference,
        "size": verified.bytes,
        "chunks": verified.chunks,
        "hurt_files": verified.hurt_files,
        "damaged": verified.damaged,
        "missing": verified.missing,
        "fetched": verified.fetched,
    })
}

/// What a collection came to.
pub(crate) fn collected(collected: &Collected) -> Value {
    json!({
        "dry_run": collected.dry_run,
        "live_chunks": collected.live_chunks,
        "live_bytes": collected.live_bytes,
        "young_chunks": collected.young_chunks,
        "young_bytes": collected.young_bytes,
        "dead_chunks": collected.dead_chunks,
        "dead_bytes": collected.dead_bytes,
        "unlinked_bytes": collected.unlinked_bytes,
        "punched_bytes": collected.punched_bytes,
        "rewritten_bytes": collected.rewritten_bytes,
        "written_bytes": collected.written_bytes,
        "evicted": collected.evicted,
    })
}

/// What a look at stored bytes came to.
pub(crate) fn scrubbed(scrubbed: &Scrubbed) -> Value {
    json!({
        "chunks": scrubbed.chunks,
        "bytes": scrubbed.bytes,
        "damaged": scrubbed.damaged,
        "hurt": scrubbed.hurt,
    })
}

/// What an index made anew has.
pub(crate) fn rebuilt(rebuilt: &Rebuilt) -> Value {
    json!({ "chunks": rebuilt.chunks, "bytes": rebuilt.bytes, "lost": rebuilt.lost })
}

/// What uses the space.
fn space(space: &Space) -> Value {
    json!({
        "counted_at": optional(space.counted_at.as_ref()),
        "live_bytes": space.live_bytes,
        "kept_bytes": space.kept_bytes,
        "released_bytes": space.released_bytes,
        "unreferenced_bytes": space.unreferenced_bytes,
        "dead_bytes": space.dead_bytes,
        "index_bytes": space.index_bytes,
        "catalog_bytes": space.catalog_bytes,
        "quota_bytes": space.quota_bytes,
        "remaining_bytes": space.remaining_bytes,
        "damaged_chunks": space.damaged_chunks,
    })
}

/// Content that a user keeps.
pub(crate) fn pinned(pinned: &Pinned) -> Value {
    json!({
        "reference": pinned.kept.reference,
        "version_id": text(&pinned.kept.version),
        "manifest": text(&pinned.manifest),
        "size": pinned.kept.size,
        "since": text(&pinned.kept.since),
        "here": pinned.here,
    })
}

/// Work that a node does by itself.
pub(crate) fn worker(worker: &Worker) -> Value {
    let figures: serde_json::Map<String, Value> =
        worker.figures.iter().map(|(name, figure)| (name.clone(), json!(figure))).collect();
    json!({
        "name": worker.name,
        "state": worker.state,
        "last_run": optional(worker.last_run.as_ref()),
        "next_run": optional(worker.next_run.as_ref()),
        "done": worker.progress.map(|(done, _)| done),
        "total": worker.progress.and_then(|(_, total)| total),
        "figures": figures,
    })
}

/// The figures of content that was stored.
pub(crate) fn staged(staged: &Staged) -> Value {
    json!({
        "manifest": text(&staged.manifest),
        "content": text(&staged.content),
        "size": staged.size,
        "files": staged.n_files,
        "chunks": staged.n_chunks,
        "new_bytes": staged.new_bytes,
        "stored_bytes": staged.stored_bytes,
        "referenced_bytes": staged.referenced_bytes,
    })
}
