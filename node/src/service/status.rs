//! How the node is, and who calls.

use bib_core::api::event::Status;
use bib_core::api::{Event, Failure};
use bib_core::catalog::list;
use bib_core::port::StoreError;

use super::store_failure;
use crate::control::{Caller, Output};
use crate::node::Context;
use crate::space::Disk;

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
            let free = Disk::look(stores, &data_dir)?.free;
            Ok::<_, StoreError>((counts, stores.chunks().stats()?, free))
        })
        .await;
    let (counts, chunks, free_bytes) = looked_at.map_err(|error| store_failure(&error))?;
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
            free_bytes,
            memory_limit: config.memory,
            rss_bytes: resident_bytes(),
            threads: threads(),
            workers: ctx.workers.list(),
            wire_received: view.wire_received,
            wire_sent: view.wire_sent,
            gossip_refused: view.gossip_refused.clone(),
            read_only: ctx.store.read_only(),
            keys: ctx.keys.as_ref().map(|keys| keys.figures(&ctx.store.stores())),
        }
    };
    out.event(Event::Status(Box::new(status))).await
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
