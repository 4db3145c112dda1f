//! Which members of the index stand for the levels of one worker.

use super::tiers::LEVELS;
use crate::index::Member;

/// A member for each level, or none where the worker never held anything. Levels that are the same for all that the
/// worker reported so far share one: who only ever reported one tier is one member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Levels {
    members: [Option<Member>; LEVELS],
    is_reported: [bool; LEVELS],
}

/// What a tier that is reported for the first time takes: one more member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opening {
    /// Whom the new member takes the place of, from the tier's level on; it begins with whatever that one holds.
    pub(super) copied: Option<Member>,
}

impl Levels {
    /// The member that answers for a level.
    #[inline]
    pub(super) fn of(&self, level: usize) -> Option<Member> {
        self.members[level]
    }

    /// Each member once, with the first level that it answers for.
    pub(super) fn distinct(&self) -> impl DoubleEndedIterator<Item = (usize, Member)> + use<> {
        let Self { members, .. } = *self;
        (0..LEVELS).filter_map(move |level| {
            let member = members[level]?;
            let is_first = level == 0 || members[level - 1] != Some(member);
            is_first.then_some((level, member))
        })
    }

    /// Notes that blocks of a tier of this level are reported. Says if a new member has to stand for it, which
    /// [`open`](Self::open) takes in.
    ///
    /// Levels behind it had more than this one already, and keep their members.
    pub(super) fn opening(&self, level: usize) -> Option<Opening> {
        let copied = self.members[level];
        let is_shared = level > 0 && copied == self.members[level - 1];
        (!self.is_reported[level] && (copied.is_none() || is_shared)).then_some(Opening { copied })
    }

    /// The same with this level reported, and what [`opening`](Self::opening) asked for.
    pub(super) fn open(mut self, level: usize, member: Option<Member>) -> Self {
        self.is_reported[level] = true;
        if let Some(member) = member {
            let before = self.members[level];
            for other in &mut self.members[level..] {
                if *other == before {
                    *other = Some(member);
                }
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Opens levels in an order, and gives what each member holds: the levels that were reported while it stood for
    /// them, or that it was copied from.
    fn opened(order: &[usize]) -> (Levels, Vec<BTreeSet<usize>>) {
        let (mut levels, mut holds) = (Levels::default(), Vec::<BTreeSet<usize>>::new());
        for level in order {
            let opening = levels.opening(*level);
            let member = opening.map(|opening| {
                holds.push(
                    opening.copied.map_or_else(BTreeSet::new, |copied| holds[usize::from(copied.0)].clone()),
                );
                Member(holds.len() as u16 - 1)
            });
            levels = levels.open(*level, member);
            for (first, member) in levels.distinct() {
                if first >= *level {
                    holds[usize::from(member.0)].insert(*level);
                }
            }
        }
        (levels, holds)
    }

    #[test]
    fn each_level_has_a_member_that_holds_what_was_reported_up_to_it() {
        let orders: [&[usize]; 16] = [
            &[],
            &[0],
            &[1],
            &[2],
            &[0, 1],
            &[1, 0],
            &[0, 2],
            &[2, 0],
            &[1, 2],
            &[2, 1],
            &[0, 1, 2],
            &[0, 2, 1],
            &[1, 0, 2],
            &[1, 2, 0],
            &[2, 0, 1],
            &[2, 1, 0],
        ];
        for order in orders {
            let (levels, holds) = opened(order);
            for level in 0..LEVELS {
                let expected: BTreeSet<usize> =
                    order.iter().copied().filter(|other| *other <= level).collect();
                let held = levels.of(level).map(|member| holds[usize::from(member.0)].clone());
                assert_eq!(held.unwrap_or_default(), expected, "{order:?}, level {level}");
            }
            assert_eq!(levels.distinct().count(), order.len(), "{order:?}");
            assert!(order.iter().all(|level| levels.opening(*level).is_none()));
        }
    }
}
