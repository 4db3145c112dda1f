//! How the directory is split among Raft groups.

use crate::error::{Classified, ErrorKind};
use crate::fingerprint::words_of;
use crate::limits::DIRECTORY_GROUPS_MAX;
use crate::{BlockKey, Fingerprint, GroupId};

/// The groups that share the directory of a cluster. Each has a range of the hashes of block keys, of equal
/// length; the namespace does not count, so that a chain of any tenant spreads over all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(into = "u32", try_from = "u32")]
pub struct DirectoryGroups(u32);

/// A number of directory groups that no cluster can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cluster has 1 to {DIRECTORY_GROUPS_MAX} directory groups, not {given}")]
pub struct DirectoryGroupsError {
    /// What was given.
    pub given: u32,
}

impl Classified for DirectoryGroupsError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::FixRequest
    }
}

impl From<DirectoryGroups> for u32 {
    fn from(groups: DirectoryGroups) -> Self {
        groups.count()
    }
}

impl TryFrom<u32> for DirectoryGroups {
    type Error = DirectoryGroupsError;

    fn try_from(count: u32) -> Result<Self, Self::Error> {
        Self::new(count)
    }
}

impl Default for DirectoryGroups {
    fn default() -> Self {
        Self::ONE
    }
}

impl DirectoryGroups {
    /// One group holds the whole directory.
    pub const ONE: Self = Self(1);

    /// So many groups.
    ///
    /// # Errors
    /// [`DirectoryGroupsError`] for none and for more than [`DIRECTORY_GROUPS_MAX`].
    pub fn new(count: u32) -> Result<Self, DirectoryGroupsError> {
        if (1..=DIRECTORY_GROUPS_MAX).contains(&count) {
            Ok(Self(count))
        } else {
            Err(DirectoryGroupsError { given: count })
        }
    }

    /// The count in a message, where zero stands for one: clusters founded before there could be more.
    ///
    /// # Errors
    /// Those of [`Self::new`].
    pub fn from_wire(count: u32) -> Result<Self, DirectoryGroupsError> {
        Self::new(count.max(1))
    }

    /// How many there are.
    pub fn count(self) -> u32 {
        self.0
    }

    /// Their ids, in order.
    pub fn ids(self) -> impl Iterator<Item = GroupId> {
        (0..self.0).map(|position| GroupId(GroupId::DIRECTORY.0 + position))
    }

    /// Where the group of a block stands among [`Self::ids`].
    pub fn position_of(self, key: &BlockKey) -> usize {
        if self.0 == 1 { 0 } else { self.position(words_of(key)) }
    }

    /// [`Self::position_of`] a block that is known by its fingerprint.
    pub fn position_of_named(self, name: &Fingerprint) -> usize {
        self.position(name.words)
    }

    fn position(self, [first, _]: [u64; 2]) -> usize {
        // A power of two splits a range in half: no block moves but those of the group that is split.
        ((u128::from(first) * u128::from(self.0)) >> 64) as usize
    }

    /// The group that holds a block.
    pub fn group_of(self, key: &BlockKey) -> GroupId {
        GroupId(GroupId::DIRECTORY.0 + self.position_of(key) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> BlockKey {
        let mut key = [0; 32];
        key[24..].copy_from_slice(&number.to_be_bytes());
        BlockKey(key)
    }

    #[test]
    fn the_group_of_a_block_never_changes() {
        let groups = DirectoryGroups::new(16).unwrap();
        let found: Vec<u32> = (0..8).map(|number| groups.group_of(&key(number)).0).collect();
        assert_eq!(found, [3, 11, 1, 12, 16, 9, 1, 13]);
        assert_eq!(groups.group_of(&BlockKey([0xff; 32])).0, 10);
        assert_eq!(DirectoryGroups::ONE.group_of(&key(7)), GroupId::DIRECTORY);
    }

    #[test]
    fn even_keys_that_are_no_digests_spread_evenly() {
        for count in [2, 3, 7, 64] {
            let groups = DirectoryGroups::new(count).unwrap();
            let mut held = vec![0_u32; count as usize];
            (0..64_000).for_each(|number| held[groups.position_of(&key(number))] += 1);
            let fair = 64_000 / count;
            assert!(held.iter().all(|held| held.abs_diff(fair) < fair / 5), "{held:?}");
        }
    }

    #[test]
    fn twice_as_many_groups_split_each_in_half() {
        let (few, many) = (DirectoryGroups::new(8).unwrap(), DirectoryGroups::new(16).unwrap());
        for number in 0..1_000 {
            assert_eq!(many.position_of(&key(number)) / 2, few.position_of(&key(number)));
        }
    }

    #[test]
    fn none_and_too_many_are_refused() {
        for given in [0, DIRECTORY_GROUPS_MAX + 1] {
            assert_eq!(DirectoryGroups::new(given), Err(DirectoryGroupsError { given }));
        }
        assert_eq!(DirectoryGroups::from_wire(0), Ok(DirectoryGroups::ONE));
        let ids: Vec<u32> = DirectoryGroups::new(3).unwrap().ids().map(|id| id.0).collect();
        assert_eq!(ids, [1, 2, 3]);
    }
}
