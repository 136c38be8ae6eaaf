//! Keeps the content of all active versions here, one version at a time.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bib_core::api::{ErrorCode, Failure};
use bib_core::catalog::list;
use bib_core::catalog::record::Charge;
use bib_core::id::{NodeId, VersionId};
use bib_core::limits::{FETCH_PAUSE, MAX_FETCH_PAUSE, MAX_PAUSED_VERSIONS, REPLICATE_PAGE};
use bib_core::machine::transfer::outcome::{AskOrder, Wanted};
use bib_core::model::Version;
use bib_core::port::StoreError;
use bib_core::time::Instant;
use futures::FutureExt;
use futures::future::LocalBoxFuture;

use super::{Next, Worker};
use crate::fetch::Update;
use crate::node::Context;
use crate::quota;
use crate::service::store_failure;

/// Keeps the content of all active versions here, one version at a time.
#[derive(Default)]
pub(super) struct Replicate {
    /// Versions that nobody had, with when to try again and the pause after that.
    paused: BTreeMap<VersionId, (Instant, Duration)>,
    /// Who was asked for them.
    asked: Vec<NodeId>,
}

enum Fetched {
    Yes,
    /// Somebody else wants the room.
    MadeWay,
    No(Failure),
}

impl Replicate {
    async fn fetch(&self, ctx: &Rc<Context>, version: &Version) -> Fetched {
        let mut handle = ctx.fetches.start(ctx, version, Wanted::All, AskOrder::RarestFirst);
        loop {
            match handle.next().await {
                // What is stored stays: the fetch goes on from there.
                Update::Progress(_) if ctx.fetch_credits.is_contended() => return Fetched::MadeWay,
                Update::Progress(_) => {}
                Update::Done(_) => return Fetched::Yes,
                Update::Failed(failure) => return Fetched::No(failure),
                Update::Stalled(reason) => return Fetched::No(crate::fetch::of_stall(reason)),
            }
        }
    }

    async fn pass(&mut self, ctx: &Rc<Context>) -> Result<Next, Failure> {
        let connected: Vec<NodeId> = ctx.network.view.borrow().connected().collect();
        if connected.is_empty() {
            return Ok(Next::WhenTold);
        }
        if connected.iter().any(|node| !self.asked.contains(node)) {
            self.paused.clear();
        }
        self.asked = connected;
        let mut after = None;
        ctx.forget_over_quota();
        loop {
            let read = move |read: &dyn bib_core::port::CatalogRead| {
                list::versions_missing(read, after.as_ref(), REPLICATE_PAGE)
            };
            let missing = ctx.store.read(read).await.map_err(|error: StoreError| store_failure(&error))?;
            for version in missing.versions {
                self.one(ctx, &version).await?;
            }
            match missing.next {
                None => break,
                next => after = next,
            }
        }
        let now = ctx.clock.now();
        let retry = self.paused.values().map(|(at, _)| at.saturating_duration_since(now)).min();
        Ok(retry.map_or(Next::WhenTold, Next::Within))
    }

    async fn one(&mut self, ctx: &Rc<Context>, version: &Version) -> Result<(), Failure> {
        if self.paused.get(&version.id).is_some_and(|(at, _)| *at > ctx.clock.now()) {
            return Ok(());
        }
        let charge = Charge::of(version.topic, version.created_by, version.size);
        if let Err(failure) = quota::check(ctx, charge.into(), charge.size, Some(version.manifest)).await {
            // Other topics and users may have room.
            log::debug!(version = version.id.short(), why = failure.message.as_str(); "content is not fetched");
            ctx.note_over_quota(version.topic, failure.message);
            return Ok(());
        }
        ctx.workers.set(self.name(), format!("fetching {}", version.id.short()));
        loop {
            match self.fetch(ctx, version).await {
                Fetched::Yes => {
                    self.paused.remove(&version.id);
                    return Ok(());
                }
                Fetched::MadeWay => log::debug!(version = version.id.short(); "a fetch makes way for another one"),
                Fetched::No(failure) if failure.code == ErrorCode::Quota => return Err(failure),
                Fetched::No(failure) => {
                    log::debug!(version = version.id.short(), why = failure.message.as_str(); "content does not come");
                    let pause = self.paused.get(&version.id).map_or(FETCH_PAUSE, |(_, pause)| *pause);
                    if self.paused.len() < MAX_PAUSED_VERSIONS {
                        let next = (pause * 2).min(MAX_FETCH_PAUSE);
                        self.paused.insert(version.id, (ctx.clock.now() + pause, next));
                    }
                    return Ok(());
                }
            }
        }
    }
}

impl Worker for Replicate {
    fn name(&self) -> &'static str {
        "replicate"
    }

    fn work<'a>(&'a mut self, ctx: &'a Rc<Context>) -> LocalBoxFuture<'a, Result<Next, Failure>> {
        self.pass(ctx).boxed_local()
    }

    fn told<'a>(&'a mut self, ctx: &'a Rc<Context>) -> LocalBoxFuture<'a, ()> {
        ctx.replicate.wait().boxed_local()
    }
}
