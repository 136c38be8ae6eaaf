//! The verb table: which role may do what. Data, and one lookup.
//!
//! A grant on a topic counts there and below, one on a dataset on that dataset alone; how a role comes about is the
//! business of [`access`](super::access).

use std::fmt;

use super::operation::Role;

/// Something that a user does to a topic or dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// See the catalog, fetch, query, verify, subscribe.
    See,
    /// Create a dataset.
    CreateDataset,
    /// Publish a version.
    PublishVersion,
    /// Update a dataset.
    UpdateDataset,
    /// Archive a dataset.
    ArchiveDataset,
    /// Restore a dataset.
    RestoreDataset,
    /// Withdraw a version.
    WithdrawVersion,
    /// Delete a dataset.
    DeleteDataset,
    /// Create a topic below.
    CreateTopic,
    /// Update a topic.
    UpdateTopic,
    /// Archive a topic.
    ArchiveTopic,
    /// Restore a topic.
    RestoreTopic,
    /// Change who may see a topic.
    SetVisibility,
    /// Delete a topic.
    DeleteTopic,
    /// Grant contributor or reader.
    GrantMember,
    /// Revoke contributor or reader.
    RevokeMember,
    /// Grant admin.
    GrantAdmin,
    /// Revoke admin.
    RevokeAdmin,
    /// Grant owner.
    GrantOwner,
    /// Revoke owner.
    RevokeOwner,
    /// Hand over ownership.
    TransferOwnership,
    /// Pass one's own grants to another key.
    ReplaceKey,
}

/// One cell of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cell {
    Yes,
    /// On what this user created.
    Own,
    No,
}

/// Columns: owner, admin, contributor, reader, anyone (on a public topic).
type Row = [Cell; 5];

impl Verb {
    /// Every verb, in the order of the table.
    pub const ALL: [Self; 22] = [
        Self::See,
        Self::CreateDataset,
        Self::PublishVersion,
        Self::UpdateDataset,
        Self::ArchiveDataset,
        Self::RestoreDataset,
        Self::WithdrawVersion,
        Self::DeleteDataset,
        Self::CreateTopic,
        Self::UpdateTopic,
        Self::ArchiveTopic,
        Self::RestoreTopic,
        Self::SetVisibility,
        Self::DeleteTopic,
        Self::GrantMember,
        Self::RevokeMember,
        Self::GrantAdmin,
        Self::RevokeAdmin,
        Self::GrantOwner,
        Self::RevokeOwner,
        Self::TransferOwnership,
        Self::ReplaceKey,
    ];

    const fn row(self) -> Row {
        use Cell::{No, Own, Yes};
        match self {
            Self::See => [Yes, Yes, Yes, Yes, Yes],
            // Not a row of the specification: who holds nothing has nothing to pass on.
            Self::ReplaceKey => [Yes, Yes, Yes, Yes, No],
            Self::CreateDataset | Self::PublishVersion => [Yes, Yes, Yes, No, No],
            Self::UpdateDataset
            | Self::ArchiveDataset
            | Self::RestoreDataset
            | Self::WithdrawVersion
            | Self::GrantMember
            | Self::RevokeMember => [Yes, Yes, Own, No, No],
            Self::CreateTopic | Self::UpdateTopic | Self::ArchiveTopic | Self::RestoreTopic => [Yes, Yes, No, No, No],
            Self::GrantAdmin
            | Self::RevokeAdmin
            | Self::SetVisibility
            | Self::GrantOwner
            | Self::RevokeOwner
            | Self::TransferOwnership
            | Self::DeleteDataset => [Yes, No, Own, No, No],
            Self::DeleteTopic => [Yes, No, No, No, No],
        }
    }

    /// The lowest role that has this right on things of others; `None` when everyone has it.
    pub fn needed(self) -> Option<Role> {
        [Role::Reader, Role::Contributor, Role::Admin, Role::Owner]
            .into_iter()
            .find(|role| allows(self, Some(*role), false))
            .filter(|_| !allows(self, None, false))
    }

    /// What is needed to give a role.
    pub const fn grant(role: Role) -> Self {
        match role {
            Role::Owner => Self::GrantOwner,
            Role::Admin => Self::GrantAdmin,
            Role::Contributor | Role::Reader => Self::GrantMember,
        }
    }

    /// What is needed to take a role.
    pub const fn revoke(role: Role) -> Self {
        match role {
            Role::Owner => Self::RevokeOwner,
            Role::Admin => Self::RevokeAdmin,
            Role::Contributor | Role::Reader => Self::RevokeMember,
        }
    }

    /// Whether an archived topic still allows it: looking, restoring, deleting, and taking rights away.
    pub const fn allowed_when_archived(self) -> bool {
        matches!(
            self,
            Self::See
                | Self::RestoreTopic
                | Self::DeleteTopic
                | Self::RevokeMember
                | Self::RevokeAdmin
                | Self::RevokeOwner
                | Self::TransferOwnership
                | Self::ReplaceKey
        )
    }
}

impl fmt::Display for Verb {
    /// As it stands after "may not".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::See => "see it",
            Self::CreateDataset => "create a dataset",
            Self::PublishVersion => "publish a version",
            Self::UpdateDataset => "update the dataset",
            Self::ArchiveDataset => "archive the dataset",
            Self::RestoreDataset => "restore the dataset",
            Self::WithdrawVersion => "withdraw a version",
            Self::DeleteDataset => "delete the dataset",
            Self::CreateTopic => "create a topic below",
            Self::UpdateTopic => "update the topic",
            Self::ArchiveTopic => "archive the topic",
            Self::RestoreTopic => "restore the topic",
            Self::SetVisibility => "change the visibility",
            Self::DeleteTopic => "delete the topic",
            Self::GrantMember => "grant contributor or reader",
            Self::RevokeMember => "revoke contributor or reader",
            Self::GrantAdmin => "grant admin",
            Self::RevokeAdmin => "revoke admin",
            Self::GrantOwner => "grant owner",
            Self::RevokeOwner => "revoke owner",
            Self::TransferOwnership => "transfer ownership",
            Self::ReplaceKey => "replace their key",
        })
    }
}

/// Whether a role has a right. `None` is a user without any role, on a public topic; `own` says that the thing is a
/// dataset which this user created.
pub const fn allows(verb: Verb, role: Option<Role>, own: bool) -> bool {
    let column = match role {
        Some(Role::Owner) => 0,
        Some(Role::Admin) => 1,
        Some(Role::Contributor) => 2,
        Some(Role::Reader) => 3,
        None => 4,
    };
    match verb.row()[column] {
        Cell::Yes => true,
        Cell::Own => own,
        Cell::No => false,
    }
}
