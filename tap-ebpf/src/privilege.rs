//! Gives up what starting the tap needed, before any thread is started: capabilities belong to
//! threads, and a new thread inherits what its maker has.
//!
//! Changes no user id.

use std::io;

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

use crate::doctor::{KERNEL_MAPS_WITHOUT_CAPABILITIES, KernelVersion};

/// Empties the effective, permitted, inheritable, bounding and ambient sets of this thread and
/// sets `no_new_privs`. Call it while the process has one thread. With `keep_net_bind`, the right
/// to bind low ports stays until [`drop_net_bind`]. On kernels older than 5.19 CAP_BPF stays, for
/// the tap could not find a ledger without it.
///
/// # Errors
/// When the kernel refuses. The process is then as privileged as before, or less.
pub fn drop_privileges(keep_net_bind: bool) -> io::Result<()> {
    let mut keep = CapabilitySet::empty();
    if keep_net_bind {
        keep |= CapabilitySet::NET_BIND_SERVICE;
    }
    if KernelVersion::running().is_none_or(|running| running < KERNEL_MAPS_WITHOUT_CAPABILITIES) {
        keep |= CapabilitySet::BPF;
    }
    clear_ambient_capability_set()?;
    clear_bounding_set()?;
    let permitted = capabilities(None)?.permitted & keep;
    set_only(permitted)?;
    Ok(set_no_new_privs(true)?)
}

/// Gives up the right to bind low ports, which [`drop_privileges`] may have kept. For the calling
/// thread: call it before any other is started.
///
/// # Errors
/// When the kernel refuses.
pub fn drop_net_bind() -> io::Result<()> {
    let permitted = capabilities(None)?.permitted - CapabilitySet::NET_BIND_SERVICE;
    set_only(permitted)
}

fn set_only(permitted: CapabilitySet) -> io::Result<()> {
    Ok(set_capabilities(
        None,
        CapabilitySets {
            effective: permitted,
            permitted,
            inheritable: CapabilitySet::empty(),
        },
    )?)
}

fn clear_bounding_set() -> io::Result<()> {
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match capability_is_in_bounding_set(capability) {
            Ok(true) => (),
            Ok(false) => continue,
            Err(Errno::INVAL) => break, // the kernel knows no further ones
            Err(error) => return Err(error.into()),
        }
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => (),
            // Without CAP_SETPCAP the set stays; no_new_privs keeps it from ever granting anything.
            Err(Errno::PERM) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
