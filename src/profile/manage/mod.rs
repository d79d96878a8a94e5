//! `appfw profile`: what there is, what of it applies, what is wrong with it, and writing more.

mod check;
mod show;
mod write;

use std::path::Path;

use anyhow::Result;

use super::Places;
use crate::cli::ProfileCommand;
use crate::host::Host;
use crate::say;

/// Does what `command` says, and prints what it has to say.
///
/// # Errors
/// It can't be done, or what was checked is wrong.
pub fn run(command: &ProfileCommand) -> Result<()> {
    let root = Path::new("/");
    say::answer(&answer(command, root, Host::read(root)?)?)
}

/// Does what `command` says with the files below `root`.
///
/// # Errors
/// It can't be done, or what was checked is wrong.
pub fn answer(command: &ProfileCommand, root: &Path, mut host: Host) -> Result<String> {
    let places = Places::of(root, &host);
    match command {
        ProfileCommand::List { json } => show::list(&places, *json),
        ProfileCommand::Show { name, json } => show::show(name, &places, &host, *json),
        ProfileCommand::Check { files } => check::check(files, &places, &mut host),
        ProfileCommand::Path { name } => show::path(name.as_deref(), &places),
        ProfileCommand::Edit { name } => write::edit(name, &places, &mut host),
        ProfileCommand::New { name, options } => write::new(name, options, &places, &host),
    }
}
