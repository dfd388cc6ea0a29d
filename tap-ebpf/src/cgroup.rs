//! The cgroup whose sockets the programs see: ours, made for this process, where that is possible.
//!
//! A socket belongs to the cgroup its maker was in, so the process must be inside before it
//! listens. Never attaches to the machine's real root cgroup, which holds everybody.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::caretaker::Caretaker;

/// Our cgroups are named so, with a process id behind it.
const NAME_PREFIX: &str = "calltap-";
/// Another process that starts may remove a cgroup between our making and entering it.
const ENTER_TRIES_MAX: u32 = 5;
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// Why no cgroup could be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// This process is in no cgroup v2 that it can see.
    #[error("this process is in no cgroup v2 visible here: mount one, or set tap.cgroup")]
    NotFound,
    /// The hierarchy is not mounted and a private mount was refused.
    #[error("no cgroup v2 is mounted and a private mount was refused")]
    Mount {
        /// What the kernel said.
        source: io::Error,
    },
    /// Only the machine's root cgroup would be left, and that holds everybody's sockets.
    #[error(
        "cannot make a cgroup under the machine's root cgroup {}, which is never tapped itself",
        path.display()
    )]
    RealRoot {
        /// The root cgroup.
        path: PathBuf,
        /// Why none could be made; absent if the root itself was asked for.
        source: Option<io::Error>,
    },
    /// The directory is there but cannot be used.
    #[error("cannot {action} cgroup {}", path.display())]
    Unusable {
        /// What was tried.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A cgroup directory, open.
#[derive(Debug)]
pub(crate) struct Cgroup {
    directory: OwnedFd,
    path: PathBuf,
}

impl Cgroup {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let directory = rustix::fs::open(path, DIRECTORY, Mode::empty())?;
        Ok(Self {
            directory,
            path: path.to_owned(),
        })
    }

    fn open_below(&self, name: &str) -> io::Result<Self> {
        let directory = rustix::fs::openat(&self.directory, name, DIRECTORY, Mode::empty())?;
        Ok(Self {
            directory,
            path: self.path.join(name),
        })
    }

    /// For display: a detached mount has no path of its own.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The machine's root has no events: nobody could watch it become empty.
    pub(crate) fn is_real_root(&self) -> bool {
        let events = rustix::fs::statat(&self.directory, "cgroup.events", AtFlags::empty());
        matches!(events, Err(Errno::NOENT))
    }

    /// Whether this process may make cgroups here.
    pub(crate) fn is_writable(&self) -> bool {
        let writable = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        rustix::fs::accessat(&self.directory, ".", writable, AtFlags::EACCESS).is_ok()
    }

    /// Whether we could still remove a cgroup from here without any capability.
    fn outlives_privileges(&self) -> io::Result<bool> {
        let stat = rustix::fs::fstat(&self.directory)?;
        let ours = stat.st_uid == rustix::process::geteuid().as_raw();
        Ok(ours && Mode::from_raw_mode(stat.st_mode).contains(Mode::WUSR))
    }

    /// The cgroup that this one is in; `None` at the top of what is mounted here.
    pub(crate) fn parent(&self) -> Option<Self> {
        let above = rustix::fs::openat(&self.directory, "..", DIRECTORY, Mode::empty()).ok()?;
        let (here, there) = (
            rustix::fs::fstat(&self.directory).ok()?,
            rustix::fs::fstat(&above).ok()?,
        );
        (here.st_dev == there.st_dev && here.st_ino != there.st_ino).then(|| Self {
            directory: above,
            path: self.path.parent().unwrap_or(&self.path).to_owned(),
        })
    }

    fn processes(&self) -> io::Result<Vec<String>> {
        let file = rustix::fs::openat(
            &self.directory,
            "cgroup.procs",
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut text = String::new();
        fs::File::from(file).read_to_string(&mut text)?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Moves a process, all its threads with it.
    fn admit(&self, process: &str) -> io::Result<()> {
        let file = rustix::fs::openat(
            &self.directory,
            "cgroup.procs",
            OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        fs::File::from(file).write_all(process.as_bytes())
    }

    fn remove_below(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(
            &self.directory,
            name,
            AtFlags::REMOVEDIR,
        )?)
    }

    /// Removes what killed processes left. One that is in use refuses to be removed.
    fn remove_stale(&self) {
        let Ok(entries) = Dir::read_from(&self.directory) else {
            return;
        };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            let Some(owner) = name.strip_prefix(NAME_PREFIX) else {
                continue;
            };
            let owner = owner.split('-').next().unwrap_or(owner);
            if owner.parse::<u32>().is_err() || Path::new("/proc").join(owner).exists() {
                continue;
            }
            if self.remove_below(name).is_ok() {
                tracing::info!(cgroup = %self.path.join(name).display(), "removed a stale cgroup");
            }
        }
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// The cgroup of this process, wherever the hierarchy is mounted.
pub(crate) fn own() -> Result<Cgroup, CgroupError> {
    let memberships = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let inside = memberships
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .ok_or(CgroupError::NotFound)?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if let Some(path) = path_in_mounts(&mounts, inside) {
        return Cgroup::open(&path).map_err(|source| CgroupError::Unusable {
            action: "open",
            path,
            source,
        });
    }
    let mounted = mount_detached().map_err(|source| CgroupError::Mount { source })?;
    let inside = inside.trim_start_matches('/');
    if inside.is_empty() {
        return Ok(mounted);
    }
    mounted
        .open_below(inside)
        .map_err(|source| CgroupError::Unusable {
            action: "open",
            path: mounted.path.join(inside),
            source,
        })
}

/// Where a mounted hierarchy shows the cgroup `inside`. A mount may begin below the root.
fn path_in_mounts(mountinfo: &str, inside: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        if filesystem.split(' ').next()? != "cgroup2" {
            return None;
        }
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let below = Path::new(inside).strip_prefix(root).ok()?;
        Some(Path::new(&unescaped(point)).join(below))
    })
}

/// Spaces and the like are octal in mountinfo.
fn unescaped(field: &str) -> String {
    field
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

/// A mount that only this process has, and only as long as a descriptor is open.
fn mount_detached() -> io::Result<Cgroup> {
    let context = rustix::mount::fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&context)?;
    let directory = rustix::mount::fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?;
    Ok(Cgroup {
        directory,
        path: PathBuf::from("cgroup2:/"),
    })
}

/// Which cgroup is tapped, and what to undo in the end.
#[derive(Debug)]
pub(crate) struct Membership {
    tapped: Cgroup,
    /// Where the process came from, if it was moved.
    origin: Option<Cgroup>,
    /// The name under `origin` of a cgroup that we made.
    made: Option<String>,
    /// Removes it where we may not any more.
    caretaker: Option<Caretaker>,
}

impl Membership {
    /// Enters a cgroup of our own, or settles for the one the process is in.
    pub(crate) fn enter_own() -> Result<Self, CgroupError> {
        let origin = own()?;
        origin.remove_stale();
        match make_and_enter(&origin) {
            Ok((tapped, name, caretaker)) => Ok(Self {
                tapped,
                origin: Some(origin),
                made: Some(name),
                caretaker,
            }),
            Err(source) if origin.is_real_root() => Err(CgroupError::RealRoot {
                path: origin.path,
                source: Some(source),
            }),
            Err(error) => {
                tracing::info!(
                    cgroup = %origin.path.display(), %error,
                    "cannot make a cgroup of our own: the one we are in is tapped as it stands"
                );
                Ok(Self {
                    tapped: origin,
                    origin: None,
                    made: None,
                    caretaker: None,
                })
            }
        }
    }

    /// Enters the cgroup at `path`, which somebody else made and keeps.
    pub(crate) fn enter(path: &Path) -> Result<Self, CgroupError> {
        let unusable = |action| {
            move |source| CgroupError::Unusable {
                action,
                path: path.to_owned(),
                source,
            }
        };
        let tapped = Cgroup::open(path).map_err(unusable("open"))?;
        let kind = rustix::fs::fstatfs(&tapped).map_err(|error| unusable("open")(error.into()))?;
        if kind.f_type != CGROUP2_MAGIC {
            return Err(unusable("use as a")(io::Error::other(
                "not a directory of a cgroup v2 hierarchy",
            )));
        }
        if tapped.is_real_root() {
            return Err(CgroupError::RealRoot {
                path: path.to_owned(),
                source: None,
            });
        }
        let origin = own()?;
        let process = std::process::id().to_string();
        if tapped
            .processes()
            .is_ok_and(|inside| inside.contains(&process))
        {
            return Ok(Self {
                tapped,
                origin: None,
                made: None,
                caretaker: None,
            });
        }
        tapped.admit(&process).map_err(unusable("enter"))?;
        Ok(Self {
            tapped,
            origin: Some(origin),
            made: None,
            caretaker: None,
        })
    }

    pub(crate) fn cgroup(&self) -> &Cgroup {
        &self.tapped
    }

    pub(crate) fn is_made(&self) -> bool {
        self.made.is_some()
    }
}

const CGROUP2_MAGIC: rustix::fs::FsWord = 0x6367_7270;

fn make_and_enter(origin: &Cgroup) -> io::Result<(Cgroup, String, Option<Caretaker>)> {
    let process = std::process::id().to_string();
    let mut tries = 0;
    loop {
        tries += 1;
        // Two processes in different process namespaces can have the same id.
        let name = match tries {
            1 => format!("{NAME_PREFIX}{process}"),
            n => format!("{NAME_PREFIX}{process}-{n}"),
        };
        let entered = (|| {
            rustix::fs::mkdirat(&origin.directory, &name, Mode::from_raw_mode(0o755))?;
            let made = origin.open_below(&name)?;
            let caretaker = match origin.outlives_privileges()? {
                true => None,
                false => Some(Caretaker::start(origin, &name)?),
            };
            made.admit(&process)?;
            Ok((made, caretaker))
        })();
        match entered {
            Ok((made, caretaker)) => return Ok((made, name, caretaker)),
            Err(error) => {
                let exists = io::Error::from(Errno::EXIST).kind();
                let error: io::Error = error;
                if error.kind() != exists {
                    // Entering failed: what we made is of no use.
                    let _ = origin.remove_below(&name);
                }
                let again = [exists, io::ErrorKind::NotFound].contains(&error.kind());
                if !again || tries == ENTER_TRIES_MAX {
                    return Err(error);
                }
            }
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let Some(origin) = &self.origin else {
            return;
        };
        let processes = match self.made {
            // Children inherited it from us.
            Some(_) => self.tapped.processes().unwrap_or_default(),
            None => vec![std::process::id().to_string()],
        };
        for process in processes {
            if let Err(error) = origin.admit(&process) {
                tracing::warn!(cgroup = %self.tapped.path.display(), %error, "cannot leave");
            }
        }
        // With a caretaker, dropping it is what removes the cgroup.
        if let Some(name) = &self.made
            && let Err(error) = origin.remove_below(name)
            && self.caretaker.is_none()
        {
            tracing::warn!(cgroup = %self.tapped.path.display(), %error, "cannot remove");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(mountinfo: &str, inside: &str, expected: Option<&str>) {
        assert_eq!(
            path_in_mounts(mountinfo, inside),
            expected.map(PathBuf::from)
        );
    }

    #[test]
    fn the_own_cgroup_is_found_wherever_the_hierarchy_is_mounted() {
        let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw";
        let hybrid = "31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      32 30 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
        let below = "30 23 0:26 /box /my\\040mount rw shared:1 - cgroup2 none rw";
        check(unified, "/", Some("/sys/fs/cgroup/"));
        check(
            unified,
            "/system.slice/a",
            Some("/sys/fs/cgroup/system.slice/a"),
        );
        check(hybrid, "/a", Some("/sys/fs/cgroup/unified/a"));
        check(below, "/box/a", Some("/my mount/a"));
        check(below, "/other", None);
        check("", "/", None);
    }
}
