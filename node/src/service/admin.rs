//! Care of the node: its configuration, stopping it.

use std::rc::Rc;

use bib_core::api::event::ConfigValue;
use bib_core::api::{Event, Failure};

use super::require_operator;
use crate::catalog_sync::Input;
use crate::config::layer::needs_restart;
use crate::config::{Config, ConfigError};
use crate::control::{Caller, Output};
use crate::logging;
use crate::node::Context;

pub(crate) async fn config(ctx: &Context, caller: &Caller, out: &Output) -> Result<(), Failure> {
    require_operator(caller, "see its configuration")?;
    let config = ctx.config();
    for setting in &config.settings {
        let (key, value, origin) = (setting.key.to_owned(), setting.value.to_string(), setting.origin.clone());
        out.event(Event::ConfigValue(ConfigValue { key, value, origin })).await?;
    }
    Ok(())
}

pub(crate) fn shutdown(ctx: &Context, caller: &Caller) -> Result<(), Failure> {
    require_operator(caller, "stop it")?;
    log::info!("a user stops the node");
    ctx.shutdown.trigger();
    Ok(())
}

/// Reads the configuration again. Everything in it is taken, or nothing; the node goes on in any case.
pub(crate) async fn reload(ctx: &Rc<Context>) {
    ctx.manager.reloading();
    let refused = read_again(ctx).await.err();
    ctx.manager.reloaded(refused);
}

/// The error says why nothing was taken; it is in the log already.
async fn read_again(ctx: &Rc<Context>) -> Result<(), String> {
    let Some(sources) = ctx.sources.clone() else {
        let why = "this node was started without configuration files: there is nothing to read again";
        log::warn!("{why}");
        return Err(why.to_owned());
    };
    let loaded = ctx.pool.run("read configuration", move || sources.load()).await;
    match loaded {
        Ok(Ok(next)) => {
            apply(ctx, next).await;
            Ok(())
        }
        Ok(Err(error)) => {
            refused(&error);
            Err(error.to_string())
        }
        Err(error) => {
            log::error!(error:% = error; "the configuration could not be read");
            Err(error.to_string())
        }
    }
}

fn refused(error: &ConfigError) {
    log::error!(
        why:% = error, hint = error.hint().as_str();
        "the configuration is wrong; the node goes on with the one it has"
    );
}

async fn apply(ctx: &Rc<Context>, next: Config) {
    let old = ctx.config();
    let changed = old.changes(&next);
    let (later, now): (Vec<&str>, Vec<&str>) = changed.iter().partition(|key| needs_restart(key));
    if !later.is_empty() {
        log::warn!(keys = later.join(" ").as_str(); "these settings are taken at the next start");
    }
    let live = old.with_live_values_of(next);
    logging::apply(&live);
    let peers = live.peers.iter().map(ToString::to_string).collect();
    ctx.mailbox.post(Input::Configured(peers)).await;
    ctx.set_config(live);
    // Whoever waits for a time, or for room, looks again.
    for signal in [&ctx.pressed, &ctx.scrub, &ctx.replicate] {
        signal.notify();
    }
    log::info!(keys = now.join(" ").as_str(); "the configuration was read again");
}
