//! How `appfw publish` comes into the app's namespaces, where its connections to the app begin.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use crate::inside::{self, privileges, seccomp};

/// Those of the calling process, to be handed to the launcher: what a network belongs to, and the network.
///
/// # Errors
/// They cannot be opened.
pub fn own() -> Result<Vec<OwnedFd>> {
    let open = |kind: &str| File::open(format!("/proc/self/ns/{kind}")).map(OwnedFd::from);
    ["user", "net"].into_iter().map(|kind| open(kind).context("cannot tell the app's namespaces")).collect()
}

/// Enters those that `inside` has made and handed over; nothing where PID 1 has brought this process into the
/// app's. Then it can do no more there than the app itself.
///
/// # Errors
/// The kernel refuses it, or this is the host's network still: ports of the host would be published.
pub(super) fn join(mut handed: Vec<OwnedFd>, outside: Option<u64>) -> Result<()> {
    let failed = "cannot enter the app's namespaces";
    // Before it is in the app's user namespace with the host's sockets and no capability that the app lacks.
    nix::sys::prctl::set_dumpable(false).context("cannot close this process to the app")?;
    // The user namespace first: in it this process has what entering the other one takes (setns(2)).
    handed.sort_by_key(|namespace| !is_of(namespace, "user"));
    for namespace in &handed {
        // Root's app is in the host's own where no other is permitted, and nobody enters the one that they are in.
        if is_of(namespace, "user") && is_own_user_namespace(namespace).context(failed)? {
            continue;
        }
        setns(namespace, CloneFlags::empty()).context(failed)?;
    }
    let is_hosts = match outside {
        Some(outside) => fs::metadata("/proc/self/ns/net").context(failed)?.ino() == outside,
        None => inside::leads_out(),
    };
    if is_hosts {
        bail!("this is still the host's network, whose ports are not the app's, so nothing is published");
    }
    if !handed.is_empty() {
        // Entering gave it every capability over the app, as whose user it may run.
        privileges::reduce(0)?;
    }
    // The kernel undoes it with a change of capabilities, if fs.suid_dumpable says so. To the app it must be closed:
    // the host's sockets are here (pidfd_getfd(2), ptrace(2)).
    nix::sys::prctl::set_dumpable(false).context("cannot close this process to the app")?;
    seccomp::forbid()
}

/// Whether it is a namespace of this kind, as /proc shows it: `net:[4026531840]`.
fn is_of(namespace: &impl AsFd, kind: &str) -> bool {
    let shown = fs::read_link(format!("/proc/self/fd/{}", namespace.as_fd().as_raw_fd()));
    shown.is_ok_and(|shown| shown.to_string_lossy().starts_with(&format!("{kind}:[")))
}

/// Whether a descriptor is a namespace at all.
pub(super) fn is_one(descriptor: &impl AsFd) -> bool {
    is_of(descriptor, "user") || is_of(descriptor, "net")
}

fn is_own_user_namespace(namespace: &OwnedFd) -> std::io::Result<bool> {
    let theirs = File::from(namespace.try_clone()?).metadata()?.ino();
    Ok(fs::metadata("/proc/self/ns/user")?.ino() == theirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_told_from_sockets() {
        let namespaces = own().unwrap();
        assert!(is_of(&namespaces[0], "user") && is_of(&namespaces[1], "net"));
        assert!(is_own_user_namespace(&namespaces[0]).unwrap());
        assert!(namespaces.iter().all(is_one));
        assert!(!is_one(&std::net::UdpSocket::bind("127.0.0.1:0").unwrap()));
    }

    #[test]
    fn who_is_still_in_the_hosts_network_publishes_nothing() {
        let outside = fs::metadata("/proc/self/ns/net").unwrap().ino();
        for outside in [Some(outside), None] {
            let message = join(Vec::new(), outside).unwrap_err().to_string();
            assert!(message.starts_with("this is still the host's network"), "{message}");
        }
    }
}
