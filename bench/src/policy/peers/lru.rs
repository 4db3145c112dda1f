//! Least recently used.

use super::list::{Links, List};
use crate::policy::cache::BlockPolicy;

pub(in crate::policy) struct Lru {
    capacity: usize,
    held: Vec<bool>,
    links: Links,
    list: List,
}

impl Lru {
    pub(in crate::policy) fn new(blocks: usize, capacity: usize) -> Self {
        Self { capacity, held: vec![false; blocks], links: Links::new(blocks), list: List::default() }
    }
}

impl BlockPolicy for Lru {
    fn holds(&self, block: u32) -> bool {
        self.held[block as usize]
    }

    fn access(&mut self, block: u32) {
        if self.held[block as usize] {
            self.list.remove(&mut self.links, block);
        } else if self.list.len() >= self.capacity
            && let Some(victim) = self.list.pop(&mut self.links)
        {
            self.held[victim as usize] = false;
        }
        self.held[block as usize] = true;
        self.list.push(&mut self.links, block);
    }
}
