//! The profiles that are compiled in: `src/profiles/*.toml`.

use super::origin::Source;
use super::sheet::{Kind, Sheet};

macro_rules! shipped {
    ($($name:literal)*) => {
        [$(($name, include_str!(concat!("../profiles/", $name, ".toml")))),*]
    };
}

/// Each with its text.
const SHIPPED: [(&str, &str); 13] = shipped! {
    "apt" "chromium" "curl" "electron" "firefox" "git" "java" "java-proxy" "rsync" "ssh" "thunderbird" "wget" "yt-dlp"
};

/// Their names.
pub fn names() -> impl Iterator<Item = &'static str> {
    SHIPPED.iter().map(|(name, _)| *name)
}

/// Those that may be for a command: its name stands in their text, quoted as TOML has it.
pub fn that_name(command: &str) -> impl Iterator<Item = &'static str> {
    let quoted = format!("\"{command}\"");
    SHIPPED.iter().filter(move |(_, text)| text.contains(&quoted)).map(|(name, _)| *name)
}

/// The text of one.
#[must_use]
pub fn text(name: &str) -> Option<&'static str> {
    SHIPPED.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// One of them.
#[must_use]
pub fn sheet(name: &str) -> Option<Sheet> {
    Some(Sheet::parse(Kind::Profile, Source::BuiltIn, text(name)?, false))
}
