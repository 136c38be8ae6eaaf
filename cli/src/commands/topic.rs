//! `bib topic`: makes, lists and shows topics, and decides what becomes of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use argh::{ArgsInfo, FromArgs};
use bib_core::api::request::{ContextFor, Paging};
use bib_core::api::{ErrorCode, Event, Request};
use bib_core::id::{TopicId, UserId};
use bib_core::limits::MAX_SCHEMA_LEN;
use bib_core::model::topic::{TopicStatus, Visibility};
use bib_core::model::{Topic, TopicPath};
use bib_core::op::operation::FieldChanges;
use bib_core::op::{Body, Resource, Role};
use bib_core::time::Timestamp;
use serde_json::json;

use crate::Context;
use crate::client::Client;
use crate::commands::{default_limit, lifecycle, limit, print_fields, print_page, print_table, topic_path};
use crate::error::{CliError, Result};
use crate::keys::{self, Need};
use crate::ops::Chain;
use crate::render::human::{count, minute};
use crate::render::json as as_json;
use crate::render::table::{Align, Table};

/// make, list and show topics, archive and delete them
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "topic", help_triggers("-h", "--help"))]
pub(crate) struct TopicArgs {
    #[argh(subcommand)]
    command: TopicCommand,
}

#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
enum TopicCommand {
    Create(CreateArgs),
    List(ListArgs),
    Show(ShowArgs),
    Archive(lifecycle::ArchiveTopicArgs),
    Restore(lifecycle::RestoreTopicArgs),
    Delete(lifecycle::DeleteTopicArgs),
}

/// make a topic; you become its owner
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "create",
    help_triggers("-h", "--help"),
    example = "{command_name} weather --description \"Observations of weather stations\"\n\
    {command_name} weather/daily --tag noaa --tag climate\n\
    {command_name} daily --parent weather --schema table.sql"
)]
struct CreateArgs {
    /// its path, such as weather or weather/daily
    #[argh(positional)]
    topic: String,

    /// what it is about
    #[argh(option, arg_name = "text", default = "String::new()")]
    description: String,

    /// a file with the SQL table definition that its datasets follow
    #[argh(option, arg_name = "file")]
    schema: Option<PathBuf>,

    /// the topic above, instead of writing it into the path
    #[argh(option, arg_name = "topic")]
    parent: Option<String>,

    /// a label; may be repeated
    #[argh(option, arg_name = "label")]
    tag: Vec<String>,
}

/// list topics
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "list",
    help_triggers("-h", "--help"),
    example = "{command_name}\n{command_name} weather --limit 10"
)]
struct ListArgs {
    /// only those below this one
    #[argh(positional)]
    under: Option<String>,

    /// how many to list
    #[argh(option, arg_name = "n", default = "default_limit()", from_str_fn(limit))]
    limit: u32,

    /// how many to skip
    #[argh(option, arg_name = "n", default = "0")]
    offset: u32,
}

/// show a topic and who may do what in it
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "show",
    help_triggers("-h", "--help"),
    example = "{command_name} weather\n{command_name} weather/daily --json"
)]
struct ShowArgs {
    /// its path
    #[argh(positional)]
    topic: String,
}

pub(crate) fn run(ctx: &Context, args: TopicArgs) -> Result<()> {
    match args.command {
        TopicCommand::Create(args) => create(ctx, args),
        TopicCommand::List(args) => list(ctx, &args),
        TopicCommand::Show(args) => show(ctx, &args),
        TopicCommand::Archive(args) => lifecycle::archive_topic(ctx, &args),
        TopicCommand::Restore(args) => lifecycle::restore_topic(ctx, &args),
        TopicCommand::Delete(args) => lifecycle::delete_topic(ctx, &args),
    }
}

/// A topic as the node tells it.
pub(crate) fn find(client: &mut Client, path: &TopicPath) -> Result<Option<(String, Topic, u64)>> {
    client.find_one(Request::TopicGet(path.clone()), |event| match event {
        Event::Topic { path, topic, n_datasets } => Some((path, *topic, n_datasets)),
        _ => None,
    })
}

/// Reads a file with a table definition.
pub(crate) fn read_schema(path: &Path) -> Result<String> {
    let fail = |error| CliError::io("read the schema", path, &error);
    let len = std::fs::metadata(path).map_err(fail)?.len();
    if len > MAX_SCHEMA_LEN as u64 {
        return Err(CliError::invalid(format!("the schema `{}` is longer than 48 KiB", path.display()))
            .hint("a schema is the CREATE TABLE statement of the table, nothing else"));
    }
    std::fs::read_to_string(path).map_err(fail)
}

fn create(ctx: &Context, args: CreateArgs) -> Result<()> {
    let text = match &args.parent {
        Some(parent) => format!("{parent}/{}", args.topic),
        None => args.topic.clone(),
    };
    let path = topic_path(&text)?;
    let (last, above) = path.names.split_last().expect("a path has at least one name");
    if last.id_prefix.is_some() {
        return Err(
            CliError::invalid(format!("`{last}` names a topic that exists")).hint("leave away `~` and what follows")
        );
    }
    let fields = FieldChanges {
        description: (!args.description.is_empty()).then_some(args.description),
        tags: (!args.tag.is_empty()).then(|| args.tag.into_iter().collect::<BTreeSet<_>>()),
        metadata: None,
        schema: args.schema.as_deref().map(read_schema).transpose()?.map(Some),
    };
    let signer = keys::required_signer(ctx)?;
    let mut client = Client::open_as(ctx, Some(&signer))?;
    if find(&mut client, &path)?.is_some() {
        return Err(CliError::new(ErrorCode::Exists, format!("there is a topic `{path}` already"))
            .hint(format!("look at it with `bib topic show {path}`, or publish into it")));
    }
    let parent = if above.is_empty() { None } else { Some(parent_id(&mut client, above)?) };
    let mut chain = match parent {
        None => Chain::root(&signer),
        // A sub-topic is told in a log of its own, after what is known of the rights above it.
        Some(parent) => Chain::after(&mut client, &signer, None, ContextFor::Access(parent))?,
    };
    let name = last.name.clone();
    let id: TopicId = chain.push(Body::CreateTopic { parent, name, visibility: Visibility::Public, fields })?.into();
    chain.submit(&mut client)?;
    if ctx.ui.is_json() {
        return ctx.ui.json(&json!({ "path": path.to_string(), "id": id.to_string() }));
    }
    ctx.ui.line(&id.to_string())?;
    ctx.ui.note(&format!("made the topic {path}; publish into it with `bib publish <file> {path}/<dataset>`"));
    Ok(())
}

fn parent_id(client: &mut Client, above: &[bib_core::model::name::Segment]) -> Result<TopicId> {
    let path = TopicPath { names: above.to_vec() };
    let Some((_, topic, _)) = find(client, &path)? else {
        return Err(CliError::new(ErrorCode::NotFound, format!("there is no topic `{path}`"))
            .hint(format!("make it first: `bib topic create {path}`")));
    };
    Ok(topic.id)
}

fn list(ctx: &Context, args: &ListArgs) -> Result<()> {
    let under = args.under.as_deref().map(topic_path).transpose()?;
    let paging = Paging { limit: args.limit, offset: args.offset };
    let mut client = Client::open(ctx, Need::IfReady)?;
    let mut call = client.call(Request::TopicList { under, paging })?;
    let mut table = Table::new(&[
        ("TOPIC", Align::Name),
        ("DATASETS", Align::Right),
        ("UPDATED", Align::Left),
        ("DESCRIPTION", Align::Prose),
    ]);
    let (mut total, mut shown) = (None, 0);
    while let Some(event) = call.next()? {
        match event {
            Event::Total(n) => total = Some(n),
            Event::Topic { path, topic, n_datasets } if ctx.ui.is_json() => {
                ctx.ui.json(&as_json::topic(&path, &topic, n_datasets))?;
            }
            Event::Topic { path, topic, n_datasets } => {
                shown += 1;
                table.row(vec![path, count(n_datasets), minute(topic.updated_at), topic.description]);
            }
            _ => {}
        }
    }
    if ctx.ui.is_json() {
        return Ok(());
    }
    print_page(ctx, &table, paging, shown, total, "no topics yet; make one with `bib topic create <name>`")
}

type Grant = (Resource, UserId, Role, Option<Timestamp>);

fn show(ctx: &Context, args: &ShowArgs) -> Result<()> {
    let asked = topic_path(&args.topic)?;
    let mut client = Client::open(ctx, Need::IfReady)?;
    let Some((path, topic, n_datasets)) = find(&mut client, &asked)? else {
        return Err(CliError::new(ErrorCode::NotFound, format!("there is no topic `{asked}`"))
            .hint("`bib topic list` shows those that are known here"));
    };
    let grants: Vec<Grant> = client.one(Request::TopicMembers(asked), |event| match event {
        Event::Members { grants, .. } => Some(grants),
        _ => None,
    })?;
    if ctx.ui.is_json() {
        let mut value = as_json::topic(&path, &topic, n_datasets);
        value["members"] =
            grants.iter().map(|(resource, user, role, end)| as_json::grant(resource, user, *role, *end)).collect();
        return ctx.ui.json(&value);
    }
    let tags: Vec<&str> = topic.tags.iter().map(String::as_str).collect();
    print_fields(
        ctx,
        &[
            ("topic", Some(path)),
            ("id", Some(topic.id.to_string())),
            ("description", Some(topic.description)),
            ("status", (topic.status != TopicStatus::Active).then(|| as_json::topic_status(topic.status).to_owned())),
            ("tags", Some(tags.join(", "))),
            ("datasets", Some(count(n_datasets))),
            ("schema", topic.schema),
            ("created", Some(format!("{} by {}", minute(topic.created_at), topic.created_by.short()))),
            ("updated", Some(minute(topic.updated_at))),
        ],
    )?;
    let mut table =
        Table::new(&[("MEMBER", Align::Name), ("ROLE", Align::Left), ("ON", Align::Left), ("UNTIL", Align::Left)]);
    for (resource, user, role, end) in grants {
        let on = match resource {
            Resource::Topic(id) if id == topic.id => "this topic".to_owned(),
            Resource::Topic(id) => id.short(),
            Resource::Dataset(id) => id.short(),
        };
        table.row(vec![user.to_string(), role.to_string(), on, end.map_or_else(String::new, minute)]);
    }
    if !table.is_empty() {
        ctx.ui.line("")?;
        print_table(ctx, &table)?;
    }
    Ok(())
}
