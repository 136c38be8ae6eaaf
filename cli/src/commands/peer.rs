//! `bib peer`: the other nodes that this one knows.

use std::time::Duration;

use argh::{ArgsInfo, FromArgs};
use bib_core::api::event::Peer;
use bib_core::api::{ErrorCode, Event, Request};

use crate::Context;
use crate::client::Client;
use crate::commands::{print_fields, print_table};
use crate::error::{CliError, Result};
use crate::keys::Need;
use crate::render::human::minute;
use crate::render::json;
use crate::render::table::{Align, Table};

/// list peers and connect to them
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "peer", help_triggers("-h", "--help"))]
pub(crate) struct PeerArgs {
    #[argh(subcommand)]
    command: PeerCommand,
}

#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
enum PeerCommand {
    List(ListArgs),
    Connect(ConnectArgs),
    Disconnect(DisconnectArgs),
}

/// list the peers that the node knows
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "list", help_triggers("-h", "--help"), example = "{command_name}\n{command_name} --json")]
struct ListArgs {}

/// connect to a node and wait until it answers
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "connect",
    help_triggers("-h", "--help"),
    example = "{command_name} /ip4/192.168.1.20/tcp/4001\n{command_name} /ip4/192.168.1.20/tcp/4001/p2p/12D3KooW...",
    note = "`bib status` on the other node shows its addresses."
)]
struct ConnectArgs {
    /// where it listens, as a multiaddr
    #[argh(positional)]
    address: String,
}

/// end the connections with a peer
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "disconnect", help_triggers("-h", "--help"), example = "{command_name} 12D3KooW...")]
struct DisconnectArgs {
    /// its id
    #[argh(positional)]
    node: String,
}

pub(crate) fn run(ctx: &Context, args: PeerArgs) -> Result<()> {
    match args.command {
        PeerCommand::List(_) => list(ctx),
        PeerCommand::Connect(args) => connect(ctx, args),
        PeerCommand::Disconnect(args) => disconnect(ctx, &args),
    }
}

fn rtt(peer: &Peer) -> String {
    // A round trip in tenths of a millisecond says enough.
    peer.rtt_us.map_or_else(String::new, |us| {
        let tenths = Duration::from_micros(us).as_micros().div_ceil(100);
        format!("{}.{} ms", tenths / 10, tenths % 10)
    })
}

fn list(ctx: &Context) -> Result<()> {
    let mut client = Client::open(ctx, Need::IfReady)?;
    let mut call = client.call(Request::Peers)?;
    let mut table = Table::new(&[
        ("PEER", Align::Name),
        ("STATE", Align::Left),
        ("MODE", Align::Left),
        ("RTT", Align::Right),
        ("SEEN", Align::Left),
        ("ADDRESS", Align::Name),
    ]);
    while let Some(event) = call.next()? {
        let Event::Peer(peer) = event else { continue };
        if ctx.ui.is_json() {
            ctx.ui.json(&json::peer(&peer))?;
            continue;
        }
        table.row(vec![
            peer.node.to_string(),
            if peer.connected { "connected" } else { "away" }.to_owned(),
            peer.mode.map_or_else(String::new, |mode| json::mode(mode).to_owned()),
            rtt(&peer),
            peer.last_seen.map_or_else(String::new, minute),
            peer.addresses.first().cloned().unwrap_or_default(),
        ]);
    }
    if ctx.ui.is_json() {
        return Ok(());
    }
    if table.is_empty() {
        ctx.ui.note("no peers yet; connect to one with `bib peer connect <address>`");
        return Ok(());
    }
    print_table(ctx, &table)
}

fn connect(ctx: &Context, args: ConnectArgs) -> Result<()> {
    if !args.address.starts_with('/') {
        return Err(CliError::invalid(format!("`{}` is not a multiaddr", args.address))
            .hint("an address looks like /ip4/192.168.1.20/tcp/4001; `bib status` on the other node shows its own"));
    }
    let mut client = Client::open_as_operator(ctx)?;
    let peer = client.one(Request::Connect { address: args.address }, |event| match event {
        Event::Peer(peer) => Some(peer),
        _ => None,
    })?;
    if ctx.ui.is_json() {
        return ctx.ui.json(&json::peer(&peer));
    }
    print_fields(
        ctx,
        &[
            ("peer", Some(peer.node.to_string())),
            ("state", Some(if peer.connected { "connected" } else { "away" }.to_owned())),
            ("runs", peer.agent.clone()),
            ("mode", peer.mode.map(|mode| json::mode(mode).to_owned())),
            ("round trip", Some(rtt(&peer))),
            ("addresses", Some(peer.addresses.join("\n"))),
        ],
    )
}

fn disconnect(ctx: &Context, args: &DisconnectArgs) -> Result<()> {
    let node = args.node.parse().map_err(|error: bib_core::id::ParseIdError| {
        CliError::new(ErrorCode::Invalid, error.to_string()).hint("`bib peer list` shows the ids of the peers")
    })?;
    let mut client = Client::open_as_operator(ctx)?;
    client.done(Request::Disconnect { node })?;
    if ctx.ui.is_json() {
        return ctx.ui.json(&serde_json::json!({ "node": args.node, "connected": false }));
    }
    ctx.ui.note(&format!("disconnected from {}", args.node));
    Ok(())
}
