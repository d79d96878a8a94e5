//! Profiles and the configuration that are wrong: each with its place, and nothing started; and `appfw profile`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod fixture;
#[path = "profile/places.rs"]
mod places;

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use appfw::cli::ProfileCommand;
use appfw::host::Host;
use appfw::profile::{self, Places, manage};

/// Files that are wrong: which, its text, and the sentence about it, as `LINE:COLUMN: …`.
const WRONG: [(&str, &str, &str); 80] = [
    // Typos
    ("p", "comands = [\"x\"]", "1:1: comands is no key: did you mean commands?"),
    ("p", "commands = [\"x\"]\n  vai = \"tor\"", "2:3: vai is no key: did you mean via?"),
    ("p", "allow_destination = \"10.0.0.1\"", "1:1: allow_destination is no key: did you mean allow-destination?"),
    ("p", "frobnicate = true", "1:1: frobnicate is no key: docs/profiles.md"),
    (
        "p",
        "wall = \"namespaces\"",
        "1:8: wall namespaces: takes \"strict\", \"namespace\" or \"address\"; did you mean \"namespace\"?",
    ),
    ("p", "dbus = \"all\"", "1:8: dbus all: takes \"none\", \"filtered\", \"session\" or \"system\""),
    ("p", "manager = \"root\"", "1:11: manager root: takes \"system\", \"user\" or \"standalone\""),
    ("p", "via = \"socks6://a.test\"", "1:7: `socks6://` is no scheme"),
    ("p", "via = [\"tor\", \"htp://a.test:1\"]", "1:15: `htp://` is no scheme: did you mean http://"),
    (
        "p",
        "only = [\n  \"a.test\",\n  \"*b.test\",\n]",
        "3:3: only `*b.test` is not a destination: did you mean *.b.test?",
    ),
    ("p", "block = \"10.0.0.5/24\"", "1:9: block `10.0.0.5/24` is not a destination: did you mean"),
    ("p", "allow = \"loclahost\"", "did you mean localhost?"),
    ("p", "deny = \"dns.google\"", "takes addresses; for names use"),
    ("p", "dns = \"of\"", "1:7: dns of: takes synthetic, host, off or tcp://IP[:PORT]"),
    ("p", "property = \"MemoryMx=1G\"", "1:12: property"),
    ("p", "property = [\"MemoryMax=1G\", \"MemoryMax=2G\"]", "1:1: property MemoryMax stands twice"),
    ("p", "property = \"ExecStart=/bin/sh\"", "1:12: property"),
    ("p", "publish = [80, 80]", "1:1: publish"),
    ("p", "publish = 0", "1:11: publish 0: takes"),
    ("p", "address = \"10.0.0.1\"", "1:11: address \"10.0.0.1\": takes an address of 127.0.0.0/8"),
    ("p", "workdir = \"src\"", "1:11: workdir \"src\": a file is used from anywhere, so write an absolute path"),
    ("p", "via = \"@secret\"", "1:7: via `@secret`: a file is used from anywhere"),
    ("p", "env = \"=x\"", "1:7: env \"=x\": takes NAME=VALUE or NAME"),
    ("p", "commands = [\"/usr/bin/x\"]", "1:13: commands \"/usr/bin/x\": takes a program's file name"),
    ("p", "via = [\"direct\", \"none\"]", "1:1: `direct` and `none` stand alone"),
    // Keys of other places
    ("p", "system = true", "1:1: system is no key: write manager = \"system\""),
    ("p", "no-capture = true", "1:1: no-capture is no key: write capture = false"),
    ("p", "quiet = true", "1:1: quiet is no key"),
    ("p", "unit = \"x\"", "1:1: unit is no key: it is about one launch, say --unit there"),
    ("p", "[vias.work]\nspec = \"tor\"", "1:2: ways out are named in config.toml"),
    ("config", "commands = [\"x\"]", "1:1: commands is a key of profiles, and config.toml is for every program"),
    // Types
    ("p", "via = 9050", "1:7: via takes a string or a list of strings, and this is an integer"),
    ("p", "only = [\"a.test\", 5]", "1:19: only takes a string or a list of strings, and this is an integer"),
    ("p", "only = [[\"a.test\"]]", "1:9: only takes a string or a list of strings, and this is an array"),
    ("p", "capture = \"yes\"", "1:11: capture takes true or false, and this is a string"),
    ("p", "wall = true", "1:8: wall takes \"strict\", \"namespace\" or \"address\", and this is a boolean"),
    ("p", "dns = [\"off\"]", "1:7: dns takes a string, and this is an array"),
    ("p", "uid = 1.5", "1:7: uid takes a string, and this is a float"),
    ("p", "log-destinations = false", "1:20: log-destinations takes \"yes\" or \"no\", and this is a boolean"),
    ("p", "via = 1979-05-27", "1:7: via takes a string or a list of strings, and this is a datetime"),
    ("p", "env = { A = \"b\" }", "1:7: env takes a string or a list of strings, and this is a table"),
    ("p", "[via.work]\nspec = \"tor\"", "; a way out gets a name by [vias.NAME]"),
    ("p", "publish = 0x50", "1:11: publish takes a string"),
    ("p", "via = \"tor\"\nonly = []", "2:1: only is an empty list: leave the key out"),
    ("p", "via = []", "1:1: via is an empty list: leave the key out"),
    ("p", "egress-filter = []", "1:1: egress-filter is an empty list"),
    ("config", "[vias.work]\nspec = []", "2:8: no way out is given"),
    // What is in the values
    ("p", "description = \"a\\nExecStart=/bin/evil\"", "1:15: description has a control character in it"),
    ("p", "commands = [\"a\\u0000b\"]", "1:13: commands has a control character in it"),
    ("p", "via = \"socks5://a.test\\n\"", "1:7: via has a control character in it"),
    ("p", "only = \"\"", "1:8: only is empty"),
    ("p", "only = \"a.test;b.test\"", "1:8: only `a.test;b.test` is not a destination"),
    ("p", "only = \"%i.test\"", "1:8: only `%i.test` is not a destination"),
    ("p", "block = \"$(id).test\"", "1:9: block `$(id).test` is not a destination"),
    ("p", "env = \"A=\\u0000\"", "1:7: env has a control character in it"),
    ("p", "workdir = \"/a\\u001b[31m\"", "1:11: workdir has a control character in it"),
    ("p", "\"a\\nb\" = 1", "1:1: a\\nb is no key"),
    ("p", "\"%n;$x\" = 1", "1:1: %n;$x is no key"),
    // TOML itself
    ("p", "via = \"tor\"\nvia = \"direct\"", "2:1: duplicate key"),
    ("p", "via = tor", "1:7: tor stands without quotes: write \"tor\""),
    ("p", "log-destinations = no # quiet", "1:20: no stands without quotes: write \"no\""),
    ("p", "only = [a.test, \"b\"]", "1:9: a.test stands without quotes: write \"a.test\""),
    ("p", "via = socks5h://a.test:1", "1:7: socks5h://a.test:1 stands without quotes"),
    ("p", "\"\" = 1", "1:1: \"\" is no key"),
    ("p", "dry-run = true", "1:1: dry-run is no key: it is about one launch"),
    (
        "config",
        "[vias.work]\nspec = \"tor\"\nblock = \"a.test\"",
        "3:1: block is no key of a way out, but of all programs: move it above [vias.work]",
    ),
    ("p", "via \"tor\"", "1:5: "),
    ("p", "via = \"tor", "1:"),
    ("p", "[", "1:"),
    ("p", "a = {", "1:"),
    ("p", "via: tor\n", "1:"),
    ("p", "only = [\"a.test\"\nvia = \"tor\"", ": "),
    // Named ways out
    ("config", "vias = \"tor\"", "1:8: vias is a table: write [vias.NAME]"),
    ("config", "[vias]\nwork = \"tor\"", "2:8: write [vias.work] and spec = \"…\" below"),
    ("config", "[vias.tor]\nspec = \"direct\"", "1:7: tor has a meaning after --via already"),
    ("config", "[vias.\"a/b\"]\nspec = \"tor\"", "1:7: the name a/b of a way out: takes 1 to 64"),
    ("config", "[vias.work]\nspce = \"tor\"", "2:1: spce is no key of a way out: did you mean spec?"),
    ("config", "[vias.work]\nspec = \"tor\"\nfile = \"/x\"", "1:7: [vias.work] takes one of spec, file and credential"),
    ("config", "[vias.work]\nfile = \"x\"", "2:8: file \"x\": write an absolute path"),
    ("config", "[vias.work]\ncredential = \"../x\"", "2:14: credential \"../x\": takes a name"),
];

/// A machine's files, and an ordinary user.
struct Machine {
    root: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn host(&self) -> Host {
        let mut host = fixture::host_of("bob");
        // Whose the files here are.
        host.caller.uid = rustix::process::geteuid().as_raw().max(1);
        host.environment =
            vec![("HOME".into(), self.root.path().into()), ("XDG_CONFIG_HOME".into(), self.root.path().into())];
        host
    }

    /// The file of the user's own place.
    fn path(&self, name: &str) -> PathBuf {
        let file =
            if name == "config" { "appfw/config.toml".to_owned() } else { format!("appfw/profiles/{name}.toml") };
        self.root.path().join(file)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        mode(&path, 0o600);
        path
    }

    /// The sentence by which a launch is refused.
    fn refusal(&self, line: &str) -> String {
        let args = fixture::parse(&line.split(' ').collect::<Vec<_>>()).unwrap();
        match profile::complete(&args, self.root.path(), &self.host()) {
            Ok((args, _)) => panic!("{line} becomes {args:?}"),
            Err(error) => format!("{error:#}"),
        }
    }

    fn appfw(&self, command: &ProfileCommand) -> Result<String, String> {
        manage::answer(command, self.root.path(), self.host()).map_err(|error| format!("{error:#}"))
    }

    fn new_profile(&self, name: &str, options: &[&str]) -> Result<String, String> {
        let options = options.iter().map(OsString::from).collect();
        self.appfw(&ProfileCommand::New { name: name.to_owned(), options })
    }

    /// All files and directories below the user's place.
    fn files(&self) -> Vec<PathBuf> {
        fn walk(directory: &Path, into: &mut Vec<PathBuf>) {
            for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
                into.push(path.clone());
                if path.is_dir() {
                    walk(&path, into);
                }
            }
        }
        let mut files = Vec::new();
        walk(self.root.path(), &mut files);
        files.sort();
        files
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn each_mistake_is_told_with_its_place_and_nothing_is_started() {
    for (name, text, phrase) in WRONG {
        let machine = Machine::new();
        let path = machine.write(name, text);
        let mistakes = Places::of(machine.root.path(), &machine.host()).named(&path).mistakes;
        let sentences: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        let wanted =
            |sentence: &String| sentence.starts_with(&format!("{}:", path.display())) && sentence.contains(phrase);
        assert!(sentences.iter().any(wanted), "{text}: {sentences:?}");
        assert!(sentences.iter().all(|sentence| !sentence.contains('\n')), "{sentences:?}");
        assert!(!phrase.contains("quotes") || sentences.len() == 1, "{sentences:?}");
        let place = sentences[0].split(": ").next().unwrap().to_owned();
        let refusal = machine.refusal("--profile p x");
        assert!(name == "config" || refusal.starts_with(&place), "{refusal}");
        if name == "config" {
            assert!(machine.refusal("x").starts_with(&place));
        }
    }
}

#[test]
fn every_mistake_is_told_not_only_the_first() {
    let machine = Machine::new();
    let path =
        machine.write("p", "vai = \"tor\"\nwall = 5\nonly = [\"a..b\", \"x\", \"*\"]\ndns = \"on\"\ndns = \"off\"");
    let mistakes = Places::of(machine.root.path(), &machine.host()).named(&path).mistakes;
    let lines: Vec<usize> = mistakes.iter().map(|mistake| mistake.position.unwrap().0).collect();
    assert!([1, 2, 3, 4, 5].iter().all(|line| lines.contains(line)), "{mistakes:?}");
    assert!(
        machine.refusal("--profile p x").ends_with(&format!("(and {} more: appfw profile check)", lines.len() - 1))
    );
}

#[test]
fn a_password_is_taken_from_a_file_of_ones_own_and_shown_nowhere() {
    let machine = Machine::new();
    machine.write("p", "commands = \"x\"\nvia = [\"socks5://alice:hunter2@a.test\", \"http://b:hunter2@c.test:1\"]");
    let (args, _) = profile::complete(&fixture::parse(&["x"]).unwrap(), machine.root.path(), &machine.host()).unwrap();
    assert!(args.via[0].contains("hunter2"));
    for json in [false, true] {
        let shown = machine.appfw(&ProfileCommand::Show { name: "x".to_owned(), json }).unwrap();
        assert!(shown.contains("***:***@a.test") && !shown.contains("hunter2"), "{shown}");
    }
    mode(&machine.path("p"), 0o640);
    let refusal = machine.refusal("x");
    assert!(refusal.contains("file = \"/path\"") && !refusal.contains("hunter2"), "{refusal}");
    let named = machine.write("config", "[vias.work]\nspec = \"socks5://alice:hunter2@a.test\"");
    mode(&named, 0o644);
    assert!(machine.refusal("--no-profile x").contains("a password stands here"));
}

#[test]
fn show_says_where_each_value_is_from() {
    let machine = Machine::new();
    machine.write("config", "\nvia = \"tor\"\nblock = \"config.test\"");
    machine.write("ssh", "block = [\"a.test\"]\ncapture = false");
    let root = machine.root.path().display().to_string();
    let show = |name: &str, json| {
        machine.appfw(&ProfileCommand::Show { name: name.to_owned(), json }).unwrap().replace(&root, "")
    };
    for name in ["ssh", "scp", "/usr/bin/ssh"] {
        assert_eq!(
            show(name, false),
            "# profile ssh\n\
             block = [\"a.test\", \"config.test\"]  # /appfw/profiles/ssh.toml:1, /appfw/config.toml:3\n\
             capture = false  # /appfw/profiles/ssh.toml:2\n\
             commands = [\"ssh\", \"scp\", \"sftp\"]  # built in\n\
             description = \"ssh and what comes with it\"  # built in\n\
             via = \"tor\"  # /appfw/config.toml:2\n\
             wall = \"namespace\"  # built in\n"
        );
    }
    let json: serde_json::Value = serde_json::from_str(&show("ssh", true)).unwrap();
    assert_eq!(json["profile"], "ssh");
    assert_eq!(json["keys"]["via"]["value"], serde_json::json!(["tor"]));
    assert_eq!(json["keys"]["capture"]["value"], false);
    assert_eq!(json["keys"]["wall"]["from"], serde_json::json!(["built in"]));
    assert!(show("unknown", false).starts_with("# no profile, the configuration alone\nblock"));
    fs::remove_file(machine.path("config")).unwrap();
    let refusal = machine.appfw(&ProfileCommand::Show { name: "sssh".to_owned(), json: false }).unwrap_err();
    assert!(refusal.contains("did you mean ssh?"), "{refusal}");
}

#[test]
fn list_and_path_say_what_there_is() {
    let machine = Machine::new();
    let own = machine.write("mine", "commands = [\"x\"]\ndescription = \"My own\"");
    machine.write("wrong", "wall = 5");
    let firefox = machine.write("firefox", "dns = \"off\"");
    let list = machine.appfw(&ProfileCommand::List { json: false }).unwrap();
    let line = |name: &str| list.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(line("mine").contains(own.to_str().unwrap()) && line("mine").ends_with("My own"), "{list}");
    assert!(line("wrong").ends_with("wrong: appfw profile check"), "{list}");
    assert!(line("curl").contains("built in"), "{list}");
    let json = machine.appfw(&ProfileCommand::List { json: true }).unwrap();
    let json: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    let found = json.iter().find(|profile| profile["name"] == "firefox").unwrap();
    assert_eq!(found["from"], serde_json::json!([firefox, "built in"]));
    let path = |name: Option<&str>| machine.appfw(&ProfileCommand::Path { name: name.map(str::to_owned) });
    assert_eq!(path(Some("firefox")).unwrap(), format!("{}\nbuilt in\n", firefox.display()));
    assert!(path(None).unwrap().starts_with(&format!("{}/appfw\n", machine.root.path().display())));
    assert!(path(Some("absent")).unwrap_err().contains("there is no profile"));
}

#[test]
fn check_finds_what_is_wrong_and_what_contradicts_itself() {
    let machine = Machine::new();
    let check = |files: &[PathBuf]| machine.appfw(&ProfileCommand::Check { files: files.to_vec() });
    assert_eq!(check(&[]).unwrap(), "nothing is wrong\n");
    for (text, is_sound) in [
        ("via = \"tor\"", true),
        ("via = \"none\"\nallow = \"localhost\"", false),
        // Only root, who never reads a user's own place, has rules.
        ("via = \"none\"\nallow = \"localhost\"\ndeny = \"any\"", false),
        ("deny = \"8.8.8.8\"", false),
        ("via = \"tor\"\nwall = \"strict\"\nallow = \"localhost\"", false),
        ("via = \"direct\"\nisolate = \"profile\"", false),
        ("via = \"work\"", false),
        ("via = \"@/absent\"\nisolate = \"profile\"", true),
        ("allow = \"localhost\"", false),
        // None of these says where it may go, and only the last two go nowhere.
        ("only = \"a.test\"", true),
        ("dns = \"host\"", true),
        ("publish = 80", true),
        ("manager = \"system\"\nwall = \"strict\"\ncapture = true", false),
        ("manager = \"system\"\nwall = \"strict\"\nallow = \"localhost\"", false),
        ("manager = \"user\"\nwall = \"address\"\nvia = \"direct\"", false),
        ("via = \"direct\"\nuid = \"nobody-here\"", false),
        ("walls = \"strict\"", false),
    ] {
        let path = machine.write("p", text);
        assert_eq!(check(&[]).is_ok(), is_sound, "{text}");
        assert_eq!(check(&[path]).is_ok(), is_sound, "{text}");
    }
    machine.write("config", "[vias.work]\nspec = \"tor\"");
    machine.write("p", "via = \"work\"");
    assert!(check(&[]).is_ok());
    // Nobody can tell by which of them the command is started.
    machine.write("p", "commands = [\"x\", \"y\"]");
    machine.write("q", "commands = [\"y\", \"x\", \"p\"]");
    assert!(machine.refusal("x").contains("the profiles p and q are all for x"));
    assert_eq!(check(&[]).unwrap_err(), "there are 2 mistakes: programs that they are about are not started");
    fs::remove_file(machine.path("q")).unwrap();
    assert!(check(&[]).is_ok());
    machine.write("p", "walls = 1\nwalk = 2");
    let broken = machine.write("config", "dns = 1");
    assert_eq!(check(&[]).unwrap_err(), "there are 3 mistakes: programs that they are about are not started");
    assert!(check(&[broken]).unwrap_err().starts_with("there is a mistake"));
    assert!(check(&["/absent/p.toml".into()]).is_err());
}

#[test]
fn what_is_the_machines_is_judged_as_roots_too_but_what_is_for_every_program_as_the_callers() {
    let machine = Machine::new();
    let check = |files: &[PathBuf]| machine.appfw(&ProfileCommand::Check { files: files.to_vec() });
    let of_machine = |name: &str, text: &str| {
        let path = machine.root.path().join("etc/appfw").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    };
    of_machine("profiles/resolver.toml", "via = \"none\"\ndeny = \"8.8.8.8\"");
    assert!(check(&[]).is_ok());
    of_machine("profiles/resolver.toml", "wall = \"strict\"\ncapture = true");
    assert!(check(&[]).is_err());
    of_machine("profiles/resolver.toml", "");
    let config = of_machine("config.toml", "deny = \"8.8.8.8\"");
    assert!(check(&[]).is_err() && check(std::slice::from_ref(&config)).is_err());
    let mut host = machine.host();
    (host.caller.uid, host.booted) = (0, true);
    let of_root = manage::answer(&ProfileCommand::Check { files: Vec::new() }, machine.root.path(), host);
    assert_eq!(rustix::process::geteuid().is_root(), of_root.is_ok(), "{of_root:?}");
    // What a user's own configuration says is no mistake of root's profiles.
    fs::remove_file(config).unwrap();
    of_machine("profiles/resolver.toml", "via = \"none\"\nallow = \"localhost\"");
    let own = machine.write("config", "deny = \"any\"");
    assert_eq!(check(&[own]).unwrap_err(), "there is a mistake: programs that it is about are not started");
}

#[test]
fn show_says_what_a_launch_takes() {
    let machine = Machine::new();
    machine.new_profile("work", &["--command", "firefox", "--via", "tor", "--own-profile"]).unwrap();
    let show = |name: &str| machine.appfw(&ProfileCommand::Show { name: name.to_owned(), json: false }).unwrap();
    assert!(show("firefox").starts_with("# profile work\n"), "{}", show("firefox"));
    assert!(show("work").starts_with("# profile work\n") && show("chromium").starts_with("# profile chromium\n"));
    machine.new_profile("java-proxy", &["--dns", "off"]).unwrap();
    assert!(show("java-proxy").starts_with("# profile java-proxy\n"), "for no command");
}

#[test]
fn a_profile_is_written_from_options_and_says_the_same() {
    let machine = Machine::new();
    let options = [
        "--command",
        "x y",
        "--via",
        "socks5h://a.test",
        "--only=*.b.test",
        "--only",
        "c.test:80-90",
        "--no-capture",
        "--user",
        "--command=z",
        "--env",
        "A=\"$b\" %c;\\ü\n\td'",
        "-p",
        "MemoryMax=1G",
        "--detach",
        "--uid",
        "7",
    ];
    let path = machine.new_profile("work", &options).unwrap();
    assert_eq!(path.trim_end(), machine.path("work").to_str().unwrap());
    assert_eq!(fs::metadata(machine.path("work")).unwrap().permissions().mode() & 0o777, 0o600);
    let (args, _) = profile::complete(&fixture::parse(&["z"]).unwrap(), machine.root.path(), &machine.host()).unwrap();
    let without = |word: &&str| !["--command", "x y", "--command=z"].contains(word);
    let words: Vec<&str> = options.iter().copied().filter(without).chain(["--profile=work", "z"]).collect();
    let said = fixture::parse(&words).unwrap();
    let bare =
        |args: appfw::cli::LaunchArgs| format!("{:?}", appfw::cli::LaunchArgs { given: Default::default(), ..args });
    assert_eq!(bare(args), bare(said));
}

#[test]
fn what_cannot_be_a_profile_is_not_written_and_nothing_is_replaced() {
    let machine = Machine::new();
    machine.write("there", "via = \"tor\"");
    symlink("/absent", machine.path("link")).unwrap();
    let before = machine.files();
    for (name, options, phrase) in [
        ("there", &["--via", "direct"][..], "is there already"),
        ("link", &["--via", "direct"], "is there already"),
        ("../x", &["--via", "direct"], "is no name of a profile"),
        ("a\nb", &["--via", "direct"], "is no name of a profile"),
        ("%n", &["--via", "direct"], "is no name of a profile"),
        ("p", &["--via", "socks5://u:hunter2@a.test", "--only", "a..b"], "only `a..b` is not a destination"),
        ("p", &["--unit", "x"], "--unit is about one launch"),
        ("p", &["--dry-run"], "--dry-run is about one launch"),
        ("p", &["--vai", "tor"], "unexpected argument"),
        ("p", &["--via", "tor", "curl"], "curl: a profile takes options alone"),
        ("p", &["--command", "/usr/bin/curl"], "takes a program's file name"),
        ("p", &["--command", "a\nvia = \"direct\""], "has a control character in it"),
        ("p", &["--workdir", "here"], "write an absolute path"),
        ("p", &["--capture", "--no-capture"], "cannot be used with"),
    ] {
        let refusal = machine.new_profile(name, options).expect_err(name);
        assert!(refusal.contains(phrase) && !refusal.contains("hunter2"), "{name}: {refusal}");
        assert_eq!(machine.files(), before, "{name}");
    }
    mode(machine.path("there").parent().unwrap(), 0o777);
    assert!(machine.new_profile("p", &["--via", "tor"]).unwrap_err().contains("can be written by others"));
    assert_eq!(machine.files(), before);
    assert_eq!(fs::read_to_string(machine.path("there")).unwrap(), "via = \"tor\"");
}

#[test]
fn edit_starts_from_what_is_shipped_and_says_what_is_wrong_with_the_result() {
    let machine = Machine::new();
    let edit = |name: &str, editor: &str| {
        let mut host = machine.host();
        host.environment.push(("EDITOR".into(), editor.into()));
        let command = ProfileCommand::Edit { name: name.to_owned() };
        manage::answer(&command, machine.root.path(), host).map_err(|error| format!("{error:#}"))
    };
    let append = |line: &str| format!("f() {{ echo '{line}' >>\"$1\"; }}; f");
    assert_eq!(edit("ssh", "true").unwrap(), "nothing was changed\n");
    assert!(edit("ssh", "false").unwrap_err().contains("false ended with 1"));
    assert!(!machine.path("ssh").exists());
    let refusal = edit("ssh", "f() { echo '# my work' >>\"$1\"; return 1; }; f").unwrap_err();
    assert!(refusal.contains(&format!("{} stays as it is now", machine.path("ssh").display())), "{refusal}");
    assert!(fs::read_to_string(machine.path("ssh")).unwrap().ends_with("# my work\n"));
    fs::remove_file(machine.path("ssh")).unwrap();
    assert!(edit("ssh", &append("dns = \"off\"")).unwrap().contains("is saved"));
    let text = fs::read_to_string(machine.path("ssh")).unwrap();
    assert!(
        text.starts_with("# Your profile ssh")
            && text.contains("wall = \"namespace\"")
            && text.ends_with("dns = \"off\"\n"),
        "{text}"
    );
    assert!(edit("ssh", &append("wal = 1")).unwrap_err().contains("is saved, and wrong"));
    assert!(edit("ssh", "sed -i /^wal.=/d").is_ok());
    assert!(edit("own", &append("via = \"direct\"")).is_ok());
    assert!(fs::read_to_string(machine.path("own")).unwrap().contains("commands = [\"own\"]"));
    assert!(edit("../x", "true").unwrap_err().contains("is no name of a profile"));
}
