//! What no journal hears: the launch's own log, in its directory.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe;

use crate::host::User;

/// Of the file, in bytes.
const MAX: u64 = 1 << 20;

/// The log of one launch, for the forwarder and, with `--detach`, the app.
#[derive(Debug, Clone)]
pub struct Log(Arc<File>);

impl Log {
    /// To this file, open for appending.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self(Arc::new(file))
    }

    /// The app's descriptors 0-2, of which what is written goes here.
    ///
    /// # Errors
    /// No descriptors are to be had.
    pub fn streams(&self, user: &User) -> Result<Vec<OwnedFd>> {
        let failed = "cannot make a pipe for the program's output";
        let (end, output) = std::io::pipe().context(failed)?;
        // It opens its own output by name (/dev/stdout).
        nix::unistd::fchown(&output, Some(user.uid.into()), None).context(failed)?;
        let said = pipe::Receiver::from_owned_fd(end.into()).context(failed)?;
        let log = self.clone();
        tokio::spawn(async move { log.write_down(said).await });
        let nothing = File::open("/dev/null").context(failed)?;
        Ok(vec![nothing.into(), output.try_clone().context(failed)?.into(), output.into()])
    }

    /// Another descriptor of it.
    ///
    /// # Errors
    /// No descriptor is to be had.
    pub fn descriptor(&self) -> std::io::Result<File> {
        self.0.try_clone()
    }

    /// Keeps what is said until its end, begun anew when the file grows too long. What cannot be written is
    /// lost: who speaks must not wait for it.
    pub async fn write_down(&self, mut said: impl AsyncRead + Unpin) {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(count) = said.read(&mut buffer).await
            && count > 0
        {
            if self.0.metadata().is_ok_and(|file| file.len() + count as u64 > MAX) {
                let _ = self.0.set_len(0);
            }
            let _ = (&*self.0).write_all(&buffer[..count]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    #[tokio::test]
    async fn the_log_is_bounded_and_ends_with_what_was_said_last() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("log");
        let log = Log::new(OpenOptions::new().append(true).create(true).open(&path).unwrap());
        for letter in ["a", "b"] {
            log.write_down(letter.repeat(MAX as usize - 1).as_bytes()).await;
            log.write_down(&b"over"[..]).await;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.len() as u64 <= MAX && text.ends_with("over"), "{}", text.len());
    }
}
