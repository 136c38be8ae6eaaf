//! `bib`, the command line of a node: it talks to `bibd` over a socket, reads and writes the user's files, and holds
//! the user's key, which never leaves this process.
//!
//! Deliberately absent: any knowledge of stores and networks; any async runtime.

mod agent;
mod args;
mod client;
mod clone;
mod commands;
mod config;
mod daemon;
mod datapackage;
mod error;
mod extract;
mod keys;
mod ops;
mod progress;
mod render;
mod semver_bump;
mod ui;
mod walk;

use std::process::ExitCode;

use error::{CliError, Result};
use ui::{Color, Ui};

/// Everything a command needs besides its own arguments: the high level of the arguments.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) ui: Ui,
    pub(crate) globals: args::Globals,
    pub(crate) config: config::Config,
    pub(crate) environment: config::Environment,
}

fn main() -> ExitCode {
    let mut line = Vec::new();
    for arg in std::env::args_os().skip(1) {
        match arg.into_string() {
            Ok(arg) => line.push(arg),
            Err(arg) => {
                let error = CliError::invalid(format!("`{}` is not UTF-8", arg.to_string_lossy()))
                    .hint("names in bib are UTF-8: rename the file, or run bib in its folder");
                return finish(&Ui::new(false, false, false, Color::Auto), Err(error));
            }
        }
    }
    let (globals, rest) = args::split(line);
    // Errors of the configuration are shown with what is known before it is read.
    let color = if globals.no_color { Color::Never } else { Color::Auto };
    let mut ui = Ui::new(globals.json, globals.quiet, globals.verbose, color);
    let result = rest.and_then(args::parse).and_then(|command| {
        let environment = config::Environment::of_process();
        let config = config::Config::load(&globals, &environment)?;
        ui = Ui::new(config.is_json(), globals.quiet, globals.verbose, config.color());
        commands::run(&Context { ui, globals: globals.clone(), config, environment }, command)
    });
    finish(&ui, result)
}

fn finish(ui: &Ui, result: Result<()>) -> ExitCode {
    match result.and_then(|()| ui.flush()) {
        Ok(()) | Err(CliError::BrokenPipe) => ExitCode::SUCCESS,
        Err(CliError::Help(text)) => match ui.line(text.trim_end()).and_then(|()| ui.flush()) {
            Ok(()) | Err(_) => ExitCode::SUCCESS,
        },
        Err(CliError::Failure(failure)) => {
            ui.failure(&failure);
            ExitCode::from(failure.code.exit_code())
        }
    }
}
