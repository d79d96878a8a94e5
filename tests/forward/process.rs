//! A forwarder of its own process, `appfw forward`, as the outside sees it.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;
use tokio::net::TcpStream;

use crate::lab::{PATIENCE, free};

/// It ends with this.
pub struct Process {
    child: Child,
    log: NamedTempFile,
    pub address: SocketAddr,
}

/// What a process has open.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Open {
    pub sockets: usize,
    /// Ends of pipes, two each.
    pub pipes: usize,
    pub others: usize,
}

impl Process {
    /// Starts it with these options, and so many descriptors at most.
    pub async fn start(descriptors: u32, words: &[&str]) -> Self {
        let address = free().await;
        let log = NamedTempFile::new().unwrap();
        let child = Command::new("prlimit")
            .arg(format!("--nofile={descriptors}:{descriptors}"))
            .args([env!("CARGO_BIN_EXE_appfw"), "forward", "--listen", &address.to_string()])
            .args(words)
            .stderr(Stdio::from(log.reopen().unwrap()))
            .spawn()
            .unwrap();
        let started = Instant::now();
        while TcpStream::connect(address).await.is_err() {
            assert!(started.elapsed() < PATIENCE, "it does not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self { child, log, address }
    }

    fn proc(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.child.id()).into()
    }

    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(self.proc("fd")).unwrap().count()
    }

    /// The numbers of its descriptors, as soon as it neither takes connections in nor lets go of them any more: on a
    /// busy machine one that was just opened or closed here is not yet so there.
    pub async fn settled_descriptors(&self) -> BTreeSet<usize> {
        const LOOKS: u32 = 10;
        let numbers = || {
            let number = |link: PathBuf| link.file_name().unwrap().to_str().unwrap().parse().unwrap();
            self.links().map(number).collect::<BTreeSet<usize>>()
        };
        let started = Instant::now();
        let (mut held, mut same) = (numbers(), 0);
        while same < LOOKS {
            assert!(started.elapsed() < PATIENCE, "its descriptors do not settle: {held:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
            let now = numbers();
            same = if now == held { same + 1 } else { 0 };
            held = now;
        }
        held
    }

    /// So many from now on.
    pub fn limit_descriptors(&self, count: usize) {
        let limit = rustix::process::Rlimit { current: Some(count as u64), maximum: Some(1024) };
        let pid = rustix::process::Pid::from_raw(self.child.id().cast_signed());
        rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limit).unwrap();
    }

    pub fn threads(&self) -> usize {
        std::fs::read_dir(self.proc("task")).unwrap().count()
    }

    pub fn open(&self) -> Open {
        let mut open = Open::default();
        // What is closed meanwhile is not open.
        for target in self.links().filter_map(|link| std::fs::read_link(link).ok()) {
            match target.to_string_lossy().split(':').next() {
                Some("socket") => open.sockets += 1,
                Some("pipe") => open.pipes += 1,
                _ => open.others += 1,
            }
        }
        open
    }

    /// Bytes that rest in its pipes.
    pub fn bytes_in_pipes(&self) -> u64 {
        let is_pipe =
            |link: &PathBuf| std::fs::read_link(link).is_ok_and(|to| to.to_string_lossy().starts_with("pipe:"));
        // Opened anew, by either end: ioctl_pipe(2), FIONREAD is of the pipe.
        let pipes = self.links().filter(is_pipe).filter_map(|link| File::open(link).ok());
        pipes.map(|pipe| rustix::io::ioctl_fionread(pipe.as_fd()).unwrap()).sum()
    }

    fn links(&self) -> impl Iterator<Item = PathBuf> + use<> {
        std::fs::read_dir(self.proc("fd")).unwrap().filter_map(|entry| Some(entry.ok()?.path()))
    }

    /// Its largest size so far, in KiB.
    pub fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until no more descriptors are open than `before`.
    pub async fn rests(&self, before: usize) {
        let started = Instant::now();
        while self.descriptors() > before {
            assert!(started.elapsed() < PATIENCE, "{} descriptors are left, {before} before", self.descriptors());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
