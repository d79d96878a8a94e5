//! Golden tests: `tests/golden/NN-name/` holds a command line and the units that follow from it.
//!
//! - `args`: one argument a line, `\n` in it for a line break
//! - `unit` (optional): the name of a permanent unit, which these are the arguments of
//! - `host` (optional): what differs from the fake host, `key=value` a line: `user`, `terminal`
//!   (which of `in`, `out`, `err` are terminals), `appfw`, `public` (whether everybody can execute that), `replaceable`
//!   (an appfw that isn't root's), `systemd`, `bus` (of the user's systemd), `env.NAME`
//! - `expected`: the units as text; `UPDATE_GOLDEN=1` rewrites it
//!
//! The same cases hold the two renderers against each other, and are fed to `systemd-analyze verify`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod fixture;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use appfw::cli::WallKind;
use appfw::destination::Host as Name;
use appfw::host::Host;
use appfw::installed::Mark;
use appfw::permanent::{self, Directories, Rendering};
use appfw::plan::ADDRESS;
use appfw::units::{Unit, Units, Value, text, transient};
use appfw::via::{Endpoint, Via};
use zbus::zvariant::Value as Variant;

struct Case {
    directory: PathBuf,
    units: Units,
    text: String,
}

fn cases() -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut directories: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    directories.sort();
    assert!(directories.len() >= 18, "golden cases are missing");
    directories.into_iter().map(case).collect()
}

fn case(directory: PathBuf) -> Case {
    let args = fs::read_to_string(directory.join("args")).unwrap();
    let args: Vec<String> = args.lines().map(|line| line.replace("\\n", "\n")).collect();
    let host = host(&fs::read_to_string(directory.join("host")).unwrap_or_default());
    if let Ok(name) = fs::read_to_string(directory.join("unit")) {
        return permanent(directory, name.trim(), &args, host);
    }
    let plan = fixture::plan_on(&host, &args).unwrap_or_else(|error| panic!("{}: {error:#}", directory.display()));
    let units = fixture::units(&plan, &host);
    let text = text::all(&units);
    Case { directory, units, text }
}

/// What `appfw unit show` prints of a command line that leaves nothing open.
fn permanent(directory: PathBuf, name: &str, args: &[String], host: Host) -> Case {
    let args = fixture::parse(args).unwrap();
    let secret = fs::read_to_string(directory.join("via")).ok();
    let specs = secret.map_or_else(|| args.via.clone(), |text| text.lines().map(str::to_owned).collect());
    let via = Via::parse(&specs).unwrap();
    let directories = match host.caller.is_root() {
        true => Directories::of_system(Path::new("/")),
        false => Directories::of_user(&host, Path::new("/")).unwrap(),
    };
    let rendering = Rendering::new(name, &args, via, &host.for_units(), &directories)
        .unwrap_or_else(|error| panic!("{}: {error:#}", directory.display()));
    let text = permanent::shown(&rendering.files(), &permanent::command(name, &args).unwrap()).unwrap();
    Case { directory, units: rendering.units, text: text.replace(env!("CARGO_PKG_VERSION"), "VERSION") }
}

/// The rows of the table in units/examples/README.md: a name, options, and a program.
fn examples() -> Vec<(String, Vec<String>)> {
    let text = fs::read_to_string(examples_directory().join("README.md")).unwrap();
    let cells = |line: &str| -> Option<[String; 3]> {
        let cells = line.strip_prefix("| `")?.strip_suffix("` |")?.split("` | `");
        cells.map(str::to_owned).collect::<Vec<_>>().try_into().ok()
    };
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let rows = text.lines().filter_map(cells);
    rows.map(|[name, options, program]| (name, [words(&options), vec!["--".to_owned()], words(&program)].concat()))
        .collect()
}

fn examples_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("units/examples")
}

#[test]
fn the_shipped_examples_are_what_their_commands_render() {
    let host = host("public=yes").for_units();
    let examples = examples();
    assert!(examples.len() >= 6, "examples are missing");
    for (name, words) in examples {
        let mut args = fixture::parse(&words).unwrap();
        let mut via = Via::parse(&args.via).unwrap();
        if via.wants_tor() {
            via.settle_tor(Endpoint::Tcp { host: Name::Ip(Ipv4Addr::LOCALHOST.into()), port: 9050 });
        }
        args.via = via.secret_specs();
        let keeps_address = args.wall == Some(WallKind::Address) && via != Via::None;
        args.address = args.address.or(keeps_address.then(|| ADDRESS.to_string()));
        let rendering = Rendering::new(&name, &args, via, &host, &Directories::of_system(Path::new("/"))).unwrap();
        let mark = Mark::new(&permanent::command(&name, &args).unwrap()).lines().unwrap();
        let directory = examples_directory().join(&name);
        let files: BTreeMap<PathBuf, String> = rendering
            .files()
            .into_iter()
            .map(|file| (directory.join(file.path.file_name().unwrap()), format!("{mark}{}", file.text)))
            .collect();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            let _ = fs::remove_dir_all(&directory);
            fs::create_dir(&directory).unwrap();
            files.iter().for_each(|(path, text)| fs::write(path, text).unwrap());
        }
        let found = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
        let found: BTreeMap<PathBuf, String> =
            found.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect();
        assert_eq!(found, files, "{name}");
    }
}

fn host(tweaks: &str) -> Host {
    let mut host = fixture::host();
    for line in tweaks.lines() {
        match line.split_once('=').unwrap() {
            ("user", user) => host.caller = (host.find_user)(user).unwrap(),
            ("terminal", which) => host.terminals = ["in", "out", "err"].map(|name| which.contains(name)),
            ("systemd", version) => host.systemd = version.parse().ok(),
            ("public", word) => host.appfw_is_public = word == "yes",
            ("appfw", path) => host.appfw = path.into(),
            ("replaceable", _) => host.appfw_is_roots = false,
            ("bus", path) => host.user_bus = Some(path.into()),
            (name, value) => host.environment.push((name.strip_prefix("env.").unwrap().into(), value.into())),
        }
    }
    host
}

#[test]
fn plans_become_the_expected_units() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    for Case { directory, text, .. } in cases() {
        let file = directory.join("expected");
        if update {
            fs::write(&file, &text).unwrap();
        }
        let expected = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let (mut got, mut wanted) = (text.lines(), expected.lines());
        for number in 1.. {
            match (got.next(), wanted.next()) {
                (None, None) => break,
                (got, wanted) => assert_eq!(got, wanted, "{}, line {number}", file.display()),
            }
        }
    }
}

#[test]
fn no_unit_shows_a_password_an_argument_or_the_environment() {
    for Case { directory, units, text } in cases() {
        let is_launch = units.lifeline.is_some();
        let all = text + &format!("{units:?}");
        // A permanent unit's command stands in its mark.
        let secrets = ["hunter2", "s3cr3t", "ARGUMENT", "ENVIRONMENT"].into_iter().take(if is_launch { 4 } else { 2 });
        for secret in secrets {
            assert!(!all.contains(secret), "{}: {secret}", directory.display());
        }
    }
}

/// A unit file, by section and directive: what each assignment says, in order.
type File = BTreeMap<String, Vec<String>>;

fn read(text: &str) -> File {
    let mut file = File::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with(['[', '#'])) {
        let (directive, value) = line.split_once('=').unwrap();
        // Several directives, one list, whose order is that of the service's descriptors.
        if let Some(kind @ ("Stream" | "Datagram")) = directive.strip_prefix("Listen") {
            file.entry("Listen".to_owned()).or_default().push(format!("{kind}:{value}"));
            continue;
        }
        file.entry(directive.to_owned()).or_default().push(value.to_owned());
    }
    file
}

/// What a directive is called in unit files, by its name on the bus (systemd's dbus-*.c).
fn directive(property: &str) -> &str {
    match property {
        "ExecStartEx" => "ExecStart",
        "ExecStartPreEx" => "ExecStartPre",
        "TimeoutStopUSec" => "TimeoutStopSec",
        "TriggerLimitIntervalUSec" => "TriggerLimitIntervalSec",
        "RestartUSec" => "RestartSec",
        "StartLimitIntervalUSec" => "StartLimitIntervalSec",
        other => other,
    }
}

/// The words of a value as systemd splits them (extract-word.c with EXTRACT_UNQUOTE and
/// EXTRACT_CUNESCAPE), `separators` beside blanks; `%%` is `%`, any other specifier is a mistake.
fn split(value: &str, separators: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut any) = (Vec::new(), String::new(), false, false);
    let mut rest = value.chars();
    while let Some(c) = rest.next() {
        match c {
            '"' => (quoted, any) = (!quoted, true),
            '\\' => {
                any = true;
                word.push(match rest.next().unwrap() {
                    'n' => '\n',
                    't' => '\t',
                    c @ ('"' | '\\' | ':') => c,
                    other => panic!("escape \\{other} in {value}"),
                });
            }
            '%' => {
                any = true;
                assert_eq!(rest.next(), Some('%'), "a specifier in {value}");
                word.push('%');
            }
            '\'' if !quoted => panic!("an unquoted ' in {value}"),
            c if !quoted && (c == ' ' || separators.contains(c)) => {
                words.push(std::mem::take(&mut word));
                any = false;
            }
            c => word.push(c),
        }
    }
    assert!(!quoted, "an open quote in {value}");
    if any || !word.is_empty() {
        words.push(word);
    }
    words
}

/// What the unit file says, in the words of the bus.
fn from_text(directive: &str, values: &[String]) -> Vec<String> {
    let all = |separators| values.iter().flat_map(|value| split(value, separators)).collect::<Vec<_>>();
    let one = || values.last().unwrap().clone();
    match directive {
        // Free text and single words: only specifiers are expanded.
        "Description" | "LoadCredential" => values.iter().map(|value| value.replace("%%", "%")).collect(),
        "CapabilityBoundingSet" | "AmbientCapabilities" => {
            let known = fixture::CAPABILITIES.iter().chain(&[("CAP_SYS_ADMIN", 21)]);
            let bit = |name: &String| 1_u64 << known.clone().find(|(known, _)| known == name).unwrap().1;
            vec![all("").iter().map(bit).sum::<u64>().to_string()]
        }
        "UMask" | "RuntimeDirectoryMode" => vec![u32::from_str_radix(&one(), 8).unwrap().to_string()],
        "TimeoutStopSec" | "RestartSec" | "StartLimitIntervalSec" | "TriggerLimitIntervalSec" => {
            if one() == "infinity" {
                return vec![u64::MAX.to_string()];
            }
            let milliseconds: u64 = one().trim_end_matches("ms").parse().unwrap();
            vec![(milliseconds * 1000).to_string()]
        }
        "SystemCallErrorNumber" => vec![if one() == "EPERM" { "1".into() } else { one() }],
        "RestrictNamespaces" => vec![if one() == "cgroup" { 0x0200_0000.to_string() } else { one() }],
        "RestrictAddressFamilies" if one() == "none" => vec!["allow".into()],
        "RestrictAddressFamilies" | "SystemCallFilter" => match one().strip_prefix('~') {
            Some(names) => [vec!["deny".into()], split(names, "")].concat(),
            None => [vec!["allow".into()], all("")].concat(),
        },
        "IPIngressFilterPath" | "IPEgressFilterPath" => values.iter().map(|path| path.replace("%%", "%")).collect(),
        // Their separator counts outside quotes alone (load-fragment.c).
        "BindPaths" => all(":"),
        "ExecStartPre" => {
            let command = one();
            let command = command.strip_prefix("+:").expect("as root, and `$` is not expanded");
            [vec!["privileged".to_owned()], split(command, "")].concat()
        }
        "ExecStart" => match one().strip_prefix(':') {
            Some(command) => split(command, ""),
            None => {
                assert!(!one().contains('$'), "`$` is not expanded");
                split(&one(), "")
            }
        },
        _ => all(""),
    }
}

/// The items of an array or the fields of a structure.
fn items<'a>(value: &'a Variant<'a>) -> &'a [Variant<'a>] {
    match value {
        Variant::Array(array) => array.inner(),
        Variant::Structure(structure) => structure.fields(),
        other => panic!("{other:?} has no items"),
    }
}

fn string(value: &Variant<'_>) -> String {
    value.downcast_ref().unwrap()
}

fn strings(value: &Variant<'_>) -> Vec<String> {
    items(value).iter().map(string).collect()
}

/// What the bus says, in the same words.
fn from_bus(value: &Variant<'_>) -> Vec<String> {
    match value {
        Variant::Bool(on) => vec![if *on { "yes" } else { "no" }.into()],
        Variant::Str(word) => vec![word.to_string()],
        Variant::U32(number) => vec![number.to_string()],
        Variant::U64(number) => vec![number.to_string()],
        Variant::I32(number) => vec![number.to_string()],
        Variant::Structure(filter) => match filter.fields() {
            [Variant::Bool(allow), names] => {
                [vec![if *allow { "allow" } else { "deny" }.to_owned()], strings(names)].concat()
            }
            // Exit codes, and no signals.
            [codes, signals] if items(signals).is_empty() => {
                items(codes).iter().map(|code| code.downcast_ref::<i32>().unwrap().to_string()).collect()
            }
            other => panic!("no rule for {other:?}"),
        },
        list => items(list).iter().flat_map(|item| from_item(&list.value_signature().to_string(), item)).collect(),
    }
}

fn from_item(signature: &str, item: &Variant<'_>) -> Vec<String> {
    if signature == "as" {
        return vec![string(item)];
    }
    match (signature, items(item)) {
        ("a(iayu)", [family, address, prefix]) => vec![network(family, address, prefix)],
        // Recursive, and not to be ignored if absent: the defaults of unit files.
        ("a(ssbt)", [source, target, Variant::Bool(false), Variant::U64(16384)]) => {
            vec![string(source), string(target)]
        }
        ("a(ss)", [name, value]) => vec![format!("{}:{}", string(name), string(value))],
        ("a(sasas)", [path, argv, flags]) => {
            let mut flags = strings(flags);
            assert_eq!(flags.pop().unwrap(), "no-env-expand");
            assert_eq!(string(path), strings(argv)[0]);
            [flags, strings(argv)].concat()
        }
        ("a(sasb)", [path, argv, Variant::Bool(false)]) => {
            assert_eq!(string(path), strings(argv)[0]);
            assert!(strings(argv).iter().all(|word| !word.contains('$')));
            strings(argv)
        }
        (signature, fields) => panic!("no rule for {signature}: {fields:?}"),
    }
}

fn network(family: &Variant<'_>, address: &Variant<'_>, prefix: &Variant<'_>) -> String {
    let bytes: Vec<u8> = items(address).iter().map(|byte| byte.downcast_ref().unwrap()).collect();
    let address = match family.downcast_ref::<i32>().unwrap() {
        nix::libc::AF_INET => IpAddr::from(<[u8; 4]>::try_from(bytes).unwrap()),
        nix::libc::AF_INET6 => IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap()),
        other => panic!("family {other}"),
    };
    format!("{address}/{}", prefix.downcast_ref::<u32>().unwrap())
}

#[test]
fn the_two_renderers_say_the_same() {
    let descriptors: Vec<OwnedFd> = (0..2).map(|_| fs::File::open("/dev/null").unwrap().into()).collect();
    for Case { directory, units, .. } in cases() {
        for unit in units.iter() {
            agree(unit, &descriptors, &format!("{}, {}", directory.display(), unit.name));
        }
    }
}

fn agree(unit: &Unit, descriptors: &[OwnedFd], place: &str) {
    let text = text::one(unit);
    let mut file = read(&text);
    for (name, value) in transient::properties(unit, descriptors) {
        if let Some(stream) = name.strip_suffix("FileDescriptor") {
            assert!(matches!(value, Variant::Fd(_)), "{place}: {name}");
            assert!(text.contains(&format!("# {stream}= is a descriptor")), "{place}: {name}");
            continue;
        }
        let directive = directive(name);
        let on_the_bus = from_bus(&value);
        let in_the_file = file.remove(directive).map(|values| from_text(directive, &values));
        // A list that holds nothing needs no line.
        assert_eq!(in_the_file.unwrap_or_default(), on_the_bus, "{place}: {directive}=");
    }
    // Who enables a file reads it; systemd itself holds nothing of it.
    let install = unit.install.iter().map(|setting| setting.directive);
    assert!(install.eq(file.keys().map(String::as_str)), "{place}: only in the file: {file:?}");
    let directives: BTreeSet<_> = unit.settings().map(|setting| setting.directive).collect();
    assert_eq!(directives.len(), unit.settings().count(), "{place}: a directive stands twice");
}

#[test]
fn systemd_understands_every_unit() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("skipped: there is no systemd-analyze here");
        return;
    }
    for Case { directory, units, .. } in cases() {
        let place = tempfile::tempdir().unwrap();
        let files: Vec<PathBuf> = units.iter().map(|unit| write_verifiable(place.path(), unit)).collect();
        let output = Command::new("systemd-analyze")
            .args(["verify", "--man=no", "--recursive-errors=no", "--generators=no"])
            .args(&files)
            .env("SYSTEMD_UNIT_PATH", format!("{}:", place.path().display()))
            .output()
            .unwrap();
        let complaints = String::from_utf8_lossy(&output.stderr);
        let is_ours = |line: &&str| line.contains("appfw-");
        let ours: Vec<&str> = complaints.lines().filter(is_ours).collect();
        assert!(output.status.success() && ours.is_empty(), "{}: {complaints}", directory.display());
    }
}

/// As `--dry-run` prints it, but for the program, which is bound in at the start only, and for what
/// this machine's systemd may be too old for.
fn write_verifiable(directory: &Path, unit: &Unit) -> PathBuf {
    let mut unit = unit.clone();
    // Of systemd 257: older ones do not know it.
    unit.kind.retain(|setting| setting.directive != "PrivatePIDs");
    for setting in &mut unit.kind {
        if let Value::Exec(command) | Value::Privileged(command) = &mut setting.value {
            command[0] = "/bin/true".to_owned();
        }
    }
    let file = directory.join(&unit.name);
    fs::write(&file, text::one(&unit)).unwrap();
    file
}
