//! `bib publish`: a file, a tree or stdin becomes a version of a dataset. Everything that can be refused is checked
//! before a byte is sent; the version exists when the node has acknowledged the signed operation that names it.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use argh::{ArgsInfo, FromArgs};
use bib_core::api::event::Staged;
use bib_core::api::request::{ContextFor, Paging};
use bib_core::api::{ErrorCode, Event, Request};
use bib_core::id::{DatasetId, VersionId};
use bib_core::limits::{MAX_LOCAL_FILES, MAX_MESSAGE_LEN, MAX_PAGE};
use bib_core::model::manifest::ManifestKind;
use bib_core::model::topic::TopicStatus;
use bib_core::model::{ContentFormat, DatasetStatus, Reference, Topic, Version, VersionSelector};
use bib_core::op::Body;
use bib_core::op::operation::{FieldChanges, NewVersion};
use semver::Version as Semver;
use serde_json::json;

use crate::Context;
use crate::client::{Client, IngestEvent};
use crate::commands::{dataset, reference, topic};
use crate::datapackage::{self, DataPackage};
use crate::error::{CliError, Result};
use crate::keys;
use crate::ops::Chain;
use crate::progress::Bar;
use crate::render::{human, json as as_json};
use crate::semver_bump::{Bump, next};
use crate::walk::{Measured, Source};

/// How often others may be faster with the same dataset or number: each time one of them has published.
const MAX_LOST: u32 = 32;

/// publish a file, a folder or stdin as a version of a dataset
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "publish",
    help_triggers("-h", "--help"),
    example = "{command_name} temps.csv weather/daily/temps -m \"January added\"\n\
    {command_name} ./observations weather/observations --bump minor\n\
    {command_name} /archive/radar.nc weather/radar --reference\n\
    pg_dump db | {command_name} - backups/db --format text\n\
    {command_name} temps.csv weather/daily/temps --version 2.0.0 --license CC0-1.0",
    note = "The dataset is made when there is none; its topic must be there.",
    note = "The first version is 1.0.0, the next ones count up the last number.",
    note = "What is the same as the latest version makes no new one.",
    note = "With --reference the bytes stay in their files: the node keeps where they lie\nand reads them there, so it must be able to read the files. A file that changes\nlater is noticed and no longer given out.",
    note = "Symlinks and special files are skipped with a warning.",
    note = "A datapackage.json in the root of a folder gives description, license,\nsource and tags unless they are given here."
)]
pub(crate) struct PublishArgs {
    /// a file, a folder, or - for stdin
    #[argh(positional)]
    path: String,

    /// the dataset; ending in / it is a topic, and the dataset is named after the file
    #[argh(positional)]
    reference: String,

    /// what changed
    #[argh(option, short = 'm', arg_name = "text", default = "String::new()")]
    message: String,

    /// the number of the version
    #[argh(option, arg_name = "number")]
    version: Option<Semver>,

    /// which part of the number counts up: major, minor or patch
    #[argh(option, arg_name = "part")]
    bump: Option<Bump>,

    /// what it is: csv, tsv, jsonl, json, parquet, text, binary or tree
    #[argh(option, arg_name = "format")]
    format: Option<ContentFormat>,

    /// a file with the SQL table definition of the content
    #[argh(option, arg_name = "file")]
    schema: Option<PathBuf>,

    /// a label for the dataset; may be repeated
    #[argh(option, arg_name = "label")]
    tag: Vec<String>,

    /// leave the bytes in their files instead of copying them into the node
    #[argh(switch, long = "reference")]
    in_place: bool,

    /// make a version also of what is unchanged
    #[argh(switch)]
    force: bool,

    /// the license, an SPDX expression where there is one
    #[argh(option, arg_name = "license")]
    license: Option<String>,

    /// where the content came from
    #[argh(option, arg_name = "url")]
    source: Option<String>,
}

pub(crate) fn run(ctx: &Context, args: &PublishArgs) -> Result<()> {
    // What the user typed and what is on this machine comes first, then what the node knows, then bytes.
    if args.version.is_some() && args.bump.is_some() {
        return Err(CliError::invalid("--version and --bump exclude each other").hint("leave one of them away"));
    }
    if args.message.len() > MAX_MESSAGE_LEN {
        return Err(CliError::invalid("the message is longer than 4 KiB").hint("shorten what follows `-m`"));
    }
    let path = Path::new(&args.path);
    let package = if args.path == "-" { DataPackage::default() } else { read_package(ctx, path)? };
    let reference = target(args, &package)?;
    let mut source = source(args, &reference)?;
    if args.in_place {
        source = source.in_place()?;
    }
    let wanted = wanted_version(args, &reference)?;
    let schema = args.schema.as_deref().map(topic::read_schema).transpose()?;
    let signer = keys::required_signer(ctx)?;

    let mut client = Client::open_as(ctx, Some(&signer))?;
    let topic = check_topic(&mut client, &reference)?;
    let mut plan = Plan::make(&mut client, &reference, wanted.as_ref(), args)?;
    let measured = source.measure(|text| ctx.ui.warn(text))?;
    if measured.is_some_and(|measured| measured.files == 0 && measured.empty_dirs == 0) {
        return Err(
            CliError::invalid(format!("`{}` has no files to publish", path.display())).hint("name a folder with files")
        );
    }
    if args.in_place {
        check_files(&mut client, &source)?;
    }
    let existing_id = plan.existing.as_ref().map(|found| found.dataset.id);
    let (staged, elapsed) = upload(ctx, &mut client, &source, args.in_place, existing_id, measured)?;

    let path_text = format!("{}/{}", reference.topic, reference.dataset);
    let mut n_lost = 0;
    let (id, dataset, number) = loop {
        if let Some(latest) = plan.latest()
            && latest.manifest == staged.manifest
            && !args.force
        {
            return unchanged(ctx, &path_text, latest, &staged);
        }
        let mut chain = Chain::after(&mut client, &signer, Some(topic.id), ContextFor::Content(topic.id))?;
        let dataset = dataset_for(&mut chain, &plan, &reference, args, &package)?;
        let version = NewVersion {
            dataset,
            semver: plan.number.clone(),
            previous: plan.latest().map(|latest| latest.id),
            message: args.message.clone(),
            manifest: staged.manifest,
            content: staged.content,
            size: staged.size,
            n_files: staged.n_files,
            format: args.format.unwrap_or_else(|| format_of(&source)),
            schema: schema.clone(),
            row_count: None,
            license: args.license.clone().or_else(|| package.license.clone()),
            source_url: args.source.clone().or_else(|| package.source.clone()),
        };
        let id = VersionId::from(chain.push(Body::PublishVersion(version))?);
        match chain.submit(&mut client) {
            Ok(()) => break (id, dataset, plan.number),
            // Somebody else was faster: none of these operations was taken, and what was sent is kept for the next ones.
            Err(error) if error.code() == Some(ErrorCode::Exists) && n_lost < MAX_LOST => {
                n_lost += 1;
                plan = Plan::make(&mut client, &reference, wanted.as_ref(), args)?;
            }
            Err(error) => return Err(error),
        }
    };

    let reference = format!("{path_text}@{number}");
    if ctx.ui.is_json() {
        let mut value = as_json::staged(&staged);
        value["reference"] = json!(reference);
        value["version_id"] = json!(id.to_string());
        value["dataset"] = json!(dataset.to_string());
        value["version"] = json!(number.to_string());
        value["unchanged"] = json!(false);
        value["seconds"] = json!(elapsed.as_secs_f64());
        return ctx.ui.json(&value);
    }
    ctx.ui.line(&reference)?;
    ctx.ui.note(&format!(
        "version  {id}\ncontent  {}\nsize     {} in {}, {} new\ntime     {}",
        staged.content,
        human::size(staged.size),
        human::n(staged.n_files, "file"),
        human::size(staged.new_bytes),
        human::duration(elapsed),
    ));
    if staged.referenced_bytes > 0 {
        ctx.ui.note(&format!("in place {} stay in their files", human::size(staged.referenced_bytes)));
    }
    Ok(())
}

/// What a publication meets.
struct Plan {
    existing: Option<dataset::Found>,
    number: Semver,
}

impl Plan {
    fn make(client: &mut Client, reference: &Reference, wanted: Option<&Semver>, args: &PublishArgs) -> Result<Self> {
        let existing = dataset::find(client, reference)?;
        if let Some(found) = &existing
            && matches!(found.dataset.status, DatasetStatus::Archived | DatasetStatus::Deleted)
        {
            let message = format!("the dataset `{}` takes no new versions", found.path);
            return Err(CliError::new(ErrorCode::Archived, message).hint("publish under another name"));
        }
        let latest = existing.as_ref().and_then(|found| found.latest.as_ref());
        let number = match wanted {
            Some(number) if existing.is_some() && is_taken(client, reference, number)? => {
                let message = format!("version {number} of `{reference}` is there already");
                return Err(
                    CliError::new(ErrorCode::Exists, message).hint("leave `--version` away to take the next number")
                );
            }
            Some(number) => number.clone(),
            None => next_number(client, reference, existing.is_some(), latest, args.bump.unwrap_or_default())?,
        };
        Ok(Self { existing, number })
    }

    fn latest(&self) -> Option<&Version> {
        self.existing.as_ref().and_then(|found| found.latest.as_ref())
    }
}

/// The dataset of a version, made or given labels where that is needed.
fn dataset_for(
    chain: &mut Chain<'_>,
    plan: &Plan,
    reference: &Reference,
    args: &PublishArgs,
    package: &DataPackage,
) -> Result<DatasetId> {
    let Some(found) = &plan.existing else {
        let tags: BTreeSet<String> =
            if args.tag.is_empty() { &package.keywords } else { &args.tag }.iter().cloned().collect();
        let fields = FieldChanges {
            description: package.description.clone(),
            tags: (!tags.is_empty()).then_some(tags),
            metadata: None,
            schema: None,
        };
        return chain.push(Body::CreateDataset { name: reference.dataset.name.clone(), fields }).map(DatasetId::from);
    };
    // Labels are added; taking one away is an update of the dataset, not a publication.
    let all: BTreeSet<String> = found.dataset.tags.iter().cloned().chain(args.tag.iter().cloned()).collect();
    if all != found.dataset.tags {
        let fields = FieldChanges { tags: Some(all), ..FieldChanges::default() };
        chain.push(Body::UpdateDataset { dataset: found.dataset.id, fields })?;
    }
    Ok(found.dataset.id)
}

/// The reference without version and path; `topic/` takes its name from the package or the file.
fn target(args: &PublishArgs, package: &DataPackage) -> Result<Reference> {
    let text = match args.reference.strip_suffix('/') {
        None => args.reference.clone(),
        Some(topic) => {
            let stem = Path::new(&args.path).canonicalize().ok();
            let stem = stem.as_deref().and_then(Path::file_stem).and_then(|stem| stem.to_str());
            let name = package.name.as_deref().or(stem.filter(|_| args.path != "-")).ok_or_else(|| {
                CliError::invalid("there is no name for the dataset").hint("write it behind the topic: topic/dataset")
            })?;
            format!("{topic}/{name}")
        }
    };
    let reference = reference(&text)?;
    if reference.path.is_some() {
        return Err(CliError::invalid("a version is published as a whole, not a path in it")
            .hint("leave away `:` and what follows"));
    }
    Ok(reference)
}

fn source(args: &PublishArgs, reference: &Reference) -> Result<Source> {
    if args.path != "-" {
        return Source::at(Path::new(&args.path));
    }
    let name = reference.dataset.name.as_str();
    let name = match args.format {
        None | Some(ContentFormat::Binary | ContentFormat::Tree) => name.to_owned(),
        Some(ContentFormat::Text) => format!("{name}.txt"),
        Some(format) => format!("{name}.{format}"),
    };
    Ok(Source::Stdin { name })
}

fn format_of(source: &Source) -> ContentFormat {
    match source {
        Source::Stdin { name } | Source::File { name, .. } => ContentFormat::of_file_name(name),
        Source::Tree { .. } => ContentFormat::Tree,
    }
}

fn wanted_version(args: &PublishArgs, reference: &Reference) -> Result<Option<Semver>> {
    let wanted = match (&args.version, &reference.version) {
        (None, VersionSelector::Latest) => return Ok(None),
        (Some(version), VersionSelector::Latest) => version,
        (None, VersionSelector::Exact(version)) => version,
        (Some(version), VersionSelector::Exact(other)) if version == other => version,
        (Some(_), VersionSelector::Exact(_)) => {
            return Err(CliError::invalid("`--version` and the reference name different versions").hint("name it once"));
        }
        (_, VersionSelector::Prefix(..) | VersionSelector::Id(_)) => {
            return Err(CliError::invalid(format!("`{}` is not the full number of a version", reference.version))
                .hint("write all three numbers, such as 1.2.0, or none for the next one"));
        }
    };
    if args.bump.is_some() {
        return Err(
            CliError::invalid("`--bump` and the reference both choose the number").hint("leave one of them away")
        );
    }
    if !wanted.build.is_empty() {
        return Err(CliError::invalid("a version number has no build part").hint("leave away `+` and what follows"));
    }
    Ok(Some(wanted.clone()))
}

fn check_topic(client: &mut Client, reference: &Reference) -> Result<Topic> {
    let path = &reference.topic;
    let Some((_, topic, _)) = topic::find(client, path)? else {
        return Err(CliError::new(ErrorCode::NotFound, format!("there is no topic `{path}`"))
            .hint(format!("make it first: `bib topic create {path}`")));
    };
    match topic.status {
        TopicStatus::Active => Ok(topic),
        TopicStatus::Archived | TopicStatus::Deleted => {
            Err(CliError::new(ErrorCode::Archived, format!("the topic `{path}` is read-only"))
                .hint("publish into another one; `bib topic list` shows them"))
        }
    }
}

fn is_taken(client: &mut Client, reference: &Reference, number: &Semver) -> Result<bool> {
    let exact = Reference { version: VersionSelector::Exact(number.clone()), path: None, ..reference.clone() };
    client
        .find_one(Request::VersionGet(exact), |event| matches!(event, Event::Version { .. }).then_some(()))
        .map(|found| found.is_some())
}

/// The next number that nobody has, withdrawn versions included.
fn next_number(
    client: &mut Client,
    reference: &Reference,
    exists: bool,
    latest: Option<&Version>,
    bump: Bump,
) -> Result<Semver> {
    let mut number = next(latest.map(|latest| &latest.semver), bump);
    if !exists || !is_taken(client, reference, &number)? {
        return Ok(number);
    }
    // `latest` leaves out withdrawn versions and pre-releases; all are looked at, a page at a time.
    let (mut highest, mut offset) = (number.clone(), 0u32);
    loop {
        let paging = Paging { limit: MAX_PAGE, offset };
        let reference = Reference { version: VersionSelector::Latest, path: None, ..reference.clone() };
        let mut call = client.call(Request::Versions { reference, paging })?;
        let mut n = 0;
        while let Some(event) = call.next()? {
            if let Event::Version { version, .. } = event {
                n += 1;
                highest = highest.max(version.semver);
            }
        }
        if n == 0 {
            break;
        }
        offset = offset.saturating_add(n);
    }
    number = next(Some(&highest), bump);
    Ok(number)
}

fn read_package(ctx: &Context, path: &Path) -> Result<DataPackage> {
    let file = path.join("datapackage.json");
    let mut text = Vec::new();
    match std::fs::File::open(&file) {
        Ok(open) => open
            .take(datapackage::MAX_LEN)
            .read_to_end(&mut text)
            .map_err(|error| CliError::io("read", &file, &error))?,
        // What it says are only defaults; that it cannot be read is said when it is published.
        Err(_) => return Ok(DataPackage::default()),
    };
    DataPackage::parse(&text).or_else(|error| {
        ctx.ui.warn(&format!("{} is not used for defaults: {error}", file.display()));
        Ok(DataPackage::default())
    })
}

/// Asks the node about every file, so that it refuses before anything is sent.
fn check_files(client: &mut Client, source: &Source) -> Result<()> {
    let mut files = Vec::new();
    source.files(&mut |file| {
        files.push(file);
        if files.len() < MAX_LOCAL_FILES {
            return Ok(());
        }
        client.done(Request::MayReference { files: std::mem::take(&mut files) })
    })?;
    if files.is_empty() { Ok(()) } else { client.done(Request::MayReference { files }) }
}

fn upload(
    ctx: &Context,
    client: &mut Client,
    source: &Source,
    in_place: bool,
    dataset: Option<DatasetId>,
    measured: Option<Measured>,
) -> Result<(Staged, std::time::Duration)> {
    let expected = measured.map(|measured| measured.bytes);
    let mut bar = Bar::new(ctx.ui, "publishing", expected);
    let kind: ManifestKind = source.kind();
    let ui = ctx.ui;
    let request = if in_place {
        Request::IngestInPlace { dataset, kind, expected }
    } else {
        Request::Ingest { dataset, kind, expected }
    };
    let staged = client.ingest(
        request,
        |uploader| {
            let socket = uploader.socket()?;
            source.send(Some(socket.as_fd()), in_place, &mut |part| uploader.part(part))
        },
        |event| match event {
            IngestEvent::Progress(progress) => bar.update(&progress),
            IngestEvent::Warning(warning) => {
                bar.clear();
                ui.warn(&warning);
            }
        },
    )?;
    bar.clear();
    Ok((staged, bar.elapsed()))
}

fn unchanged(ctx: &Context, path: &str, latest: &Version, staged: &Staged) -> Result<()> {
    let reference = format!("{path}@{}", latest.semver);
    if ctx.ui.is_json() {
        let mut value = as_json::staged(staged);
        value["reference"] = json!(reference);
        value["version_id"] = json!(latest.id.to_string());
        value["dataset"] = json!(latest.dataset.to_string());
        value["version"] = json!(latest.semver.to_string());
        value["unchanged"] = json!(true);
        return ctx.ui.json(&value);
    }
    ctx.ui.line(&reference)?;
    ctx.ui.note("unchanged: no version was made; `--force` makes one");
    Ok(())
}
