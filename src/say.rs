//! What is said: sentences on standard error, answers on standard output.

use std::ffi::OsStr;

use anyhow::{Context, Result};

/// The launcher's voice.
#[derive(Debug, Clone, Copy)]
pub struct Say {
    program: &'static str,
    quiet: bool,
    verbose: bool,
}

impl Say {
    /// From `--quiet` and `--verbose`.
    #[must_use]
    pub fn new(quiet: bool, verbose: bool) -> Self {
        Self { program: "appfw-run", quiet, verbose }
    }

    /// The same of `appfw`.
    #[must_use]
    pub fn of_appfw(quiet: bool, verbose: bool) -> Self {
        Self { program: "appfw", quiet, verbose }
    }

    /// What the user should know, unless `--quiet`.
    pub fn plain(&self, sentence: &str) {
        if !self.quiet {
            print(self.program, sentence);
        }
    }

    /// What could be a mistake, unless `--quiet`.
    pub fn warning(&self, sentence: &str) {
        self.plain(&format!("warning: {sentence}"));
    }

    /// What is done, with `--verbose`.
    pub fn detail(&self, sentence: &str) {
        if self.verbose {
            print(self.program, sentence);
        }
    }
}

/// A word of the user's as it stands in a sentence: a long one is cut.
#[must_use]
pub fn shown(word: &OsStr) -> String {
    const MOST: usize = 200;
    let text = word.to_string_lossy();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    }
}

/// An answer, on standard output. Who has read as much of it as they want closes that, which is no error.
///
/// # Errors
/// It cannot be written.
pub fn answer(text: &str) -> Result<()> {
    use std::io::{ErrorKind, Write};
    let mut output = std::io::stdout();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write to standard output"),
        _ => Ok(()),
    }
}

/// What `program` failed of, with its causes.
pub fn failure(program: &str, error: &anyhow::Error) {
    print(program, &format!("{error:#}"));
}

/// A sentence of several that `program` has to say.
pub fn complaint(program: &str, sentence: &str) {
    print(program, sentence);
}

/// One line on standard error. A terminal in raw mode needs the carriage return, and shows no
/// difference otherwise; a closed standard error leaves nobody to tell.
fn print(program: &str, sentence: &str) {
    use std::io::{IsTerminal, Write};
    let mut errors = std::io::stderr();
    let end = if errors.is_terminal() { "\r\n" } else { "\n" };
    // In one write: the app writes to the same place.
    let _ = errors.write_all(format!("{program}: {}{end}", harmless(sentence)).as_bytes());
}

/// Names of programs and files stand in sentences: none of them may steer the terminal.
#[must_use]
pub fn harmless(sentence: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_default().collect() } else { c.to_string() };
    sentence.chars().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(harmless("/tmp/\x1b[31mü\r\n"), "/tmp/\\u{1b}[31mü\\r\\n");
    }
}
