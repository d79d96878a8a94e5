//! The commands of a wrapper script, as far as they can be told without running it: variables that are set
//! in it, `$0` and its directory; what else is computed is not known, and taken for the script's directory
//! where a path begins with it (`"$HERE/chrome"`).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::iter::Peekable;
use std::path::Path;
use std::str::Chars;

use super::{Surroundings, read};

/// Wrapper scripts are short; Chrome's has 3 KiB.
const MOST: u64 = 64 << 10;
/// Bounds what a script of many assignments makes of itself.
const MAX_WORD: usize = 4096;

/// In a word being read: what is not known, and what the caller gave (`$@`).
const UNKNOWN: char = '\0';
const GIVEN: char = '\u{1}';

/// Words before the command itself.
const BEFORE: [&str; 14] =
    ["if", "then", "else", "elif", "do", "while", "until", "!", "{", "command", "builtin", "env", "export", "nohup"];

/// The commands that a script may run to be what it is called: each with the arguments that it adds.
pub(super) fn commands(file: &Path, surroundings: &Surroundings) -> Vec<(OsString, Vec<OsString>)> {
    let Some(text) = read(file, MOST) else { return Vec::new() };
    let text = String::from_utf8_lossy(&text).replace("\\\n", " ").replace([UNKNOWN, GIVEN], "");
    let mut reader = Reader { rest: text.chars().peekable(), variables: BTreeMap::new(), file, surroundings };
    let mut commands = Vec::new();
    while let Some(words) = reader.statement() {
        commands.extend(reader.command(words));
    }
    commands
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    variables: BTreeMap<String, String>,
    file: &'a Path,
    surroundings: &'a Surroundings,
}

impl Reader<'_> {
    /// The words up to the next separator; `None` at the end.
    fn statement(&mut self) -> Option<Vec<String>> {
        let mut words = Vec::new();
        self.rest.peek()?;
        while let Some(next) = self.rest.peek().copied() {
            match next {
                '\n' | ';' | '&' | '|' | '(' | ')' => {
                    self.rest.next();
                    break;
                }
                '#' => while self.rest.next_if(|c| *c != '\n').is_some() {},
                _ if next.is_whitespace() => drop(self.rest.next()),
                _ => words.push(self.word()),
            }
        }
        Some(words)
    }

    fn word(&mut self) -> String {
        let mut word = String::new();
        let mut in_quotes = false;
        while let Some(next) = self.rest.peek().copied() {
            if !in_quotes && (next.is_whitespace() || ";&|()".contains(next)) {
                break;
            }
            self.rest.next();
            match next {
                '"' => in_quotes = !in_quotes,
                '\'' if !in_quotes => word += &self.up_to('\''),
                '\\' => word.extend(self.rest.next()),
                '$' => self.expand(&mut word),
                '`' => {
                    let inner = self.up_to('`');
                    word += &self.output(&inner);
                }
                _ => word.push(next),
            }
        }
        let end = (0..=MAX_WORD.min(word.len())).rev().find(|at| word.is_char_boundary(*at)).unwrap_or(0);
        word.truncate(end);
        word
    }

    fn up_to(&mut self, end: char) -> String {
        let mut text = String::new();
        while let Some(next) = self.rest.next().filter(|next| *next != end) {
            text.push(next);
        }
        text
    }

    /// What stands after a `$`.
    fn expand(&mut self, word: &mut String) {
        match self.rest.peek().copied() {
            Some('(') => {
                self.rest.next();
                let inner = self.in_parentheses();
                *word += &self.output(&inner);
            }
            Some('{') => {
                self.rest.next();
                let inner = self.up_to('}');
                *word += &self.parameter(&inner);
            }
            Some('@' | '*') => {
                self.rest.next();
                word.push(GIVEN);
            }
            Some(digit) if digit.is_ascii_digit() => {
                self.rest.next();
                *word += &self.value(&digit.to_string());
            }
            _ => {
                let mut name = String::new();
                while let Some(next) = self.rest.next_if(|c| is_of_name(*c)) {
                    name.push(next);
                }
                *word += &self.value(&name);
            }
        }
    }

    fn in_parentheses(&mut self) -> String {
        let mut text = String::new();
        let mut depth = 1;
        for next in self.rest.by_ref() {
            match next {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            text.push(next);
        }
        text
    }

    /// `${NAME}`, `${NAME%/*}` and `${NAME:-WORD}`.
    fn parameter(&self, text: &str) -> String {
        let end = text.find(|c| !is_of_name(c)).unwrap_or(text.len());
        let (name, operation) = text.split_at(end);
        let value = self.value(name);
        match operation {
            "" => value,
            "%/*" | "%/*}" => value.rsplit_once('/').map_or(value.clone(), |(directory, _)| directory.to_owned()),
            _ => match operation.strip_prefix(":-").or_else(|| operation.strip_prefix('-')) {
                Some(default) if value.contains(UNKNOWN) && !default.contains(['$', '`']) => default.to_owned(),
                _ => value,
            },
        }
    }

    fn value(&self, name: &str) -> String {
        let set = || self.surroundings.variable(name)?.to_str().map(str::to_owned);
        match name {
            "0" => self.file.to_string_lossy().into_owned(),
            _ => self.variables.get(name).cloned().or_else(set).unwrap_or_else(|| UNKNOWN.to_string()),
        }
    }

    /// What a command within a word writes, if it is about where the script is.
    fn output(&self, command: &str) -> String {
        let about_itself =
            ["$0", "BASH_SOURCE", "readlink", "realpath", "WRAPPER"].iter().any(|it| command.contains(it));
        match (command.contains("dirname"), about_itself) {
            (true, true) => self.directory(),
            (false, true) => self.file.to_string_lossy().into_owned(),
            _ => UNKNOWN.to_string(),
        }
    }

    fn directory(&self) -> String {
        self.file.parent().unwrap_or(self.file).to_string_lossy().into_owned()
    }

    /// Takes assignments; the command of the statement, if it is one that may stand for the script.
    fn command(&mut self, words: Vec<String>) -> Option<(OsString, Vec<OsString>)> {
        let passes_on = words.iter().any(|word| word.contains(GIVEN));
        let mut is_last = false;
        let mut words = words.into_iter().peekable();
        loop {
            let word = words.next()?;
            if word == "exec" {
                is_last = true;
                // exec -a NAME: what the program is told that it is called.
                if words.next_if(|option| option == "-a").is_some() {
                    words.next();
                }
            } else if let Some((name, value)) = assignment(&word) {
                self.variables.insert(name.to_owned(), value.to_owned());
            } else if !BEFORE.contains(&word.as_str()) {
                let word = self.known(word)?;
                let may_be = is_last || passes_on || word.contains('/');
                let arguments = words.filter_map(|word| self.known(word)).map(OsString::from).collect();
                return may_be.then(|| (word.into(), arguments));
            }
        }
    }

    /// A word that is known, or whose beginning alone isn't.
    fn known(&self, word: String) -> Option<String> {
        let word = match word.strip_prefix(UNKNOWN) {
            Some(rest) if rest.starts_with('/') => self.directory() + rest,
            _ => word,
        };
        (!word.is_empty() && !word.contains([UNKNOWN, GIVEN])).then_some(word)
    }
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The name and the value of a variable that a word sets before a shell's command.
pub(crate) fn assignment(word: &str) -> Option<(&str, &str)> {
    let (name, value) = word.split_once('=')?;
    (!name.is_empty() && name.chars().all(is_of_name)).then_some((name, value))
}
