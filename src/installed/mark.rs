//! The first lines of each file that we write: what made it, and how it is made again. Pure.

use serde::{Deserialize, Serialize};

/// What a file of ours begins with, for people.
const BY: &str = "# Written by appfw ";

/// What the machine's line begins with. A JSON text has no line breaks, so that no word of the command begins a
/// line of its own, and ends with a brace, so that it goes on in no other line (systemd.syntax(7)).
const LINE: &str = "# appfw-made-by: ";

/// Who made a file, and by which command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The version of `appfw`.
    pub version: String,
    /// Its arguments, without `appfw` itself and without any secret.
    pub command: Vec<String>,
    /// Whether the file's directory was made for it, and goes with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub made_directory: bool,
}

impl Mark {
    /// The mark of this version for a file that `command` makes.
    #[must_use]
    pub fn new(command: &[String]) -> Self {
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), command: command.to_vec(), made_directory: false }
    }

    /// What a command is for: a unit, or a service that is confined. A file of another is not its to write or to remove.
    #[must_use]
    pub fn subject(command: &[String]) -> &[String] {
        // `unit install NAME`, `confine SERVICE`
        let words = if command.first().is_some_and(|word| word == "unit") { 3 } else { 2 };
        &command[..words.min(command.len())]
    }

    /// The mark in the first lines of a file.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        text.lines().take(3).find_map(|line| serde_json::from_str(line.strip_prefix(LINE)?).ok())
    }

    /// Whether this is the beginning of what we write, up to a mark that is not whole.
    #[must_use]
    pub fn has_begun(text: &str) -> bool {
        match text.split_once('\n') {
            None => BY.starts_with(text) || text.starts_with(BY),
            Some((first, rest)) => {
                first.starts_with(BY) && !rest.contains('\n') && (LINE.starts_with(rest) || rest.starts_with(LINE))
            }
        }
    }

    /// What follows the mark in a file of ours.
    #[must_use]
    pub fn body(text: &str) -> &str {
        let end = text.find(LINE).and_then(|start| Some(start + text[start..].find('\n')? + 1));
        end.map_or(text, |end| &text[end..])
    }

    /// The lines themselves.
    ///
    /// # Errors
    /// None that is known: what is in a mark can be written as JSON.
    pub fn lines(&self) -> serde_json::Result<String> {
        let json = serde_json::to_string(self)?;
        Ok(format!("{BY}{}, and replaced by it: changes belong into a drop-in.\n{LINE}{json}\n", self.version))
    }

    /// Whether another version made it, which may have made it otherwise.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.version != env!("CARGO_PKG_VERSION")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_whatever_stands_in_the_command() {
        let command =
            ["unit", "install", "a\nExecStart=/bin/evil", "tab\t\"quoted\" %n $x ; \\", "ü"].map(str::to_owned);
        let mark = Mark { made_directory: true, ..Mark::new(&command) };
        let lines = mark.lines().unwrap();
        assert_eq!(lines.lines().count(), 2);
        assert!(lines.lines().all(|line| line.starts_with('#') && !line.ends_with('\\')), "{lines}");
        assert_eq!(Mark::read(&format!("{lines}[Unit]\n")), Some(mark));
        assert_eq!(Mark::body(&format!("{lines}[Unit]\n")), "[Unit]\n");
    }

    #[test]
    fn the_beginning_of_a_file_of_ours_is_told_from_what_others_wrote() {
        let lines = Mark::new(&["confine".to_owned(), "a.service".to_owned()]).lines().unwrap();
        for end in 0..lines.len() {
            assert!(Mark::has_begun(&lines[..end]), "{:?}", &lines[..end]);
        }
        for text in ["half", "\n", "# Written by me", "[Unit]\n", "# Written by appfw 0.1.0\n[Service]", &lines] {
            assert!(!Mark::has_begun(text), "{text:?}");
        }
    }

    #[test]
    fn what_others_wrote_has_no_mark() {
        let late = format!("\n\n\n{}", Mark::new(&[]).lines().unwrap());
        for text in ["", "[Unit]\n", "# appfw-made-by: nonsense\n", "# appfw-made-by: {}\n", &late] {
            assert_eq!(Mark::read(text), None, "{text:?}");
        }
    }
}
