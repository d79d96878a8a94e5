//! Settings of a user's service that leave its launcher, which becomes its main process, no way to build a wall. Its
//! starts would be refused by that, the next of which may be a boot away. Pure.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use nix::libc;
use zbus::zvariant::Value as Variant;

use super::Service;
use crate::confine::service::listed;
use crate::confinement::FAMILIES;
use crate::manager::Properties;

/// Calls that the wall is built by, and that lists of calls for services leave out.
const CALLS: [&str; 7] = ["unshare", "mount", "open_tree", "move_mount", "capset", "seccomp", "prctl"];

/// What is new for the program (src/inside/namespaces.rs).
const NAMESPACES: [(&str, i32); 5] = [
    ("user", libc::CLONE_NEWUSER),
    ("pid", libc::CLONE_NEWPID),
    ("net", libc::CLONE_NEWNET),
    ("ipc", libc::CLONE_NEWIPC),
    ("mnt", libc::CLONE_NEWNS),
];

/// What covers something in /proc: the kernel then lets no user mount a new one, which would show it.
const OVER_PROC: [&str; 2] = ["ProtectKernelTunables", "ProtectKernelLogs"];

/// What stands in the user's runtime directory, and no program behind a wall sees that.
const IN_RUNTIME: [&str; 6] = [
    "RuntimeDirectory",
    "LoadCredential",
    "LoadCredentialEncrypted",
    "SetCredential",
    "SetCredentialEncrypted",
    "ImportCredential",
];

/// What the launcher uses of the file system.
pub(super) struct Needs {
    /// Where it keeps its state.
    pub runtime: Option<PathBuf>,
    /// Its program, and the file of a way out.
    pub files: Vec<PathBuf>,
}

/// # Errors
/// The first such setting, by its name, and what to write instead.
pub(super) fn refuse(service: &Service, held: &Properties, needs: &Needs) -> Result<()> {
    let found = of_calls(service, held)
        .or_else(|| of_namespaces(held))
        .or_else(|| of_network(held))
        .or_else(|| of_files(held, needs))
        .or_else(|| of_runtime(held));
    match found {
        Some((setting, why, instead)) => bail!(
            "{0} has {setting}, {why}, so it would not start behind a wall: systemctl --user edit {0}, and write {instead} below [Service]",
            service.name
        ),
        None => Ok(()),
    }
}

/// The setting, why it is in the way, and how it is reset.
type Obstacle = (String, &'static str, String);

/// What is added to a list that allows is taken out of one that denies (systemd.exec(5)), and nothing else is opened.
fn of_calls(service: &Service, held: &Properties) -> Option<Obstacle> {
    const WHY: &str = "by which the launcher builds the wall";
    let obstacle = |name: &str, missing: Vec<&str>| {
        let first = *missing.first()?;
        Some((format!("{name}= without {first}"), WHY, format!("{name}={}", missing.join(" "))))
    };
    let missing = |wanted: &[&'static str], allow: bool, names: &BTreeSet<String>| {
        wanted.iter().copied().filter(|word| names.contains(*word) != allow).collect::<Vec<_>>()
    };
    // No list at all is an empty one that denies.
    let calls = list_of(held, "SystemCallFilter").map(|(allow, names)| missing(&CALLS, allow, &names));
    let families = service.families.as_ref().map(|families| missing(&FAMILIES, families.allow, &families.names));
    obstacle("SystemCallFilter", calls.unwrap_or_default())
        .or_else(|| obstacle("RestrictAddressFamilies", families.unwrap_or_default()))
}

fn of_namespaces(held: &Properties) -> Option<Obstacle> {
    let Some(Variant::U64(allowed)) = value(held, "RestrictNamespaces") else { return None };
    let is_refused = |flag: i32| allowed & u64::from(flag.unsigned_abs()) == 0;
    let missing: Vec<&str> = NAMESPACES.iter().filter(|(_, flag)| is_refused(*flag)).map(|(name, _)| *name).collect();
    let first = missing.first()?;
    Some((
        format!("RestrictNamespaces= without {first}"),
        "of which the launcher makes the wall",
        format!("RestrictNamespaces={}", missing.join(" ")),
    ))
}

fn of_network(held: &Properties) -> Option<Obstacle> {
    matches!(value(held, "PrivateNetwork"), Some(Variant::Bool(true))).then(|| {
        let why = "by which the launcher's forwarder has no network to lead to";
        ("PrivateNetwork=yes".to_owned(), why, "PrivateNetwork=no".to_owned())
    })
}

fn of_files(held: &Properties, needs: &Needs) -> Option<Obstacle> {
    if let Some(name) = OVER_PROC.iter().find(|name| matches!(value(held, name), Some(Variant::Bool(true)))) {
        return Some((format!("{name}=yes"), "by which the launcher cannot mount /proc for it", format!("{name}=no")));
    }
    // Of /run/user in any case.
    let home = match value(held, "ProtectHome") {
        Some(Variant::Str(home)) => home.as_str(),
        _ => "no",
    };
    let is_at_home = |path: &PathBuf| ["/home", "/root", "/run/user"].iter().any(|home| path.starts_with(home));
    if home == "read-only" || ["yes", "tmpfs"].contains(&home) && needs.files.iter().any(is_at_home) {
        return Some((
            format!("ProtectHome={home}"),
            "by which the launcher lacks its files in the user's directories",
            "ProtectHome=no".to_owned(),
        ));
    }
    if let Some(Variant::U32(mask)) = value(held, "UMask")
        && mask & 0o700 != 0
    {
        return Some((
            format!("UMask={mask:04o}"),
            "by which the launcher cannot use what it makes",
            "UMask=0077".to_owned(),
        ));
    }
    let closed = |list: &str, but: &str, path: &Path| {
        let depth = |name: &str| {
            let covers = paths(held, name).into_iter().filter(|above| path.starts_with(above));
            covers.map(|above| above.components().count()).max().unwrap_or_default()
        };
        depth(list) > depth(but)
    };
    let written: Vec<&Path> = needs.runtime.as_deref().into_iter().chain([Path::new("/proc")]).collect();
    let program: Vec<&Path> = needs.files.iter().take(1).map(PathBuf::as_path).collect();
    [("ReadOnlyPaths", "ReadWritePaths", written), ("NoExecPaths", "ExecPaths", program)].into_iter().find_map(
        |(list, but, used)| {
            let used = used.into_iter().filter(|path| closed(list, but, path));
            let lacking: Vec<String> = used.map(|path| path.display().to_string()).collect();
            let first = lacking.first()?;
            Some((
                format!("{list}= with {first} in it"),
                "which the launcher uses",
                format!("{but}={}", lacking.join(" ")),
            ))
        },
    )
}

fn of_runtime(held: &Properties) -> Option<Obstacle> {
    let is_set = |name: &&&str| held.get(**name).is_some_and(|list| !crate::verify::is_empty(list));
    let name = IN_RUNTIME.iter().find(is_set)?;
    Some((
        format!("{name}="),
        "whose directory is in the user's runtime directory, which is hidden from it",
        format!("{name}="),
    ))
}

/// Absent in a systemd that does not know it.
fn value<'a>(held: &'a Properties, name: &str) -> Option<&'a Variant<'static>> {
    held.get(name).map(|value| &**value)
}

/// Whether what it names is allowed alone, or not; a name may have an error's after it.
fn list_of(held: &Properties, name: &str) -> Option<(bool, BTreeSet<String>)> {
    let (allow, names) = listed(value(held, name)?)?;
    Some((allow, names.iter().map(|name| name.split(':').next().unwrap_or_default().to_owned()).collect()))
}

/// Without the prefixes of systemd.exec(5).
fn paths(held: &Properties, name: &str) -> Vec<PathBuf> {
    let Some(Variant::Array(list)) = value(held, name) else { return Vec::new() };
    let words = list.inner().iter().filter_map(|word| <&str>::try_from(word).ok());
    words.map(|word| PathBuf::from(word.trim_start_matches(['-', '+']))).collect()
}

#[cfg(test)]
mod tests;
