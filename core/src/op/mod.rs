//! Signed operations: how people change the shared catalog, and who may.

pub mod access;
pub mod operation;
pub mod rules;

pub use access::AccessLog;
pub use operation::{Body, Class, Operation, Resource, Role, Unsigned};
pub use rules::Verb;
