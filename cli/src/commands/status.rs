//! `bib status`: the figures of the node.

use std::time::Duration;

use argh::{ArgsInfo, FromArgs};
use bib_core::api::care::Space;
use bib_core::api::event::{KeysFigures, Status};
use bib_core::api::{Event, Request};

use crate::Context;
use crate::client::Client;
use crate::commands::admin::keys::shares;
use crate::commands::print_fields;
use crate::error::Result;
use crate::keys::Need;
use crate::render::human::{count, duration, minute, n, size};
use crate::render::json;

/// show how the node is
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "status",
    help_triggers("-h", "--help"),
    example = "{command_name}\n{command_name} --node unix:/run/bib/bibd.sock --json"
)]
pub(crate) struct StatusArgs {}

pub(crate) fn run(ctx: &Context, _args: &StatusArgs) -> Result<()> {
    let mut client = Client::open(ctx, Need::IfReady)?;
    let status = client.one(Request::Status, |event| match event {
        Event::Status(status) => Some(status),
        _ => None,
    })?;
    if ctx.ui.is_json() {
        return ctx.ui.json(&json::status(&status));
    }
    for reason in &status.degraded {
        ctx.ui.warn(reason);
    }
    if let Some(reason) = &status.read_only {
        ctx.ui.warn(&format!("the node takes no more writes: {reason}"));
    }
    print_fields(ctx, &fields(&status))
}

/// What uses the space, a line for each that there is.
fn space(space: &Space) -> String {
    let mut lines = vec![format!("{} of {} may still be stored", size(space.remaining_bytes), size(space.quota_bytes))];
    if let Some(at) = space.counted_at {
        let parts = [
            ("in versions", space.live_bytes),
            ("pinned or staged", space.kept_bytes),
            ("released, kept for a while", space.released_bytes),
            ("unreferenced", space.unreferenced_bytes),
        ];
        let parts = parts.iter().filter(|(_, bytes)| *bytes > 0);
        let parts: Vec<String> = parts.map(|(name, bytes)| format!("{} {name}", size(*bytes))).collect();
        let parts = if parts.is_empty() { "nothing stored".to_owned() } else { parts.join(", ") };
        lines.push(format!("{parts} (counted {})", minute(at)));
    }
    if space.dead_bytes > 0 {
        lines.push(format!("{} to be given back", size(space.dead_bytes)));
    }
    lines.push(format!("{} catalog, {} index", size(space.catalog_bytes), size(space.index_bytes)));
    lines.join("\n")
}

fn fields(status: &Status) -> Vec<(&'static str, Option<String>)> {
    let Status { chunks, .. } = status;
    let refused: Vec<String> =
        status.gossip_refused.iter().filter(|(_, n)| *n > 0).map(|(reason, n)| format!("{reason} {n}")).collect();
    let memory = match status.rss_bytes {
        0 => format!("limit {}", size(status.memory_limit)),
        rss => format!("{} of {}", size(rss), size(status.memory_limit)),
    };
    let in_place = (chunks.referenced_bytes > 0)
        .then(|| format!("{} of it stay in files of their owners", size(chunks.referenced_bytes)));
    let workers: Vec<String> = status.workers.iter().map(|(name, state)| format!("{name}: {state}")).collect();
    let parked = if status.n_parked > 0 { format!(", {} waiting", count(status.n_parked)) } else { String::new() };
    vec![
        ("node", Some(status.node.to_string())),
        ("name", Some(status.name.clone())),
        ("version", Some(format!("bibd {}", status.version))),
        ("mode", Some(json::mode(status.mode).to_owned())),
        ("up", Some(duration(Duration::from_secs(status.uptime_s)))),
        ("addresses", Some(status.addresses.join("\n"))),
        ("peers", Some(count(status.n_peers.into()))),
        ("network", Some(format!("{} received, {} sent", size(status.wire_received), size(status.wire_sent)))),
        (
            "catalog",
            Some(format!(
                "{} topics, {} datasets, {} versions, {} operations{parked}",
                count(status.n_topics),
                count(status.n_datasets),
                count(status.n_versions),
                count(status.n_ops)
            )),
        ),
        (
            "content",
            Some(format!(
                "{} in {} chunks, {} on disk",
                size(chunks.raw_bytes),
                count(chunks.n_chunks),
                size(chunks.stored_bytes)
            )),
        ),
        ("in place", in_place),
        ("at rest", Some(at_rest(status.keys.as_ref()))),
        ("data", Some(format!("{} ({} free)", status.data_dir, size(status.free_bytes)))),
        ("space", Some(space(&status.space))),
        ("damaged", Some(status.space.damaged_chunks).filter(|n| *n > 0).map(|chunks| n(chunks, "chunk"))),
        ("degraded", Some(status.degraded.join("\n"))),
        ("memory", Some(memory)),
        ("threads", Some(status.threads.join(", "))),
        ("workers", Some(workers.join("\n"))),
        ("gossip refused", Some(refused.join(", "))),
        ("read-only", status.read_only.clone()),
    ]
}

/// What whoever has only the disk can read.
fn at_rest(keys: Option<&KeysFigures>) -> String {
    match keys {
        None => "plain".to_owned(),
        Some(keys) => format!(
            "sealed with {}, key of keys {}{}\nshares: {}",
            keys.cipher,
            keys.generation,
            if keys.is_partly_plain { "; older segments are still plain, `reseal` works on them" } else { "" },
            shares(keys.split.as_ref())
        ),
    }
}
