//! Ways out that `config.toml` gives a name, so that no command line needs a password: `[vias.NAME]`.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::keys::Takes;
use super::places::configuration;
use super::sheet::{Sheet, Value};
use crate::destination::printable;
use crate::host::Host;
use crate::nearest::nearest;
use crate::via::Via;

/// Words of `--via` that mean something already.
const TAKEN: [&str; 3] = ["tor", "direct", "none"];
/// What a way out is given by.
pub const FIELDS: [&str; 3] = ["spec", "file", "credential"];
const MAX_NAME: usize = 64;

/// A way out with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// As after `--via`; several are a chain.
    Specs(Vec<String>),
    /// As after `--via @`.
    File(String),
    /// One of systemd's credentials (systemd.exec(5), LoadCredential=).
    Credential(String),
}

/// Whether a word of `--via` is a name of the configuration.
#[must_use]
pub fn is_name(word: &str) -> bool {
    refused_name(word).is_none()
}

/// Why a word can be no name.
#[must_use]
pub fn refused_name(word: &str) -> Option<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if word.is_empty() || word.len() > MAX_NAME || !word.chars().all(allowed) {
        return Some(format!("the name {} of a way out: takes 1 to {MAX_NAME} of A-Z a-z 0-9 _ . -", printable(word)));
    }
    TAKEN.contains(&word).then(|| format!("{word} has a meaning after --via already: choose another name"))
}

/// What a field of `[vias.NAME]` takes.
#[must_use]
pub fn field(name: &str) -> Option<Takes> {
    match name {
        "spec" => Some(Takes::Words),
        "file" | "credential" => Some(Takes::Word),
        _ => None,
    }
}

impl Named {
    /// By the one field that is given.
    ///
    /// # Errors
    /// The value is none.
    pub fn new(field: &str, value: &Value) -> Result<Self> {
        match (field, value) {
            ("spec", Value::Words(specs)) => {
                Via::parse(specs)?;
                Ok(Self::Specs(specs.clone()))
            }
            ("file", Value::Word(path)) => {
                ensure!(path.starts_with('/'), "file {path:?}: write an absolute path");
                Ok(Self::File(path.clone()))
            }
            (_, Value::Word(name)) => {
                // credential_name_valid() of systemd's src/shared/creds-util.c: a file's name.
                let is_one = !name.contains('/') && ![".", ".."].contains(&name.as_str()) && name.is_ascii();
                ensure!(is_one, "credential {name:?}: takes a name, such as appfw.via, and no path");
                Ok(Self::Credential(name.clone()))
            }
            _ => bail!("takes a string"),
        }
    }

    /// As `--via` would have it.
    fn specs(&self, name: &str, root: &Path, host: &Host) -> Result<Vec<String>> {
        match self {
            Self::Specs(specs) => Ok(specs.clone()),
            Self::File(path) => Ok(vec![format!("@{path}")]),
            Self::Credential(credential) => {
                let places = credential_places(root, host);
                let Some(found) = first(&places, credential)? else {
                    let places: Vec<String> = places.iter().map(|store| store.place.display().to_string()).collect();
                    bail!(
                        "--via {name}: there is no credential {credential}, looked for in {}; put a file of mode 0600 there",
                        places.join(", ")
                    )
                };
                let path = found.to_str().with_context(|| format!("{} is not UTF-8", found.display()))?;
                Ok(vec![format!("@{path}")])
            }
        }
    }
}

/// A directory of credentials.
struct Store {
    place: PathBuf,
    /// Whether it is the machine's, which root may close to others.
    is_machines: bool,
}

/// The first that is there. What the user, or a program of the user's, has closed may hold it: those after that don't
/// count then.
fn first(stores: &[Store], credential: &str) -> Result<Option<PathBuf>> {
    let looked = stores.iter().find_map(|Store { place, is_machines }| {
        let path = place.join(credential);
        match path.symlink_metadata() {
            Ok(_) => Some(Ok(path)),
            Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => None,
            Err(error) if error.kind() == ErrorKind::PermissionDenied && *is_machines => None,
            Err(error) => Some(Err(error).with_context(|| {
                format!(
                    "cannot tell whether {} is there, which would be the way out: open it to yourself",
                    path.display()
                )
            })),
        }
    });
    looked.transpose()
}

/// Where `LoadCredential=` would look: the service's own, then systemd's stores.
fn credential_places(root: &Path, host: &Host) -> Vec<Store> {
    let below = |variable: &str| host.variable(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let own = below("CREDENTIALS_DIRECTORY");
    let users = match host.caller.is_root() {
        true => Vec::new(),
        false => std::iter::once(configuration(host))
            .chain(host.runtime_directory(root))
            .map(|base| base.join("credstore"))
            .collect(),
    };
    let systems = ["etc/credstore", "run/credstore", "usr/local/lib/credstore", "usr/lib/credstore"];
    let own = own.into_iter().chain(users).map(|place| Store { place, is_machines: false });
    own.chain(systems.map(|place| Store { place: root.join(place), is_machines: true })).collect()
}

/// The names of all places: a higher one's way out replaces a lower one's of the same name.
#[must_use]
pub fn merged(configuration: &[Sheet]) -> BTreeMap<String, Named> {
    let lowest_first = configuration.iter().rev();
    lowest_first.flat_map(|sheet| &sheet.vias).map(|(name, named)| (name.clone(), named.clone())).collect()
}

/// The words of `--via` with each name replaced by what it stands for.
///
/// # Errors
/// A name that is none; a credential that is not there.
pub fn resolve(words: &[String], named: &BTreeMap<String, Named>, root: &Path, host: &Host) -> Result<Vec<String>> {
    let mut specs = Vec::new();
    for word in words {
        match named.get(word) {
            Some(named) => specs.extend(named.specs(word, root, host)?),
            None if is_name(word) => match nearest(word, named.keys().map(String::as_str).chain(TAKEN)) {
                Some(near) => bail!("--via {word} is no way out; did you mean {near}?"),
                None => bail!(
                    "--via {word} is no way out: use tor, direct, none or socks5h://HOST:PORT, or name one by [vias.{word}] in config.toml"
                ),
            },
            None => specs.push(word.clone()),
        }
    }
    Ok(specs)
}
