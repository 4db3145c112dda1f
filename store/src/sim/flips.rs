//! Single flipped bits in stored records: each is refused, wherever it is.

use super::content::{NAMES, Name};
use super::disk::Fate;
use super::faults::Faults;
use super::history::{Broken, broken};
use super::run::{Options, Violation, watch};
use super::workload::{Kind, payload_len};
use super::world::World;
use crate::slab::{BlockEntry, FOOTER_BYTES};
use crate::sync::lock;

/// Flips between two sets of blocks.
const FLIPS_PER_SET: u64 = 2_000;
const PATIENCE_US: u64 = 60_000_000;

/// Bits that were flipped, and refused, by where they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flips {
    /// In what a record stores of its payload.
    pub payload: u64,
    /// Between that and the footer.
    pub padding: u64,
    /// In the footer.
    pub footer: u64,
}

impl Flips {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.payload + self.padding + self.footer
    }

    /// Adds the flips of another run.
    pub fn add(&mut self, other: &Self) {
        self.payload += other.payload;
        self.padding += other.padding;
        self.footer += other.footer;
    }
}

/// Flips `count` bits, one in a record at a time, and reads each record through a store that opens anew.
///
/// # Errors
/// [`Violation`] if a get of a damaged record finds anything.
pub fn flip_bits(seed: u64, count: u64) -> Result<Flips, Box<Violation>> {
    let mut flips = Flips::default();
    let mut set = 0;
    while flips.total() < count {
        let until = count.min(flips.total() + FLIPS_PER_SET);
        watch(seed ^ set << 32, &Options::default(), |world| flip_until(world, &mut flips, until))?;
        set += 1;
    }
    Ok(flips)
}

fn flip_until(world: &mut World, flips: &mut Flips, until: u64) -> Result<(), Broken> {
    world.faults = Faults::default();
    world.open()?;
    for name in (0..NAMES).map(Name) {
        let (version, len) = (world.oracle.history.new_version(), payload_len(&mut world.rng));
        world.begin(Kind::replace(&mut world.rng.clone(), (version, len)), name, PATIENCE_US);
        world.run_calls()?;
    }
    world.close()?;
    let images: Vec<_> = world.medium.disks.iter().map(|disk| lock(disk).image()).collect();
    let blocks = lock(&world.medium.catalog).blocks.clone();
    let extents = lock(&world.medium.catalog).extents.clone();
    while flips.total() < until {
        for entry in blocks.values() {
            flip(world, entry, flips);
        }
        world.open()?;
        let hits = world.oracle.hits;
        for entry in blocks.values() {
            world.begin(Kind::Get, Name::of(&entry.id), PATIENCE_US);
            world.run_calls()?;
            if world.oracle.hits > hits {
                return broken("INV-BYTES", format!("a record with a flipped bit was served: {entry:?}"));
            }
        }
        world.crash_with(|lens| lens.end, |_| (), |_, _| Fate::Lose)?;
        for (disk, image) in world.medium.disks.iter().zip(&images) {
            lock(disk).restore(image);
        }
        let mut catalog = lock(&world.medium.catalog);
        catalog.blocks.clone_from(&blocks);
        catalog.extents.clone_from(&extents);
        drop(catalog);
        world.oracle.step = 1;
    }
    Ok(())
}

/// Flips one bit of an entry's record.
fn flip(world: &mut World, entry: &BlockEntry, flips: &mut Flips) {
    let Some(spot) = lock(&world.medium.catalog).spot_of(entry) else { return };
    let at = match world.rng.below(4) {
        // Footers are a small part of a record, and the rest of the last sectors too.
        0 => spot.len - 1 - world.rng.index(FOOTER_BYTES),
        1 => spot.len - 1 - world.rng.index(spot.len.min(4_096)),
        _ => world.rng.index(spot.len),
    };
    let bit = world.rng.below(8) as u8;
    lock(&world.medium.disks[spot.member]).rot(spot.offset + at, bit);
    if at >= spot.len - FOOTER_BYTES {
        flips.footer += 1;
    } else if at >= entry.payload_len as usize {
        flips.padding += 1;
    } else {
        flips.payload += 1;
    }
}
