//! Naive models: the rules as they are written, with sets and recursion, without a thought for speed. What the real
//! code says must be what they say.

pub mod access;
pub mod catalog;
