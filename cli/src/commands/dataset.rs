//! `bib dataset`: lists and shows datasets and their versions, and decides what becomes of them.

use argh::{ArgsInfo, FromArgs};
use bib_core::api::request::Paging;
use bib_core::api::{Event, Request};
use bib_core::model::version::VersionStatus;
use bib_core::model::{Dataset, DatasetStatus, Reference, Version, VersionSelector};

use crate::Context;
use crate::client::Client;
use crate::commands::{default_limit, lifecycle, limit, pins, print_fields, print_page, reference, topic_path, verify};
use crate::error::Result;
use crate::keys::Need;
use crate::render::human::{count, minute, n, size};
use crate::render::json;
use crate::render::table::{Align, Table};

/// list, show and check datasets, archive and delete them
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "dataset", help_triggers("-h", "--help"))]
pub(crate) struct DatasetArgs {
    #[argh(subcommand)]
    command: DatasetCommand,
}

#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
enum DatasetCommand {
    List(ListArgs),
    Show(ShowArgs),
    Versions(VersionsArgs),
    Archive(lifecycle::ArchiveArgs),
    Restore(lifecycle::RestoreArgs),
    Delete(lifecycle::DeleteArgs),
    Withdraw(lifecycle::WithdrawArgs),
    Verify(verify::VerifyArgs),
    Pin(pins::PinArgs),
    Unpin(pins::UnpinArgs),
    Pins(pins::PinsArgs),
}

/// list datasets
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "list",
    help_triggers("-h", "--help"),
    example = "{command_name}\n{command_name} weather --json"
)]
struct ListArgs {
    /// only those in this topic and below
    #[argh(positional)]
    topic: Option<String>,

    /// how many to list
    #[argh(option, arg_name = "n", default = "default_limit()", from_str_fn(limit))]
    limit: u32,

    /// how many to skip
    #[argh(option, arg_name = "n", default = "0")]
    offset: u32,
}

/// show a dataset and one of its versions
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "show",
    help_triggers("-h", "--help"),
    example = "{command_name} weather/daily/temps\n{command_name} weather/daily/temps@1.2.0"
)]
struct ShowArgs {
    /// the dataset, and the version if not the latest
    #[argh(positional)]
    reference: String,
}

/// list the versions of a dataset, the newest first
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "versions", help_triggers("-h", "--help"), example = "{command_name} weather/daily/temps")]
struct VersionsArgs {
    /// the dataset
    #[argh(positional)]
    reference: String,

    /// how many to list
    #[argh(option, arg_name = "n", default = "default_limit()", from_str_fn(limit))]
    limit: u32,

    /// how many to skip
    #[argh(option, arg_name = "n", default = "0")]
    offset: u32,
}

pub(crate) fn run(ctx: &Context, args: DatasetArgs) -> Result<()> {
    match args.command {
        DatasetCommand::List(args) => list(ctx, &args),
        DatasetCommand::Show(args) => show(ctx, &args),
        DatasetCommand::Versions(args) => versions(ctx, &args),
        DatasetCommand::Archive(args) => lifecycle::archive(ctx, &args),
        DatasetCommand::Restore(args) => lifecycle::restore(ctx, &args),
        DatasetCommand::Delete(args) => lifecycle::delete(ctx, &args),
        DatasetCommand::Withdraw(args) => lifecycle::withdraw(ctx, &args),
        DatasetCommand::Verify(args) => verify::run(ctx, &args),
        DatasetCommand::Pin(args) => pins::pin(ctx, &args),
        DatasetCommand::Unpin(args) => pins::unpin(ctx, &args),
        DatasetCommand::Pins(args) => pins::list(ctx, &args),
    }
}

/// A dataset as the node tells it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) path: String,
    pub(crate) dataset: Dataset,
    pub(crate) latest: Option<Version>,
    pub(crate) here: bool,
}

fn found(event: Event) -> Option<Found> {
    match event {
        Event::Dataset { path, dataset, latest, here } => {
            Some(Found { path, dataset: *dataset, latest: latest.map(|latest| *latest), here })
        }
        _ => None,
    }
}

/// Asks for a dataset.
pub(crate) fn find(client: &mut Client, reference: &Reference) -> Result<Option<Found>> {
    client.find_one(Request::DatasetGet(reference.clone()), found)
}

/// Asks for the version that a reference means: path of the dataset, version, whether its content is here.
pub(crate) fn version(client: &mut Client, reference: &Reference) -> Result<(String, Version, bool)> {
    client.one(Request::VersionGet(reference.clone()), |event| match event {
        Event::Version { path, version, here } => Some((path, *version, here)),
        _ => None,
    })
}

fn list(ctx: &Context, args: &ListArgs) -> Result<()> {
    let topic = args.topic.as_deref().map(topic_path).transpose()?;
    let paging = Paging { limit: args.limit, offset: args.offset };
    let mut client = Client::open(ctx, Need::IfReady)?;
    let mut call = client.call(Request::DatasetList { topic, paging })?;
    let mut table = Table::new(&[
        ("DATASET", Align::Name),
        ("VERSION", Align::Name),
        ("FORMAT", Align::Left),
        ("SIZE", Align::Right),
        ("HERE", Align::Left),
        ("UPDATED", Align::Left),
        ("DESCRIPTION", Align::Prose),
    ]);
    let (mut total, mut shown) = (None, 0);
    while let Some(event) = call.next()? {
        if let Event::Total(n) = event {
            total = Some(n);
            continue;
        }
        let Some(Found { path, dataset, latest, here }) = found(event) else { continue };
        if ctx.ui.is_json() {
            ctx.ui.json(&json::dataset(&path, &dataset, latest.as_ref(), here))?;
            continue;
        }
        shown += 1;
        let of_latest = |show: fn(&Version) -> String| latest.as_ref().map_or_else(String::new, show);
        table.row(vec![
            path,
            of_latest(|latest| latest.semver.to_string()),
            of_latest(|latest| latest.format.to_string()),
            of_latest(|latest| size(latest.size)),
            if here { "yes" } else { "" }.to_owned(),
            minute(dataset.updated_at),
            dataset.description,
        ]);
    }
    if ctx.ui.is_json() {
        return Ok(());
    }
    print_page(
        ctx,
        &table,
        paging,
        shown,
        total,
        "no datasets yet; publish one with `bib publish <file> <topic>/<name>`",
    )
}

fn show(ctx: &Context, args: &ShowArgs) -> Result<()> {
    let reference = reference(&args.reference)?;
    let mut client = Client::open(ctx, Need::IfReady)?;
    let Found { path, dataset, latest, here } = client.one(Request::DatasetGet(reference.clone()), found)?;
    let (version, here) = if reference.version == VersionSelector::Latest {
        (latest, here)
    } else {
        let (_, version, here) = self::version(&mut client, &reference)?;
        (Some(version), here)
    };
    let referenced = match &version {
        Some(version) if here => in_place(&mut client, &reference, version)?,
        _ => 0,
    };
    if ctx.ui.is_json() {
        let mut value = json::dataset(&path, &dataset, None, false);
        value["latest"] = dataset.latest.map_or(serde_json::Value::Null, |id| id.to_string().into());
        value["version"] = version.map_or(serde_json::Value::Null, |version| json::version(&path, &version, here));
        value["referenced_bytes"] = referenced.into();
        return ctx.ui.json(&value);
    }
    let tags: Vec<&str> = dataset.tags.iter().map(String::as_str).collect();
    let quiet = matches!(dataset.status, DatasetStatus::Active);
    let mut fields = vec![
        ("dataset", Some(path)),
        ("id", Some(dataset.id.to_string())),
        ("description", Some(dataset.description)),
        ("status", (!quiet).then(|| json::dataset_status(dataset.status).to_owned())),
        ("tags", Some(tags.join(", "))),
        ("schema", dataset.schema),
        ("versions", Some(count(dataset.version_count.into()))),
        ("created", Some(format!("{} by {}", minute(dataset.created_at), dataset.created_by.short()))),
    ];
    if let Some(version) = version {
        let withdrawn = version.status == VersionStatus::Withdrawn;
        fields.extend([
            ("version", Some(format!("{}{}", version.semver, if withdrawn { " (withdrawn)" } else { "" }))),
            ("version id", Some(version.id.to_string())),
            ("message", Some(version.message)),
            ("content", Some(version.content.to_string())),
            ("manifest", Some(version.manifest.to_string())),
            ("size", Some(format!("{} in {}", size(version.size), n(version.n_files, "file")))),
            ("format", Some(version.format.to_string())),
            ("rows", version.row_count.map(count)),
            ("license", version.license),
            ("source", version.source_url),
            ("published", Some(format!("{} by {}", minute(version.created_at), version.created_by.short()))),
            ("here", Some(if here { "yes" } else { "no; `bib get` fetches it" }.to_owned())),
            ("in place", (referenced > 0).then(|| format!("{} of it stay in files of their owner", size(referenced)))),
        ]);
    }
    print_fields(ctx, &fields)
}

/// Bytes of a version that lie in files outside of the node's store.
fn in_place(client: &mut Client, reference: &Reference, version: &Version) -> Result<u64> {
    let exact = Reference { version: VersionSelector::Id(version.id.to_string()), path: None, ..reference.clone() };
    client.one(Request::Referenced { reference: exact }, |event| match event {
        Event::Referenced { bytes } => Some(bytes),
        _ => None,
    })
}

fn versions(ctx: &Context, args: &VersionsArgs) -> Result<()> {
    let reference = reference(&args.reference)?;
    let paging = Paging { limit: args.limit, offset: args.offset };
    let mut client = Client::open(ctx, Need::IfReady)?;
    let mut call = client.call(Request::Versions { reference, paging })?;
    let mut table = Table::new(&[
        ("VERSION", Align::Name),
        ("PUBLISHED", Align::Left),
        ("SIZE", Align::Right),
        ("FILES", Align::Right),
        ("HERE", Align::Left),
        ("CONTENT", Align::Left),
        ("MESSAGE", Align::Prose),
    ]);
    let (mut total, mut shown) = (None, 0);
    while let Some(event) = call.next()? {
        match event {
            Event::Total(n) => total = Some(n),
            Event::Version { path, version, here } if ctx.ui.is_json() => {
                ctx.ui.json(&json::version(&path, &version, here))?;
            }
            Event::Version { version, here, .. } => {
                shown += 1;
                // Of two with the same number, the later one is named by its id as well.
                let taken = if version.semver_taken { format!("~{}", version.id.short()) } else { String::new() };
                let withdrawn = if version.status == VersionStatus::Withdrawn { " withdrawn" } else { "" };
                table.row(vec![
                    format!("{}{taken}{withdrawn}", version.semver),
                    minute(version.created_at),
                    size(version.size),
                    count(version.n_files),
                    if here { "yes" } else { "" }.to_owned(),
                    version.content.short(),
                    version.message,
                ]);
            }
            _ => {}
        }
    }
    if ctx.ui.is_json() {
        return Ok(());
    }
    print_page(ctx, &table, paging, shown, total, "no versions yet; publish one with `bib publish <file> <reference>`")
}
