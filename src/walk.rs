//! A path from its first directory on, as the kernel walks it: by its names, what links lead to in their place
//! (path_resolution(7)). Pure: who walks looks at each place, and says what is there.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// How many links the kernel follows.
const MAX_LINKS: usize = 40;

/// A walk that is under way.
#[derive(Debug)]
pub struct Walk {
    /// Where it is: without links.
    here: PathBuf,
    /// The names ahead, the last one first.
    ahead: Vec<OsString>,
    links: usize,
}

impl Walk {
    /// The walk of an absolute path.
    #[must_use]
    pub fn to(path: &Path) -> Self {
        Self { here: "/".into(), ahead: backwards(path), links: 0 }
    }

    /// Where it is.
    #[must_use]
    pub fn here(&self) -> &Path {
        &self.here
    }

    /// Whether there is more of it.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// The next place, below where it is; then [`Self::enter`] or [`Self::follow`] says what was there.
    #[must_use]
    pub fn step(&mut self) -> Option<PathBuf> {
        loop {
            let part = self.ahead.pop()?;
            if part != ".." {
                return Some(self.here.join(part));
            }
            self.here.pop();
        }
    }

    /// The place is no link.
    pub fn enter(&mut self, place: PathBuf) {
        self.here = place;
    }

    /// The place is a link to `target`; `None` if there were too many.
    #[must_use]
    pub fn follow(&mut self, target: &Path) -> Option<()> {
        self.links += 1;
        if target.is_absolute() {
            self.here = "/".into();
        }
        self.ahead.extend(backwards(target));
        (self.links <= MAX_LINKS).then_some(())
    }
}

fn backwards(path: &Path) -> Vec<OsString> {
    let is_step = |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::ParentDir);
    path.components().rev().filter(is_step).map(|part| part.as_os_str().to_owned()).collect()
}
