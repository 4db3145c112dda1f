//! The memory of the arena: a memfd mapped once, so that other doors can map the same bytes.
#![allow(unsafe_code)] // Mapping memory has no safe form; this file is the only one that does it.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};

use rustix::fs::{SealFlags, fcntl_add_seals};

const NAME: &CStr = c"hearth-arena";
const HUGE_PAGE_BYTES: usize = 2 << 20;
const PAGE_BYTES: usize = 4_096;

/// A shared, writable mapping of a memfd, unmapped on drop.
pub(super) struct Mapping {
    base: NonNull<u8>,
    len_bytes: usize,
    mapped_bytes: usize,
    is_hugetlb: bool,
    /// Kept open: whoever shares the arena maps it through this descriptor.
    memfd: OwnedFd,
}

// SAFETY: `Mapping` only hands out addresses; who may read or write through them is decided by the
// owners of slots.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len_bytes` of zeroed memory, in huge pages if the system has them to spare.
    pub(super) fn new(len_bytes: usize) -> io::Result<Self> {
        let huge_bytes = len_bytes.next_multiple_of(HUGE_PAGE_BYTES);
        match Self::map(len_bytes, huge_bytes, libc::MFD_HUGETLB | libc::MFD_HUGE_2MB) {
            Ok(mapping) => Ok(mapping),
            Err(error) => {
                tracing::debug!(%error, "no reserved huge pages for the arena, using ordinary memory");
                let mapping = Self::map(len_bytes, len_bytes, 0)?;
                mapping.advise_huge();
                Ok(mapping)
            }
        }
    }

    pub(super) fn memfd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }

    pub(super) fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// The address of a byte.
    pub(super) fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.len_bytes, "an address within the arena");
        self.base.as_ptr().wrapping_add(offset)
    }

    fn map(len_bytes: usize, mapped_bytes: usize, flags: libc::c_uint) -> io::Result<Self> {
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | flags;
        // SAFETY: the name is a C string.
        let fd = unsafe { libc::memfd_create(NAME.as_ptr(), flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call above made this descriptor and nobody else knows it.
        let memfd = unsafe { OwnedFd::from_raw_fd(fd) };
        let size = libc::off_t::try_from(mapped_bytes).map_err(io::Error::other)?;
        // SAFETY: the descriptor is open; the call touches no memory.
        if unsafe { libc::ftruncate(memfd.as_raw_fd(), size) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing that exists.
        let base = unsafe {
            libc::mmap(ptr::null_mut(), mapped_bytes, protection, libc::MAP_SHARED, memfd.as_raw_fd(), 0)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at the null address"))?;
        let is_hugetlb = flags & libc::MFD_HUGETLB != 0;
        // Nobody who gets the descriptor can write to the arena or cut it off.
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE;
        if let Err(error) = fcntl_add_seals(&memfd, seals) {
            tracing::debug!(%error, "the kernel does not seal the arena");
        }
        Ok(Self { base, len_bytes, mapped_bytes, is_hugetlb, memfd })
    }

    /// Puts huge pages under the whole region now, if it has none yet and the system lets us.
    ///
    /// A transfer falls into as many pieces as its memory does: with single pages, which lie anywhere, one
    /// of 1 MiB takes up to twice as long and twice the CPU. It is also the quicker way to fault everything
    /// in. Contents stay as they are, and whoever uses them meanwhile notices nothing.
    pub(super) fn collapse(&self) {
        if self.is_hugetlb {
            return;
        }
        for offset in (0..self.mapped_bytes).step_by(HUGE_PAGE_BYTES) {
            // Where nothing is present yet there is nothing to collapse.
            if let Err(error) = self.advise(offset, PAGE_BYTES, libc::MADV_POPULATE_READ) {
                return tracing::debug!(%error, "the arena could not be faulted in");
            }
        }
        if let Err(error) = self.advise(0, self.mapped_bytes, libc::MADV_COLLAPSE) {
            tracing::info!(%error, "the arena is not all in huge pages: large transfers cost more");
        }
    }

    fn advise_huge(&self) {
        if let Err(error) = self.advise(0, self.mapped_bytes, libc::MADV_HUGEPAGE) {
            tracing::debug!(%error, "the kernel does not back the arena with huge pages");
        }
    }

    /// Gives advice that changes no contents.
    fn advise(&self, offset: usize, len: usize, advice: libc::c_int) -> io::Result<()> {
        // SAFETY: the range is part of this mapping, and the advice changes no contents.
        let rc = unsafe { libc::madvise(self.at(offset).cast(), len, advice) };
        if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `map` and every slot, which alone uses it, keeps the arena and
        // so this mapping alive.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.mapped_bytes) };
    }
}
