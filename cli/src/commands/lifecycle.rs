//! `bib dataset` and `bib topic` `archive`, `restore` and `delete`, `bib dataset withdraw`: what becomes of topics,
//! datasets and versions, as signed operations. The bytes are the business of each node, which keeps them for a while.

use argh::{ArgsInfo, FromArgs};
use bib_core::api::ErrorCode;
use bib_core::api::request::ContextFor;
use bib_core::id::TopicId;
use bib_core::model::{DatasetStatus, Reference, TopicStatus, VersionSelector, VersionStatus};
use bib_core::op::Body;
use serde_json::json;

use crate::Context;
use crate::client::Client;
use crate::commands::dataset::{Found, find, version};
use crate::commands::{reference, topic, topic_path};
use crate::error::{CliError, Result};
use crate::keys::{self, Signer};
use crate::ops::Chain;

/// make a dataset read-only; its versions stay
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "archive", help_triggers("-h", "--help"), example = "{command_name} weather/daily/temps")]
pub(crate) struct ArchiveArgs {
    /// the dataset
    #[argh(positional)]
    reference: String,
}

/// take the archiving of a dataset back
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "restore", help_triggers("-h", "--help"), example = "{command_name} weather/daily/temps")]
pub(crate) struct RestoreArgs {
    /// the dataset
    #[argh(positional)]
    reference: String,
}

/// delete a dataset with all its versions, on every node
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "delete",
    help_triggers("-h", "--help"),
    example = "{command_name} weather/daily/temps\n{command_name} weather/daily/temps --yes"
)]
pub(crate) struct DeleteArgs {
    /// the dataset
    #[argh(positional)]
    reference: String,
}

/// withdraw a version: it is not the latest one any more, and can still be fetched by its number
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "withdraw",
    help_triggers("-h", "--help"),
    example = "{command_name} weather/daily/temps@1.2.0"
)]
pub(crate) struct WithdrawArgs {
    /// the dataset and the number of the version
    #[argh(positional)]
    reference: String,
}

/// make a topic and all below it read-only
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "archive", help_triggers("-h", "--help"), example = "{command_name} weather/daily")]
pub(crate) struct ArchiveTopicArgs {
    /// its path
    #[argh(positional)]
    topic: String,
}

/// take the archiving of a topic back
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "restore", help_triggers("-h", "--help"), example = "{command_name} weather/daily")]
pub(crate) struct RestoreTopicArgs {
    /// its path
    #[argh(positional)]
    topic: String,
}

/// delete a topic with its datasets, on every node
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "delete",
    help_triggers("-h", "--help"),
    example = "{command_name} weather/daily\n{command_name} weather --force --yes"
)]
pub(crate) struct DeleteTopicArgs {
    /// its path
    #[argh(positional)]
    topic: String,

    /// also when there are topics below it
    #[argh(switch)]
    force: bool,
}

/// A dataset, without a version.
fn whole(text: &str) -> Result<Reference> {
    let reference = reference(text)?;
    if reference.version != VersionSelector::Latest || reference.path.is_some() {
        return Err(CliError::invalid(format!("`{text}` names a version or a file, and all of the dataset is meant"))
            .hint("name the dataset alone, such as weather/daily/temps"));
    }
    Ok(reference)
}

fn found(client: &mut Client, reference: &Reference) -> Result<Found> {
    find(client, reference)?.ok_or_else(|| {
        CliError::new(ErrorCode::NotFound, format!("there is no dataset `{reference}`"))
            .hint("`bib dataset list` shows those that are known here")
    })
}

fn submit(client: &mut Client, signer: &Signer, topic: TopicId, body: Body) -> Result<()> {
    let mut chain = Chain::after(client, signer, Some(topic), ContextFor::Content(topic))?;
    chain.push(body)?;
    chain.submit(client)
}

fn say(ctx: &Context, path: &str, state: &str, note: &str) -> Result<()> {
    if ctx.ui.is_json() {
        return ctx.ui.json(&json!({ "path": path, "status": state }));
    }
    ctx.ui.note(note);
    Ok(())
}

pub(crate) fn archive(ctx: &Context, args: &ArchiveArgs) -> Result<()> {
    let reference = whole(&args.reference)?;
    let signer = keys::required_signer(ctx)?;
    let mut client = Client::open_as(ctx, Some(&signer))?;
    let Found { path, dataset, .. } = found(&mut client, &reference)?;
    if dataset.status != DatasetStatus::Archived {
        submit(&mut client, &signer, dataset.topic, Body::ArchiveDataset { dataset: dataset.id })?;
    }
    say(ctx, &path, "archived", &format!("{path} is read-only; `bib dataset restore {path}` takes that back"))
}

pub(crate) fn restore(ctx: &Context, args: &RestoreArgs) -> Result<()> {
    let reference = whole(&args.reference)?;
    let signer = keys::required_signer(ctx)?;
    let mut client = Client::open_as(ctx, Some(&signer))?;
    let Found { path, dataset, .. } = found(&mut client, &reference)?;
    if dataset.status == DatasetStatus::Archived {
        submit(&mut client, &signer, dataset.topic, Body::RestoreDataset { dataset: dataset.id })?;
    }
    say(ctx, &path, "active", &format!("{path} takes new versions"))
}

pub(crate) fn delete(ctx: &Context, args: &DeleteArgs) -> Result<()> {
    let reference = whole(&args.reference)?;
    let signer = keys::required_signer(ctx)?;
    let mut client = Client::open_as(ctx, Some(&signer))?;
    let Found { path, dataset, .. } = found(&mut client, &reference)?;
    let question = format!("Delete {path} with {} versions, on every node?", dataset.version_count);
    if !ctx.globals.yes && !ctx.ui.confirm(&question)? {
        return Err(CliError::new(ErrorCode::Cancelled, "nothing was deleted").hint("answer with y, or say `--yes`"));
    }
    submit(&mut client, &signer, dataset.topic, Body::DeleteDataset { dataset: dataset.id })?;
    say(ctx, &path, "deleted", &format!("{path} is deleted"))
}

pub(crate) fn withdraw(ctx: &Context, args: &WithdrawArgs) -> Result<()> {
    let reference = reference(&args.reference)?;
    if reference.version == VersionSelector::Latest || reference.path.is_some() {
        return Err(CliError::invalid(format!("`{}` names no version", args.reference))
            .hint(format!("say which one: {}/{}@1.2.0", reference.topic, reference.dataset)));
    }
    let signer = keys::required_signer(ctx)?;
    let mut client = Client::open_as(ctx, Some(&signer))?;
    let (path, version, _) = version(&mut client, &reference)?;
    if version.status != VersionStatus::Withdrawn {
        let body = Body::WithdrawVersion { dataset: version.dataset, version: version.id };
        submit(&mut client, &signer, version.topic, body)?;
    }
    let note = format!("version {} of {path} is withdrawn", version.semver);
    say(ctx, &path, "withdrawn", &note)
}

fn submit_to_topic(ctx: &Context, text: &str, question: Option<fn(&str, u64) -> String>, body: Body) -> Result<String> {
    let asked = topic_path(text)?;
    let signer = keys::required_signer(ctx)?;
    let mut client = Client::open_as(ctx, Some(&signer))?;
    let Some((path, topic, n_datasets)) = topic::find(&mut client, &asked)? else {
        return Err(CliError::new(ErrorCode::NotFound, format!("there is no topic `{asked}`"))
            .hint("`bib topic list` shows those that are known here"));
    };
    if let Some(question) = question
        && !ctx.globals.yes
        && !ctx.ui.confirm(&question(&path, n_datasets))?
    {
        return Err(CliError::new(ErrorCode::Cancelled, "nothing was deleted").hint("answer with y, or say `--yes`"));
    }
    let is_so = match &body {
        Body::ArchiveTopic => topic.status == TopicStatus::Archived,
        Body::RestoreTopic => topic.status == TopicStatus::Active,
        _ => false,
    };
    if !is_so {
        let mut chain = Chain::after(&mut client, &signer, Some(topic.id), ContextFor::Access(topic.id))?;
        chain.push(body)?;
        chain.submit(&mut client)?;
    }
    Ok(path)
}

pub(crate) fn archive_topic(ctx: &Context, args: &ArchiveTopicArgs) -> Result<()> {
    let path = submit_to_topic(ctx, &args.topic, None, Body::ArchiveTopic)?;
    say(ctx, &path, "archived", &format!("{path} is read-only; `bib topic restore {path}` takes that back"))
}

pub(crate) fn restore_topic(ctx: &Context, args: &RestoreTopicArgs) -> Result<()> {
    let path = submit_to_topic(ctx, &args.topic, None, Body::RestoreTopic)?;
    say(ctx, &path, "active", &format!("{path} takes changes again"))
}

pub(crate) fn delete_topic(ctx: &Context, args: &DeleteTopicArgs) -> Result<()> {
    let question = |path: &str, n: u64| format!("Delete {path} with {n} datasets, on every node?");
    let path = submit_to_topic(ctx, &args.topic, Some(question), Body::DeleteTopic { force: args.force })?;
    say(ctx, &path, "deleted", &format!("{path} is deleted"))
}
