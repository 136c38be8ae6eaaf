//! Nodes as real processes: a lab that starts them, asks them, kills them and reads what they cost; generators of large
//! content; and the measurements built on both. The demo and the end-to-end tests stand on the same lab.
//!
//! Figures come from `/proc`, so all of this is for Linux. Nothing here ships.

pub mod budget;
pub mod failure;
pub mod fill;
pub mod generate;
pub mod lab;
pub mod same;
pub mod show;

pub use failure::{Failure, Result};
