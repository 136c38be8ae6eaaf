//! Signed operations: how people change the shared catalog.

pub mod operation;

pub use operation::{Body, Class, Operation, Resource, Role, Unsigned};
