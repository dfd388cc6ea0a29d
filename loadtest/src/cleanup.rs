//! Undoes what a test did to the machine: namespaces, sysctls, child processes, files.
//!
//! A [`Guard`] undoes one thing when it is dropped. Because a signal or an aborting panic drops
//! nothing, every guard is also in one list, which [`undo_on_signal`] works off, newest first.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

type Undo = Box<dyn FnOnce() + Send>;

static PENDING: Mutex<BTreeMap<u64, Undo>> = Mutex::new(BTreeMap::new());
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Undoes one thing, once.
#[derive(Debug)]
#[must_use = "dropping it undoes what was done"]
pub struct Guard(u64);

impl Guard {
    /// Remembers how to undo what the caller just did. `undo` must not make guards.
    pub fn new(undo: impl FnOnce() + Send + 'static) -> Self {
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        pending().insert(serial, Box::new(undo));
        Self(serial)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let undo = pending().remove(&self.0);
        if let Some(undo) = undo {
            undo();
        }
    }
}

/// A directory for files of a test's own, removed with it.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    _guard: Guard,
}

impl Scratch {
    /// Makes one whose name begins with `prefix`. What uses it is to be made later, and so undone
    /// before.
    pub fn new(prefix: &str) -> io::Result<Self> {
        let path = tempfile::Builder::new().prefix(prefix).tempdir()?.keep();
        let doomed = path.clone();
        let guard = Guard::new(move || {
            let _ = fs::remove_dir_all(doomed);
        });
        Ok(Self {
            path,
            _guard: guard,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Undoes everything that is still pending, newest first.
pub fn undo_all() {
    loop {
        let newest = pending().pop_last();
        let Some((_, undo)) = newest else { return };
        undo();
    }
}

/// From now on SIGINT, SIGTERM and an aborting panic undo everything before the process ends.
pub fn undo_on_signal() {
    if cfg!(panic = "abort") {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            print(info);
            undo_all();
        }));
    }
    thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let Ok(runtime) = runtime else { return };
        let status = runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let mut interrupt = signal(SignalKind::interrupt()).ok()?;
            let mut terminate = signal(SignalKind::terminate()).ok()?;
            Some(tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            })
        });
        if let Some(status) = status {
            undo_all();
            process::exit(status);
        }
    });
}

fn pending() -> std::sync::MutexGuard<'static, BTreeMap<u64, Undo>> {
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_guard_undoes_once() {
        let undone = Arc::new(AtomicU64::new(0));
        let counted = undone.clone();
        let guard = Guard::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        drop(guard);
        undo_all();
        assert_eq!(undone.load(Ordering::Relaxed), 1);
    }
}
