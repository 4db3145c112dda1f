//! From hashes to numbers of nodes, four bytes a place.
//!
//! Open addressing with linear probing. A place holds the number of a node and eight bits of its hash, so
//! that a lookup seldom touches a node that is not the right one. The table knows no keys: whoever asks
//! compares them, and says the hash of a node when the table has to move it.

/// Bits of a place that name a node.
const NODE_BITS: u32 = 24;
/// The most nodes that a table can name.
pub(super) const NODES_MAX: u32 = (1 << NODE_BITS) - 1;
const EMPTY: u32 = u32::MAX;
const PLACES_MIN: usize = 16;

#[derive(Default)]
pub(super) struct Table {
    places: Box<[u32]>,
    count: usize,
}

fn tag(hash: u64) -> u32 {
    (hash as u32 >> 16 & 0xff) << NODE_BITS
}

fn node_of(place: u32) -> u32 {
    place & NODES_MAX
}

impl Table {
    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.places)
    }

    /// The node with this hash for which `is_it` holds.
    pub(super) fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        if self.places.is_empty() {
            return None;
        }
        let tag = tag(hash);
        let mut at = self.home(hash);
        loop {
            let place = self.places[at];
            if place == EMPTY {
                return None;
            }
            if place & !NODES_MAX == tag && is_it(node_of(place)) {
                return Some(node_of(place));
            }
            at = self.after(at);
        }
    }

    /// Adds a node that is not in the table.
    pub(super) fn insert(&mut self, hash: u64, node: u32, hash_of: impl Fn(u32) -> u64) {
        assert!(node < NODES_MAX, "a place names every node");
        // Four in five places at the most: the lines of taken places that a lookup walks stay short.
        if (self.count + 1) * 5 > self.places.len() * 4 {
            self.grow(hash_of);
        }
        self.put(hash, node);
        self.count += 1;
    }

    /// Removes a node that is in the table.
    pub(super) fn remove(&mut self, hash: u64, node: u32, hash_of: impl Fn(u32) -> u64) {
        let wanted = tag(hash) | node;
        let mut hole = self.home(hash);
        while self.places[hole] != wanted {
            assert!(self.places[hole] != EMPTY, "a removed node is in the table");
            hole = self.after(hole);
        }
        // Whoever stands behind the hole and could have stood in it moves up, so that lines have no gaps.
        let mut at = self.after(hole);
        while self.places[at] != EMPTY {
            let home = self.home(hash_of(node_of(self.places[at])));
            if self.distance(home, at) >= self.distance(hole, at) {
                self.places[hole] = self.places[at];
                hole = at;
            }
            at = self.after(at);
        }
        self.places[hole] = EMPTY;
        self.count -= 1;
    }

    fn grow(&mut self, hash_of: impl Fn(u32) -> u64) {
        let len = (self.places.len() * 3 / 2).max(PLACES_MIN);
        let old = std::mem::replace(&mut self.places, vec![EMPTY; len].into_boxed_slice());
        for place in old.into_iter().filter(|place| *place != EMPTY) {
            self.put(hash_of(node_of(place)), node_of(place));
        }
    }

    fn put(&mut self, hash: u64, node: u32) {
        let mut at = self.home(hash);
        while self.places[at] != EMPTY {
            at = self.after(at);
        }
        self.places[at] = tag(hash) | node;
    }

    /// Where a hash belongs: its upper half, scaled to the number of places, which is no power of two.
    fn home(&self, hash: u64) -> usize {
        (((hash >> 32) * self.places.len() as u64) >> 32) as usize
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 == self.places.len() { 0 } else { at + 1 }
    }

    /// Steps from one place to another.
    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.places.len() - from }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Hashes of few values make long lines that wrap around and share tags.
        #[test]
        fn the_table_names_exactly_what_is_in_it(steps in prop::collection::vec((any::<bool>(), 0..96_u32), 1..600), spread in 0..3_u32) {
            let hash_of = |node: u32| match spread {
                0 => u64::MAX << 40,
                1 => u64::from(node % 5) << 61 | u64::from(node % 3) << 16,
                _ => u64::from(node).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            };
            let mut table = Table::default();
            let mut held = BTreeMap::new();
            for (add, node) in steps {
                if add && held.insert(node, ()).is_none() {
                    table.insert(hash_of(node), node, hash_of);
                } else if !add && held.remove(&node).is_some() {
                    table.remove(hash_of(node), node, hash_of);
                }
                prop_assert_eq!(table.count, held.len());
            }
            for node in 0..96 {
                let found = table.find(hash_of(node), |found| found == node);
                prop_assert_eq!(found.is_some(), held.contains_key(&node), "node {}", node);
            }
        }
    }

    #[test]
    fn a_place_costs_at_most_eight_bytes_a_node() {
        let hash_of = |node: u32| u64::from(node + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut table = Table::default();
        for node in 0..50_000 {
            table.insert(hash_of(node), node, hash_of);
            assert!(node < 100 || table.memory_bytes() <= 8 * table.count, "{node}");
        }
    }
}
