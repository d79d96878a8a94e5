//! One file of TOML: `config.toml` or a profile, read to its end whatever is wrong in it. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{self, Key, Takes};
use super::origin::{Mistake, Origin, Source, position};
use super::vias::{self, Named};
use crate::destination::printable;
use crate::nearest::nearest;
use crate::via::Via;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `config.toml`: defaults, and named ways out.
    Config,
    /// `profiles/NAME.toml`.
    Profile,
}

/// The value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// true or false.
    Switch(bool),
    /// One string.
    Word(String),
    /// A list of them.
    Words(Vec<String>),
}

/// As a file has it. What JSON makes of a string is a basic string of TOML, the one control character apart that JSON
/// leaves as it is, and which no value has ([`keys::check`]).
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |word: &String| serde_json::Value::from(word.as_str()).to_string();
        match self {
            Self::Switch(on) => write!(f, "{on}"),
            Self::Word(word) => f.write_str(&quoted(word)),
            Self::Words(words) => match &words[..] {
                [word] => f.write_str(&quoted(word)),
                words => write!(f, "[{}]", words.iter().map(quoted).collect::<Vec<_>>().join(", ")),
            },
        }
    }
}

/// A key's value, and where it stands: in several places if lists were added up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Value,
    /// Where it stands.
    pub origins: Vec<Origin>,
    /// Where lower places say otherwise.
    pub replaced: Vec<Origin>,
}

impl Entry {
    /// Whether it is of a shipped profile alone.
    #[must_use]
    pub fn is_built_in(&self) -> bool {
        self.origins.iter().all(|origin| *origin.source == Source::BuiltIn)
    }

    /// Adds a lower place's list to this one.
    pub fn add(&mut self, lower: &Self) {
        if let (Value::Words(words), Value::Words(more)) = (&mut self.value, &lower.value) {
            let new: Vec<String> = more.iter().filter(|word| !words.contains(word)).cloned().collect();
            words.extend(new);
            self.origins.extend(lower.origins.iter().cloned());
        }
    }

    /// Takes the place of what a lower place says.
    pub fn replace(&mut self, lower: &Self) {
        if self.value != lower.value {
            self.replaced.extend(lower.origins.iter().cloned());
        }
    }
}

/// What a file says.
#[derive(Debug, Clone)]
pub struct Sheet {
    /// The file.
    pub source: Arc<Source>,
    /// Its keys.
    pub entries: BTreeMap<String, Entry>,
    /// The ways out that it names.
    pub vias: BTreeMap<String, Named>,
    /// What is wrong with it.
    pub mistakes: Vec<Mistake>,
    /// Whether it can be told all the same which commands a profile is for.
    pub tells_commands: bool,
}

impl Sheet {
    /// Reads `text`. Whether it is `private` decides on passwords in it.
    #[must_use]
    pub fn parse(kind: Kind, source: Source, text: &str, private: bool) -> Self {
        let mut sheet = Self::empty(source);
        let (table, errors) = DeTable::parse_recoverable(text);
        sheet.tells_commands = errors.is_empty();
        let mut reader = Reader { kind, text, private, keys: keys::all(kind == Kind::Profile), sheet };
        for error in errors {
            let span = error.span().unwrap_or_default();
            let sentence = unquoted(text, span.start, error.message()).unwrap_or(error.message().replace('\n', ", "));
            reader.mistake(span, sentence);
        }
        reader.read(table.get_ref());
        reader.sheet
    }

    /// A file that could not be read.
    #[must_use]
    pub fn unreadable(source: Source, sentence: String) -> Self {
        let mut sheet = Self::empty(source);
        sheet.mistake(None, sentence);
        sheet
    }

    /// Remembers what is wrong.
    pub fn mistake(&mut self, position: Option<(usize, usize)>, sentence: String) {
        self.mistakes.push(Mistake { source: Arc::clone(&self.source), position, sentence });
    }

    /// One that says nothing.
    pub fn empty(source: Source) -> Self {
        Self {
            source: Arc::new(source),
            entries: BTreeMap::new(),
            vias: BTreeMap::new(),
            mistakes: Vec::new(),
            tells_commands: false,
        }
    }
}

struct Reader<'a> {
    kind: Kind,
    text: &'a str,
    private: bool,
    keys: &'static [Key],
    sheet: Sheet,
}

impl Reader<'_> {
    fn read(&mut self, table: &DeTable<'_>) {
        for (name, value) in table {
            if self.kind == Kind::Config && name.get_ref() == "vias" {
                self.vias(value);
                continue;
            }
            match self.keys.iter().find(|key| key.name == *name.get_ref()).cloned() {
                Some(key) => self.entry(&key, name, value),
                None => self.unknown(name),
            }
        }
    }

    fn unknown(&mut self, name: &Spanned<Cow<'_, str>>) {
        let word = name.get_ref();
        let near = nearest(word, self.keys.iter().map(|key| key.name.as_str()));
        self.sheet.tells_commands &= near != Some("commands");
        let sentence = match (self.kind, &**word) {
            (Kind::Profile, "vias") => "ways out are named in config.toml: write [vias.NAME] there".to_owned(),
            (Kind::Config, "commands" | "description") => {
                format!("{word} is a key of profiles, and config.toml is for every program")
            }
            (_, "system" | "user" | "standalone") => format!("{word} is no key: write manager = \"{word}\""),
            (_, "no-capture") => "no-capture is no key: write capture = false".to_owned(),
            (_, "") => "\"\" is no key: write one before the =".to_owned(),
            _ if keys::is_of_one_launch(word) => {
                format!("{word} is no key: it is about one launch, say --{word} there")
            }
            _ => match near {
                Some(near) => format!("{} is no key: did you mean {near}?", printable(word)),
                None => format!("{} is no key: docs/profiles.md lists them", printable(word)),
            },
        };
        self.mistake(name.span(), sentence);
    }

    fn entry(&mut self, key: &Key, name: &Spanned<Cow<'_, str>>, value: &Spanned<DeValue<'_>>) {
        let Some(read) = self.value(key, value) else {
            self.sheet.tells_commands &= key.name != "commands";
            return;
        };
        if let Value::Words(words) = &read {
            // What only all of them together show; each by itself has passed.
            if let Err(error) = keys::check(&key.name, words) {
                return self.mistake(name.span(), format!("{error:#}"));
            }
        }
        let (line, _) = position(self.text, name.span().start);
        let origin = Origin { source: Arc::clone(&self.sheet.source), line };
        self.sheet.entries.insert(key.name.clone(), Entry { value: read, origins: vec![origin], replaced: Vec::new() });
    }

    fn value(&mut self, key: &Key, value: &Spanned<DeValue<'_>>) -> Option<Value> {
        match (&key.takes, value.get_ref()) {
            (Takes::Switch, DeValue::Boolean(on)) => Some(Value::Switch(*on)),
            (Takes::Word, _) => self.word(key, value).map(Value::Word),
            (Takes::OneOf(choices), DeValue::String(word)) => {
                if choices.iter().any(|choice| choice == word) {
                    return Some(Value::Word(word.clone().into_owned()));
                }
                let near = nearest(word, choices.iter().map(String::as_str));
                let near = near.map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default();
                let takes = key.takes.describe();
                self.mistake(value.span(), format!("{} {}: takes {takes}{near}", key.name, printable(word)));
                None
            }
            (Takes::Words, DeValue::Array(items)) => {
                let words: Vec<_> = items.iter().map(|item| self.word(key, item)).collect();
                words.into_iter().collect::<Option<Vec<_>>>().map(Value::Words)
            }
            (Takes::Words, _) => self.word(key, value).map(|word| Value::Words(vec![word])),
            _ => self.wrong_type(key, value),
        }
    }

    fn word(&mut self, key: &Key, value: &Spanned<DeValue<'_>>) -> Option<String> {
        let word = match value.get_ref() {
            DeValue::String(word) => word.clone().into_owned(),
            DeValue::Integer(number) if keys::takes_number(&key.name) && number.radix() == 10 => {
                number.as_str().to_owned()
            }
            _ => return self.wrong_type(key, value),
        };
        if let Err(error) = keys::check(&key.name, std::slice::from_ref(&word)) {
            self.mistake(value.span(), format!("{error:#}"));
            return None;
        }
        if key.name == "via" {
            self.refuse_password(&word, value.span())?;
        }
        Some(word)
    }

    fn wrong_type<T>(&mut self, key: &Key, value: &Spanned<DeValue<'_>>) -> Option<T> {
        let hint = match (key.name.as_str(), value.get_ref()) {
            ("via", DeValue::Table(_)) => "; a way out gets a name by [vias.NAME]",
            _ => "",
        };
        let place = Some(position(self.text, value.span().start));
        if self.sheet.mistakes.iter().any(|mistake| mistake.position == place) {
            // It is no TOML, and has been told.
            return None;
        }
        let (takes, found) = (key.takes.describe(), value.get_ref().type_str());
        self.mistake(value.span(), format!("{} takes {takes}, and this is {}{hint}", key.name, with_article(found)));
        None
    }

    fn refuse_password(&mut self, spec: &str, span: Range<usize>) -> Option<()> {
        let has_secret = Via::parse(&[spec.to_owned()]).is_ok_and(|via| via.has_secret());
        if has_secret && !self.private {
            let path = self.sheet.source.to_string();
            self.mistake(
                span,
                format!(
                    "a password stands here, and other users can read this file: chmod 600 {path}, or name a file that holds the whole line, by [vias.NAME] with file = \"/path\" in config.toml"
                ),
            );
            return None;
        }
        Some(())
    }

    /// `[vias.NAME]`.
    fn vias(&mut self, value: &Spanned<DeValue<'_>>) {
        let DeValue::Table(table) = value.get_ref() else {
            return self.mistake(value.span(), "vias is a table: write [vias.NAME] and spec = \"…\" below".to_owned());
        };
        for (name, value) in table {
            if let Some(sentence) = vias::refused_name(name.get_ref()) {
                self.mistake(name.span(), sentence);
                continue;
            }
            let DeValue::Table(fields) = value.get_ref() else {
                let sentence = format!("write [vias.{}] and spec = \"…\" below", printable(name.get_ref()));
                self.mistake(value.span(), sentence);
                continue;
            };
            if let Some(named) = self.named(name, fields) {
                self.sheet.vias.insert(name.get_ref().clone().into_owned(), named);
            }
        }
    }

    fn named(&mut self, name: &Spanned<Cow<'_, str>>, fields: &DeTable<'_>) -> Option<Named> {
        let before = self.sheet.mistakes.len();
        let mut found = Vec::new();
        for (field, value) in fields {
            match vias::field(field.get_ref()) {
                Some(takes) => {
                    let key = Key { name: field.get_ref().clone().into_owned(), takes };
                    let read = self.value(&key, value);
                    found.extend(read.map(|read| (key.name, read, value.span())));
                }
                None if self.keys.iter().any(|key| key.name == *field.get_ref()) => {
                    let (word, name) = (field.get_ref(), name.get_ref());
                    let sentence =
                        format!("{word} is no key of a way out, but of all programs: move it above [vias.{name}]");
                    self.mistake(field.span(), sentence);
                }
                None => {
                    let near = nearest(field.get_ref(), vias::FIELDS.into_iter());
                    let near = near.map(|near| format!("did you mean {near}?"));
                    let known = "it takes spec, file or credential".to_owned();
                    let word = printable(field.get_ref());
                    self.mistake(field.span(), format!("{word} is no key of a way out: {}", near.unwrap_or(known)));
                }
            }
        }
        if self.sheet.mistakes.len() > before {
            return None;
        }
        let [(field, value, span)] = &found[..] else {
            let sentence = format!("[vias.{}] takes one of spec, file and credential", name.get_ref());
            self.mistake(name.span(), sentence);
            return None;
        };
        match Named::new(field, value) {
            Ok(named) => {
                if let Named::Specs(specs) = &named {
                    specs.iter().try_for_each(|spec| self.refuse_password(spec, span.clone()))?;
                }
                Some(named)
            }
            Err(error) => {
                self.mistake(span.clone(), format!("{error:#}"));
                None
            }
        }
    }

    fn mistake(&mut self, span: Range<usize>, sentence: String) {
        self.sheet.mistake(Some(position(self.text, span.start)), sentence);
    }
}

/// What the parser says of a value without quotes, which it takes for the beginning of something else.
fn unquoted(text: &str, start: usize, message: &str) -> Option<String> {
    let is_about_that = ["invalid boolean", "invalid float", "string values must be quoted"];
    is_about_that.iter().find(|said| message.starts_with(*said))?;
    let word = text.get(start..)?.split(|c: char| c.is_whitespace() || "\"',]}#".contains(c)).next()?;
    (!word.is_empty()).then(|| format!("{} stands without quotes: write \"{0}\"", printable(word)))
}

fn with_article(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {kind}")
}
