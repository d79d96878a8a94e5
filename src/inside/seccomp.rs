//! The system calls that lead past the wall, refused where no PID 1 does it (RestrictAddressFamilies=,
//! SystemCallFilter=, SystemCallArchitectures= of the app's unit). A program for another architecture
//! is killed by every filter of the crate's.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// AF_PACKET, AF_VSOCK, AF_BLUETOOTH … know nothing of network namespaces, or of its rules.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// As confinement.rs has them, and why.
const NOT_THERE: [i64; 4] =
    [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register, libc::SYS_request_key];
const NOT_PERMITTED: [i64; 2] = [libc::SYS_open_by_handle_at, libc::SYS_syslog];

/// The same calls in the x32 ABI (`__X32_SYSCALL_BIT`), which has the architecture of x86-64.
const X32: i64 = 0x4000_0000;

/// Forbids them for this process and for all that it becomes or starts.
///
/// # Errors
/// The kernel refuses the filter. Nothing may then be run.
pub fn forbid() -> Result<()> {
    let failed = "cannot forbid the system calls that lead past the wall, so nothing was run";
    nix::sys::prctl::set_no_new_privs().context(failed)?;
    for filter in filters().context(failed)? {
        seccompiler::apply_filter(&filter).context(failed)?;
    }
    Ok(())
}

fn filters() -> Result<Vec<BpfProgram>> {
    let other = FAMILIES
        .iter()
        .map(|family| {
            SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, u64::from(family.unsigned_abs()))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let families = SeccompRule::new(other)?;
    let sockets = [libc::SYS_socket, libc::SYS_socketpair];
    let of_families = sockets.iter().map(|call| (*call, vec![families.clone()])).collect();
    let x32 = sockets.iter().chain(&NOT_THERE).chain(&NOT_PERMITTED).map(|call| call | X32);
    let not_there: Vec<i64> = NOT_THERE.into_iter().chain(x32.filter(|_| cfg!(target_arch = "x86_64"))).collect();
    Ok(vec![
        compiled(of_families, libc::EAFNOSUPPORT)?,
        compiled(whatever_their_arguments(&not_there), libc::ENOSYS)?,
        compiled(whatever_their_arguments(&NOT_PERMITTED), libc::EPERM)?,
    ])
}

fn whatever_their_arguments(calls: &[i64]) -> BTreeMap<i64, Vec<SeccompRule>> {
    calls.iter().map(|call| (*call, Vec::new())).collect()
}

fn compiled(calls: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) -> Result<BpfProgram> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let answer = SeccompAction::Errno(errno.unsigned_abs());
    Ok(SeccompFilter::new(calls, SeccompAction::Allow, answer, architecture)?.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_are_fit_for_the_kernel() {
        let filters = filters().unwrap();
        assert_eq!(filters.len(), 3);
        // BPF_MAXINSNS
        assert!(filters.iter().all(|filter| !filter.is_empty() && filter.len() <= 4096));
    }
}
