//! The options of `appfw confine`: the launcher's, less what is the service's own to say, and as words again, which the
//! files are marked with. Pure.

use std::ffi::OsString;

use anyhow::{Result, anyhow, bail};

use crate::cli::{Bus, LaunchArgs};
use crate::profile::Value;

/// Whether a key of the configuration, which is for every program, is about launches alone, or what the service's own
/// unit says. The wall is the same without it.
#[must_use]
pub fn is_of_launches(key: &str, value: &Value, is_systems: bool) -> bool {
    let word = |wanted: &str| matches!(value, Value::Word(word) if word == wanted);
    match key {
        "uid" | "env" | "workdir" | "property" | "detach" | "exit-with-main" | "own-profile" => true,
        "dbus" => word("filtered") || word("session"),
        // Another manager's wall than a user's own would be another one.
        "manager" => is_systems || !word("system"),
        _ => false,
    }
}

/// # Errors
/// An option says what the service's own unit says.
pub fn refuse(args: &LaunchArgs, service: &str, is_systems: bool) -> Result<()> {
    let systemctl = if is_systems { "systemctl" } else { "systemctl --user" };
    let edit = &format!("the service's own unit says that: {systemctl} edit {service}");
    let never = "it goes with launches alone";
    for (given, option, instead) in [
        (args.standalone, "--standalone", "a service is its systemd's"),
        (args.user && is_systems, "--user", "a user's services are that user's to confine"),
        (args.system && !is_systems, "--system", "services of the system are root's to confine: sudo appfw confine …"),
        (args.uid.is_some(), "--uid", edit),
        (!args.env.is_empty(), "--env", edit),
        (args.workdir.is_some(), "--workdir", edit),
        (!args.property.is_empty(), "--property", edit),
        (args.unit.is_some(), "--unit", "a service has its name"),
        (args.detach, "--detach", never),
        (args.exit_with_main, "--exit-with-main", never),
        (args.own_profile, "--own-profile", "a service has no profile"),
        (
            matches!(args.dbus, Some(Bus::Filtered | Bus::Session)),
            "--dbus filtered and session",
            "a service has no session; --dbus none or system",
        ),
    ] {
        if given {
            bail!("{option}: {instead}");
        }
    }
    Ok(())
}

/// The options as words: each, and always in the same order.
///
/// # Errors
/// One is no text.
pub fn words(args: &LaunchArgs) -> Result<Vec<String>> {
    // The command, of which there is none, comes after `--`.
    let options = args.words().into_iter().take_while(|word| word != "--");
    let text = |word: OsString| {
        word.into_string().map_err(|word| anyhow!("{} is no text, and unit files are", word.to_string_lossy()))
    };
    options.map(text).collect()
}
