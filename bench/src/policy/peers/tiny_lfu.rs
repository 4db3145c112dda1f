//! W-TinyLFU: a small LRU window, and a segmented LRU that admits by estimated frequency.
//!
//! *Source*: Einziger, Friedman, Manes, ACM TOS 2017; window of 1%, protected part of 80%, counters to 15
//! halved after ten times the capacity. Counters are exact per block here, which favours the peer.

use super::list::{Links, List};
use crate::policy::cache::BlockPolicy;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Out,
    Window,
    Probation,
    Protected,
}

pub(in crate::policy) struct TinyLfu {
    window_capacity: usize,
    protected_capacity: usize,
    main_capacity: usize,
    place: Vec<Place>,
    frequency: Vec<u8>,
    accesses: usize,
    links: Links,
    window: List,
    probation: List,
    protected: List,
}

impl TinyLfu {
    pub(in crate::policy) fn new(blocks: usize, capacity: usize) -> Self {
        let window_capacity = (capacity / 100).max(1);
        let main_capacity = capacity.saturating_sub(window_capacity);
        Self {
            window_capacity,
            protected_capacity: main_capacity * 4 / 5,
            main_capacity,
            place: vec![Place::Out; blocks],
            frequency: vec![0; blocks],
            accesses: 0,
            links: Links::new(blocks),
            window: List::default(),
            probation: List::default(),
            protected: List::default(),
        }
    }

    fn count(&mut self, block: u32) {
        let frequency = &mut self.frequency[block as usize];
        *frequency = (*frequency + 1).min(15);
        self.accesses += 1;
        if self.accesses >= 10 * (self.main_capacity + self.window_capacity) {
            self.accesses = 0;
            self.frequency.iter_mut().for_each(|frequency| *frequency /= 2);
        }
    }

    fn protect(&mut self, block: u32) {
        self.probation.remove(&mut self.links, block);
        self.protected.push(&mut self.links, block);
        self.place[block as usize] = Place::Protected;
        if self.protected.len() > self.protected_capacity
            && let Some(demoted) = self.protected.pop(&mut self.links)
        {
            self.probation.push(&mut self.links, demoted);
            self.place[demoted as usize] = Place::Probation;
        }
    }

    /// The oldest of the window contends with the oldest on probation.
    fn leave_window(&mut self) {
        let Some(candidate) = self.window.pop(&mut self.links) else { return };
        self.place[candidate as usize] = Place::Out;
        if self.probation.len() + self.protected.len() >= self.main_capacity {
            let victim = self.probation.oldest();
            let admitted =
                victim != 0 && self.frequency[candidate as usize] > self.frequency[victim as usize];
            if !admitted {
                return;
            }
            self.probation.remove(&mut self.links, victim);
            self.place[victim as usize] = Place::Out;
        }
        self.probation.push(&mut self.links, candidate);
        self.place[candidate as usize] = Place::Probation;
    }
}

impl BlockPolicy for TinyLfu {
    fn holds(&self, block: u32) -> bool {
        self.place[block as usize] != Place::Out
    }

    fn access(&mut self, block: u32) {
        self.count(block);
        match self.place[block as usize] {
            Place::Window => {
                self.window.remove(&mut self.links, block);
                self.window.push(&mut self.links, block);
            }
            Place::Probation => self.protect(block),
            Place::Protected => {
                self.protected.remove(&mut self.links, block);
                self.protected.push(&mut self.links, block);
            }
            Place::Out => {
                self.window.push(&mut self.links, block);
                self.place[block as usize] = Place::Window;
                if self.window.len() > self.window_capacity {
                    self.leave_window();
                }
            }
        }
    }
}
