//! Runs the real `bib` against a node that is played by this process: one file for each verb, and snapshots of what
//! people see. `BIB_BLESS=1` rewrites the snapshots.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on says why and stops")]

mod admin;
mod admin_keys;
mod cat;
mod completions;
mod config;
mod dataset;
mod errors;
mod find;
mod get;
mod help;
mod home;
mod key;
mod ls;
mod man;
mod model_node;
mod peer;
mod publish;
mod snapshot;
mod status;
mod terminal;
mod topic;
mod whoami;
