//! Whose connection it is. In the address wall everybody on the host can connect to the forwarder;
//! only the app's own cgroup is served.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::sock_diag::cgroup_of;

/// Directories looked through below the app's own. An app that makes more has itself to blame.
const MAX_CGROUPS: usize = 4096;

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The app.
    App,
    /// Somebody else on this host.
    Stranger,
    /// Nobody any more, or nobody that the kernel can tell.
    Gone,
}

/// Lets one cgroup in, and what is below it.
#[derive(Debug)]
pub struct PeerWall {
    cgroup: PathBuf,
}

impl PeerWall {
    /// A wall around the cgroup directory `cgroup`, which need not exist yet.
    pub fn new(cgroup: PathBuf) -> Self {
        Self { cgroup }
    }

    /// Who made the socket at the other end of a connection.
    ///
    /// A socket keeps the cgroup it was made in. The directory is read anew each time: the unit
    /// restarts with another one, and the app makes sub-cgroups as it likes.
    pub fn peer(&self, client: SocketAddr, local: SocketAddr) -> io::Result<Peer> {
        match cgroup_of(client, local)? {
            Some(id) if contains(&self.cgroup, id)? => Ok(Peer::App),
            Some(_) => Ok(Peer::Stranger),
            None => Ok(Peer::Gone),
        }
    }
}

/// Whether `id` is the inode of `directory`, or of one below it; cgroup2 uses it as the cgroup's id.
fn contains(directory: &Path, id: u64) -> io::Result<bool> {
    let mut left = vec![directory.to_owned()];
    for _ in 0..MAX_CGROUPS {
        let Some(directory) = left.pop() else { break };
        match std::fs::metadata(&directory) {
            Ok(metadata) if metadata.ino() == id => return Ok(true),
            Ok(_) => {}
            // It went while we looked: nobody is in it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        }
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        let entries = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        left.extend(entries.map(|entry| entry.path()));
    }
    Ok(false)
}
