//! What a desktop program keeps of its session: the display, sound and the display's key, in the app's own
//! runtime directory; nothing else that is in the caller's. TO BE AUDITED, with view.rs. Pure.
//!
//! X servers listen in /tmp/.X11-unix, which every app sees; their abstract sockets end at the network
//! namespace.

use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

use crate::plan::{Identity, Plan};
use crate::view::Bind;

/// Variables that name files of a runtime directory, and what stands before a path in their values.
const NAMED: [(&str, &str); 4] =
    [("WAYLAND_DISPLAY", ""), ("XAUTHORITY", ""), ("PIPEWIRE_REMOTE", ""), ("PULSE_SERVER", "unix:")];

/// Where sound is without a variable that says so: PipeWire's and PulseAudio's sockets. PipeWire's other one,
/// pipewire-0-manager, is for those that manage it.
const SOUND: [&str; 2] = ["pipewire-0", "pulse/native"];

/// Variables about runtime directories that are not the app's.
const FOREIGN: [&str; 2] = ["PIPEWIRE_RUNTIME_DIR", "PULSE_RUNTIME_PATH"];

/// Every user's runtime directory (pam_systemd(8)): nothing of it is seen by any app.
const RUNTIMES: &str = "/run/user";

/// The part of a session that its app sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Session {
    /// Files of the caller's runtime directory and where they are in the app's, where there.
    pub shown: Vec<Bind>,
    /// Variables that name them, with what they are in the app.
    pub variables: Vec<(OsString, OsString)>,
    /// Variables that the app does without.
    pub dropped: Vec<OsString>,
}

/// That directory below `root`, which is another one in tests.
pub(crate) fn runtimes(root: &Path) -> PathBuf {
    root.join(RUNTIMES.trim_start_matches('/'))
}

/// The runtime directory of an app of an ordinary user's, with nothing of the host's in it.
#[must_use]
pub fn runtime_directory(plan: &Plan) -> Option<PathBuf> {
    let user = plan.app.user();
    (!user.is_root()).then(|| Path::new(RUNTIMES).join(user.uid.to_string()))
}

impl Session {
    /// The session of a plan's app, from the caller's variables: a caller's app alone has one.
    #[must_use]
    pub fn new(plan: &Plan, caller: &[(OsString, OsString)]) -> Self {
        let variable = |name: &str| {
            let found = caller.iter().find(|(found, _)| found == name);
            found.map(|(_, value)| value.as_os_str()).filter(|value| !value.is_empty())
        };
        let (Identity::Caller(_), Some(own)) = (&plan.app, runtime_directory(plan)) else { return Self::default() };
        let Some(callers) = variable("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| is_plain(path)) else {
            return Self::default();
        };
        let mut session = Self { dropped: FOREIGN.map(OsString::from).to_vec(), ..Self::default() };
        for (name, before) in NAMED {
            if let Some(value) = variable(name) {
                session.named(name, before, value, &callers, &own);
            }
        }
        for socket in SOUND {
            session.show(&callers.join(socket), own.join(socket));
        }
        session.variables.push(("XDG_RUNTIME_DIR".into(), own.into()));
        session
    }

    /// A file that a variable names: by its path, or WAYLAND_DISPLAY's and PIPEWIRE_REMOTE's way, by its name
    /// in the runtime directory.
    fn named(&mut self, variable: &str, before: &str, value: &OsStr, callers: &Path, own: &Path) {
        let Some(path) = value.to_str().and_then(|value| value.strip_prefix(before)).map(Path::new) else { return };
        if before.is_empty() && path.components().count() == 1 && path.is_relative() {
            if is_plain(&callers.join(path)) {
                self.show(&callers.join(path), own.join(path));
            }
            return;
        }
        let target = match path.strip_prefix(callers) {
            Ok(place) if place == Path::new("") => return, // not the directory itself, with all that is in it
            Ok(place) => own.join(place),
            Err(_) if path.starts_with(RUNTIMES) => own.join(path.file_name().unwrap_or_default()),
            Err(_) => return, // seen where it is
        };
        if is_plain(path) && is_plain(&target) {
            let mut value = OsString::from(before);
            value.push(&target);
            self.show(path, target);
            self.variables.push((variable.into(), value));
        }
    }

    fn show(&mut self, source: &Path, target: PathBuf) {
        let is_bus = [source, &target].iter().any(|path| path.ends_with("bus"));
        if !is_bus && !self.shown.iter().any(|shown| shown.target == target) {
            self.shown.push(Bind { source: source.to_owned(), target });
        }
    }
}

/// Whether a path is absolute and goes nowhere else than it says.
fn is_plain(path: &Path) -> bool {
    path.is_absolute() && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{host_of, plan, plan_on};

    fn session(variables: &[&str]) -> Session {
        let split = |variable: &&str| variable.split_once('=').map(|(name, value)| (name.into(), value.into()));
        let caller: Vec<(OsString, OsString)> = variables.iter().filter_map(split).collect();
        let alice = plan_on(&host_of("alice"), &["--system", "--via", "none", "x"]).unwrap();
        Session::new(&alice, &caller)
    }

    /// What is shown, as "SOURCE TARGET", and the variables as "NAME=VALUE".
    fn words(session: &Session) -> (Vec<String>, Vec<String>) {
        let shown = session.shown.iter().map(|bind| format!("{} {}", bind.source.display(), bind.target.display()));
        let set = session.variables.iter().map(|(name, value)| format!("{}={}", name.display(), value.display()));
        (shown.collect(), set.collect())
    }

    #[test]
    fn display_and_sound_are_in_the_apps_own_runtime_directory() {
        let at_home =
            ["XDG_RUNTIME_DIR=/run/user/1000", "WAYLAND_DISPLAY=wayland-1", "XAUTHORITY=/run/user/1000/gdm/X"];
        let (shown, set) = words(&session(&at_home));
        let same = ["wayland-1", "gdm/X", "pipewire-0", "pulse/native"];
        let same = same.map(|file| format!("/run/user/1000/{file} /run/user/1000/{file}"));
        assert_eq!(shown, same);
        assert_eq!(set, ["XAUTHORITY=/run/user/1000/gdm/X", "XDG_RUNTIME_DIR=/run/user/1000"]);
    }

    #[test]
    fn a_runtime_directory_elsewhere_becomes_the_usual_one() {
        let elsewhere = [
            "XDG_RUNTIME_DIR=/mnt/run",
            "WAYLAND_DISPLAY=/mnt/run/wayland-0",
            "PULSE_SERVER=unix:/mnt/run/sound/native",
            "PIPEWIRE_REMOTE=/run/user/7/pipewire-9",
            "XAUTHORITY=/home/alice/.Xauthority",
        ];
        let (shown, set) = words(&session(&elsewhere));
        assert_eq!(
            shown,
            [
                "/mnt/run/wayland-0 /run/user/1000/wayland-0",
                "/run/user/7/pipewire-9 /run/user/1000/pipewire-9",
                "/mnt/run/sound/native /run/user/1000/sound/native",
                "/mnt/run/pipewire-0 /run/user/1000/pipewire-0",
                "/mnt/run/pulse/native /run/user/1000/pulse/native",
            ]
        );
        assert_eq!(
            set,
            [
                "WAYLAND_DISPLAY=/run/user/1000/wayland-0",
                "PIPEWIRE_REMOTE=/run/user/1000/pipewire-9",
                "PULSE_SERVER=unix:/run/user/1000/sound/native",
                "XDG_RUNTIME_DIR=/run/user/1000",
            ]
        );
    }

    #[test]
    fn nothing_is_shown_by_a_way_that_leads_elsewhere() {
        let sound = 2;
        for value in
            ["..", "../bus", "/run/user/1000/../0/x", "/tmp/wayland-0", "/run/user/1000", "/run/user/1000/", "bus", ""]
        {
            let variables = ["XDG_RUNTIME_DIR=/run/user/1000".to_owned(), format!("WAYLAND_DISPLAY={value}")];
            let session = session(&variables.each_ref().map(String::as_str));
            assert_eq!((session.shown.len(), session.variables.len()), (sound, 1), "{value}");
        }
        for runtime in ["", "run", "/run/user/../x"] {
            assert_eq!(session(&[&format!("XDG_RUNTIME_DIR={runtime}")]), Session::default(), "{runtime}");
        }
    }

    #[test]
    fn another_users_program_and_roots_have_no_session() {
        let caller = [("XDG_RUNTIME_DIR".into(), "/run/user/0".into()), ("WAYLAND_DISPLAY".into(), "wayland-0".into())];
        for line in ["--via none x", "--via none --uid alice x"] {
            assert_eq!(Session::new(&plan(line).unwrap(), &caller), Session::default(), "{line}");
        }
    }
}
