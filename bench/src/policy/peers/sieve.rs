//! SIEVE: one queue, one bit, a hand that goes from old to new.
//!
//! *Source*: Zhang, Yang, Yue, Vigfusson, Rashmi, NSDI 2024, algorithm 1.

use super::list::{Links, List};
use crate::policy::cache::BlockPolicy;

pub(in crate::policy) struct Sieve {
    capacity: usize,
    held: Vec<bool>,
    visited: Vec<bool>,
    links: Links,
    list: List,
    hand: u32,
}

impl Sieve {
    pub(in crate::policy) fn new(blocks: usize, capacity: usize) -> Self {
        let (links, list) = (Links::new(blocks), List::default());
        Self { capacity, held: vec![false; blocks], visited: vec![false; blocks], links, list, hand: 0 }
    }

    fn evict(&mut self) {
        let oldest_if_none = |block, list: &List| if block == 0 { list.oldest() } else { block };
        let mut at = oldest_if_none(self.hand, &self.list);
        while std::mem::take(&mut self.visited[at as usize]) {
            at = oldest_if_none(self.links.newer(at), &self.list);
        }
        self.hand = self.links.newer(at);
        self.list.remove(&mut self.links, at);
        self.held[at as usize] = false;
    }
}

impl BlockPolicy for Sieve {
    fn holds(&self, block: u32) -> bool {
        self.held[block as usize]
    }

    fn access(&mut self, block: u32) {
        if self.held[block as usize] {
            self.visited[block as usize] = true;
            return;
        }
        if self.list.len() >= self.capacity {
            self.evict();
        }
        self.held[block as usize] = true;
        self.list.push(&mut self.links, block);
    }
}
