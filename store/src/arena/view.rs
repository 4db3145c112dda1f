//! The arena as a reader outside the process sees it: mapped read-only, with nobody's leave but a loan.
#![allow(unsafe_code)] // Maps memory that others write, and reads it word by word.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use super::Loan;
use crate::slab::{FOOTER_BYTES, GENERATION_AT};

/// The loan ended while the bytes were read, or before: what was read is worth nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the loan has ended: ask for the block again")]
pub struct LoanExpired;

/// A read-only mapping of an arena.
pub struct ArenaView {
    base: NonNull<u8>,
    len_bytes: usize,
}

// SAFETY: the mapping is only read, through atomics, which any thread may do.
unsafe impl Send for ArenaView {}
// SAFETY: as above.
unsafe impl Sync for ArenaView {}

impl ArenaView {
    /// Maps an arena.
    ///
    /// # Errors
    /// What the system says; the descriptor has to be an arena's.
    pub fn map(arena: BorrowedFd<'_>) -> io::Result<Self> {
        let len_bytes = usize::try_from(rustix::fs::fstat(arena)?.st_size).map_err(io::Error::other)?;
        if len_bytes == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "an arena is not empty"));
        }
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing that exists.
        let base = unsafe {
            libc::mmap(ptr::null_mut(), len_bytes, libc::PROT_READ, libc::MAP_SHARED, arena.as_raw_fd(), 0)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at the null address"))?;
        Ok(Self { base, len_bytes })
    }

    /// Copies the payload of a lent block to `into`, which is as long, and says whether it was the block's
    /// all the while.
    ///
    /// # Errors
    /// [`LoanExpired`]: `into` holds nothing of use.
    pub fn copy(&self, loan: &Loan, into: &mut [u8]) -> Result<(), LoanExpired> {
        let end = loan.offset.checked_add(u64::from(loan.slot_len)).ok_or(LoanExpired)?;
        let fits = usize::try_from(end).is_ok_and(|end| end <= self.len_bytes)
            && loan.payload_len as usize + FOOTER_BYTES <= loan.slot_len as usize
            && loan.payload_len as usize == into.len()
            && loan.offset.is_multiple_of(8)
            && loan.slot_len.is_multiple_of(8);
        if !fits {
            return Err(LoanExpired);
        }
        let offset = loan.offset as usize;
        let generation_at = offset + loan.slot_len as usize - FOOTER_BYTES + GENERATION_AT;
        self.check(generation_at, loan)?;
        let (words, rest) = into.as_chunks_mut::<8>();
        for (n, word) in words.iter_mut().enumerate() {
            *word = self.word(offset + n * 8).to_ne_bytes();
        }
        let last = self.word(offset + words.len() * 8).to_ne_bytes();
        rest.copy_from_slice(&last[..rest.len()]);
        // Whatever was read above was read before the generation is looked at again.
        fence(Ordering::Acquire);
        self.check(generation_at, loan)?;
        // A block that left its slot and came back has its generation there again.
        if crc32fast::hash(into) == loan.crc32 { Ok(()) } else { Err(LoanExpired) }
    }

    fn check(&self, generation_at: usize, loan: &Loan) -> Result<(), LoanExpired> {
        let found = self.word(generation_at);
        fence(Ordering::Acquire);
        if u64::from_le(found) == loan.generation.0 { Ok(()) } else { Err(LoanExpired) }
    }

    fn word(&self, at: usize) -> u64 {
        assert!(at + size_of::<u64>() <= self.len_bytes, "a word within the arena");
        let word = self.base.as_ptr().wrapping_add(at).cast::<AtomicU64>();
        // SAFETY: the address lies in the mapping, which lives as long as `self`, and is aligned to eight
        // bytes, as offsets of slots and words are.
        let word = unsafe { &*word };
        word.load(Ordering::Relaxed)
    }
}

impl Drop for ArenaView {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `map` and nobody refers to it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len_bytes) };
    }
}

/// Strikes out the generation at `address`, for every reader who looks from now on.
///
/// # Safety
/// `address` is valid for writes of eight bytes, aligned to four, and nobody else writes there.
pub(super) unsafe fn strike_out(address: *mut u8) {
    let halves = address.cast::<AtomicU32>();
    // SAFETY: the caller vouches for the address.
    let low = unsafe { &*halves };
    // SAFETY: as above; the second half lies behind the first.
    let high = unsafe { &*halves.wrapping_add(1) };
    low.store(0, Ordering::Relaxed);
    high.store(0, Ordering::Relaxed);
    // Whoever writes the slot next does so after this.
    fence(Ordering::SeqCst);
}
