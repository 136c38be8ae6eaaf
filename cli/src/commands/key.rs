//! `bib key`: makes and shows the key that signs in the user's name.

use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};
use serde_json::json;

use crate::Context;
use crate::commands::print_fields;
use crate::error::Result;
use crate::keys;

/// make and show the key you sign with
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "key", help_triggers("-h", "--help"))]
pub(crate) struct KeyArgs {
    #[argh(subcommand)]
    command: KeyCommand,
}

#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
enum KeyCommand {
    New(NewArgs),
    Show(ShowArgs),
}

/// make a key; it is who you are, so keep a copy in a safe place
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "new",
    help_triggers("-h", "--help"),
    example = "{command_name}\n{command_name} --passphrase\n{command_name} --out /media/stick/user.key",
    note = "The file is in the format of OpenSSH. BIB_PASSPHRASE, if set, is used instead of asking."
)]
struct NewArgs {
    /// write it here instead of ~/.config/bib/user.key
    #[argh(option, arg_name = "file")]
    out: Option<PathBuf>,

    /// protect it with a passphrase, which is asked for
    #[argh(switch)]
    passphrase: bool,

    /// a remark in the file
    #[argh(option, arg_name = "text", default = "String::from(\"bib\")")]
    comment: String,
}

/// show who the key makes you, and where it is
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "show",
    help_triggers("-h", "--help"),
    example = "{command_name}\n{command_name} --key ~/.ssh/id_ed25519\n{command_name} --key agent:"
)]
struct ShowArgs {}

pub(crate) fn run(ctx: &Context, args: KeyArgs) -> Result<()> {
    match args.command {
        KeyCommand::New(args) => new(ctx, args),
        KeyCommand::Show(_) => show(ctx),
    }
}

fn new(ctx: &Context, args: NewArgs) -> Result<()> {
    let path = match args.out {
        Some(path) => path,
        None => keys::default_path(ctx)?,
    };
    let passphrase = if args.passphrase { Some(keys::new_passphrase(ctx)?) } else { None };
    let user = keys::create(&path, &args.comment, passphrase.as_ref().map(|text| text.as_str()))?;
    if ctx.ui.is_json() {
        return ctx.ui.json(&json!({ "user": user.to_string(), "file": path, "encrypted": passphrase.is_some() }));
    }
    ctx.ui.line(&user.to_string())?;
    ctx.ui.note(&format!("written to {}; keep a copy in a safe place: nobody can make it again", path.display()));
    Ok(())
}

fn show(ctx: &Context) -> Result<()> {
    let located = keys::locate(ctx)?.ok_or_else(keys::no_key)?;
    let user = located.user();
    let public = keys::openssh_public(user, "")?;
    let public = public.trim_end();
    if ctx.ui.is_json() {
        return ctx.ui.json(&json!({
            "user": user.to_string(),
            "place": located.place(),
            "encrypted": located.is_encrypted(),
            "public_key": public,
        }));
    }
    print_fields(
        ctx,
        &[
            ("user", Some(user.to_string())),
            ("key", Some(located.place())),
            ("passphrase", located.is_encrypted().then(|| "yes".to_owned())),
            ("public", Some(public.to_owned())),
        ],
    )
}
