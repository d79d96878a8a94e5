//! `appfw profile`: what there is, what of it applies, what is wrong with it, and writing more.

mod check;
mod show;
mod write;

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

use super::Places;
use crate::cli::ProfileCommand;
use crate::host::Host;

/// Does what `command` says.
///
/// # Errors
/// It can't be done, or what was checked is wrong.
pub fn run(command: &ProfileCommand) -> Result<()> {
    let root = Path::new("/");
    let host = Host::read(root)?;
    let places = Places::of(root, &host);
    match command {
        ProfileCommand::List { json } => print(&show::list(&places, *json)?),
        ProfileCommand::Show { name, json } => print(&show::show(name, &places, &host, *json)?),
        ProfileCommand::Check { files } => check::check(files, &places, host),
        ProfileCommand::Path { name } => print(&show::path(name.as_deref(), &places)?),
        ProfileCommand::Edit { name } => write::edit(name, &places, host),
        ProfileCommand::New { name, options } => print(&write::new(name, options, &places, &host)?),
    }
}

fn print(text: &str) -> Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("cannot print it")
}
