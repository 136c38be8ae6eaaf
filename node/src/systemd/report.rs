//! What the manager is told of a node that runs.

use std::rc::Rc;
use std::time::Duration;

use async_io::Timer;
use bib_core::catalog::list;

use crate::node::Context;

/// How often the status is looked at again: it is for people who look at the service now and then.
const INTERVAL: Duration = Duration::from_secs(300);

/// Tells the manager that the node answers, and keeps what it knows up to date.
pub(crate) async fn report(ctx: Rc<Context>) {
    let mut said = serving(&ctx).await;
    ctx.manager.ready(said.clone());
    loop {
        Timer::after(INTERVAL).await;
        let now = serving(&ctx).await;
        if now != said {
            ctx.manager.serving(now.clone());
            said = now;
        }
    }
}

/// What the node does, in a line.
async fn serving(ctx: &Context) -> String {
    if let Some(why) = ctx.store.read_only() {
        return format!("takes no writes until it is started again: {why}");
    }
    match ctx.store.read(|read| list::counts(read)).await {
        Ok(counts) => {
            format!("serving {} in {}", count(counts.n_datasets, "dataset"), count(counts.n_topics, "topic"))
        }
        Err(error) => format!("the catalog cannot be read: {error}"),
    }
}

fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
