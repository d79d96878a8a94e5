//! Golden tests: `tests/confine/NN-name/` holds a service, the options that confine it, and the files that follow.
//!
//! - `args`: the options of `appfw confine`, one word a line
//! - `service` (optional): what differs from a plain service of an ordinary user, `key=value` a line: `name`, `user`,
//!   `dynamic`, `slice`, `families` (`~` denies), `calls` (of a list of those allowed: what becomes of others, `fail` or `end`), `bind` (source and target), `successes`, `start`, `condition`, `pre`, `post` (a program and its words)
//! - `expected`: the files as text; `UPDATE_GOLDEN=1` rewrites it

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod fixture;

use std::fs;
use std::path::{Path, PathBuf};

use appfw::cli::{Appfw, Subcommand};
use appfw::confine::Files;
use appfw::confine::exec::Exec;
use appfw::confine::service::{Bind, Calls, Families, Service};
use appfw::destination::Host as Name;
use appfw::host::Host;
use appfw::units::SHARED;
use appfw::via::{Endpoint, Via};
use clap::Parser;

fn directories() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/confine");
    let mut directories: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    directories.sort();
    assert!(directories.len() >= 6, "golden cases are missing");
    directories
}

fn exec(line: &str) -> Exec {
    let argv: Vec<String> = line.split(' ').map(|word| word.replace("\\n", "\n")).collect();
    let flags = if argv[0].starts_with('-') { vec!["ignore-failure".to_owned()] } else { Vec::new() };
    let path = argv[0].trim_start_matches('-').to_owned();
    Exec { argv: std::iter::once(path.clone()).chain(argv.into_iter().skip(1)).collect(), path, flags }
}

fn service(tweaks: &str) -> Service {
    let mut service = fixture::service();
    for line in tweaks.lines() {
        let (key, value) = line.split_once('=').unwrap();
        let [condition, pre, post] = &mut service.guarded;
        match key {
            "name" => service.name = value.into(),
            "user" => service.user = value.into(),
            "dynamic" => service.dynamic_user = value == "yes",
            "ambient" => service.ambient = 1 << value.parse::<u32>().unwrap(),
            "private" => service.private = SHARED.into_iter().filter(|name| value.contains(name)).collect(),
            "tmp" => service.has_own_tmp = value == "disconnected",
            "cgroups" => service.has_own_cgroups = value == "strict",
            "slice" => service.slice = value.into(),
            "families" => {
                let names = value.trim_start_matches('~').split(' ').map(str::to_owned).collect();
                service.families = Some(Families { allow: !value.starts_with('~'), names });
            }
            "calls" => service.calls = Calls::Allowed { others_fail: value == "fail" },
            "bind" => {
                let (source, target) = value.split_once(':').unwrap();
                let (source, target) = (source.to_owned(), target.to_owned());
                service.binds.push(Bind { source, target, is_writable: true, is_optional: true, is_recursive: false });
            }
            "successes" => service.successes = value.split(' ').map(|code| code.parse().unwrap()).collect(),
            "start" => service.start = vec![exec(value)],
            "condition" => condition.push(exec(value)),
            "pre" => pre.push(exec(value)),
            "post" => post.push(exec(value)),
            other => panic!("{other}"),
        }
    }
    service
}

fn files(directory: &Path) -> (Service, Files) {
    let service = service(&fs::read_to_string(directory.join("service")).unwrap_or_default());
    let args = fs::read_to_string(directory.join("args")).unwrap();
    let words = ["appfw", "confine", &service.name].into_iter().chain(args.lines());
    let Subcommand::Confine(args) = Appfw::try_parse_from(words).unwrap().subcommand else { panic!("not confine") };
    let host = Host { appfw_is_public: true, ..fixture::host() };
    let mut via = Via::parse(&args.launch.via).unwrap();
    via.settle_tor(Endpoint::Tcp { host: Name::Ip([127, 0, 0, 1].into()), port: 9050 });
    let files = Files::new(args.launch, via, &host, &service);
    (service, files.unwrap_or_else(|error| panic!("{}: {error:#}", directory.display())))
}

#[test]
fn services_get_the_expected_files() {
    for directory in directories() {
        let (service, files) = files(&directory);
        let texts = files.wanted(&service).into_iter();
        let texts = texts.map(|wanted| format!("# {} ({:o})\n{}", wanted.path.display(), wanted.mode, wanted.text));
        let text = format!("# appfw {}\n\n{}", files.command.join(" "), texts.collect::<Vec<_>>().join("\n"));
        let file = directory.join("expected");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&file, &text).unwrap();
        }
        let expected = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert_eq!(text, expected, "{}", file.display());
    }
}

#[test]
fn a_password_stands_in_its_own_file_alone() {
    for directory in directories() {
        let (service, files) = files(&directory);
        assert!(!files.command.join(" ").contains("hunter2"), "{}", directory.display());
        for wanted in files.wanted(&service) {
            let is_its_own = wanted.path.starts_with("/etc/appfw/credentials") && wanted.mode == 0o600;
            assert!(is_its_own || !wanted.text.contains("hunter2"), "{}", wanted.path.display());
        }
    }
}

#[test]
fn what_the_mark_says_makes_the_same_again() {
    for directory in directories() {
        let (service, files) = files(&directory);
        let words = std::iter::once("appfw").chain(files.command.iter().map(String::as_str));
        let Subcommand::Confine(args) = Appfw::try_parse_from(words).unwrap().subcommand else { panic!("not confine") };
        if args.launch.via.iter().any(|via| via.starts_with('@')) {
            continue; // a file, which is on no machine of ours
        }
        let via = Via::parse(&args.launch.via).unwrap();
        let host = Host { appfw_is_public: true, ..fixture::host() };
        let again = Files::new(args.launch, via, &host, &service).unwrap();
        assert_eq!(again.wanted(&service), files.wanted(&service), "{}", directory.display());
        assert_eq!(again.command, files.command);
    }
}
