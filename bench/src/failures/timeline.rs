//! What probes saw of a failure, and what it comes to: the same arithmetic for every system.
//!
//! Pure: all times are seconds since the failure, or since the start again that ended it.

use std::collections::BTreeSet;

/// A call that takes longer is no better than one that fails, to an engine that waits for it.
pub(crate) const PROMPT_S: f64 = 1.0;

/// The number of a key; keys are counted from 0.
pub(crate) type Key = u32;

/// What a system says about a key when it is asked whether it has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existence {
    Yes,
    No,
    /// It did not answer. That is no claim.
    Unknown,
}

/// What a get brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Got {
    /// Exactly the bytes that were put.
    Right,
    /// Others, as a success.
    Wrong,
    /// A miss or an error.
    Missing,
}

/// One call of a probe.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<T> {
    pub(crate) key: Key,
    pub(crate) began_s: f64,
    pub(crate) ended_s: f64,
    pub(crate) result: T,
}

/// Something known of all keys at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Sample<T> {
    pub(crate) at_s: f64,
    pub(crate) of: Vec<T>,
}

/// Everything that the probes saw, in the order in which it happened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) exists: Vec<Sample<Existence>>,
    pub(crate) gets: Vec<Call<Got>>,
    /// Puts of new keys; true when another client then found the key.
    pub(crate) puts: Vec<Call<bool>>,
    /// Copies of each key, as far as the system knows.
    pub(crate) copies: Vec<Sample<u32>>,
    /// A get of every key at the end.
    pub(crate) last: Vec<Got>,
}

/// What a failure came to.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub(crate) struct Outcome {
    /// Keys that were put and acknowledged before it.
    pub(crate) keys: usize,
    /// Of these, right at the end.
    pub(crate) right: usize,
    /// Of these, not right at the end.
    pub(crate) lost: usize,
    /// Keys whose get brought wrong bytes as a success, at any time.
    pub(crate) wrong: usize,
    /// Until the last moment at which a key was said to exist that could not be read.
    pub(crate) false_existence_s: f64,
    /// Keys that are said to exist at the end and cannot be read.
    pub(crate) claimed_at_end: usize,
    /// From when on every get of what was right at the end was right and prompt; `None` if nothing was.
    pub(crate) readable_s: Option<f64>,
    /// From when on every put was prompt and found by others; `None` if none was.
    pub(crate) writable_s: Option<f64>,
    pub(crate) slowest_get_s: Option<f64>,
    /// Copies that the system knew to be gone, at the worst moment.
    pub(crate) copies_lost: u64,
    /// Of these, made again by the end.
    pub(crate) copies_remade: u64,
    /// When there were as many as before; `None` if there never were.
    pub(crate) remade_s: Option<f64>,
}

impl Outcome {
    /// `copies_before` is the number of copies of all keys before the failure.
    pub(crate) fn of(seen: &Seen, copies_before: u64) -> Self {
        let right: BTreeSet<Key> =
            (0..).zip(&seen.last).filter(|(_, got)| **got == Got::Right).map(|(key, _)| key).collect();
        let ends = seen.exists.last();
        let claimed =
            |key: &Key| ends.is_some_and(|sample| sample.of.get(*key as usize) == Some(&Existence::Yes));
        let keys = seen.last.len();
        let copies = Copies::of(&seen.copies, copies_before);
        Self {
            keys,
            right: right.len(),
            lost: keys - right.len(),
            wrong: wrong_keys(seen).len(),
            false_existence_s: false_existence_s(seen, &right),
            claimed_at_end: (0..keys as Key).filter(|key| !right.contains(key) && claimed(key)).count(),
            readable_s: settled_s(&seen.gets, |call| {
                right.contains(&call.key).then_some(call.result == Got::Right)
            }),
            writable_s: settled_s(&seen.puts, |call| Some(call.result)),
            slowest_get_s: seen.gets.iter().map(|call| call.ended_s - call.began_s).reduce(f64::max),
            copies_lost: copies.lost,
            copies_remade: copies.remade,
            remade_s: copies.remade_s,
        }
    }
}

fn wrong_keys(seen: &Seen) -> BTreeSet<Key> {
    let probed = seen.gets.iter().map(|call| (call.key, call.result));
    let last = (0..).zip(seen.last.iter().copied());
    probed.chain(last).filter(|(_, got)| *got == Got::Wrong).map(|(key, _)| key).collect()
}

/// The last moment at which a key was claimed that is not readable at the end, or whose get failed after
/// the claim. Wrong bytes count as not readable.
fn false_existence_s(seen: &Seen, right: &BTreeSet<Key>) -> f64 {
    let claims_lost = |sample: &Sample<Existence>| {
        (0..).zip(&sample.of).any(|(key, said)| *said == Existence::Yes && !right.contains(&key))
    };
    let of_lost = seen.exists.iter().filter(|sample| claims_lost(sample)).map(|sample| sample.at_s);
    let of_failed = seen.gets.iter().filter(|call| call.result != Got::Right).filter_map(|call| {
        let said = seen.exists.iter().take_while(|sample| sample.at_s <= call.began_s).last()?;
        (said.of.get(call.key as usize) == Some(&Existence::Yes)).then_some(call.ended_s)
    });
    of_lost.chain(of_failed).fold(0.0, f64::max)
}

/// When the first call ended of those that all went well and promptly to the end; 0 if all calls did, `None`
/// if the last did not. `went_well` leaves calls out by returning `None`.
fn settled_s<T>(calls: &[Call<T>], went_well: impl Fn(&Call<T>) -> Option<bool>) -> Option<f64> {
    let (mut settled, mut failed) = (None, false);
    for call in calls {
        match went_well(call) {
            Some(true) if call.ended_s - call.began_s <= PROMPT_S => {
                settled = settled.or(Some(if failed { call.ended_s } else { 0.0 }));
            }
            Some(_) => (settled, failed) = (None, true),
            None => {}
        }
    }
    settled
}

/// The way of the number of copies: down when the system finds them gone, up when it makes them again.
struct Copies {
    lost: u64,
    remade: u64,
    remade_s: Option<f64>,
}

impl Copies {
    fn of(samples: &[Sample<u32>], before: u64) -> Self {
        let totals: Vec<(f64, u64)> = samples
            .iter()
            .map(|sample| (sample.at_s, sample.of.iter().map(|count| u64::from(*count)).sum()))
            .collect();
        let Some((lowest, (_, least))) = totals.iter().enumerate().min_by_key(|(_, (_, total))| *total)
        else {
            return Self { lost: 0, remade: 0, remade_s: None };
        };
        let lost = before.saturating_sub(*least);
        let last = totals.last().map_or(0, |(_, total)| *total);
        let whole = totals[lowest..].iter().find(|(_, total)| *total >= before);
        let remade_s = whole.filter(|_| lost > 0).map(|(at_s, _)| *at_s);
        Self { lost, remade: last.saturating_sub(*least), remade_s }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Existence::{No, Unknown, Yes};
    use Got::{Missing, Right, Wrong};

    fn sample<T: Clone>(at_s: f64, of: &[T]) -> Sample<T> {
        Sample { at_s, of: of.to_vec() }
    }

    fn call<T>(key: Key, began_s: f64, ended_s: f64, result: T) -> Call<T> {
        Call { key, began_s, ended_s, result }
    }

    #[test]
    fn a_key_that_is_lost_is_falsely_claimed_until_the_last_yes() {
        let seen = Seen {
            exists: vec![
                sample(0.1, &[Yes, Yes]),
                sample(9.9, &[Yes, Yes]),
                sample(10.0, &[Unknown, Unknown]),
                sample(10.1, &[Yes, No]),
            ],
            last: vec![Right, Missing],
            ..Seen::default()
        };
        let found = Outcome::of(&seen, 0);
        assert_eq!((found.keys, found.right, found.lost), (2, 1, 1));
        assert_eq!((found.false_existence_s, found.claimed_at_end), (9.9, 0));
    }

    #[test]
    fn a_key_that_is_claimed_to_the_end_is_counted() {
        let seen = Seen { exists: vec![sample(20.0, &[Yes])], last: vec![Missing], ..Seen::default() };
        let found = Outcome::of(&seen, 0);
        assert_eq!((found.false_existence_s, found.claimed_at_end), (20.0, 1));
    }

    #[test]
    fn a_get_that_fails_after_a_yes_makes_the_yes_false_although_the_key_survives() {
        let seen = Seen {
            exists: vec![sample(1.0, &[Yes, No])],
            gets: vec![
                call(0, 0.5, 0.6, Missing),
                call(0, 1.5, 3.5, Missing),
                call(1, 4.0, 4.1, Missing),
                call(0, 5.0, 5.1, Right),
            ],
            last: vec![Right, Right],
            ..Seen::default()
        };
        // The first came before any answer, and the third asked for what was not claimed.
        assert_eq!(Outcome::of(&seen, 0).false_existence_s, 3.5);
    }

    #[test]
    fn wrong_bytes_are_counted_once_a_key_and_make_its_existence_false() {
        let seen = Seen {
            exists: vec![sample(1.0, &[Yes, Yes])],
            gets: vec![call(0, 2.0, 2.1, Wrong), call(0, 3.0, 3.1, Wrong), call(1, 4.0, 4.1, Right)],
            last: vec![Wrong, Right],
            ..Seen::default()
        };
        let found = Outcome::of(&seen, 0);
        assert_eq!((found.wrong, found.lost, found.false_existence_s), (1, 1, 3.1));
    }

    #[test]
    fn readable_is_when_gets_of_survivors_are_right_and_prompt_from_then_on() {
        let last = vec![Right, Missing];
        let readable = |gets: &[Call<Got>]| {
            Outcome::of(&Seen { gets: gets.to_vec(), last: last.clone(), ..Seen::default() }, 0).readable_s
        };
        let well = call(0, 6.0, 6.1, Right);
        // What is lost for good does not count.
        assert_eq!(readable(&[call(1, 5.0, 5.1, Missing), well]), Some(0.0));
        assert_eq!(readable(&[call(0, 1.0, 1.1, Missing), well, call(0, 7.0, 7.1, Right)]), Some(6.1));
        assert_eq!(readable(&[call(0, 1.0, 4.0, Right), well]), Some(6.1), "right, but slow");
        assert_eq!(readable(&[well, call(0, 7.0, 7.1, Missing)]), None, "it is not over");
        assert_eq!(readable(&[call(1, 1.0, 1.1, Missing)]), None, "nobody looked");
    }

    #[test]
    fn writable_counts_the_wait_of_a_put_that_succeeds_late() {
        let puts = vec![call(0, 0.1, 9.7, true), call(1, 9.8, 9.9, true)];
        let found = Outcome::of(&Seen { puts, ..Seen::default() }, 0);
        assert_eq!(found.writable_s, Some(9.9));
        let puts = vec![call(0, 0.1, 0.2, true), call(1, 0.3, 0.4, false)];
        assert_eq!(Outcome::of(&Seen { puts, ..Seen::default() }, 0).writable_s, None);
    }

    #[test]
    fn copies_are_lost_to_the_lowest_point_and_made_again_from_there() {
        let found = |totals: &[(f64, u32)]| {
            let copies = totals.iter().map(|(at_s, total)| sample(*at_s, &[*total])).collect();
            let found = Outcome::of(&Seen { copies, ..Seen::default() }, 10);
            (found.copies_lost, found.copies_remade, found.remade_s)
        };
        assert_eq!(found(&[(1.0, 10), (3.0, 6), (4.0, 8), (5.0, 10), (6.0, 10)]), (4, 4, Some(5.0)));
        assert_eq!(found(&[(1.0, 10), (3.0, 6), (9.0, 6)]), (4, 0, None));
        assert_eq!(found(&[(1.0, 10), (3.0, 6), (9.0, 9)]), (4, 3, None), "not all of them");
        assert_eq!(found(&[(1.0, 10), (9.0, 10)]), (0, 0, None), "nothing was lost");
        assert_eq!(found(&[]), (0, 0, None));
    }
}
