//! A service's standard input, output and error as files. systemd opens them as root before each of its commands, and
//! connects to what turns out to be a socket (src/core/exec-invoke.c): so nobody else may choose what is there.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::drop_in_path;
use super::service::Service;
use super::tree::Tree;
use super::unit_file::values;

/// The settings.
pub(super) const DIRECTIVES: [&str; 3] = ["StandardInput", "StandardOutput", "StandardError"];

/// Those kinds that name a path, which systemd does not tell.
pub(super) const FILES: [&str; 3] = ["file", "append", "truncate"];

/// # Errors
/// One may be another file at the next start, or it cannot be told which it is.
pub(super) fn refuse(service: &Service, tree: &Tree) -> Result<()> {
    if service.paths.streams.is_empty() {
        return Ok(());
    }
    let read = |file: &String| Ok(String::from_utf8_lossy(&tree.read(Path::new(file))?).into_owned());
    let texts = service.others(&drop_in_path(&service.name)).iter().map(read).collect::<Result<Vec<String>>>()?;
    let name = &service.name;
    for (directive, kind) in &service.paths.streams {
        let path = path(directive, kind, &texts, name).with_context(|| {
            format!("cannot tell which file {name} has as {directive}={kind}: write its path in full, without %, in a drop-in (systemctl edit {name})")
        })?;
        if let Some(directory) = tree.place(Path::new(&path))?.changeable {
            bail!(
                "{name} has {directive}={kind}:{path}, which root opens, and others than root can put a link into {}, by which that would be any file or socket: say journal there, or a file below directories that root alone can write (systemctl edit {name})",
                directory.display()
            );
        }
    }
    Ok(())
}

/// The path that the last of these unit files gives.
fn path(directive: &str, kind: &str, texts: &[String], service: &str) -> Option<String> {
    let last = texts.iter().flat_map(|text| values(text, directive)).next_back()?;
    let path = last.strip_prefix(kind)?.strip_prefix(':')?;
    expanded(path.trim_start(), service).filter(|path| path.starts_with('/'))
}

/// With the specifiers that file names are made of (systemd.unit(5)); `None` with another.
fn expanded(path: &str, service: &str) -> Option<String> {
    let stem = service.strip_suffix(".service").unwrap_or(service);
    let (prefix, instance) = stem.split_once('@').unwrap_or((stem, ""));
    let mut text = String::new();
    let mut rest = path.chars();
    while let Some(c) = rest.next() {
        match c {
            '%' => {
                text += match rest.next()? {
                    'n' => service,
                    'N' => stem,
                    'p' => prefix,
                    'i' => instance,
                    'L' => "/var/log",
                    'S' => "/var/lib",
                    'C' => "/var/cache",
                    't' => "/run",
                    '%' => "%",
                    _ => return None,
                }
            }
            c => text.push(c),
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_file_says_where_a_stream_goes() {
        let path = |text: &[&str]| {
            let texts: Vec<String> = text.iter().map(|text| (*text).to_owned()).collect();
            path("StandardOutput", "append", &texts, "web@a.service")
        };
        for (texts, expected) in [
            (&["StandardOutput=append:/a"][..], Some("/a")),
            (&["StandardOutput=append:/a", "StandardOutput=append:/b\n"], Some("/b")),
            (&["StandardOutput=append:/a\nStandardError=append:/b"], Some("/a")),
            (&["StandardOutput=append:%L/%n-%i-%p-%N%%"], Some("/var/log/web@a.service-a-web-web@a%")),
            // Not as systemd has it: by what, cannot be told.
            (&["StandardOutput=append:/a", "StandardOutput="], None),
            (&["StandardOutput=file:/a"], None),
            (&["StandardOutput=append:/home/%u"], None),
            (&["StandardOutput=append:%"], None),
            (&[], None),
        ] {
            assert_eq!(path(texts).as_deref(), expected, "{texts:?}");
        }
    }
}
