//! `bib whoami`: who the key makes you, and who the node takes you for.

use argh::{ArgsInfo, FromArgs};
use bib_core::api::{ErrorCode, Event, Request};
use serde_json::json;

use crate::Context;
use crate::client::Client;
use crate::commands::print_fields;
use crate::error::Result;
use crate::keys::{self, Need};

/// show who you are to the node
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "whoami", help_triggers("-h", "--help"), example = "{command_name}\n{command_name} --json")]
pub(crate) struct WhoamiArgs {}

pub(crate) fn run(ctx: &Context, _args: &WhoamiArgs) -> Result<()> {
    let located = keys::locate(ctx)?.ok_or_else(keys::no_key)?;
    let user = located.user().to_string();
    let key = located.place();
    // Who one is does not depend on a node; what it says is added when there is one.
    let answer = Client::open(ctx, Need::Required).and_then(|mut client| {
        client.one(Request::WhoAmI, |event| match event {
            Event::WhoAmI { user, uid, operator } => Some((user, uid, operator)),
            _ => None,
        })
    });
    let answer = match answer {
        Ok(answer) => Some(answer),
        Err(error) if error.code() == Some(ErrorCode::Unreachable) => None,
        Err(error) => return Err(error),
    };
    let seen = answer.as_ref().map(|(user, ..)| user.map(|user| user.to_string()));
    let uid = answer.as_ref().and_then(|(_, uid, _)| *uid);
    let operator = answer.as_ref().map(|(.., operator)| *operator);
    if ctx.ui.is_json() {
        return ctx.ui.json(&json!({
            "user": user,
            "key": key,
            "node_reached": answer.is_some(),
            "authenticated": seen.as_ref().is_some_and(|seen| seen.as_deref() == Some(user.as_str())),
            "uid": uid,
            "operator": operator,
        }));
    }
    let to_node = match &seen {
        None => "not reached: start it with `bibd`".to_owned(),
        Some(Some(seen)) if *seen == user => "knows you by this key".to_owned(),
        Some(Some(seen)) => format!("takes you for {seen}"),
        Some(None) => "does not know you".to_owned(),
    };
    print_fields(
        ctx,
        &[
            ("user", Some(user)),
            ("key", Some(key)),
            ("node", Some(to_node)),
            ("uid", uid.map(|uid| uid.to_string())),
            ("operator", operator.map(|operator| if operator { "yes" } else { "no" }.to_owned())),
        ],
    )
}
