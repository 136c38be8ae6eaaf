//! Whole programs on loopback: `bibd` and `bib` as people run them, each node with folders and a port of its own.
//!
//! What can be shown by a machine in virtual time is tested there; here stands what needs processes, files and sockets.
//! Conditions that another process brings about are looked at until they hold, with a bound that fails the test.

mod backup;
mod care;
mod content;
mod encrypted;
mod hostile;
mod in_place;
mod kills;
mod lifecycle;
mod limits;
mod versions;
mod world;
