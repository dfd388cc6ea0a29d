//! Removes our cgroup when this process is gone, however it went.
//!
//! The machine's root cgroup is a directory that nobody may write to without CAP_DAC_OVERRIDE,
//! its owner neither. By the time the gateway ends it has no capability left. So a child, made
//! while the privileges are there, keeps that one, waits at a pipe until its parent is gone, removes
//! the cgroup and ends. It has nothing else: no other descriptor, no other capability, no signal
//! that a terminal sends.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};

/// The cgroup stays busy until the kernel has taken apart the last process in it.
const REMOVE_TRIES_MAX: u32 = 100;
const REMOVE_PAUSE_US: u32 = 50_000;

/// A child that waits. It does its work when this is dropped, or dies with the process.
#[derive(Debug)]
pub(crate) struct Caretaker {
    _alive: OwnedFd,
}

impl Caretaker {
    /// Makes the child. To be called outside of the cgroup `name` below `directory`: the child would
    /// keep it busy.
    pub(crate) fn start(directory: impl AsFd, name: &str) -> io::Result<Self> {
        let (gone, alive) = pipe_with(PipeFlags::CLOEXEC)?;
        let name = CString::new(name)?;
        let (gone_fd, directory_fd) = (gone.as_raw_fd(), directory.as_fd().as_raw_fd());
        // SAFETY: the child calls async-signal-safe functions only and allocates nothing, so it does
        // not matter which locks other threads held. It never returns from here.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => unsafe { wait_and_remove(gone_fd, directory_fd, &name) },
            _ => Ok(Self { _alive: alive }),
        }
    }
}

/// The child's whole life.
///
/// # Safety
/// Only for a child that was just forked; both descriptors must be open.
unsafe fn wait_and_remove(gone: libc::c_int, directory: libc::c_int, name: &CString) -> ! {
    // SAFETY: plain system calls on the child's own descriptors and memory.
    unsafe {
        libc::setsid();
        libc::prctl(libc::PR_SET_NAME, c"calltap-cgroup".as_ptr());
        for signal in [
            libc::SIGINT,
            libc::SIGTERM,
            libc::SIGHUP,
            libc::SIGUSR1,
            libc::SIGPIPE,
        ] {
            libc::signal(signal, libc::SIG_IGN);
        }
        // Above the standard descriptors first: one of the two might be among them.
        let gone = libc::fcntl(gone, libc::F_DUPFD, 8);
        let directory = libc::fcntl(directory, libc::F_DUPFD, 8);
        if gone < 0 || directory < 0 || libc::dup2(gone, 0) < 0 || libc::dup2(directory, 1) < 0 {
            libc::_exit(1);
        }
        libc::syscall(libc::SYS_close_range, 2, libc::c_uint::MAX, 0);
        let only = CapabilitySets {
            effective: CapabilitySet::DAC_OVERRIDE,
            permitted: CapabilitySet::DAC_OVERRIDE,
            inheritable: CapabilitySet::empty(),
        };
        let _ = set_capabilities(None, only);
        let _ = set_no_new_privs(true);
        let mut byte = 0_u8;
        while libc::read(0, (&raw mut byte).cast(), 1) != 0 {
            if *libc::__errno_location() != libc::EINTR {
                libc::_exit(1);
            }
        }
        for _ in 0..REMOVE_TRIES_MAX {
            if libc::unlinkat(1, name.as_ptr(), libc::AT_REMOVEDIR) == 0
                || *libc::__errno_location() == libc::ENOENT
            {
                libc::_exit(0);
            }
            libc::usleep(REMOVE_PAUSE_US);
        }
        libc::_exit(1);
    }
}
