use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::program::Engine;
use super::*;
use crate::fixture::{host_of, plan_on};

/// A machine with programs and a user's home, below a temporary directory.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        for file in ["lib/firefox-esr/firefox-esr", "lib/firefox-esr/libxul.so"] {
            machine.program(file, "\x7fELF");
        }
        machine.write("lib/firefox-esr/application.ini", "; not used\n[App]\nVendor=Mozilla\nName=Firefox\n");
        for (directory, name) in [("lib/chromium", "chromium"), ("opt/google/chrome", "chrome"), ("share/code", "code")]
        {
            machine.program(&format!("{directory}/{name}"), "\x7fELF");
            for beside in ["resources.pak", "icudtl.dat"] {
                machine.write(&format!("{directory}/{beside}"), "");
            }
        }
        fs::create_dir_all(machine.at("home")).unwrap();
        machine.write("share/code/resources/app/product.json", r#"{"nameShort": "Code"}"#);
        machine
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), text.replace("@ROOT@", self.at("").to_str().unwrap())).unwrap();
    }

    fn program(&self, path: &str, text: &str) {
        self.write(path, text);
        fs::set_permissions(self.at(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn surroundings(&self) -> Surroundings {
        let set = |name: &str, path: &str| (name.into(), self.at(path).into());
        Surroundings { environment: vec![set("HOME", "home"), set("PATH", "bin")], directory: self.at("home") }
    }

    fn find(&self, command: &str) -> Option<Program> {
        let command: Vec<OsString> = command.split(' ').map(OsString::from).collect();
        Program::find(&command, &self.surroundings())
    }

    fn running(&self, command: &str) -> Option<PathBuf> {
        let program = self.find(command).unwrap_or_else(|| panic!("{command}: no such program"));
        program.running(&self.surroundings()).map(|instance| instance.profile)
    }

    /// A profile in profiles.ini's directory that is held as long as the result lives.
    fn hold(&self, profile: &str) -> File {
        self.write(&format!("{profile}/.parentlock"), "");
        let file = File::options().read(true).write(true).open(self.at(&format!("{profile}/.parentlock"))).unwrap();
        // One of the file's own, which this process meets as another one's.
        let short = |constant: i32| i16::try_from(constant).unwrap();
        let lock = libc::flock {
            l_type: short(libc::F_WRLCK),
            l_whence: short(libc::SEEK_SET),
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        fcntl(&file, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
        file
    }

    /// A user data directory in which somebody answers as long as the result lives.
    fn listen(&self, directory: &str) -> UnixListener {
        fs::create_dir_all(self.at(directory)).unwrap();
        let socket = self.at(&format!("socket-{}", directory.replace('/', "-")));
        let listener = UnixListener::bind(&socket).unwrap();
        symlink(&socket, self.at(directory).join("SingletonSocket")).unwrap();
        symlink("my-host-4711", self.at(directory).join("SingletonLock")).unwrap();
        listener
    }
}

/// As in Debian.
const FIREFOX: &str = r#"#!/bin/sh

FIREFOX="$(command -v firefox)"
[ -x "$FIREFOX.real" ] && exec "$FIREFOX.real" "$@"

exec firefox-esr "$@"
"#;

const CHROMIUM: &str = r#"#!/bin/sh
APPNAME=chromium
GDB=/usr/bin/gdb
LIBDIR=@ROOT@lib/$APPNAME
case `uname -m` in
    i386|x86_64)
        if ! grep -q 'sse3\|pni' /proc/cpuinfo; then
            exit 1
        fi
        ;;
esac
if [ $want_temp_profile -eq 0 ] ; then
    exec $LIBDIR/$APPNAME $CHROMIUM_FLAGS "$@"
else
    # we can't exec here
    $LIBDIR/$APPNAME $CHROMIUM_FLAGS "$@"
fi
"#;

/// As Google has it.
const CHROME: &str = r#"#!/bin/bash
export CHROME_WRAPPER="`readlink -f "$0"`"
HERE="`dirname "$CHROME_WRAPPER"`"
exec < /dev/null
exec -a "$0" "$HERE/chrome" "$@"
"#;

/// As Microsoft has it.
const CODE: &str = r#"#!/usr/bin/env sh
if [ ! -L "$0" ]; then
	VSCODE_PATH="$(dirname "$0")/.."
else
	VSCODE_PATH="$(dirname "$(readlink -f "$0")")/.."
fi
ELECTRON="$VSCODE_PATH/code"
CLI="$VSCODE_PATH/resources/app/out/cli.js"
ELECTRON_RUN_AS_NODE=1 "$ELECTRON" "$CLI" "$@"
exit $?
"#;

/// The machine with wrappers in its PATH.
fn wrapped() -> Machine {
    let machine = Machine::new();
    machine.program("bin/firefox", FIREFOX);
    symlink("../lib/firefox-esr/firefox-esr", machine.at("bin/firefox-esr")).unwrap();
    machine.program("bin/chromium", CHROMIUM);
    machine.program("opt/google/chrome/google-chrome", CHROME);
    symlink("../opt/google/chrome/google-chrome", machine.at("bin/google-chrome")).unwrap();
    machine.program("share/code/bin/code", CODE);
    symlink("../share/code/bin/code", machine.at("bin/code")).unwrap();
    machine.program("bin/env", "\x7fELF");
    machine
}

#[test]
fn wrappers_are_followed_to_the_program() {
    let machine = wrapped();
    machine.program("bin/work", "#!/bin/sh\n# firefox\nexec chromium --user-data-dir=/srv/work \\\n \"$@\" # mine\n");
    for (command, engine, file, word) in [
        ("firefox http://a.test/", Engine::Gecko, "lib/firefox-esr/firefox-esr", 0),
        ("firefox-esr", Engine::Gecko, "lib/firefox-esr/firefox-esr", 0),
        ("env A=b firefox", Engine::Gecko, "lib/firefox-esr/firefox-esr", 2),
        ("../bin/chromium", Engine::Chromium, "lib/chromium/chromium", 0),
        ("google-chrome", Engine::Chromium, "opt/google/chrome/chrome", 0),
        ("code .", Engine::Electron, "share/code/code", 0),
        ("work", Engine::Chromium, "lib/chromium/chromium", 0),
    ] {
        let found = machine.find(command).unwrap_or_else(|| panic!("{command}: not found"));
        assert_eq!((found.engine, found.file, found.word), (engine, machine.at(file), word), "{command}");
    }
    let work = machine.find("work --incognito").unwrap();
    assert_eq!(work.switch("user-data-dir"), Some(OsStr::new("/srv/work")));
    assert_eq!(work.arguments.last().unwrap(), "--incognito");
}

#[test]
fn other_programs_are_none_of_these_and_no_script_is_followed_without_end() {
    let machine = wrapped();
    machine.program("bin/loop", "#!/bin/sh\nexec loop \"$@\"\n");
    machine.program("bin/two", "#!/bin/sh\nexec two \"$@\"\nexec loop \"$@\"\n");
    machine.program("bin/vim", "\x7fELF");
    machine.program("bin/talk", "#!/bin/sh\necho firefox is a browser\nchromium=1\n");
    machine.program("bin/unfinished", "#!/bin/sh\nX=\"$(dirname ${0\nexec '$X");
    for command in ["loop", "two", "vim firefox", "talk", "unfinished", "absent", "firefox-esr/", ""] {
        assert_eq!(machine.find(command), None, "{command}");
    }
}

#[test]
fn a_profile_that_is_locked_has_an_instance_and_an_old_lock_file_has_none() {
    for base in ["home/.mozilla/firefox", "home/.config/mozilla/firefox"] {
        let machine = wrapped();
        let profiles = "[Profile1]\nName=default\nPath=old.default\nIsRelative=1\nDefault=1\n\n[Profile0]\nName=work\nIsRelative=0\nPath=@ROOT@elsewhere\n\n[Profile2]\nName=esr\nIsRelative=1\nPath=x.default-esr\n\n[Install3B60]\nDefault=x.default-esr\n";
        machine.write(&format!("{base}/profiles.ini"), profiles);
        let profile = format!("{base}/x.default-esr");
        machine.write(&format!("{profile}/.parentlock"), "");
        symlink("127.0.0.1:+1", machine.at(&profile).join("lock")).unwrap();
        assert_eq!(machine.running("firefox http://a.test/"), None);

        let lock = machine.hold(&profile);
        assert_eq!(machine.running("firefox http://a.test/"), Some(machine.at(&profile)));
        assert_eq!(machine.running("firefox -P esr"), Some(machine.at(&profile)));
        for apart in ["-P work", "-no-remote", "--new-instance", "--profile /srv/x", "-profile x"] {
            assert_eq!(machine.running(&format!("firefox {apart}")), None, "{apart}");
        }
        drop(lock);
        assert_eq!(machine.running("firefox"), None);

        let _lock = machine.hold("elsewhere");
        assert_eq!(machine.running("firefox"), None);
        assert_eq!(machine.running("firefox -p work"), Some(machine.at("elsewhere")));
        let told = format!("firefox --profile {}", machine.at("elsewhere").display());
        assert_eq!(machine.running(&told), Some(machine.at("elsewhere")));
    }
}

#[test]
fn the_profile_of_another_installation_is_not_this_ones() {
    let machine = wrapped();
    machine.write("home/.mozilla/firefox/profiles.ini", "[Profile0]\nPath=a\n[Install1]\nDefault=a\n");
    let _lock = machine.hold("home/.mozilla/firefox/a");
    for (directory, is_this) in [("/opt/firefox", false), ("@ROOT@lib/firefox-esr", true)] {
        let text = format!("[Compatibility]\nLastPlatformDir={directory}\n");
        machine.write("home/.mozilla/firefox/a/compatibility.ini", &text);
        assert_eq!(machine.running("firefox").is_some(), is_this, "{directory}");
    }
}

#[test]
fn a_link_without_a_lock_counts_while_its_process_lives() {
    let machine = wrapped();
    fs::create_dir_all(machine.at("p")).unwrap();
    let own = std::process::id();
    // A plus says that there would be a record lock too.
    for (link, is_held) in
        [(format!("127.0.0.1:{own}"), true), (format!("127.0.0.1:+{own}"), false), ("x:4194305".into(), false)]
    {
        let _ = fs::remove_file(machine.at("p/lock"));
        symlink(&link, machine.at("p/lock")).unwrap();
        let held = machine.running(&format!("firefox --profile {}", machine.at("p").display()));
        assert_eq!(held.is_some(), is_held, "{link}");
    }
}

#[test]
fn a_user_data_directory_with_somebody_who_answers_has_an_instance() {
    for (command, directory) in [
        ("chromium http://a.test/", "home/.config/chromium"),
        ("google-chrome", "home/.config/google-chrome"),
        ("chromium --user-data-dir=other", "home/other"),
        ("code .", "home/.config/Code"),
    ] {
        let machine = wrapped();
        assert_eq!(machine.running(command), None, "{command}");
        let listener = machine.listen(directory);
        let program = machine.find(command).unwrap();
        let expected = Instance { process: Some(4711), profile: machine.at(directory) };
        assert_eq!(program.running(&machine.surroundings()), Some(expected), "{command}");
        drop(listener); // its links stay, as after a crash
        assert_eq!(machine.running(command), None, "{command}");
    }
}

#[test]
fn chromium_without_a_window_or_with_another_directory_hands_nothing_over() {
    let machine = wrapped();
    let _listener = machine.listen("home/.config/chromium");
    for arguments in ["--headless", "--headless=new", "--user-data-dir=/srv/x", "--temp-profile"] {
        assert_eq!(machine.running(&format!("chromium {arguments}")), None, "{arguments}");
    }
    assert!(machine.running("chromium --headlesss").is_some());
}

#[test]
fn an_electron_program_is_found_by_what_it_calls_itself() {
    let machine = wrapped();
    let description = r#"{"name": "signal-desktop", "productName": "Signal"}"#;
    let files = format!(r#"{{"files":{{"package.json":{{"size":{},"offset":"2"}}}}}}"#, description.len());
    let numbers = [4, u32::try_from(files.len()).unwrap() + 8, u32::try_from(files.len()).unwrap() + 4];
    let mut archive: Vec<u8> =
        numbers.iter().chain([&u32::try_from(files.len()).unwrap()]).flat_map(|n| n.to_le_bytes()).collect();
    archive.extend(files.as_bytes());
    archive.extend([b'x', b'x']);
    archive.extend(description.as_bytes());
    for file in ["resources.pak", "icudtl.dat", "resources/app.asar"] {
        machine.write(&format!("opt/Signal/{file}"), "");
    }
    fs::write(machine.at("opt/Signal/resources/app.asar"), &archive).unwrap();
    machine.program("opt/Signal/signal-desktop", "\x7fELF");
    symlink("../opt/Signal/signal-desktop", machine.at("bin/signal-desktop")).unwrap();
    let _listener = machine.listen("home/.config/Signal");
    assert_eq!(machine.running("signal-desktop"), Some(machine.at("home/.config/Signal")));
    // However it is cut or damaged, it is read without a panic.
    for end in 0..archive.len() {
        fs::write(machine.at("opt/Signal/resources/app.asar"), &archive[..end]).unwrap();
        assert_eq!(machine.running("signal-desktop"), None, "cut at {end}");
    }
}

#[test]
fn a_pipe_in_the_place_of_a_file_is_not_waited_for() {
    let machine = wrapped();
    fs::create_dir_all(machine.at("home/.mozilla/firefox")).unwrap();
    let pipe = machine.at("home/.mozilla/firefox/profiles.ini");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(machine.running("firefox"), None);
}

/// The host of a user whose home and programs are the machine's.
fn user_of(machine: &Machine) -> Host {
    let mut host = host_of("alice");
    host.environment = machine.surroundings().environment;
    host.directory = Some(machine.at("home"));
    host
}

fn refusal(machine: &Machine, line: &str) -> Option<String> {
    let host = user_of(machine);
    let words: Vec<_> = line.split(' ').collect();
    let plan = plan_on(&host, &words).unwrap();
    let words: Vec<_> = words.into_iter().map(OsString::from).collect();
    refuse_running(&plan, &host, &words).err().map(|error| error.to_string())
}

#[test]
fn the_refusal_names_the_command_that_works() {
    let machine = wrapped();
    let _listener = machine.listen("home/.config/chromium");
    let profile = machine.at("home/.config/chromium").display().to_string();
    for (line, works) in [
        (
            "--system --via direct chromium http://a.test/?a=b&c",
            "--system --via direct --own-profile chromium 'http://a.test/?a=b&c'",
        ),
        ("--system --via direct -- chromium", "--system --via direct --own-profile -- chromium"),
        ("--system --via socks5h://alice:hunter2@203.0.113.20 chromium", "… --own-profile chromium"),
    ] {
        let expected = format!(
            "chromium is running already (process 4711, profile {profile}) and would open this outside the wall; give it a profile of its own: appfw-run {works}"
        );
        assert_eq!(refusal(&machine, line).as_deref(), Some(&*expected), "{line}");
    }
    assert_eq!(refusal(&machine, "--system --via direct firefox"), None);
    assert_eq!(refusal(&machine, "--system --via direct true"), None);
}

fn with_own(machine: &Machine, line: &str) -> Result<Plan> {
    let host = user_of(machine);
    let mut plan = plan_on(&host, &line.split(' ').collect::<Vec<_>>()).unwrap();
    own_profile(&mut plan, &host).map(|()| plan)
}

#[test]
fn an_own_profile_is_one_for_each_program_and_via_and_names_no_credentials() {
    let machine = wrapped();
    let directory = |line: &str| {
        let directory = with_own(&machine, line).unwrap().own_directory.unwrap();
        directory.strip_prefix(machine.at("home/.local/state/appfw/profiles")).unwrap().to_str().unwrap().to_owned()
    };
    let direct = directory("--system --via direct firefox");
    assert!(direct.starts_with("firefox-esr-") && direct.len() == "firefox-esr-".len() + 8, "{direct}");
    assert_eq!(direct, directory("--system --via direct firefox-esr http://a.test/"));
    assert_ne!(direct, directory("--system --via tor firefox"));
    assert_ne!(direct, directory("--system --via direct chromium"));
    let alice = directory("--system --via socks5h://alice:hunter2@203.0.113.20 firefox");
    assert_eq!(alice, directory("--system --via socks5h://alice:other@203.0.113.20 firefox"));
}

#[test]
fn a_program_is_told_of_its_own_profile_in_its_own_way() {
    let machine = wrapped();
    for (command, expected) in [
        ("firefox http://a.test/", "firefox --no-remote --profile DIR http://a.test/"),
        ("env A=b firefox", "env A=b firefox --no-remote --profile DIR"),
        ("chromium --incognito", "chromium --user-data-dir=DIR --incognito"),
        ("code .", "code --user-data-dir=DIR ."),
    ] {
        let plan = with_own(&machine, &format!("--system --via direct {command}")).unwrap();
        let directory = plan.own_directory.unwrap().display().to_string();
        let words: Vec<_> = plan.command.iter().map(|word| word.to_str().unwrap().replace(&directory, "DIR")).collect();
        assert_eq!(words.join(" "), expected);
        let data =
            plan.env.iter().find(|(name, _)| name == "XDG_CONFIG_HOME").map(|(_, value)| value.to_str().unwrap());
        assert_eq!(data, command.starts_with("code").then_some(&*directory), "{command}");
    }
}

#[test]
fn an_own_profile_of_a_program_that_is_not_there_is_as_any_launch_of_it() {
    let machine = wrapped();
    machine.program("bin/vim", "\x7fELF");
    for (command, code) in [("chrome", 127), ("/absent/firefox", 127), ("vim", 125), ("/etc/passwd", 125)] {
        let error = with_own(&machine, &format!("--system --via direct {command}")).unwrap_err();
        assert_eq!(crate::exit::code_of(&error), code, "{command}: {error}");
    }
}

#[test]
fn an_own_profile_that_cannot_be_is_refused() {
    let machine = wrapped();
    machine.program("bin/vim", "\x7fELF");
    for (command, phrase) in [
        (
            "vim",
            "--own-profile works with Firefox, Thunderbird, Chromium, Chrome, Electron programs and their kin, and vim is",
        ),
        ("firefox -P work", "--own-profile and -P exclude one another"),
        ("firefox --profile /x", "--own-profile and --profile exclude"),
        ("chromium --user-data-dir=/x", "--own-profile and --user-data-dir exclude"),
    ] {
        let message = with_own(&machine, &format!("--system --via direct {command}")).unwrap_err().to_string();
        assert!(message.contains(phrase), "{command}: {message}");
    }
    let directory = with_own(&machine, "--system --via direct chromium").unwrap().own_directory.unwrap();
    let _listener = machine.listen(directory.strip_prefix(machine.at("")).unwrap().to_str().unwrap());
    let message = with_own(&machine, "--system --via direct chromium").unwrap_err().to_string();
    assert!(message.starts_with("chromium's own profile for --via direct is in use by process 4711"), "{message}");
}
