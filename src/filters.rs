//! `--ingress-filter` and `--egress-filter`: BPF programs of the user's that judge the app's packets beside systemd's own.
//! Every attached program must let a packet pass (BPF_F_ALLOW_MULTI), so that they only ever restrict further.
//!
//! systemd attaches them, and from 259 on carries on without one that it cannot load (commit 13b0e7fc6d); errors of
//! attaching were ignored before as well. So the kernel is asked, between the start of the unit and the program's.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use appfw_kernel::bpf::Attachment;
use nix::errno::Errno;

use crate::host::Host;
use crate::plan::Supervisor;

/// Where bpffs is mounted: nothing else holds pinned programs.
const BPFFS: &str = "/sys/fs/bpf";
/// BPF_PROG_TYPE_CGROUP_SKB of enum bpf_prog_type, linux/bpf.h.
const CGROUP_SKB: usize = 8;
/// The first ones of that enum, for messages.
const TYPES: [&str; 22] = [
    "unspec",
    "socket_filter",
    "kprobe",
    "sched_cls",
    "sched_act",
    "tracepoint",
    "xdp",
    "perf_event",
    "cgroup_skb",
    "cgroup_sock",
    "lwt_in",
    "lwt_out",
    "lwt_xmit",
    "sock_ops",
    "sk_skb",
    "cgroup_device",
    "sk_msg",
    "raw_tracepoint",
    "cgroup_sock_addr",
    "lwt_seg6local",
    "lirc_mode2",
    "sk_reuseport",
];

/// Which packets a filter judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Those that arrive.
    Ingress,
    /// Those that are sent.
    Egress,
}

impl Direction {
    const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    fn option(self) -> &'static str {
        match self {
            Self::Ingress => "--ingress-filter",
            Self::Egress => "--egress-filter",
        }
    }

    /// The setting of the app's unit.
    #[must_use]
    pub fn directive(self) -> &'static str {
        match self {
            Self::Ingress => "IPIngressFilterPath",
            Self::Egress => "IPEgressFilterPath",
        }
    }

    fn attachment(self) -> Attachment {
        match self {
            Self::Ingress => Attachment::Ingress,
            Self::Egress => Attachment::Egress,
        }
    }
}

/// What was asked for: paths below /sys/fs/bpf.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(Vec<(Direction, PathBuf)>);

impl Filters {
    /// Reads both options.
    ///
    /// # Errors
    /// A path that can't be a pinned program's; nobody is there who attaches it, or may ask whether it is.
    pub fn parse(ingress: &[String], egress: &[String], supervisor: Supervisor, host: &Host) -> Result<Self> {
        let mut filters = Vec::new();
        for (direction, words) in Direction::ALL.into_iter().zip([ingress, egress]) {
            let option = direction.option();
            for word in words {
                if supervisor != Supervisor::System {
                    let instead = match (host.booted, host.caller.is_root()) {
                        (true, false) => ": use sudo appfw-run --system --uid USER …",
                        (true, true) => ": leave --standalone out",
                        (false, _) => ", and no systemd is booted here",
                    };
                    bail!("{option} is for the system manager, which attaches it{instead}");
                }
                if !host.caller.is_root() {
                    bail!(
                        "{option} takes root, as nobody else may ask the kernel whether it is attached: use sudo appfw-run --uid USER …"
                    );
                }
                let filter = (direction, pinned(option, word)?);
                if !filters.contains(&filter) {
                    filters.push(filter);
                }
            }
        }
        Ok(Self(filters))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The settings of the app's unit: a directive and its paths.
    pub fn settings(&self) -> impl Iterator<Item = (&'static str, Vec<String>)> {
        Direction::ALL.into_iter().filter_map(|direction| {
            let paths: Vec<String> = self.of(direction).map(|path| path.display().to_string()).collect();
            (!paths.is_empty()).then_some((direction.directive(), paths))
        })
    }

    fn of(&self, direction: Direction) -> impl Iterator<Item = &Path> {
        self.0.iter().filter(move |(its, _)| *its == direction).map(|(_, path)| path.as_path())
    }
}

/// The path of a pinned program, as systemd takes it.
fn pinned(option: &str, word: &str) -> Result<PathBuf> {
    let path = Path::new(word);
    // Rebuilt from its components it is without `//` and `/./`, as systemd will hold it.
    let simple: PathBuf = path.components().collect();
    let is_plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let is_below = simple.strip_prefix(BPFFS).is_ok_and(|rest| !rest.as_os_str().is_empty());
    if !is_plain || !is_below || word.chars().any(|c| c.is_control() || c == '\\') {
        bail!("{option} {word:?}: takes the path of a pinned BPF program below {BPFFS}");
    }
    Ok(simple)
}

/// A program that is pinned now. It is held, so that its number is not another one's later.
#[derive(Debug)]
struct Program {
    direction: Direction,
    path: PathBuf,
    number: u32,
    _held: OwnedFd,
}

impl Program {
    fn open(direction: Direction, path: &Path) -> Result<Self> {
        let place = format!("{} {}", direction.option(), path.display());
        let held = appfw_kernel::bpf::open_pinned(path).map_err(|error| {
            match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
                Errno::ENOENT => {
                    anyhow::anyhow!("{place}: nothing is pinned there; pin a program of type cgroup_skb first")
                }
                Errno::EACCES => anyhow::anyhow!("{place}: this is no pinned BPF program, or not to be opened"),
                Errno::EPERM => anyhow::anyhow!("{place}: bpf(2) is not permitted here ({error}); a container?"),
                _ => anyhow::anyhow!("{place}: cannot open it ({error})"),
            }
        })?;
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", held.as_raw_fd()))
            .with_context(|| format!("{place}: cannot tell what is pinned there"))?;
        let number = judge(&info).with_context(|| place)?;
        Ok(Self { direction, path: path.to_owned(), number, _held: held })
    }
}

/// The number of the program that this is the /proc/PID/fdinfo of.
fn judge(info: &str) -> Result<u32> {
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t")?.parse().ok());
    match field("prog_type").map(|kind| kind as usize) {
        Some(CGROUP_SKB) => field("prog_id").context("this kernel does not tell a BPF program's number"),
        Some(other) => bail!(
            "this BPF program is of type {}, and only cgroup_skb judges packets of a unit",
            TYPES.get(other).map_or_else(|| other.to_string(), |name| (*name).to_owned())
        ),
        None => bail!("what is pinned there is no BPF program, but a map or a link"),
    }
}

/// The programs of a launch.
#[derive(Debug)]
pub struct Programs {
    programs: Vec<Program>,
    /// Whether systemd has a program of its own in each direction.
    beside_lists: bool,
}

impl Programs {
    /// Opens what `filters` name, which are to be beside the IP lists of the unit, if it has some.
    ///
    /// # Errors
    /// One isn't there, is nothing of BPF's, or of another type.
    pub fn open(filters: &Filters, beside_lists: bool) -> Result<Self> {
        let programs =
            filters.0.iter().map(|(direction, path)| Program::open(*direction, path)).collect::<Result<_>>()?;
        Ok(Self { programs, beside_lists })
    }

    /// All of them are attached to the cgroup with this directory, and systemd's own: a filter that drops more than the
    /// lists do would have the proof from inside succeed without those.
    ///
    /// # Errors
    /// One is not, or nobody can tell.
    pub fn expect_attached(&self, cgroup: &str) -> Result<()> {
        if self.programs.is_empty() {
            return Ok(());
        }
        let directory = File::open(cgroup).with_context(|| format!("cannot open {cgroup}"))?;
        for direction in Direction::ALL {
            let attached =
                appfw_kernel::bpf::attached(directory.as_fd(), direction.attachment()).with_context(|| {
                    format!("cannot ask which BPF programs are attached to {cgroup}, so nothing was run")
                })?;
            self.judge(direction, &attached)?;
        }
        Ok(())
    }

    fn judge(&self, direction: Direction, attached: &[u32]) -> Result<()> {
        let asked = || self.programs.iter().filter(|program| program.direction == direction);
        if let Some(missing) = asked().find(|program| !attached.contains(&program.number)) {
            bail!(
                "{} {}: systemd has not attached it to the program's unit, and its log says why, so nothing was run",
                direction.option(),
                missing.path.display()
            );
        }
        let is_systemds = |number: &u32| !asked().any(|program| program.number == *number);
        if self.beside_lists && !attached.iter().any(is_systemds) {
            bail!(
                "the kernel or a container keeps systemd from attaching its own BPF filter beside {}, so nothing was run",
                direction.option()
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::plan;

    #[test]
    fn a_path_is_that_of_a_pinned_program() {
        for (word, held) in [("/sys/fs/bpf/x", "/sys/fs/bpf/x"), ("/sys//fs/bpf/./a b/", "/sys/fs/bpf/a b")] {
            assert_eq!(pinned("--egress-filter", word).unwrap(), Path::new(held).to_owned());
        }
        for word in
            ["", "x", "/x", "/sys/fs/bpf", "/sys/fs/bpf/", "/sys/fs/bpf/../x", "/sys/fs/bpfx/y", "/sys/fs/bpf/x\ny"]
        {
            let message = pinned("--egress-filter", word).unwrap_err().to_string();
            assert!(message.contains("takes the path of a pinned BPF program below /sys/fs/bpf"), "{message}");
            assert!(!message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn a_filter_given_twice_stands_once() {
        let plan = plan("--via direct --egress-filter /sys/fs/bpf/x --egress-filter /sys/fs/bpf//x y").unwrap();
        assert_eq!(
            plan.filters.settings().collect::<Vec<_>>(),
            [("IPEgressFilterPath", vec!["/sys/fs/bpf/x".to_owned()])]
        );
    }

    #[test]
    fn a_program_of_the_right_type_is_told_by_its_description() {
        assert_eq!(judge("pos:\t0\nprog_type:\t8\nprog_jited:\t1\nprog_id:\t77\n").unwrap(), 77);
        for (info, sentence) in [
            ("prog_type:\t6\nprog_id:\t77\n", "is of type xdp, and only cgroup_skb"),
            ("prog_type:\t31\nprog_id:\t77\n", "is of type 31"),
            ("prog_type:\t8\n", "does not tell"),
            ("map_type:\t1\nmap_id:\t5\n", "a map or a link"),
            ("", "a map or a link"),
        ] {
            let message = judge(info).unwrap_err().to_string();
            assert!(message.contains(sentence), "{message}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let program = |direction, number| Program {
            direction,
            path: format!("/sys/fs/bpf/{number}").into(),
            number,
            _held: File::open("/dev/null").unwrap().into(),
        };
        let programs = vec![program(Direction::Egress, 7), program(Direction::Egress, 8)];
        let mut programs = Programs { programs, beside_lists: true };
        for (direction, attached, sentence) in [
            (Direction::Egress, &[1, 7, 8][..], None),
            (Direction::Egress, &[1, 7], Some("--egress-filter /sys/fs/bpf/8: systemd has not attached it")),
            (Direction::Egress, &[], Some("--egress-filter /sys/fs/bpf/7: systemd has not")),
            (Direction::Egress, &[7, 8], Some("its own BPF filter beside --egress-filter")),
            (Direction::Ingress, &[1], None),
            (Direction::Ingress, &[], Some("its own BPF filter")),
        ] {
            let judged = programs.judge(direction, attached).err().map(|error| error.to_string());
            assert_eq!(judged.is_some(), sentence.is_some(), "{judged:?}");
            assert!(judged.unwrap_or_default().contains(sentence.unwrap_or_default()));
        }
        programs.beside_lists = false;
        programs.judge(Direction::Egress, &[7, 8]).unwrap();
    }
}
