//! The caller's terminal while the app has a pty of its own: raw mode, window size, and the two
//! copies of bytes between them.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe, stdin, stdout};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::termios::{
    ControlFlags, InputFlags, LocalFlags, OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr,
};
use nix::unistd::{getpgrp, tcgetpgrp};
use serde::{Deserialize, Serialize};

use crate::lifeline;

/// A terminal's settings (termios(3)), in a form that travels to the life-line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    input: u32,
    output: u32,
    control: u32,
    local: u32,
    characters: Vec<u8>,
}

impl Settings {
    /// Reads those of `terminal`.
    ///
    /// # Errors
    /// It is no terminal.
    pub fn of(terminal: impl AsFd) -> Result<Self> {
        Ok(Self::from(&tcgetattr(terminal).context("cannot read the terminal's settings")?))
    }

    /// Puts `terminal` back into these settings if it still is in the raw mode that
    /// [`Terminal::open`] made of them: a shell may have it by now.
    ///
    /// # Errors
    /// It is no terminal.
    pub fn restore_from_raw(&self, terminal: impl AsFd) -> Result<()> {
        let current = tcgetattr(&terminal).context("cannot read the terminal's settings")?;
        if self.are_before(&current) {
            let saved = self.applied_to(current);
            tcsetattr(&terminal, SetArg::TCSADRAIN, &saved).context("cannot restore the terminal")?;
        }
        Ok(())
    }

    /// Whether `current` is the raw mode that is made of these settings.
    fn are_before(&self, current: &Termios) -> bool {
        Self::from(&raw(self.applied_to(current.clone()))) == Self::from(current)
    }

    fn applied_to(&self, mut termios: Termios) -> Termios {
        termios.input_flags = InputFlags::from_bits_retain(self.input);
        termios.output_flags = OutputFlags::from_bits_retain(self.output);
        termios.control_flags = ControlFlags::from_bits_retain(self.control);
        termios.local_flags = LocalFlags::from_bits_retain(self.local);
        for (character, saved) in termios.control_chars.iter_mut().zip(&self.characters) {
            *character = *saved;
        }
        termios
    }
}

fn raw(mut termios: Termios) -> Termios {
    cfmakeraw(&mut termios);
    termios
}

impl From<&Termios> for Settings {
    fn from(termios: &Termios) -> Self {
        Self {
            input: termios.input_flags.bits(),
            output: termios.output_flags.bits(),
            control: termios.control_flags.bits(),
            local: termios.local_flags.bits(),
            characters: termios.control_chars.to_vec(),
        }
    }
}

/// The caller's terminal, joined to the app's pty: in raw mode while the launch is in its foreground. Put back as it was
/// when dropped; if the launcher is killed, by the life-line.
#[derive(Debug)]
pub struct Terminal {
    pty: OwnedFd,
    mode: Arc<Mutex<Mode>>,
    /// Tells who copies what is typed that the terminal may have another foreground.
    waker: PipeWriter,
    output_over: mpsc::Receiver<()>,
}

impl Terminal {
    /// Joins `pty`, the app's, to this process's terminal. `lifeline` is told what is to be restored.
    ///
    /// # Errors
    /// The terminal is gone, or the life-line.
    pub fn open(pty: OwnedFd, lifeline: PipeWriter) -> Result<Self> {
        let (over, output_over) = mpsc::channel();
        let mode = Arc::new(Mutex::new(Mode { lifeline: Some(lifeline), saved: None }));
        let (woken, waker) = pipe().context("cannot make a pipe")?;
        let terminal = Self { pty, mode, waker, output_over };
        terminal.resize();
        enter(&terminal.mode)?;
        let copy = || terminal.pty.try_clone().map(File::from).context("cannot duplicate the pty");
        let (to_app, from_app) = (copy()?, copy()?);
        let mode = Arc::clone(&terminal.mode);
        // Threads, because a terminal cannot be made non-blocking for one process alone.
        std::thread::spawn(move || type_into(to_app, &mode, woken));
        std::thread::spawn(move || {
            pump(from_app, stdout());
            let _ = over.send(());
        });
        Ok(terminal)
    }

    /// After a signal: the terminal may have another size, or be another's, or this launch's again.
    pub fn look(&self) {
        self.resize();
        // One that is gone is told by its reader.
        let _ = enter(&self.mode);
        // Not read any more, if its reader is gone.
        let _ = (&self.waker).write_all(&[0]);
    }

    /// Gives the pty the window size of the terminal.
    fn resize(&self) {
        // Without a size the app assumes its own default.
        if let Ok(size) = rustix::termios::tcgetwinsize(stdin()) {
            let _ = rustix::termios::tcsetwinsize(&self.pty, size);
        }
    }

    /// Waits until the app's last output has been written: the pty reports its end once nobody
    /// holds the other side, which for PID 1 is a moment after the unit has ended.
    pub fn drain(&self) {
        const PATIENCE: Duration = Duration::from_secs(2);
        let _ = self.output_over.recv_timeout(PATIENCE);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Ok(mut mode) = self.mode.lock() {
            mode.leave();
        }
    }
}

/// The mode of the caller's terminal.
#[derive(Debug)]
struct Mode {
    /// Until the launch is over.
    lifeline: Option<PipeWriter>,
    /// What raw mode was made of.
    saved: Option<Settings>,
}

impl Mode {
    /// Raw mode, if the terminal is this launch's to change and not in it yet: a shell puts its own settings back when it
    /// stops a job.
    fn enter(&mut self) -> Result<()> {
        let Some(lifeline) = &self.lifeline else { return Ok(()) };
        let saved = &mut self.saved;
        unstopped(|| {
            while !is_in_background() {
                let current = tcgetattr(stdin()).context("cannot read the terminal's settings")?;
                if saved.as_ref().is_some_and(|saved| saved.are_before(&current)) {
                    return Ok(());
                }
                let settings = Settings::from(&current);
                lifeline::remember(lifeline, &settings)?;
                // What was typed until now is kept, and the app's.
                let made = tcsetattr(stdin(), SetArg::TCSADRAIN, &raw(current));
                made.context("cannot put the terminal into raw mode")?;
                let settings = saved.insert(settings);
                if !is_in_background() {
                    break;
                }
                // Taken away between the look and the change.
                let _ = settings.restore_from_raw(stdin());
            }
            Ok(())
        })
    }

    fn leave(&mut self) {
        self.lifeline = None;
        let saved = self.saved.take();
        let restored = || saved.filter(|_| !is_in_background()).map_or(Ok(()), |saved| saved.restore_from_raw(stdin()));
        let _ = unstopped(restored);
    }
}

/// Looks at the terminal and changes it, though a shell may take it away in between: then it is not this process that is
/// stopped (SIGTTOU, tcsetattr(3)).
fn unstopped(change: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = SigSet::from(Signal::SIGTTOU).thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let outcome = change();
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
    outcome
}

fn enter(mode: &Mutex<Mode>) -> Result<()> {
    mode.lock().map_or(Ok(()), |mut mode| mode.enter())
}

/// Whether a shell has put this process into its terminal's background, where changing the terminal's modes would stop it
/// (SIGTTOU, tcsetattr(3)). Without job control there is none.
#[must_use]
pub fn is_in_background() -> bool {
    tcgetpgrp(stdin()).is_ok_and(|foreground| foreground != getpgrp())
}

/// Copies what is typed, while the launch is in the foreground.
fn type_into(mut app: File, mode: &Mutex<Mode>, mut woken: PipeReader) {
    /// How often a launch in the background looks whether it still is: a shell that brings a job to the foreground which
    /// it has not stopped sends it no SIGCONT (bash 5.2).
    const LOOK: Duration = Duration::from_millis(100);
    // Reading in the background then fails (EIO, termios(3)), and does not stop the launcher, whose app goes on.
    if SigSet::from(Signal::SIGTTIN).thread_block().is_err() {
        return;
    }
    loop {
        while is_in_background() {
            std::thread::sleep(LOOK);
        }
        if enter(mode).is_err() || !copy_until_woken(&mut app, &mut woken) {
            return;
        }
    }
}

/// Copies what is typed until somebody else may have the terminal; false once it is over, or the app.
///
/// Waits in poll(2) and never in read(2), where a launch that was stopped, and continued in the background, may find itself
/// in the foreground again at once: it would go on reading in the shell's mode.
fn copy_until_woken(app: &mut File, woken: &mut PipeReader) -> bool {
    let terminal = stdin();
    let mut buffer = [0; 8192];
    loop {
        let sources = [terminal.as_fd(), woken.as_fd()];
        let mut sources = sources.map(|source| PollFd::new(source, PollFlags::POLLIN));
        match poll(&mut sources, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            Err(_) => return false,
            Ok(_) => {}
        }
        let [_, called] = sources.map(|source| source.any() != Some(false));
        if called {
            return woken.read(&mut buffer).is_ok_and(|length| length > 0);
        }
        match nix::unistd::read(&terminal, &mut buffer) {
            Ok(length @ 1..) if app.write_all(&buffer[..length]).is_ok() => {}
            Err(Errno::EINTR) => {}
            Err(_) if is_in_background() => return true,
            _ => return false,
        }
    }
}

/// Copies until either end is over; a pty ends with EIO.
fn pump(mut from: impl Read, mut to: impl Write) {
    let mut buffer = [0; 8192];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..length]).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_mode_is_taken_back_unless_somebody_else_changed_it() {
        let pty = nix::pty::openpty(None, None).unwrap();
        let saved = Settings::of(&pty.slave).unwrap();
        let mut raw = tcgetattr(&pty.slave).unwrap();
        cfmakeraw(&mut raw);
        tcsetattr(&pty.slave, SetArg::TCSANOW, &raw).unwrap();
        assert_ne!(Settings::of(&pty.slave).unwrap(), saved);
        saved.restore_from_raw(&pty.slave).unwrap();
        assert_eq!(Settings::of(&pty.slave).unwrap(), saved);

        raw.local_flags |= LocalFlags::ECHO;
        tcsetattr(&pty.slave, SetArg::TCSANOW, &raw).unwrap();
        let shells = Settings::of(&pty.slave).unwrap();
        saved.restore_from_raw(&pty.slave).unwrap();
        assert_eq!(Settings::of(&pty.slave).unwrap(), shells);
    }
}
