//! Starting where things are not as usual: no room for a cgroup, no privilege, somebody before us.
//!
//! What cannot be undone for one thread is tried in another process: this test binary, started
//! again to run [`inside`] there.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use calltap_tap::{Tap, TapError, TapOptions, doctor, tcp_info};

use crate::support::{LOOPBACK, cookie_of, tapped, transfer};

const OPTIONS: TapOptions = TapOptions {
    cgroup: None,
    sockets_max: 16,
    denied_max: 16,
};

/// Runs [`inside`] in another process, started by `wrapper`; returns what it printed.
fn elsewhere(wrapper: &str) -> String {
    let program = std::env::current_exe().unwrap();
    let output = Command::new("sh")
        .args(["-ec", wrapper])
        .arg(program)
        .args(["--exact", "elsewhere::inside", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complained}");
    said
}

/// Says how starting a tap went, and what the sockets tell without one.
#[test]
#[ignore = "is run by the other tests, elsewhere"]
fn inside() {
    match Tap::start(&OPTIONS) {
        Ok(tap) => {
            let listener = TcpListener::bind(LOOPBACK).unwrap();
            tap.own_listener(std::os::fd::AsFd::as_fd(&listener))
                .unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut ours, _) = listener.accept().unwrap();
            transfer(&mut client, &mut ours, 100);
            let ledger = tap.ledger(cookie_of(&ours)).unwrap();
            println!(
                "received {} in {}",
                ledger.received_offset(),
                tap.describe()
            );
        }
        Err(error) => println!("refused: {error}"),
    }
    for check in doctor::checks(&OPTIONS) {
        println!(
            "{}: {}",
            check.name,
            if check.state == doctor::State::Ok {
                "ok"
            } else {
                "not ok"
            }
        );
    }
    let listener = TcpListener::bind(LOOPBACK).unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut ours, _) = listener.accept().unwrap();
    transfer(&mut client, &mut ours, 100);
    let received = tcp_info::counters(&ours, 0).unwrap().received.unwrap();
    println!("the socket says {}", received.offset);
}

/// Where the hierarchy is mounted, from a cgroup directory in it.
fn mount_point(mut below: &Path) -> PathBuf {
    while below.parent().unwrap().join("cgroup.procs").exists() {
        below = below.parent().unwrap();
    }
    below.to_owned()
}

#[test]
fn where_no_cgroup_can_be_made_the_own_one_is_tapped_as_it_stands() {
    let Some(outer) = tapped(4) else { return };
    let (ours, _) = outer.tap.cgroup();
    let said = elsewhere(&format!(
        "exec unshare -m sh -ec 'mount -o remount,bind,ro {}; exec \"$0\" \"$@\"' \"$0\" \"$@\"",
        mount_point(ours).display()
    ));
    let expected = format!("received 100 in cgroup {} (shared)", ours.display());
    assert!(said.contains(&expected), "{said}");
}

#[test]
fn where_nothing_is_mounted_a_private_mount_does() {
    let Some(outer) = tapped(4) else { return };
    let (ours, _) = outer.tap.cgroup();
    let said = elsewhere(&format!(
        "exec unshare -m sh -ec 'umount -l {}; exec \"$0\" \"$@\"' \"$0\" \"$@\"",
        mount_point(ours).display()
    ));
    assert!(said.contains("received 100 in cgroup cgroup2:/"), "{said}");
    assert!(said.contains("(our own)"), "{said}");
    assert!(said.contains("cgroup_v2: ok"), "{said}");
    let left: Vec<_> = fs::read_dir(ours)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().is_dir())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn without_privilege_the_refusal_says_what_is_missing() {
    let Some(_outer) = tapped(4) else { return };
    // Nobody may read the build directory; a copy will do.
    let copy = tempfile::Builder::new()
        .prefix("calltap")
        .tempdir()
        .unwrap();
    let program = copy.path().join("kernel");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(copy.path(), everyone).unwrap();
    let said = elsewhere(&format!(
        "cd /; exec setpriv --reuid 65534 --regid 65534 --clear-groups {} \"$@\"",
        program.display()
    ));
    assert!(said.contains("refused: "), "{said}");
    assert!(said.contains("root or CAP_BPF"), "{said}");
    for line in [
        "capabilities: not ok",
        "bpf_system_call: not ok",
        "kernel_version: ok",
    ] {
        assert!(said.contains(line), "{said}");
    }
    assert!(said.contains("the socket says 100"), "{said}");
}

#[test]
fn what_is_attached_exclusively_above_us_is_named() {
    let Some(outer) = tapped(4) else { return };
    let (ours, _) = outer.tap.cgroup();
    let (taken, below) = (ours.join("taken"), ours.join("taken/below"));
    fs::create_dir_all(&below).unwrap();
    attach_exclusively(&taken);
    let options = TapOptions {
        cgroup: Some(below.clone()),
        ..OPTIONS
    };
    let checks = doctor::checks(&options);
    let check = checks
        .iter()
        .find(|check| check.name == "exclusive_attachments")
        .unwrap();
    assert_eq!(check.state, doctor::State::Missing);
    assert!(!check.remedy.is_empty());
    assert_eq!(
        check.found,
        format!("cgroup_skb/ingress at {}", taken.display())
    );
    let refused = Tap::start(&options).err().expect("there is no room for us");
    assert!(matches!(refused, TapError::Attach { .. }), "{refused}");
    assert!(refused.to_string().contains("exclusive"), "{refused}");
    // We are out of it again, so it can be removed; and what was attached goes with it.
    fs::remove_dir(&below).unwrap();
    fs::remove_dir(&taken).unwrap();
}

/// Attaches a program that passes everything, the way that admits no other below.
fn attach_exclusively(cgroup: &Path) {
    const PROG_LOAD: libc::c_int = 5;
    const PROG_ATTACH: libc::c_int = 8;
    const CGROUP_SKB: u32 = 8;
    const INGRESS: u32 = 0;
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
    }
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        hook: u32,
        flags: u32,
    }
    let call = |command: libc::c_int, attributes: *const libc::c_void, size: usize| {
        // SAFETY: callers pass attributes of that size, whose pointers outlive the call.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size) };
        assert!(result >= 0, "{}", std::io::Error::last_os_error());
        result as libc::c_int
    };
    // r0 = 1; exit
    let pass: [u64; 2] = [0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];
    let load = Load {
        kind: CGROUP_SKB,
        count: 2,
        instructions: pass.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
    };
    let program = call(PROG_LOAD, (&raw const load).cast(), size_of::<Load>());
    // SAFETY: the kernel just made this descriptor, and nobody else knows it.
    let program = unsafe { OwnedFd::from_raw_fd(program) };
    let target = fs::File::open(cgroup).unwrap();
    let attach = Attach {
        target: target.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        hook: INGRESS,
        flags: 0,
    };
    call(PROG_ATTACH, (&raw const attach).cast(), size_of::<Attach>());
}
