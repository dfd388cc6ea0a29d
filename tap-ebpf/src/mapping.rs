//! An array of the kernel's, mapped: what the programs write is read with plain loads.
//!
//! Hands out pointers to elements and never reads one: what is in them, and how it may be read while
//! the kernel writes it, their owners know.

use std::ffi::c_void;
use std::io;
use std::marker::PhantomData;
use std::mem::size_of;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};

use rustix::mm::{MapFlags, ProtFlags};

/// The elements of a mapped array, each a `T` whose size is a multiple of 8 bytes.
pub(crate) struct Mapping<T> {
    base: NonNull<c_void>,
    bytes: usize,
    count: u32,
    _element: PhantomData<T>,
}

// SAFETY: the mapping lives as long as this, and is only accessed through atomics.
unsafe impl<T> Send for Mapping<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Mapping<T> {}

impl<T> Mapping<T> {
    /// Maps the first `count` elements of the array `map`.
    pub(crate) fn of(map: impl AsFd, count: u32) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        let page = rustix::param::page_size();
        let bytes = (count as usize * size_of::<T>()).next_multiple_of(page);
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing.
        let base = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                map,
                0,
            )?
        };
        let base = NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            base,
            bytes,
            count,
            _element: PhantomData,
        })
    }

    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where an element is, for as long as this lives; `None` beyond the end.
    pub(crate) fn get(&self, index: u32) -> Option<NonNull<T>> {
        // SAFETY: within the mapping, which covers `count` elements.
        (index < self.count).then(|| unsafe { self.base.cast::<T>().add(index as usize) })
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: our own mapping; nothing borrowed from it outlives `self`.
        if let Err(error) = unsafe { rustix::mm::munmap(self.base.as_ptr(), self.bytes) } {
            tracing::warn!(%error, "cannot unmap an array of the tap");
        }
    }
}
