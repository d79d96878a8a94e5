//! What appfw-run asks the kernel for that no crate has a safe call for. A crate of its own, as it takes the only `unsafe`
//! there is.

pub mod bpf;

use std::io;

/// Has this process told of its children's end, whatever its caller does: who ignores SIGCHLD gets no exit code, as the kernel
/// reaps what ends (wait(2)), and both that and a blocked one are inherited over an exec. Before anything is started, which
/// then has it so as well.
///
/// # Errors
/// The kernel refuses.
pub fn expect_children() -> io::Result<()> {
    // SAFETY: the set is a plain value that sigemptyset(3) makes valid; each call gets what lives here, and no handler is set.
    let failed = unsafe {
        let mut child = std::mem::zeroed();
        libc::sigemptyset(&raw mut child);
        libc::sigaddset(&raw mut child, libc::SIGCHLD);
        libc::signal(libc::SIGCHLD, libc::SIG_DFL) == libc::SIG_ERR
            || libc::sigprocmask(libc::SIG_UNBLOCK, &raw const child, std::ptr::null_mut()) == -1
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

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
