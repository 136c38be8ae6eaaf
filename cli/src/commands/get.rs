//! `bib get`: writes a version, or a part of it, to files.

use std::path::{Path, PathBuf};

use argh::{ArgsInfo, FromArgs};
use bib_core::api::event::Progress;
use bib_core::api::{ErrorCode, Event, Request};
use bib_core::id::ContentId;
use bib_core::model::manifest::{Entry, EntryKind};
use bib_core::model::{DatasetPath, PathPatterns, Reference, Version, VersionSelector};
use serde_json::json;

use crate::Context;
use crate::client::Client;
use crate::commands::{cat, dataset, reference};
use crate::error::{CliError, Result};
use crate::extract::Extractor;
use crate::keys::Need;
use crate::progress::Bar;
use crate::render::human;

/// fetch a version and write it to files
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "get",
    help_triggers("-h", "--help"),
    example = "{command_name} weather/daily/temps -o temps.csv\n\
    {command_name} weather/observations@1.2.0 -o observations\n\
    {command_name} weather/observations:2024 --paths \"*.csv\" -o 2024\n\
    {command_name} weather/daily/temps -o - | gzip > temps.csv.gz",
    note = "Files that are there are replaced, each at once and only by verified bytes;\nother files stay.",
    note = "Nothing is written outside the output folder."
)]
pub(crate) struct GetArgs {
    /// the version, and the file or folder if not everything
    #[argh(positional)]
    reference: String,

    /// where to write it: a file or folder, or - for stdout; the name of the dataset unless given
    #[argh(option, short = 'o', arg_name = "path")]
    out: Option<PathBuf>,

    /// only paths that match, such as *.csv or 2024/**; may be repeated
    #[argh(option, arg_name = "glob")]
    paths: Vec<String>,
}

/// Where an entry goes.
#[derive(Debug)]
enum Layout {
    /// The one file gets this name.
    File(String),
    /// Entries keep their paths below this prefix.
    Tree(Option<String>),
}

pub(crate) fn run(ctx: &Context, args: &GetArgs) -> Result<()> {
    let asked = reference(&args.reference)?;
    let paths = PathPatterns::new(args.paths.clone()).map_err(|error| {
        CliError::invalid(format!("--paths: {error}")).hint("use `*` and `**` to match more with less")
    })?;
    let mut client = Client::open(ctx, Need::IfReady)?;
    let (path, version, _) = dataset::version(&mut client, &asked)?;
    // `latest` may move while files are fetched one by one.
    let pinned = Reference { version: VersionSelector::Id(version.id.to_string()), ..asked.clone() };

    if args.out.as_deref() == Some(Path::new("-")) {
        if !args.paths.is_empty() {
            return Err(
                CliError::invalid("only one file can be written to stdout").hint("name it: `<reference>:<path>`")
            );
        }
        return cat::stream(ctx, &mut client, Request::Read { reference: pinned, offset: 0, len: None });
    }

    let single = is_single_file(&mut client, &pinned, &version)?;
    let default = asked.path.as_ref().map_or(asked.dataset.name.as_str(), |path| last(path.as_str()));
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(default));
    let (root, layout, target) = place(&out, single.as_ref(), asked.path.as_ref())?;
    let writer = || {
        Ok::<_, CliError>(Writer {
            extractor: Extractor::create(&root)?,
            layout: &layout,
            wanted: single.is_some().then_some(()).and(asked.path.is_none().then_some(version.content)),
            bytes: 0,
            cloned: 0,
            n_entries: 0,
        })
    };
    let mut bar = Bar::new(ctx.ui, "fetching", Some(version.size));
    let mut writing = writer()?;
    let request = Request::ReadAllOrOriginals { reference: pinned.clone(), paths: paths.clone() };
    if !receive(ctx, &mut client, request, &mut writing, &mut bar)? {
        // Something could not be cloned: everything is read, as where nothing can be.
        writing = writer()?;
        receive(ctx, &mut client, Request::ReadAll { reference: pinned, paths }, &mut writing, &mut bar)?;
    }
    let writer = writing;
    if writer.n_entries == 0 && !args.paths.is_empty() {
        return Err(CliError::new(ErrorCode::NotFound, format!("no path matches {}", args.paths.join(" or ")))
            .hint(format!("`bib ls {path}@{}` lists the paths", version.semver)));
    }
    let (bytes, cloned) = (writer.bytes, writer.cloned);
    let n_files = writer.extractor.finish()?;
    bar.clear();
    let elapsed = bar.elapsed();
    if ctx.ui.is_json() {
        return ctx.ui.json(&json!({
            "reference": format!("{path}@{}", version.semver),
            "version_id": version.id.to_string(),
            "content": version.content.to_string(),
            "out": target,
            "files": n_files,
            "size": bytes,
            "cloned_bytes": cloned,
            "seconds": elapsed.as_secs_f64(),
        }));
    }
    ctx.ui.line(&target.display().to_string())?;
    ctx.ui.note(&format!(
        "{path}@{}: {} in {}, verified, {}",
        version.semver,
        human::size(bytes),
        human::n(n_files, "file"),
        human::duration(elapsed)
    ));
    if cloned > 0 {
        ctx.ui.note(&format!("{} of it share the blocks of the files they were published from", human::size(cloned)));
    }
    Ok(())
}

fn last(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// The entry, when what is asked for is one file and not a folder.
fn is_single_file(client: &mut Client, reference: &Reference, version: &Version) -> Result<Option<Entry>> {
    // The content of a tree is its manifest, that of a single file its bytes.
    let is_tree = version.content == ContentId::from(version.manifest);
    if is_tree && reference.path.is_none() {
        return Ok(None);
    }
    let mut call = client.long_call(Request::Entries { reference: reference.clone() })?;
    // Progress may come before the first entry, while the node fetches the list itself.
    let first = loop {
        match call.next()? {
            Some(Event::Entry(entry)) => break Some(entry),
            Some(_) => {}
            None => break None,
        }
    };
    Ok(first.filter(|entry| {
        entry.kind != EntryKind::EmptyDir && reference.path.as_ref().is_none_or(|path| *path == entry.path)
    }))
}

/// The folder to write below, how entries are named there, and what to tell the user.
fn place(out: &Path, single: Option<&Entry>, prefix: Option<&DatasetPath>) -> Result<(PathBuf, Layout, PathBuf)> {
    let Some(entry) = single else {
        return Ok((out.to_owned(), Layout::Tree(prefix.map(|prefix| prefix.as_str().to_owned())), out.to_owned()));
    };
    // Into a folder under its own name, else under the name that was given.
    if out.is_dir() || out.as_os_str().to_string_lossy().ends_with('/') {
        let name = last(entry.path.as_str()).to_owned();
        let target = out.join(&name);
        return Ok((out.to_owned(), Layout::File(name), target));
    }
    let name = out.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
        CliError::invalid(format!("`{}` is not the name of a file", out.display()))
            .hint("write `-o <file>` or `-o <folder>/`")
    })?;
    let root = out.parent().unwrap_or(Path::new("")).to_owned();
    Ok((root, Layout::File(name.to_owned()), out.to_owned()))
}

struct Writer<'a> {
    extractor: Extractor,
    layout: &'a Layout,
    /// The content id of the version, when it is that of its one file.
    wanted: Option<ContentId>,
    bytes: u64,
    /// Of these, bytes that were cloned.
    cloned: u64,
    n_entries: u64,
}

impl Writer<'_> {
    fn begin(&mut self, entry: &Entry) -> Result<()> {
        self.n_entries += 1;
        if self.wanted.is_some_and(|wanted| wanted != entry.content) {
            return Err(CliError::new(ErrorCode::Integrity, "the node sends another file than the version names"));
        }
        let path = entry.path.as_str();
        let path = match self.layout {
            Layout::File(name) => name.as_str(),
            Layout::Tree(None) => path,
            // The folder that was asked for may itself be empty: then it is the output folder, which is there.
            Layout::Tree(Some(prefix)) if path == prefix => return Ok(()),
            Layout::Tree(Some(prefix)) => {
                path.strip_prefix(prefix.as_str()).and_then(|rest| rest.strip_prefix('/')).ok_or_else(|| {
                    CliError::new(ErrorCode::Integrity, format!("the node sends `{path}`, which was not asked for"))
                })?
            }
        };
        self.extractor.begin(path, entry)
    }
}

/// Writes what a call yields; `false` when a file could not be cloned, and its bytes are to be asked for.
fn receive(
    ctx: &Context,
    client: &mut Client,
    request: Request,
    writer: &mut Writer<'_>,
    bar: &mut Bar,
) -> Result<bool> {
    let mut size = 0;
    let mut call = client.long_call(request)?;
    // What the node fetches from others is what takes the time; what it has is shown as it is written.
    let mut fetches = false;
    while let Some(event) = call.next()? {
        match event {
            Event::Progress(progress) => {
                fetches = true;
                bar.update(&progress);
            }
            Event::Warning(warning) => {
                bar.clear();
                ctx.ui.warn(&warning.message);
            }
            Event::Entry(entry) => {
                size = entry.size;
                writer.begin(&entry)?;
            }
            Event::Original { path } => {
                let shown = String::from_utf8_lossy(&path);
                if !writer.extractor.clone_from(&path)? {
                    ctx.ui.detail(&format!("`{shown}` cannot be cloned; the bytes are read instead"));
                    return Ok(false);
                }
                ctx.ui.detail(&format!("cloned `{shown}`"));
                (writer.bytes, writer.cloned) = (writer.bytes + size, writer.cloned + size);
            }
            Event::Data(bytes) => {
                writer.bytes += bytes.len() as u64;
                writer.extractor.data(&bytes)?;
                if !fetches {
                    bar.update(&Progress { done: writer.bytes, files: writer.n_entries, ..Progress::default() });
                }
            }
            _ => {}
        }
    }
    Ok(true)
}
