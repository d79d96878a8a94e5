//! What the command line leaves open is settled once, when a unit is installed: each start must find the same.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::ROOT;
use super::realm::Realm;
use super::rendering::{Directories, Rendering};
use crate::cli::LaunchArgs;
use crate::host::Host;
use crate::installed::{self, Wanted};
use crate::launch::{variable, way_out};
use crate::plan::{ADDRESS, parse_address};
use crate::publish::collide;
use crate::say::Say;
use crate::via::{Endpoint, Via, plain};
use crate::{address, taken, tor};

/// A command line that means the same at any time.
pub struct Settled {
    /// It.
    pub args: LaunchArgs,
    /// Its way out.
    pub via: Via,
    /// The file of a via with a password.
    pub credential: Option<Wanted>,
}

/// Settles the command line of a unit; `address` is its own for a port of the host's loopback, if it has one there
/// ([`lasting_address`]).
///
/// # Errors
/// A file or program that it names isn't there; no address is to be had.
pub fn settle(
    name: &str,
    args: &LaunchArgs,
    host: &Host,
    directories: &Directories,
    address: impl FnOnce(u16) -> Result<String>,
    say: &Say,
) -> Result<Settled> {
    let mut args = args.clone();
    args.refuse_of_launches()?;
    let (via, credential) = way(name, &mut args, host.caller.is_root(), directories, say)?;
    let here = |path: &Path| host.directory.as_deref().unwrap_or(Path::new(ROOT)).join(path);
    args.workdir = args.workdir.as_deref().map(here);
    args.env = args.env.iter().filter_map(|word| with_value(word, host)).collect();
    if let Some(program) = args.command.first_mut() {
        *program = absolute(program, host, here)?;
    }
    let planned = Rendering::new(name, &args, via.clone(), host, directories)?.plan;
    if planned.has_forwarder() && planned.address.ip().is_unspecified() {
        args.address = Some(address(planned.address.port())?);
    }
    Ok(Settled { args, via, credential })
}

/// The way out with the place of Tor in it, and where its password is.
fn way(
    name: &str,
    args: &mut LaunchArgs,
    is_systems: bool,
    directories: &Directories,
    say: &Say,
) -> Result<(Via, Option<Wanted>)> {
    let mut via = way_out(args, say)?;
    let wants_tor = via.wants_tor();
    if wants_tor {
        via.settle_tor(local_tor(say));
    }
    if !via.has_secret() {
        args.via = via.secret_specs();
        return Ok((via, None));
    }
    let files: Vec<&str> = args.via.iter().filter_map(|spec| spec.strip_prefix('@')).collect();
    // A launcher reads each file of a chain; systemd has one credential for all of it.
    if files.len() == args.via.len() && (files.len() == 1 || !is_systems) && !wants_tor {
        let absolute = |file: &&str| {
            let place = plain(Path::new(file)).with_context(|| format!("cannot tell where --via @{file} is"))?;
            Ok(format!("@{}", place.display()))
        };
        args.via = files.iter().map(absolute).collect::<Result<_>>()?;
        return Ok((via, None));
    }
    let path = directories.credentials.join(name);
    for file in files {
        say.plain(&format!(
            "what {file} says is copied to {}: the unit reads that, and its program may read {file}",
            path.display()
        ));
    }
    args.via = vec![format!("@{}", path.display())];
    let text = via.secret_specs().join("\n") + "\n";
    Ok((via, Some(Wanted { path, text, mode: 0o600 })))
}

/// Where Tor is, or will be.
fn local_tor(say: &Say) -> Endpoint {
    tor::find_tor(Path::new(ROOT)).unwrap_or_else(|_| {
        let place = tor::usual();
        say.plain(&format!("no Tor was found here yet: the unit will look for it at {place}"));
        place
    })
}

/// `--env K` stands for the value that the caller has now, if any.
fn with_value(word: &str, host: &Host) -> Option<String> {
    if word.contains('=') {
        return Some(word.to_owned());
    }
    host.variable(word).map(|value| format!("{word}={}", value.to_string_lossy()))
}

/// The program by its path: who starts the unit may look for it elsewhere, or for another.
fn absolute(program: &OsString, host: &Host, here: impl Fn(&Path) -> PathBuf) -> Result<OsString> {
    let path = Path::new(program);
    if path.components().count() > 1 || path.is_absolute() {
        return Ok(here(path).into_os_string());
    }
    let places = host.variable("PATH").unwrap_or_default();
    let found = std::env::split_paths(places).map(|place| here(&place.join(path))).find(|file| file.is_file());
    match found {
        Some(file) => Ok(file.into_os_string()),
        None => match program.to_str().and_then(variable) {
            Some(name) => bail!("{} was not found in PATH: a variable is set by --env {name}=…", path.display()),
            None => bail!("{} was not found in PATH: name the program by its path", path.display()),
        },
    }
}

/// The address on the host's loopback that what `file` was made for keeps (`subject`, [`Mark::subject`]): the one that it
/// was made with; else the fixed one of permanent units if it is free, else another. What others of ours were made with is
/// theirs, whether they run or not.
///
/// # Errors
/// What stands there isn't ours; none is free.
///
/// [`Mark::subject`]: crate::installed::Mark::subject
pub fn lasting_address(port: u16, file: &Path, subject: &[String], realm: &Realm) -> Result<String> {
    let others = taken::addresses(subject, realm)?;
    let is_taken = |address: SocketAddrV4| others.iter().any(|(other, _)| collide(*other, address.into()));
    let kept = kept_address(file)?;
    if let Some(kept) = kept.filter(|kept| parse_address(kept).is_ok_and(|address| !is_taken(address))) {
        return Ok(kept);
    }
    let seed = realm.host.random;
    let reserved = address::reserve(SocketAddrV4::new(*ADDRESS.ip(), port), seed, is_taken)
        .or_else(|_| address::reserve(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port), seed, is_taken))?;
    Ok(reserved.address.to_string())
}

fn kept_address(file: &Path) -> Result<Option<String>> {
    let Some((_, mark)) = installed::find(file)? else { return Ok(None) };
    let options = mark.command.iter().take_while(|word| *word != "--");
    Ok(options.into_iter().find_map(|word| word.strip_prefix("--address=")).map(str::to_owned))
}
