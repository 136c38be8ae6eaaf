//! The contract of the control socket, kept by a real node: frames, sessions, calls, uploads, and what happens to those
//! who break it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod client;
mod daemon;
mod frames;
mod service;
mod uploads;
