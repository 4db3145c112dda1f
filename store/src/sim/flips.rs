//! Single flipped bits in stored records: each is refused, wherever it is.

use hearth_proto::Urgency;

use super::content::{NAMES, Name};
use super::disk::Fate;
use super::faults::Faults;
use super::history::{Broken, broken};
use super::run::{Options, Violation, watch};
use super::workload::{Kind, payload_len};
use super::world::World;
use crate::codec::Compression;
use crate::slab::{BlockEntry, FOOTER_BYTES, Footer};
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
    /// In the stored form of compressed payloads, where the bytes that came out were the right ones all the
    /// same: some bits of lz4 mean nothing.
    pub meaningless: u64,
}

impl Flips {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.payload + self.padding + self.footer + self.meaningless
    }

    /// Adds the flips of another run.
    pub fn add(&mut self, other: &Self) {
        self.payload += other.payload;
        self.padding += other.padding;
        self.footer += other.footer;
        self.meaningless += other.meaningless;
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
        watch(seed ^ set << 32, &Options::default(), |world| {
            // Each third set is compressed.
            let compressed = (seed + set).is_multiple_of(3);
            world.shape.compression = if compressed { Compression::Fast } else { Compression::Off };
            flip_until(world, &mut flips, until)
        })?;
        set += 1;
    }
    Ok(flips)
}

fn flip_until(world: &mut World, flips: &mut Flips, until: u64) -> Result<(), Broken> {
    world.faults = Faults::default();
    world.open()?;
    for name in (0..NAMES).map(Name) {
        let payload = (world.oracle.history.new_version(), payload_len(&mut world.rng));
        world.begin(Kind::put(payload, true), name, PATIENCE_US);
        world.run_calls()?;
    }
    world.close()?;
    let images: Vec<_> = world.medium.disks.iter().map(|disk| lock(disk).image()).collect();
    let blocks = lock(&world.medium.catalog).blocks.clone();
    let extents = lock(&world.medium.catalog).extents.clone();
    while flips.total() < until {
        let spots: Vec<_> = blocks.values().map(|entry| flip(world, entry)).collect();
        world.open()?;
        for (entry, spot) in blocks.values().zip(spots) {
            let hits = world.oracle.hits;
            world.begin(Kind::Get(Urgency::Normal), Name::of(&entry.id), PATIENCE_US);
            world.run_calls()?;
            let region = match (spot, world.oracle.hits > hits) {
                (Spot::Payload, false) => &mut flips.payload,
                (Spot::Padding, false) => &mut flips.padding,
                (Spot::Footer, false) => &mut flips.footer,
                // The oracle has compared the bytes.
                (Spot::Payload, true) if world.shape.compression != Compression::Off => {
                    &mut flips.meaningless
                }
                (spot, true) => {
                    let detail = format!("a record with a flipped bit in its {spot:?} was served: {entry:?}");
                    return broken("INV-BYTES", detail);
                }
            };
            *region += 1;
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

/// Where a bit was flipped.
#[derive(Clone, Copy, Debug)]
enum Spot {
    Payload,
    Padding,
    Footer,
}

/// Flips one bit of an entry's record.
fn flip(world: &mut World, entry: &BlockEntry) -> Spot {
    let spot = lock(&world.medium.catalog).spot_of(entry).expect("the store was closed in good order");
    let at = match world.rng.below(4) {
        // Footers are a small part of a record, and the rest of the last sectors too.
        0 => spot.len - 1 - world.rng.index(FOOTER_BYTES),
        1 => spot.len - 1 - world.rng.index(spot.len.min(4_096)),
        _ => world.rng.index(spot.len),
    };
    let bit = world.rng.below(8) as u8;
    let mut disk = lock(&world.medium.disks[spot.member]);
    let record = disk.durable(spot.offset, spot.len).unwrap_or_default();
    let footer = record.last_chunk().and_then(|footer| Footer::decode(footer).ok());
    let stored_len = footer.map_or(0, |footer| footer.stored_len as usize);
    disk.rot(spot.offset + at, bit);
    match at {
        at if at < stored_len => Spot::Payload,
        at if at < spot.len - FOOTER_BYTES => Spot::Padding,
        _ => Spot::Footer,
    }
}
