//! What things are: names, topics, datasets, versions, manifests. Plain values with their own rules, no behaviour.

pub mod dataset;
pub mod glob;
pub mod manifest;
pub mod name;
pub mod topic;
pub mod version;

pub use dataset::{Dataset, DatasetStatus};
pub use glob::PathPatterns;
pub use name::{DatasetPath, Name, Reference, ReferenceError, TopicPath, VersionSelector};
pub use topic::{Topic, TopicStatus, Visibility};
pub use version::{ContentFormat, Version, VersionStatus};
