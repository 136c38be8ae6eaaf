//! Results as people and as machines read them. Pure functions of values.

pub(crate) mod human;
pub(crate) mod json;
pub(crate) mod table;
