//! Where something stands.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// A file that keys stand in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Compiled in.
    BuiltIn,
    /// Of the machine's or the user's.
    File(PathBuf),
}

/// The place of a key or a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// In which file.
    pub source: Arc<Source>,
    /// In which line, from 1 on.
    pub line: usize,
}

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// In which file.
    pub source: Arc<Source>,
    /// Line and column, from 1 on, if it is not the file itself.
    pub position: Option<(usize, usize)>,
    /// What is wrong, and what to do.
    pub sentence: String,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built in"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self.source {
            // Nobody could open it.
            Source::BuiltIn => write!(f, "{}", self.source),
            Source::File(_) => write!(f, "{}:{}", self.source, self.line),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            Some((line, column)) => write!(f, "{}:{line}:{column}: {}", self.source, self.sentence),
            None => write!(f, "{}: {}", self.source, self.sentence),
        }
    }
}

/// Line and column of a byte of `text`, counted as editors do.
#[must_use]
pub fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}
