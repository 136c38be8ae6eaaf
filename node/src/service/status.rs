//! How the node is, and who calls.

use bib_core::api::care::Space;
use bib_core::api::event::Status;
use bib_core::api::{Event, Failure};
use bib_core::catalog::list;
use bib_core::port::{ChunkStoreStats, StoreError};

use super::store_failure;
use crate::control::{Caller, Output};
use crate::node::Context;
use crate::space::Disk;
use crate::store::has_lost_catalog;

pub(crate) async fn who_am_i(caller: &Caller, out: &Output) -> Result<(), Failure> {
    let Caller { user, uid, operator } = *caller;
    out.event(Event::WhoAmI { user, uid, operator }).await
}

pub(crate) async fn status(ctx: &Context, out: &Output) -> Result<(), Failure> {
    let data_dir = ctx.data_dir.clone();
    let looked_at = ctx
        .store
        .blocking("status", move |stores| {
            let read = stores.catalog().begin_read()?;
            let counts = list::counts(read.as_ref())?;
            let disk = Disk::look(stores, &data_dir)?;
            let catalog_bytes = std::fs::metadata(data_dir.join("catalog.redb")).map_or(0, |data| data.len());
            Ok::<_, StoreError>((counts, stores.chunks().stats()?, disk, catalog_bytes))
        })
        .await;
    let (counts, chunks, disk, catalog_bytes) = looked_at.map_err(|error| store_failure(&error))?;
    let damaged = (chunks.n_damaged > 0)
        .then(|| format!("{} stored chunks are damaged; `bib admin scrub` says what that hurts", chunks.n_damaged));
    let refuses =
        ctx.refuses_operations.get().then(|| "operations of peers are not taken: the disk is all but full".to_owned());
    let lost = has_lost_catalog(&ctx.data_dir)
        .then(|| "the catalog was lost: no space is given back; `bib admin gc` says what to do".to_owned());
    let space = space(ctx, &disk, &chunks, catalog_bytes);
    let degraded =
        disk.check(&ctx.allowed(), 1).err().map(|failure| format!("nothing more is stored: {}", failure.message));
    let config = ctx.config();
    let status = {
        let view = ctx.network.view.borrow();
        Status {
            node: ctx.id,
            name: config.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: config.mode,
            uptime_s: ctx.clock.now().0 / 1_000_000,
            addresses: view.addresses.iter().map(|address| format!("{address}/p2p/{}", ctx.id)).collect(),
            n_peers: u32::try_from(view.connected().count()).unwrap_or(u32::MAX),
            n_topics: counts.n_topics,
            n_datasets: counts.n_datasets,
            n_versions: counts.n_versions,
            n_ops: counts.n_ops,
            n_parked: counts.n_parked,
            chunks,
            data_dir: ctx.data_dir.display().to_string(),
            free_bytes: disk.free,
            memory_limit: config.memory,
            rss_bytes: resident_bytes(),
            threads: threads(),
            workers: ctx.workers.list(),
            wire_received: view.wire_received,
            wire_sent: view.wire_sent,
            gossip_refused: view.gossip_refused.clone(),
            read_only: ctx.store.read_only(),
            keys: ctx.keys.as_ref().map(|keys| keys.figures(&ctx.store.stores())),
            space,
            degraded: degraded.into_iter().chain(damaged).chain(refuses).chain(lost).chain(ctx.over_quota()).collect(),
        }
    };
    out.event(Event::Status(Box::new(status))).await
}

/// What uses the space, as the last collection counted it.
fn space(ctx: &Context, disk: &Disk, chunks: &ChunkStoreStats, catalog_bytes: u64) -> Space {
    let allowed = ctx.allowed();
    let gc = ctx.workers.all().into_iter().find(|worker| worker.name == "gc");
    let figure = |name: &str| ctx.workers.figure("gc", name);
    let counted = figure("live_bytes").is_some();
    Space {
        counted_at: gc.as_ref().and_then(|worker| worker.last_run).filter(|_| counted),
        live_bytes: figure("live_bytes").unwrap_or(0),
        kept_bytes: figure("kept_bytes").unwrap_or(0),
        released_bytes: figure("released_bytes").unwrap_or(0),
        unreferenced_bytes: figure("unreferenced_bytes").unwrap_or(0),
        dead_bytes: chunks.dead_bytes,
        index_bytes: chunks.index_bytes,
        catalog_bytes,
        quota_bytes: disk.quota(&allowed),
        remaining_bytes: disk.room(&allowed),
        damaged_chunks: chunks.n_damaged,
    }
}

/// Resident memory of the process; 0 where the system does not say.
fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()));
    pages.map_or(0, |pages| pages * rustix::param::page_size() as u64)
}

/// Names of the threads of the process, where the system says.
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    let mut names: Vec<String> = names.map(|name| name.trim_end().to_owned()).collect();
    names.sort();
    names
}
