mod plain;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::fixture::{host, parse as words};
use crate::plan::Plan;
use crate::via::Via;

/// A machine of files, and who looks at them.
struct Machine {
    root: tempfile::TempDir,
    host: Host,
}

impl Machine {
    /// Bob's.
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut host = host();
        // Files are this process's, who must be the caller, and an ordinary one.
        host.caller.uid = rustix::process::geteuid().as_raw().max(1);
        host.caller.home = root.path().join("home");
        host.environment =
            vec![("HOME".into(), root.path().join("home").into()), ("PATH".into(), root.path().join("bin").into())];
        Self { root, host }
    }

    fn of_root() -> Self {
        let mut machine = Self::new();
        machine.host.caller.uid = 0;
        machine
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.root.path().join(name.replace('~', "home/.config/appfw"))
    }

    /// `~` is the user's place.
    fn write(&self, name: &str, text: &str) -> std::path::PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn complete(&self, line: &str) -> Result<(LaunchArgs, Applied)> {
        complete(&words(&line.split(' ').collect::<Vec<_>>()).unwrap(), self.root.path(), &self.host)
    }

    fn completed(&self, line: &str) -> LaunchArgs {
        self.complete(line).unwrap_or_else(|error| panic!("{line}: {error:#}")).0
    }

    fn refusal(&self, line: &str) -> String {
        let error = self.complete(line).map(|(args, _)| args.given).expect_err(line);
        format!("{error:#}").replace(&self.root.path().display().to_string(), "")
    }

    /// Where a key was taken from.
    fn origins(&self, line: &str, key: &str) -> Vec<String> {
        let (_, applied) = self.complete(line).unwrap();
        let origins = &applied.taken.get(key).unwrap_or_else(|| panic!("{line}: {key}")).origins;
        origins.iter().map(|origin| origin.to_string().replace(&self.root.path().display().to_string(), "")).collect()
    }

    fn plan(&self, line: &str) -> (Result<Plan>, Applied, LaunchArgs) {
        let (args, applied) = self.complete(line).unwrap();
        let plan = Plan::new(&args, Via::parse(&args.via).unwrap(), &self.host);
        (plan.map_err(|error| applied.explain(error)), applied, args)
    }
}

#[test]
fn every_option_is_a_key_or_about_one_launch() {
    use clap::CommandFactory;
    let known: Vec<String> = keys::all(false).iter().map(|key| key.name.clone()).collect();
    let of_one_launch =
        ["profile", "no-profile", "unit", "dry-run", "quiet", "verbose", "help", "version", "background", "settled"];
    for option in LaunchArgs::command().get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)) {
        let is_key = known.iter().any(|key| keys::options(key).contains(&option.as_str()));
        assert!(is_key != of_one_launch.contains(&option.as_str()), "--{option}");
    }
    assert!(known.len() >= 22, "{known:?}");
}

#[test]
fn each_key_does_what_its_option_does() {
    let machine = Machine::new();
    let keys = [
        ("via = \"direct\"", "--via direct"),
        ("via = [\"socks5://a.test\", \"tor://b.test\"]", "--via socks5://a.test --via tor://b.test"),
        ("isolate = \"destination\"", "--isolate destination"),
        ("dns = \"off\"", "--dns off"),
        ("only = [\"a.test\", \"*.b.test\"]", "--only a.test --only *.b.test"),
        ("block = \"a.test\"", "--block a.test"),
        ("allow-destination = \"10.0.0.1\"", "--allow-destination 10.0.0.1"),
        ("allow = \"localhost\"", "--allow localhost"),
        ("deny = \"any\"", "--deny any"),
        ("wall = \"address\"", "--wall address"),
        ("ingress-filter = \"/sys/fs/bpf/in\"", "--ingress-filter /sys/fs/bpf/in"),
        (
            "egress-filter = [\"/sys/fs/bpf/a\", \"/sys/fs/bpf/b\"]",
            "--egress-filter /sys/fs/bpf/a --egress-filter /sys/fs/bpf/b",
        ),
        ("capture = true", "--capture"),
        ("capture = false", "--no-capture"),
        ("publish = [8080, \"81=80\"]", "--publish 8080 --publish 81=80"),
        ("address = \"127.0.0.9\"", "--address 127.0.0.9"),
        ("dbus = \"none\"", "--dbus none"),
        ("manager = \"system\"", "--system"),
        ("manager = \"user\"", "--user"),
        ("manager = \"standalone\"", "--standalone"),
        ("uid = 1000", "--uid 1000"),
        ("property = \"MemoryMax=1G\"", "--property MemoryMax=1G"),
        ("own-profile = true", "--own-profile"),
        ("env = [\"A=b c\", \"D\"]", "--env A=b\u{a0}c --env D"),
        ("env-scheme = \"socks\"", "--env-scheme socks"),
        ("workdir = \"/\"", "--workdir /"),
        ("exit-with-main = true", "--exit-with-main"),
        ("detach = true", "--detach"),
        ("detach = false", ""),
        ("log-destinations = \"no\"", "--log-destinations no"),
    ];
    for (text, options) in keys {
        machine.write("~/config.toml", text);
        let line: Vec<String> = options
            .split(' ')
            .chain(["x"])
            .filter(|word| !word.is_empty())
            .map(|word| word.replace('\u{a0}', " "))
            .collect();
        let expected = LaunchArgs { given: Given::default(), ..words(&line).unwrap() };
        let got = LaunchArgs { given: Given::default(), ..machine.completed("x") };
        assert_eq!(format!("{got:?}"), format!("{expected:?}"), "{text}");
    }
    let shown = |name: &str| keys.iter().any(|(text, _)| text.starts_with(&format!("{name} =")));
    for key in keys::all(false) {
        assert!(shown(&key.name), "{}", key.name);
    }
}

#[test]
fn a_command_line_is_completed_and_else_as_it_was() {
    use std::os::unix::ffi::OsStringExt;
    let machine = Machine::new();
    machine.write("~/config.toml", "quiet-is-no-key-but-this-is = 1");
    assert!(machine.refusal("x").contains("is no key"));
    machine.write("~/config.toml", "dns = \"off\"\n");
    let odd = OsString::from_vec(vec![b'/', 0xff, b'=', b' ']);
    let line =
        ["appfw-run", "-q", "--via=tor", "--only", "a.test", "--only=b.test", "-p", "MemoryMax=1G", "--env", "A=\n-b"];
    let line: Vec<OsString> = line
        .iter()
        .map(OsString::from)
        .chain(["--workdir".into(), odd.clone(), "curl".into(), "--via".into(), odd.clone()])
        .collect();
    let args = LaunchArgs::try_parse_from(line).unwrap();
    let (completed, _) = complete(&args, machine.root.path(), &machine.host).unwrap();
    assert_eq!((&args.dns, completed.dns.as_deref()), (&None, Some("off")));
    let same = LaunchArgs { dns: None, profile: None, ..completed };
    assert_eq!(format!("{same:?}"), format!("{args:?}"));
}

#[test]
fn higher_places_win_key_by_key_and_what_is_closed_stays_closed() {
    let machine = Machine::new();
    machine.write("usr/share/appfw/config.toml", "dns = \"off\"\nblock = \"share.test\"\nisolate = \"launch\"");
    machine.write("etc/appfw/config.toml", "via = \"tor\"\ndns = \"synthetic\"\nblock = \"etc.test\"");
    machine.write("~/config.toml", "via = \"socks5://config.test\"\nonly = \"config.test\"");
    machine.write("etc/appfw/profiles/web.toml", "commands = [\"x\"]\nonly = [\"etc.test\"]\nwall = \"strict\"");
    machine.write("~/profiles/web.toml", "only = [\"a.test\", \"b.test\"]\nblock = [\"profile.test\", \"etc.test\"]");
    let (args, applied) = machine.complete("--block cli.test x").unwrap();
    assert_eq!(args.via, ["socks5://config.test"]);
    assert_eq!(args.only, ["a.test", "b.test"]);
    assert_eq!(args.block, ["cli.test", "profile.test", "etc.test", "share.test"]);
    assert_eq!(args.dns.as_deref(), Some("synthetic"));
    assert_eq!((args.profile.as_deref(), applied.sources.len()), (Some("web"), 2));
    assert_eq!(machine.origins("x", "wall"), ["/etc/appfw/profiles/web.toml:3"]);
    assert_eq!(machine.origins("x", "only"), ["/home/.config/appfw/profiles/web.toml:1"]);
    assert_eq!(machine.origins("x", "dns"), ["/etc/appfw/config.toml:2"]);
    assert_eq!(machine.origins("x", "isolate"), ["/usr/share/appfw/config.toml:3"]);
    let blocks = machine.origins("x", "block");
    assert_eq!(blocks.len(), 3, "{blocks:?}");

    let args = machine.completed("--via direct --only cli.test --dns off x");
    assert_eq!(
        (args.via, args.only, args.dns.as_deref()),
        (vec!["direct".into()], vec!["cli.test".into()], Some("off"))
    );
    let args = machine.completed("--no-profile x");
    assert_eq!((args.only, args.wall, args.profile), (vec!["config.test".into()], None, None));
}

#[test]
fn either_option_of_a_key_overrides_it() {
    let machine = Machine::new();
    machine.write("~/config.toml", "capture = true\nmanager = \"system\"");
    let args = machine.completed("--no-capture --standalone x");
    assert_eq!((args.capture, args.no_capture, args.system, args.standalone), (false, true, false, true));
    machine.write("~/profiles/x.toml", "commands = \"x\"\ncapture = false\ndetach = true");
    let args = machine.completed("--capture x");
    assert_eq!((args.capture, args.no_capture, args.detach), (true, false, true));
}

#[test]
fn root_reads_nothing_of_an_environment() {
    let machine = Machine::of_root();
    machine.write("~/config.toml", "via = \"direct\"");
    machine.write("xdg/appfw/config.toml", "via = \"direct\"");
    machine.write("etc/appfw/config.toml", "dns = \"off\"");
    assert!(machine.completed("x").via.is_empty());
    assert_eq!(machine.completed("x").dns.as_deref(), Some("off"));

    let mut machine = Machine::new();
    machine.write("xdg/appfw/config.toml", "via = \"direct\"");
    machine.host.environment.push(("XDG_CONFIG_HOME".into(), machine.path("xdg").into()));
    assert_eq!(machine.completed("x").via, ["direct"]);
    machine.host.environment.pop();
    machine.host.environment.push(("XDG_CONFIG_HOME".into(), "xdg".into()));
    assert!(machine.completed("x").via.is_empty(), "a relative one is ignored");
}

#[test]
fn a_profile_is_found_by_the_command_and_by_what_it_leads_to() {
    let machine = Machine::new();
    let program = machine.write("lib/real-x", "");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(machine.path("bin")).unwrap();
    std::os::unix::fs::symlink(&program, machine.path("bin/x")).unwrap();
    let found = |line: &str| machine.completed(line).profile;
    assert_eq!(found("x"), None);
    machine.write("~/profiles/real.toml", "commands = [\"real-x\"]");
    assert_eq!(found("x").as_deref(), rustix::process::geteuid().is_root().then_some("real"), "if the link is root's");
    machine.write("usr/share/appfw/profiles/called.toml", "commands = [\"x\"]");
    assert_eq!(found("x").as_deref(), Some("called"), "by the word itself first");
    machine.write("~/profiles/mine.toml", "commands = [\"y\", \"x\"]");
    assert_eq!(found("x").as_deref(), Some("mine"), "the highest place");
    assert_eq!(found("/opt/y").as_deref(), Some("mine"));
    assert_eq!(found("--no-profile x"), None);
    assert_eq!(found("--profile called /opt/z").as_deref(), Some("called"));
    assert_eq!(found("firefox-esr").as_deref(), Some("firefox"));
    let link = machine.path("home/tool");
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(&program, &link).unwrap();
    let found_by_link = || found(link.to_str().unwrap());
    fs::set_permissions(machine.path("home"), fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(found_by_link(), None, "a link that the program may change");

    machine.write("~/profiles/other.toml", "commands = \"x\"");
    assert!(machine.refusal("x").contains("the profiles mine and other are all for x; choose one by --profile"));
    machine.write("~/profiles/x.toml", "commands = \"x\"");
    assert_eq!(found("x").as_deref(), Some("x"), "its namesake");
}

#[test]
fn a_profile_that_is_not_there_is_said_so() {
    let machine = Machine::new();
    assert!(machine.refusal("--profile frefox x").contains("no profile \"frefox\"; did you mean firefox?"));
    assert!(machine.refusal("--profile zzzzzz x").contains("appfw profile list"));
    machine.write("secret.toml", "via = \"direct\"");
    for name in ["../secret", "", ".", "a/b", "a\nb", "-x"] {
        let args = words(&[&format!("--profile={name}"), "x"]).unwrap();
        let error = complete(&args, machine.root.path(), &machine.host).map(|_| ()).unwrap_err();
        assert!(format!("{error:#}").contains("there is no profile"), "{name}: {error:#}");
    }
}

#[test]
fn ways_out_have_names() {
    let mut machine = Machine::new();
    machine.write(
        "etc/appfw/config.toml",
        "via = \"work\"\n[vias.work]\nspec = \"socks5://etc.test\"\n[vias.etc]\nspec = \"http://etc.test:1\"",
    );
    machine.write(
        "~/config.toml",
        "[vias.work]\nspec = [\"socks5://u:p@a.test\", \"http://b.test:8080\"]\n[vias.file]\nfile = \"/etc/proxy\"\n[vias.credential]\ncredential = \"proxy\"",
    );
    assert_eq!(machine.completed("x").via, ["socks5://u:p@a.test", "http://b.test:8080"]);
    assert_eq!(machine.completed("--via etc --via tor://c.test x").via, ["http://etc.test:1", "tor://c.test"]);
    assert_eq!(machine.completed("--via file x").via, ["@/etc/proxy"]);
    assert!(machine.refusal("--via wrok x").contains("did you mean work?"));
    assert!(
        machine
            .refusal("--via credential x")
            .contains("there is no credential proxy, looked for in /home/.config/credstore")
    );
    // A HOME that is another's, as `su` leaves it: the home is where config.toml was found.
    let variables = machine.host.environment.clone();
    machine.host.environment[0].1 = "/nonexistent".into();
    assert!(machine.refusal("--via credential x").contains("looked for in /home/.config/credstore"));
    machine.host.environment = variables;
    let credential = machine.write("etc/credstore/proxy", "socks5://a.test");
    assert_eq!(machine.completed("--via credential x").via, [format!("@{}", credential.display())]);
    // One that is none, or can't be looked at, is not passed over.
    machine.host.environment.push(("XDG_RUNTIME_DIR".into(), machine.path("run").into()));
    machine.write("run/credstore/proxy/x", "");
    // Where an app may have been.
    assert!(!machine.completed("--via credential x").via[0].contains("/run/"));
    machine.host.environment.pop();
    machine.host.environment.push(("XDG_RUNTIME_DIR".into(), machine.path("run/user/7").into()));
    machine.write("run/user/7/credstore/proxy/x", "");
    assert_eq!(
        machine.completed("--via credential x").via,
        [format!("@{}", machine.path("run/user/7/credstore/proxy").display())]
    );
    machine.write("~/config.toml", &format!("[vias.credential]\ncredential = \"{}\"", "x".repeat(300)));
    assert!(machine.refusal("--via credential x").contains("cannot tell whether"));
    machine.write("~/config.toml", "[vias.credential]\ncredential = \"proxy\"");
    let own = machine.write("own/proxy", "socks5://a.test");
    machine.host.environment.push(("CREDENTIALS_DIRECTORY".into(), machine.path("own").into()));
    assert_eq!(machine.completed("--via credential x").via, [format!("@{}", own.display())]);
}

#[test]
fn what_opens_a_wall_is_said_and_what_is_on_the_command_line_is_not() {
    let machine = Machine::of_root();
    machine.write("etc/appfw/config.toml", "via = \"direct\"\nallow-destination = [\"10.0.0.1\"]");
    machine.write(
        "etc/appfw/profiles/x.toml",
        "commands = \"x\"\nwall = \"address\"\nallow = \"10.0.0.0/8\"\nlog-destinations = \"no\"",
    );
    let openings = |line: &str| {
        let (plan, applied, args) = machine.plan(line);
        let root = machine.root.path().display().to_string();
        applied.openings(&args, &plan.unwrap()).into_iter().map(|line| line.replace(&root, "")).collect::<Vec<_>>()
    };
    assert_eq!(
        openings("x"),
        [
            "profile x (/etc/appfw/profiles/x.toml): allow = \"10.0.0.0/8\", wall = \"address\"",
            "configuration (/etc/appfw/config.toml): allow-destination = \"10.0.0.1\", via = \"direct\"",
        ]
    );
    assert_eq!(openings("--no-profile --via tor://a.test --allow-destination 10.0.0.2 x"), [""; 0]);
    assert_eq!(
        openings("--via tor://a.test --allow-destination 10.0.0.2 ssh"),
        ["profile ssh (built in): wall = \"namespace\""]
    );
    assert_eq!(openings("--via tor://a.test --allow-destination 10.0.0.2 curl"), [""; 0]);
}

#[test]
fn what_is_no_more_of_a_lower_place_is_said() {
    let openings = |machine: &Machine, line: &str| {
        let (plan, applied, args) = machine.plan(line);
        let root = machine.root.path().display().to_string();
        applied.openings(&args, &plan.unwrap()).into_iter().map(|line| line.replace(&root, "")).collect::<Vec<_>>()
    };
    let mut machine = Machine::new();
    machine.host.environment.push(("DBUS_SESSION_BUS_ADDRESS".into(), "unix:path=/run/user/1000/bus".into()));
    machine.host.dbus_proxy = Some("/usr/bin/xdg-dbus-proxy".into());
    machine.write("etc/appfw/config.toml", "only = \"a.test\"\ndbus = \"none\"");
    assert_eq!(openings(&machine, "--via tor://a.test x"), [""; 0]);
    machine.write("~/profiles/x.toml", "commands = \"x\"\nonly = \"a.test\"");
    assert_eq!(openings(&machine, "--via tor://a.test x"), [""; 0], "the same");
    machine.write("~/profiles/x.toml", "commands = \"x\"\nonly = \"any\"\ndbus = \"filtered\"");
    assert_eq!(
        openings(&machine, "--via tor://a.test x"),
        ["profile x (/home/.config/appfw/profiles/x.toml): dbus = \"filtered\" in place of /etc/appfw/config.toml:2, \
             only = \"any\" in place of /etc/appfw/config.toml:1"]
    );
    assert_eq!(openings(&machine, "--via tor://a.test --only b.test --dbus none x"), [""; 0], "by the caller");

    let machine = Machine::of_root();
    machine.write("usr/share/appfw/config.toml", "property = \"TasksMax=5\"");
    machine.write("etc/appfw/config.toml", "property = []");
    assert_eq!(
        openings(&machine, "--via tor://a.test x"),
        ["configuration (/etc/appfw/config.toml): property = [] in place of /usr/share/appfw/config.toml:1"]
    );
}

#[test]
fn a_shipped_wall_gives_way_to_rules_wherever_they_stand() {
    let machine = Machine::of_root();
    machine.write("etc/appfw/config.toml", "via = \"none\"\ndeny = \"any\"\nallow = \"192.0.2.0/24\"");
    let (plan, ..) = machine.plan("ssh");
    assert_eq!(plan.unwrap().wall, crate::cli::WallKind::Address);
    machine.write("etc/appfw/profiles/ssh.toml", "wall = \"namespace\"");
    assert!(machine.plan("ssh").0.is_err(), "a user's own does not");
}

#[test]
fn the_plans_own_sentence_says_where_the_key_stands() {
    let machine = Machine::of_root();
    machine.write("etc/appfw/profiles/x.toml", "commands = \"x\"\nvia = \"none\"\n\nallow = \"localhost\"");
    machine.write("etc/appfw/profiles/y.toml", "commands = \"y\"\ncapture = true\nlog-destinations = \"no\"");
    let refused = |line: &str| {
        let error = format!("{:#}", machine.plan(line).0.expect_err(line));
        error.replace(&machine.root.path().display().to_string(), "")
    };
    let sentence = refused("--wall strict --deny any x");
    assert!(sentence.ends_with("no other network to allow (allow is from /etc/appfw/profiles/x.toml:4)"), "{sentence}");
    let sentence = refused("--via direct --wall strict y");
    assert!(sentence.ends_with("(capture is from /etc/appfw/profiles/y.toml:2)"), "{sentence}");
    let sentence = refused("--via direct --publish 80 --wall strict ssh");
    assert!(!sentence.contains("built-in"), "{sentence}");
    let sentence = refused("--via tor --deny any ssh");
    assert!(!sentence.contains('('), "{sentence}");
    // Shipped walls give way to rules, so that --via none with rules is what it always was.
    assert!(machine.plan("--via none --deny any --allow localhost ssh").0.is_ok());
}

#[test]
fn every_shipped_profile_is_sound_and_its_command_is_its_own() {
    let machine = Machine::of_root();
    let mut commands = Vec::new();
    for name in shipped::names() {
        let sheet = shipped::sheet(name).unwrap();
        assert_eq!(sheet.mistakes, [], "{name}");
        assert!(is_profile_name(name) && sheet.entries.contains_key("description"), "{name}");
        assert!(!sheet.entries.contains_key("via"), "{name}: where a program may go is its user's to say");
        let profile = Profile { name: name.to_owned(), sheets: vec![sheet] };
        for command in profile.commands().map(|(commands, _)| commands).unwrap_or_default() {
            assert_eq!(machine.completed(&command).profile.as_deref(), Some(name));
            commands.push(command);
        }
        for via in ["direct", "tor://a.test", "none"] {
            let (plan, ..) = machine.plan(&format!("--via {via} --profile {name} x"));
            plan.unwrap_or_else(|error| panic!("{name} via {via}: {error:#}"));
        }
    }
    for command in ["firefox", "chromium", "thunderbird", "curl", "wget", "ssh", "git", "apt"] {
        assert!(commands.iter().any(|known| known == command), "{command}");
    }
    let files = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/profiles")).unwrap().count();
    assert_eq!(files, shipped::names().count(), "a profile is not compiled in");
}
