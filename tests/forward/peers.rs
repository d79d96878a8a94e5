//! The address wall's question, "whose connection is it?", put to the real kernel. Needs root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use appfw::forward::{Limits, PeerWall};

use crate::lab::*;

/// A cgroup of this test's own, gone with it.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(parent: &Path, name: &str) -> Self {
        let path = parent.join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The kernel needs a moment to bury the last process.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// Where cgroup2 is mounted, if this process may make cgroups there.
fn hierarchy() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let path = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let path = words.next()?;
        (words.next()? == "cgroup2").then(|| PathBuf::from(path))
    });
    let path = path.filter(|_| rustix::process::geteuid().is_root());
    if path.is_none() {
        assert!(
            std::env::var_os("APPFW_MUST_WORK").is_none(),
            "APPFW_MUST_WORK is set, but this is not root with a cgroup2"
        );
        eprintln!("skipped: needs root and a mounted cgroup2");
    }
    path
}

/// What the forwarder says to a process in `cgroup`: whether it greets.
async fn greets(cgroup: Option<&Path>, forwarder: std::net::SocketAddr) -> bool {
    let join = cgroup.map_or(String::new(), |cgroup| format!("echo $$ > {}/cgroup.procs; ", cgroup.display()));
    let port = forwarder.port();
    let script =
        format!(r"{join}exec 3<>/dev/tcp/127.0.0.1/{port}; printf '\005\001\000' >&3; head -c 2 <&3 | od -An -tx1");
    let run = move || Command::new("bash").args(["-c", &script]).stderr(Stdio::null()).output().unwrap();
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    String::from_utf8_lossy(&output.stdout).trim() == "05 00"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_apps_cgroup_is_served() {
    let Some(hierarchy) = hierarchy() else { return };
    let name = format!("appfw-test-{}", std::process::id());
    let outer = Cgroup::new(&hierarchy, &name);
    let path = outer.0.join("app");
    let forwarder = forwarder("direct", &[], Limits::default()).with_peers(PeerWall::new(path.clone()));
    let forwarder = run(forwarder).await;

    assert!(!greets(None, forwarder).await, "served before there is an app");
    let app = Cgroup::new(&outer.0, "app");
    assert!(greets(Some(&app.0), forwarder).await, "the app itself is not served");
    assert!(!greets(None, forwarder).await, "a process of no cgroup is served");
    assert!(!greets(Some(&outer.0), forwarder).await, "the parent is served");
    let sibling = Cgroup::new(&outer.0, "app2");
    assert!(!greets(Some(&sibling.0), forwarder).await, "a sibling is served");
    let child = Cgroup::new(&app.0, "child");
    let grandchild = Cgroup::new(&child.0, "grandchild");
    assert!(greets(Some(&grandchild.0), forwarder).await, "what is below the app is not served");

    // A restarted unit has a new directory of the same name, and another id.
    drop((grandchild, child));
    drop(app);
    assert!(!path.exists());
    assert!(!greets(Some(&sibling.0), forwarder).await);
    let again = Cgroup::new(&outer.0, "app");
    assert!(greets(Some(&again.0), forwarder).await, "the restarted app is not served");
}
