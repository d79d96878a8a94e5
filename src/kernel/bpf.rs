//! Two questions to bpf(2): what is pinned at a path, and what is attached to a cgroup. libbpf-rs is C below, and aya 0.14
//! asks a cgroup for its device programs alone.

use std::ffi::{CString, c_int, c_long};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// enum bpf_cmd of linux/bpf.h
const BPF_OBJ_GET: c_int = 7;
const BPF_PROG_QUERY: c_int = 16;
/// BPF_CGROUP_MAX_PROGS of the kernel's include/linux/bpf-cgroup-defs.h: no cgroup has more attached to itself.
const MAX_PROGRAMS: usize = 64;

/// Where a program is attached to a cgroup: enum bpf_attach_type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Attachment {
    /// BPF_CGROUP_INET_INGRESS
    Ingress = 0,
    /// BPF_CGROUP_INET_EGRESS
    Egress = 1,
}

/// As union bpf_attr has it for BPF_OBJ_GET.
#[repr(C)]
struct ObjectGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// As union bpf_attr has it for BPF_PROG_QUERY.
#[repr(C)]
struct ProgramQuery {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

/// Opens the program, map or link that is pinned there; closed on exec.
///
/// # Errors
/// The kernel's: ENOENT; EACCES, what is there is nothing of BPF's; EPERM.
pub fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut asked = ObjectGet { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: `asked` is what this command takes, and `path` outlives the call.
    let descriptor = unsafe { bpf(BPF_OBJ_GET, &mut asked) }?;
    let descriptor = c_int::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it for nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// The numbers of the programs that are attached to a cgroup itself, not to those above it.
///
/// # Errors
/// The kernel's: EPERM without CAP_NET_ADMIN.
pub fn attached(cgroup: BorrowedFd<'_>, at: Attachment) -> io::Result<Vec<u32>> {
    let mut programs = [0_u32; MAX_PROGRAMS];
    let mut asked = ProgramQuery {
        target_fd: u32::try_from(cgroup.as_raw_fd()).map_err(io::Error::other)?,
        attach_type: at as u32,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: programs.as_mut_ptr() as u64,
        prog_cnt: MAX_PROGRAMS as u32,
        padding: 0,
    };
    // SAFETY: `asked` is what this command takes, and `programs` has room for as many as it says.
    unsafe { bpf(BPF_PROG_QUERY, &mut asked) }?;
    Ok(programs.into_iter().take(asked.prog_cnt as usize).collect())
}

/// # Safety
/// `asked` must be laid out as union bpf_attr is for `command`, and what it points to must be good for that.
unsafe fn bpf<T>(command: c_int, asked: &mut T) -> io::Result<c_long> {
    // SAFETY: the caller's word for what is pointed to; the size is that of what is passed.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(asked), size_of::<T>()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}
