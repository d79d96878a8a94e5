//! What appfw-run asks the kernel for that no crate has a safe call for. A crate of its own, as it takes the only `unsafe`
//! there is.

pub mod bpf;

use std::io;

/// Goes on as two processes: the child gets `None`, its parent the child's number. The child has a copy of everything, and
/// whatever would be done at the end of what the parent holds is done twice.
///
/// # Errors
/// This process has other threads: its child, which has none of them, could wait for ever for a lock that one of them held
/// (fork(2)). Or the kernel's: EAGAIN, ENOMEM.
pub fn fork() -> io::Result<Option<i32>> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("a process with threads is not forked"));
    }
    // SAFETY: this is the only thread, and nobody else can start one; so nothing is held that the child waits for.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        child => Ok(Some(child)),
    }
}
