//! Which chunks are in use, and what may be given up: what the collection of garbage decides, without the store.
//!
//! [`check`] looks whether the catalog can be believed. [`mark`] walks all pins and the pages of their manifests and names
//! every chunk that must stay. [`hidden`] finds content that only versions name which nobody can see. [`evict`] puts in
//! order what is given up where space is short.
//!
//! They have no tokens and no timers: each goes on by short steps over a view of the catalog, and between two steps
//! anything may change. What makes that safe is agreed with the store: from its `begin_gc` on, every chunk that is put
//! or found present counts as marked, and so does what a lease has noted.
//!
//! Deliberately absent: the filter that marks go into, sweeping, and bytes of content.

pub mod check;
pub mod evict;
pub mod hidden;
pub mod mark;
