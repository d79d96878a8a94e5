//! The caller's terminal while the app has a pty of its own: raw mode, window size, and the two
//! copies of bytes between them.

use std::fs::File;
use std::io::{Read, Write, stdin, stdout};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::termios::{
    ControlFlags, InputFlags, LocalFlags, OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr,
};
use serde::{Deserialize, Serialize};

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
        let mut saved = current.clone();
        self.apply_to(&mut saved);
        let mut raw = saved.clone();
        cfmakeraw(&mut raw);
        if Self::from(&raw) == Self::from(&current) {
            tcsetattr(&terminal, SetArg::TCSADRAIN, &saved).context("cannot restore the terminal")?;
        }
        Ok(())
    }

    fn apply_to(&self, termios: &mut Termios) {
        termios.input_flags = InputFlags::from_bits_retain(self.input);
        termios.output_flags = OutputFlags::from_bits_retain(self.output);
        termios.control_flags = ControlFlags::from_bits_retain(self.control);
        termios.local_flags = LocalFlags::from_bits_retain(self.local);
        for (character, saved) in termios.control_chars.iter_mut().zip(&self.characters) {
            *character = *saved;
        }
    }
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

/// The caller's terminal in raw mode, joined to the app's pty. Put back as it was when dropped; if
/// the launcher is killed, by the life-line.
#[derive(Debug)]
pub struct Terminal {
    pty: OwnedFd,
    saved: Settings,
    output_over: mpsc::Receiver<()>,
}

impl Terminal {
    /// Joins `pty`, the app's, to this process's terminal.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn open(pty: OwnedFd, saved: Settings) -> Result<Self> {
        let (over, output_over) = mpsc::channel();
        let terminal = Self { pty, saved, output_over };
        terminal.resize();
        let mut raw = tcgetattr(stdin()).context("cannot read the terminal's settings")?;
        cfmakeraw(&mut raw);
        tcsetattr(stdin(), SetArg::TCSADRAIN, &raw).context("cannot put the terminal into raw mode")?;
        let copy = || terminal.pty.try_clone().map(File::from).context("cannot duplicate the pty");
        let (to_app, from_app) = (copy()?, copy()?);
        // Threads, because a terminal cannot be made non-blocking for one process alone.
        std::thread::spawn(move || pump(stdin(), to_app));
        std::thread::spawn(move || {
            pump(from_app, stdout());
            let _ = over.send(());
        });
        Ok(terminal)
    }

    /// Gives the pty the window size of the terminal.
    pub fn resize(&self) {
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
        let _ = self.saved.restore_from_raw(stdin());
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
