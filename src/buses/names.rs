//! Names that programs own on the session bus. GTK's and KDE's end at once if they may not (GApplication:
//! "Failed to register"), and do without a bus. So one has the name that its desktop file is called by, as the
//! Desktop Entry Specification has it, if nobody has it and nobody would be started for it: to own is to speak to
//! the owner as well, and gnome-terminal would have its shell opened by the one outside. Root's files alone count: by
//! one of its own, a program would choose the name of its next start.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::browser::{Surroundings, read_ini};

/// Desktop files looked at.
const MAX_FILES: usize = 4096;

/// The names that may be this program's: those of desktop files that execute it, and that `is_roots` says are root's.
pub fn names(program: &OsStr, surroundings: &Surroundings, is_roots: impl Fn(&Path) -> bool) -> Vec<String> {
    let Some(program) = Path::new(program).file_name().and_then(OsStr::to_str) else { return Vec::new() };
    let directories = data_directories(surroundings);
    let files = directories.iter().filter_map(|directory| fs::read_dir(directory.join("applications")).ok()).flatten();
    let files = files.flatten().map(|entry| entry.path()).take(MAX_FILES);
    let mut names: Vec<String> = files
        .filter_map(|file| Some((name_of(&file)?, file)))
        .filter(|(_, file)| executes(file, program) && is_roots(file))
        .map(|(name, _)| name)
        .filter(|name| !directories.iter().any(|directory| is_started_for(directory, name)))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// XDG Base Directory Specification.
fn data_directories(surroundings: &Surroundings) -> Vec<PathBuf> {
    let system = surroundings.variable("XDG_DATA_DIRS").unwrap_or(OsStr::new("/usr/local/share:/usr/share"));
    let own = surroundings.base_directory("XDG_DATA_HOME", ".local/share");
    std::iter::once(own).chain(std::env::split_paths(system)).filter(|path| path.is_absolute()).collect()
}

/// A file's name without `.desktop`, if it is one for a bus (D-Bus specification, "Bus names").
fn name_of(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?.strip_suffix(".desktop")?;
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
    };
    (name.len() <= 255 && name.contains('.') && name.split('.').all(is_part)).then(|| name.to_owned())
}

fn executes(file: &Path, program: &str) -> bool {
    read_ini(file).iter().any(|(section, key, value)| {
        let word = value.split_whitespace().next().map(|word| word.trim_matches('"'));
        section == "Desktop Entry" && key == "Exec" && word.and_then(|word| word.rsplit('/').next()) == Some(program)
    })
}

/// Whether the bus starts a program for a call to the name.
fn is_started_for(directory: &Path, name: &str) -> bool {
    directory.join("dbus-1/services").join(format!("{name}.service")).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_has_the_name_of_its_desktop_file_unless_another_is_started_for_it() {
        let place = tempfile::tempdir().unwrap();
        let at = |path: &str| place.path().join(path);
        for directory in ["applications", "dbus-1/services"] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        let entry = |program: &str| format!("[Desktop Entry]\nExec={program} %U\n[Desktop Action x]\nExec=other\n");
        for (file, program) in [
            ("org.test.Editor.desktop", "/usr/bin/editor"),
            ("org.test.Terminal.desktop", "terminal"),
            ("plain.desktop", "editor"),
            ("org.7test.Editor.desktop", "editor"),
            ("org.test..desktop", "editor"),
            ("org.test.*.desktop", "editor"),
            ("org.test.Editor=x.desktop", "editor"),
        ] {
            fs::write(at("applications").join(file), entry(program)).unwrap();
        }
        fs::write(at("dbus-1/services/org.test.Terminal.service"), "").unwrap();
        let surroundings = Surroundings {
            environment: vec![("XDG_DATA_DIRS".into(), place.path().into()), ("HOME".into(), "/nowhere".into())],
            directory: "/".into(),
        };
        let names = |program: &str| names(OsStr::new(program), &surroundings, |_| true);
        for (program, expected) in
            [("editor", &["org.test.Editor"][..]), ("terminal", &[]), ("other", &[]), ("..", &[])]
        {
            assert_eq!(names(program), expected, "{program}");
        }
        assert_eq!(names("/opt/bin/editor"), ["org.test.Editor"]);
    }

    #[test]
    fn a_desktop_file_that_the_program_could_have_written_gives_no_name() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir_all(place.path().join("applications")).unwrap();
        let file = place.path().join("applications/org.test.Editor.desktop");
        fs::write(&file, "[Desktop Entry]\nExec=editor\n").unwrap();
        let surroundings =
            Surroundings { environment: vec![("XDG_DATA_HOME".into(), place.path().into())], directory: "/".into() };
        // /tmp is everybody's.
        assert!(names(OsStr::new("editor"), &surroundings, crate::host::is_roots).is_empty());
        assert_eq!(names(OsStr::new("editor"), &surroundings, |seen| seen == file), ["org.test.Editor"]);
    }
}
