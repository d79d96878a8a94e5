//! The mount table (proc_pid_mountinfo(5)), and by it where else something is seen: each further mount of a file system
//! shows what another one of it has covered. Pure, but for the reading.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use rustix::mount::MountFlags;

/// File systems of which a whole one, mounted below a place, is of that place alone: a user's runtime directory,
/// credentials, cgroups. Of others something may be shown there that belongs elsewhere.
const OF_THEIR_PLACE: [&str; 4] = ["tmpfs", "ramfs", "cgroup", "cgroup2"];

/// What is of the kernel, however often it is mounted.
const ONE_KERNEL: [&[u8]; 2] = [b"proc", b"sysfs"];

/// A line of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its number.
    pub id: u64,
    parent: u64,
    device: OsString,
    /// What of the file system it shows: btrfs's subvolume is a part of it.
    root: PathBuf,
    /// Where.
    pub point: PathBuf,
    /// Those of the mount, not of the file system.
    pub flags: MountFlags,
    kind: OsString,
}

/// All of it, less what this process's root does not reach.
#[derive(Debug, Default)]
pub struct Table {
    /// In the kernel's order.
    pub mounts: Vec<Mount>,
    /// By their places.
    at: HashMap<OsString, Vec<usize>>,
    /// By their file systems, of those that are mounted more than once.
    again: HashMap<OsString, Vec<usize>>,
    ids: HashSet<u64>,
}

impl Table {
    /// The table of this process.
    ///
    /// # Errors
    /// It can't be read.
    pub fn read() -> Result<Self> {
        Ok(Self::of(&fs::read("/proc/self/mountinfo").context("cannot read the mount table")?))
    }

    /// The table of this text.
    #[must_use]
    pub fn of(text: &[u8]) -> Self {
        let mut table =
            Self { mounts: text.split(|byte| *byte == b'\n').filter_map(mount).collect(), ..Self::default() };
        for (number, mount) in table.mounts.iter().enumerate() {
            table.at.entry(mount.point.clone().into()).or_default().push(number);
            table.again.entry(mount.device.clone()).or_default().push(number);
            table.ids.insert(mount.id);
        }
        table.again.retain(|_, mounts| mounts.len() > 1);
        table
    }

    /// Where else what is at `place`, a path without links, is seen, or a part of it. Also what would be there if nothing
    /// were mounted over it: what is shown elsewhere of a home may be of the home that something covers.
    #[must_use]
    pub fn elsewhere(&self, place: &Path) -> Vec<PathBuf> {
        let below = |mount: &&Mount| is_within(&mount.point, place) && mount.point != place && mount.is_of_its_place();
        let parts = self.again().filter(below).map(|mount| (mount, mount.root.clone()));
        let found = self.holders(place).chain(parts).flat_map(|(own, path)| {
            self.others(own).filter_map(move |other| {
                // Above what its cgroup namespace has, names say nothing.
                let is_told = own.is_told() && other.is_told();
                let seen = match path.strip_prefix(&other.root) {
                    Ok(rest) if is_told => joined(&other.point, rest),
                    _ if !is_told || other.root.starts_with(&path) => other.point.clone(),
                    _ => return None,
                };
                self.is_by(other, &seen).then_some(seen)
            })
        });
        let mut found: Vec<_> = found.filter(|seen| !seen.starts_with(place)).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Where something is seen, or a part of it, that is called `stem` and more.
    #[must_use]
    pub fn elsewhere_called(&self, stem: &Path) -> Vec<PathBuf> {
        let starts = |path: &Path, stem: &Path| path.as_os_str().as_bytes().starts_with(stem.as_os_str().as_bytes());
        let found = self.holders(stem).flat_map(|(own, path)| {
            self.others(own).filter(move |other| starts(&other.root, &path)).map(|other| other.point.clone())
        });
        found.filter(|seen| !starts(seen, stem)).collect()
    }

    fn again(&self) -> impl Iterator<Item = &Mount> {
        self.again.values().flatten().map(|number| &self.mounts[*number])
    }

    fn others<'a>(&'a self, own: &'a Mount) -> impl Iterator<Item = &'a Mount> {
        let same = self.again.get(&own.device).into_iter().flatten().map(|number| &self.mounts[*number]);
        same.filter(move |other| other.id != own.id)
    }

    /// The mounts that `place` is in, of file systems that are mounted more than once, and where it is in each.
    fn holders<'a>(&'a self, place: &'a Path) -> impl Iterator<Item = (&'a Mount, PathBuf)> {
        let above = place.ancestors().take(if self.again.is_empty() { 0 } else { usize::MAX });
        let mounts =
            above.filter_map(|above| self.at.get(above.as_os_str())).flatten().map(|number| &self.mounts[*number]);
        mounts.filter(|mount| self.again.contains_key(&mount.device)).filter_map(|mount| {
            let rest = place.strip_prefix(&mount.point).ok()?;
            Some((mount, joined(&mount.root, rest)))
        })
    }

    /// Whether `path` leads into this mount, and not into one that is mounted on the way or over it.
    fn is_by(&self, mount: &Mount, path: &Path) -> bool {
        let mut here: Option<&Mount> = None;
        let mut above: Vec<_> = path.ancestors().collect();
        above.reverse();
        for place in above {
            let there = || self.at.get(place.as_os_str()).into_iter().flatten().map(|number| &self.mounts[*number]);
            let is_next = |next: &&Mount, here: Option<&Mount>| match here {
                Some(here) => next.parent == here.id && next.id != here.id,
                None => next.parent == next.id || !self.ids.contains(&next.parent),
            };
            while let Some(next) = there().find(|next| is_next(next, here)) {
                here = Some(next);
            }
        }
        here.is_some_and(|here| here.id == mount.id)
    }
}

impl Mount {
    fn is_of_its_place(&self) -> bool {
        self.root == Path::new("/") && OF_THEIR_PLACE.iter().any(|kind| *kind == self.kind)
    }

    fn is_told(&self) -> bool {
        !self.root.components().any(|part| part == Component::ParentDir)
    }
}

/// Whether a path of the table's is `directory` or in it: both as the kernel writes them, so that bytes say it, and a hundred
/// places are compared with each mount without taking them apart.
#[must_use]
pub fn is_within(path: &Path, directory: &Path) -> bool {
    let (path, directory) = (path.as_os_str().as_bytes(), directory.as_os_str().as_bytes());
    let rest = path.strip_prefix(directory);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/") || directory == b"/")
}

/// Without a slash at its end, as the table has it.
fn joined(above: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { above.to_owned() } else { above.join(rest) }
}

fn mount(line: &[u8]) -> Option<Mount> {
    let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse().ok();
    let mut fields = line.split(|byte| *byte == b' ');
    let (id, parent) = (number(fields.next()?)?, number(fields.next()?)?);
    let device = fields.next()?;
    let (root, point) = (unescaped(fields.next()?), unescaped(fields.next()?));
    let flags = fields.next()?.split(|byte| *byte == b',').map(|option| match option {
        b"ro" => MountFlags::RDONLY,
        b"nosuid" => MountFlags::NOSUID,
        b"nodev" => MountFlags::NODEV,
        b"noexec" => MountFlags::NOEXEC,
        b"noatime" => MountFlags::NOATIME,
        b"nodiratime" => MountFlags::NODIRATIME,
        b"relatime" => MountFlags::RELATIME,
        b"nosymfollow" => MountFlags::NOSYMFOLLOW,
        _ => MountFlags::empty(),
    });
    let flags = flags.fold(MountFlags::empty(), |all, one| all | one);
    // Optional fields end with a dash.
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    // Each mount of these is a file system by itself (proc since Linux 5.8), and shows the same of the kernel.
    let device = if ONE_KERNEL.contains(&kind) { kind } else { device };
    let owned = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
    Some(Mount { id, parent, device: owned(device), root, point, flags, kind: owned(kind) })
}

/// Blanks, tabs, line breaks and backslashes stand in the table as octal numbers.
fn unescaped(text: &[u8]) -> PathBuf {
    let (mut path, mut rest) = (Vec::with_capacity(text.len()), text);
    while let Some((byte, after)) = rest.split_first() {
        let octal = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok();
        match after.get(..3).filter(|_| *byte == b'\\').and_then(octal) {
            Some(escaped) => {
                path.push(escaped);
                rest = &after[3..];
            }
            None => {
                path.push(*byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(path).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table of lines `ID PARENT DEVICE ROOT POINT KIND`.
    fn table(lines: &[&str]) -> Table {
        let line = |line: &&str| {
            let fields: Vec<_> = line.split(' ').collect();
            format!("{} rw,relatime shared:1 - {} none rw\n", fields[..5].join(" "), fields[5])
        };
        Table::of(lines.iter().map(line).collect::<String>().as_bytes())
    }

    fn seen(lines: &[&str], place: &str) -> Vec<String> {
        let found = table(lines).elsewhere(Path::new(place));
        found.iter().map(|path| path.display().to_string()).collect()
    }

    const ROOT: &str = "20 1 8:1 / / ext4";
    const PLACE: &str = "/home/bob/.config/appfw";

    #[test]
    fn mounts_are_read_with_their_flags() {
        let line = b"36 35 98:0 /mnt1 /mnt/a\\040b\\134040\xff rw,nosuid,noexec,relatime master:1 - ext3 /dev/root rw";
        let found = mount(line).unwrap();
        assert_eq!(found.point.as_os_str().as_bytes(), b"/mnt/a b\\040\xff");
        assert_eq!(found.flags, MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::RELATIME);
        assert_eq!((found.id, found.parent, &*found.kind), (36, 35, OsStr::new("ext3")));
        assert_eq!(mount(b"36 35"), None);
    }

    #[test]
    fn what_is_mounted_once_is_nowhere_else() {
        assert!(seen(&[ROOT, "21 20 8:2 / /home ext4", "22 20 0:5 / /run tmpfs"], PLACE).is_empty());
    }

    #[test]
    fn what_another_mount_shows_is_found_in_it() {
        for (mount, expected) in [
            ("30 20 8:1 / /mnt ext4", "/mnt/home/bob/.config/appfw"),
            ("30 20 8:1 /home /data ext4", "/data/bob/.config/appfw"),
            ("30 20 8:1 /home/bob/.config/appfw /mnt ext4", "/mnt"),
            // A part of it.
            ("30 20 8:1 /home/bob/.config/appfw/credentials /mnt\\040x ext4", "/mnt x"),
            ("30 20 8:1 /home/bob /home/bob/again ext4", "/home/bob/again/.config/appfw"),
        ] {
            assert_eq!(seen(&[ROOT, mount], PLACE), [expected], "{mount}");
        }
        // Something else of it, or what begins like it; another file system.
        for mount in ["8:1 /home/eve", "8:1 /home/bob/.config/appfw2", "8:9 /home"] {
            assert!(seen(&[ROOT, &format!("30 20 {mount} /mnt ext4")], PLACE).is_empty(), "{mount}");
        }
    }

    #[test]
    fn the_place_itself_may_be_a_mount_of_something() {
        let lines = [ROOT, "21 20 8:2 / /srv ext4", "22 20 8:2 /homes/bob /home/bob ext4"];
        assert_eq!(seen(&lines, PLACE), ["/srv/homes/bob/.config/appfw"]);
        // btrfs: the subvolume is a part of the root.
        let lines = ["20 1 0:30 /@ / btrfs", "21 20 0:30 /@home /home btrfs", "22 20 0:30 / /top btrfs"];
        assert_eq!(seen(&lines, PLACE), ["/top/@/home/bob/.config/appfw", "/top/@home/bob/.config/appfw"]);
    }

    #[test]
    fn what_is_covered_is_not_reached_and_still_looked_for_elsewhere() {
        // Something else is mounted over the second mount, or on the way in it.
        assert!(seen(&[ROOT, "30 20 8:1 /home /data ext4", "31 30 0:9 / /data tmpfs"], PLACE).is_empty());
        assert!(seen(&[ROOT, "30 20 8:1 /home /data ext4", "31 30 0:9 / /data/bob tmpfs"], PLACE).is_empty());
        // A home that is covered, and shown elsewhere (ProtectHome=tmpfs with BindPaths=).
        let lines = [ROOT, "30 20 0:9 / /home tmpfs", "31 20 8:1 /home/bob /mnt ext4"];
        assert_eq!(seen(&lines, PLACE), ["/mnt/.config/appfw"]);
        // Nor what is mounted anew at its own place, as PID 1 does it for a unit.
        let lines = [ROOT, "21 20 0:21 / /proc proc", "22 21 0:40 / /proc proc", "23 22 0:40 /sys /proc/sys proc"];
        assert!(seen(&lines, "/proc/sys").is_empty());
        // A place mounted over itself (ReadOnlyPaths=) is seen once.
        assert!(seen(&[ROOT, "30 20 8:1 /home /home ext4"], PLACE).is_empty());
    }

    #[test]
    fn a_file_system_of_the_places_own_is_the_places_elsewhere_as_well() {
        let lines = [ROOT, "21 20 0:6 / /run/user/1001 tmpfs", "22 20 0:6 /bus /srv/bus tmpfs"];
        assert_eq!(seen(&lines, "/run/user"), ["/srv/bus"]);
        // What somebody shows there of another is not.
        let lines = [ROOT, "21 20 8:1 /home /run/user/1001/home ext4"];
        assert!(seen(&lines, "/run/user").is_empty());
        let lines = ["20 1 0:7 / /sys/fs/cgroup cgroup2", "21 1 0:7 /../.. /mnt cgroup2"];
        assert_eq!(seen(&lines, "/sys/fs/cgroup"), ["/mnt"]);
    }

    #[test]
    fn all_mounts_of_the_kernels_own_show_the_same() {
        let lines = [ROOT, "21 20 0:21 / /proc proc", "22 20 0:22 / /sys sysfs", "23 20 0:41 / /srv/c/proc proc"];
        assert_eq!(seen(&lines, "/proc/sys"), ["/srv/c/proc/sys"]);
        assert!(seen(&lines, "/sys/kernel").is_empty());
        let again = [&lines[..], &["24 20 0:42 /kernel /srv/k sysfs"]].concat();
        assert_eq!(seen(&again, "/sys"), ["/srv/k"]);
    }

    #[test]
    fn what_is_told_by_the_beginning_of_its_name_is_found_by_it() {
        let lines =
            [ROOT, "30 20 8:1 /tmp/private /tmp ext4", "31 20 8:1 /tmp/tmux-1/x /a ext4", "32 20 8:1 /tmp/tm /b ext4"];
        assert_eq!(table(&lines).elsewhere_called(Path::new("/tmp/tmux-")), [Path::new("/a")]);
        assert_eq!(seen(&[ROOT, "30 20 8:1 /tmp /mnt ext4"], "/tmp"), ["/mnt"]);
    }
}
