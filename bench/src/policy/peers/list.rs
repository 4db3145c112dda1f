//! Linked lists of block numbers in two tables; a block is in one list at most, and 0 is none.

/// The neighbours of every block.
pub(super) struct Links {
    newer: Vec<u32>,
    older: Vec<u32>,
}

/// One list.
#[derive(Default)]
pub(super) struct List {
    newest: u32,
    oldest: u32,
    len: usize,
}

impl Links {
    pub(super) fn new(blocks: usize) -> Self {
        Self { newer: vec![0; blocks], older: vec![0; blocks] }
    }

    /// The block that came into its list right after `block`.
    pub(super) fn newer(&self, block: u32) -> u32 {
        self.newer[block as usize]
    }
}

impl List {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn oldest(&self) -> u32 {
        self.oldest
    }

    pub(super) fn push(&mut self, links: &mut Links, block: u32) {
        links.older[block as usize] = self.newest;
        links.newer[block as usize] = 0;
        match self.newest {
            0 => self.oldest = block,
            newest => links.newer[newest as usize] = block,
        }
        self.newest = block;
        self.len += 1;
    }

    pub(super) fn remove(&mut self, links: &mut Links, block: u32) {
        let (newer, older) = (links.newer[block as usize], links.older[block as usize]);
        match newer {
            0 => self.newest = older,
            newer => links.older[newer as usize] = older,
        }
        match older {
            0 => self.oldest = newer,
            older => links.newer[older as usize] = newer,
        }
        self.len -= 1;
    }

    pub(super) fn pop(&mut self, links: &mut Links) -> Option<u32> {
        let block = self.oldest;
        (block != 0).then(|| {
            self.remove(links, block);
            block
        })
    }
}
