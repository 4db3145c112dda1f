//! S3-FIFO: a small queue for newcomers, a main queue, and a memory of who left.
//!
//! *Source*: Yang, Zhang, Qiu, Yue, Rashmi, SOSP 2023, algorithm 1; small queue of 10%, ghosts as many as main.

use std::collections::VecDeque;

use crate::policy::cache::BlockPolicy;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Out,
    Ghost,
    Small,
    Main,
}

pub(in crate::policy) struct S3Fifo {
    capacity: usize,
    small_capacity: usize,
    place: Vec<Place>,
    frequency: Vec<u8>,
    small: VecDeque<u32>,
    main: VecDeque<u32>,
    ghosts: VecDeque<u32>,
}

impl S3Fifo {
    pub(in crate::policy) fn new(blocks: usize, capacity: usize) -> Self {
        Self {
            capacity,
            small_capacity: (capacity / 10).max(1),
            place: vec![Place::Out; blocks],
            frequency: vec![0; blocks],
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghosts: VecDeque::new(),
        }
    }

    fn evict(&mut self) {
        if self.small.len() >= self.small_capacity || self.main.is_empty() {
            self.evict_small();
        } else {
            self.evict_main();
        }
    }

    fn evict_small(&mut self) {
        while let Some(block) = self.small.pop_front() {
            if self.frequency[block as usize] > 1 {
                self.frequency[block as usize] = 0;
                self.place[block as usize] = Place::Main;
                self.main.push_back(block);
                continue;
            }
            self.place[block as usize] = Place::Ghost;
            self.ghosts.push_back(block);
            if self.ghosts.len() > self.capacity - self.small_capacity
                && let Some(forgotten) = self.ghosts.pop_front()
                && self.place[forgotten as usize] == Place::Ghost
            {
                self.place[forgotten as usize] = Place::Out;
            }
            return;
        }
        self.evict_main();
    }

    fn evict_main(&mut self) {
        while let Some(block) = self.main.pop_front() {
            if self.frequency[block as usize] == 0 {
                self.place[block as usize] = Place::Out;
                return;
            }
            self.frequency[block as usize] -= 1;
            self.main.push_back(block);
        }
    }
}

impl BlockPolicy for S3Fifo {
    fn holds(&self, block: u32) -> bool {
        matches!(self.place[block as usize], Place::Small | Place::Main)
    }

    fn access(&mut self, block: u32) {
        let at = block as usize;
        if self.holds(block) {
            self.frequency[at] = (self.frequency[at] + 1).min(3);
            return;
        }
        while self.small.len() + self.main.len() >= self.capacity {
            self.evict();
        }
        self.frequency[at] = 0;
        if self.place[at] == Place::Ghost {
            self.place[at] = Place::Main;
            self.main.push_back(block);
        } else {
            self.place[at] = Place::Small;
            self.small.push_back(block);
        }
    }
}
