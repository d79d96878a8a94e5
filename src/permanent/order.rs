//! What `inside` is told where there is no launcher: a file that root has written just before, in a directory that no
//! app sees. It is root's, so that no other process of the app's user changes it.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::control::Order;
use crate::host::User;

/// The namespaces of the host, which must not be the app's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outside {
    /// The inode number of its network namespace.
    pub network: u64,
    /// That of its user namespace, where the app has one of its own.
    pub user: Option<u64>,
}

/// An order that stands until the next start.
#[derive(Debug, PartialEq, Eq)]
pub struct Standing {
    /// Where the app is not.
    pub outside: Outside,
    /// What it is.
    pub order: Order,
}

#[derive(Serialize, Deserialize)]
struct Head {
    version: String,
    outside: Outside,
}

impl Standing {
    /// Writes it for this user's app.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path, user: &User) -> Result<()> {
        let failed = || format!("cannot write {}", path.display());
        let head = Head { version: env!("CARGO_PKG_VERSION").to_owned(), outside: self.outside };
        let mut bytes = serde_json::to_vec(&head)?;
        bytes.push(b'\n');
        bytes.extend(self.order.to_bytes()?);
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        opened.and_then(|mut file| file.write_all(&bytes)).with_context(failed)?;
        chown(path, None, Some(user.gid)).with_context(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o640)).with_context(failed)
    }

    /// Reads it.
    ///
    /// # Errors
    /// There is none, or it is another version's.
    pub fn read(path: &Path) -> Result<Self> {
        let opened = File::open(path);
        let failed = || format!("nothing stands in {}, which appfw ready writes at each start", path.display());
        let mut reader = BufReader::new(opened.with_context(failed)?);
        let mut line = String::new();
        reader.read_line(&mut line).with_context(failed)?;
        let Head { version, outside } = serde_json::from_str(&line).with_context(failed)?;
        if version != env!("CARGO_PKG_VERSION") {
            bail!("{} is of appfw {version}: start the unit again", path.display());
        }
        Ok(Self { outside, order: Order::read(reader)? })
    }
}
