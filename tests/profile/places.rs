//! Files and directories that are none, are away, or could be changed by others.

use super::*;

#[test]
fn a_file_that_is_none_is_told() {
    type Make = fn(&Machine, &Path);
    let cases: [(&str, Make); 14] = [
        ("is no regular file", |_, path| fs::create_dir(path).unwrap()),
        ("is not UTF-8 from line 2 on", |_, path| fs::write(path, b"via = \"tor\"\n# \xff").unwrap()),
        ("begins with a byte order mark", |_, path| fs::write(path, "\u{feff}via = \"tor\"").unwrap()),
        ("is larger than such a file can be (1024 KiB)", |_, path| fs::write(path, "#".repeat((1 << 20) + 1)).unwrap()),
        ("can be changed by other users: chmod go-w", |_, path| {
            fs::write(path, "").unwrap();
            mode(path, 0o666);
        }),
        ("can be changed by other users: chmod go-w", |_, path| {
            fs::write(path, "").unwrap();
            mode(path, 0o620);
        }),
        ("can be changed by other users: chmod go-w", |_, path| {
            fs::write(path, "").unwrap();
            mode(path.parent().unwrap(), 0o777);
        }),
        ("can be changed by other users: chmod go-w", |machine, path| {
            fs::write(path, "").unwrap();
            mode(&machine.root.path().join("appfw"), 0o770);
        }),
        ("is a symbolic link that leads nowhere", |_, path| symlink("/absent", path).unwrap()),
        ("cannot be opened", |_, path| symlink(path, path).unwrap()),
        ("is no regular file", |_, path| symlink("/dev/zero", path).unwrap()),
        ("is no regular file", |_, path| {
            nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        }),
        ("can be changed by other users: chmod go-w", |machine, path| {
            let open = machine.root.path().join("open");
            fs::create_dir(&open).unwrap();
            fs::write(open.join("p.toml"), "").unwrap();
            mode(&open, 0o777);
            symlink(open.join("p.toml"), path).unwrap();
        }),
        ("a password stands here, and other users can read this file: chmod 600", |_, path| {
            fs::write(path, "via = \"socks5://alice:hunter2@a.test\"").unwrap();
            mode(path, 0o644);
        }),
    ];
    for (phrase, make) in cases {
        let machine = Machine::new();
        for name in ["p", "config"] {
            let path = machine.write(name, "");
            fs::remove_file(&path).unwrap();
            make(&machine, &path);
            let line = if name == "p" { "--profile p x" } else { "x" };
            let refusal = machine.refusal(line);
            assert!(refusal.contains(phrase) && refusal.contains(path.to_str().unwrap()), "{refusal}");
            assert!(!refusal.contains("hunter2"), "{refusal}");
            // All that is in a directory which others can write is in doubt.
            let _ = fs::remove_dir_all(machine.root.path().join("appfw"));
            let _ = fs::remove_dir_all(machine.root.path().join("open"));
        }
    }
}

#[test]
fn a_file_of_another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root gives files away");
        return;
    }
    let machine = Machine::new();
    let path = machine.write("p", "commands = \"x\"");
    std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
    assert!(machine.refusal("x").contains("belongs to another user"));
    std::os::unix::fs::chown(&path, Some(0), None).unwrap();
    std::os::unix::fs::chown(path.parent().unwrap(), Some(12345), None).unwrap();
    assert!(machine.refusal("x").contains("belongs to another user"));
}

#[test]
fn a_link_to_a_file_of_ones_own_is_followed() {
    let machine = Machine::new();
    let path = machine.write("p", "");
    let real = machine.root.path().join("dotfiles.toml");
    fs::write(&real, "commands = \"x\"\nvia = \"direct\"").unwrap();
    fs::remove_file(&path).unwrap();
    symlink(&real, &path).unwrap();
    let (args, _) = profile::complete(&fixture::parse(&["x"]).unwrap(), machine.root.path(), &machine.host()).unwrap();
    assert_eq!(args.via, ["direct"]);
}

#[test]
fn a_broken_profile_is_in_the_way_only_of_what_it_may_be_for() {
    let machine = Machine::new();
    let completes = |line: &str| {
        let args = fixture::parse(&line.split(' ').collect::<Vec<_>>()).unwrap();
        profile::complete(&args, machine.root.path(), &machine.host()).is_ok()
    };
    machine.write("broken", "commands = \"x\"\nwall = 5");
    assert!(!completes("x") && completes("y") && completes("--no-profile x"));
    // Nobody knows what this one is for.
    for text in ["commands = [\"x\"", "comands = \"x\"", "commands = 5"] {
        machine.write("broken", text);
        assert!(!completes("y"), "{text}");
        let refusal = machine.refusal("y");
        assert!(refusal.contains("may be for this command") && refusal.contains("--no-profile"), "{refusal}");
        assert!(completes("--no-profile y") && completes("--profile curl y"));
    }
    fs::remove_file(machine.path("broken")).unwrap();
    for name in ["a b.toml", "-x.toml", "ü.toml"] {
        let path = machine.path("p").with_file_name(name);
        fs::write(&path, "commands = \"x\"").unwrap();
        assert!(machine.refusal("x").contains("its name is none that a profile can have"), "{name}");
        assert!(completes("y") && completes("--no-profile x"), "{name}");
        assert!(machine.appfw(&ProfileCommand::Check { files: Vec::new() }).is_err());
        fs::write(&path, "commands = \"x").unwrap();
        assert!(machine.refusal("y").contains("may be for this command"), "{name}");
        fs::remove_file(path).unwrap();
    }
    let not_utf8 = machine.path("p").with_file_name(OsString::from_vec(b"\xff.toml".to_vec()));
    fs::write(&not_utf8, "commands = \"x\"").unwrap();
    assert!(!completes("x") && completes("y"));
    fs::remove_file(not_utf8).unwrap();
    // What editors leave is no profile.
    for name in [".p.toml.swp", ".p.toml", "p.toml~", "README"] {
        fs::write(machine.path("p").with_file_name(name), "[").unwrap();
    }
    assert!(completes("y"));
}

#[test]
fn a_file_that_no_launch_reads_is_checked_wherever_it_is() {
    let machine = Machine::new();
    let check = |path: &Path| machine.appfw(&ProfileCommand::Check { files: vec![path.to_owned()] });
    let open = machine.root.path().join("open");
    fs::create_dir(&open).unwrap();
    mode(&open, 0o1777);
    let file = open.join("f.toml");
    fs::write(&file, "via = \"tor\"").unwrap();
    assert!(check(&file).is_ok());
    fs::write(&file, "vai = \"tor\"").unwrap();
    assert!(check(&file).is_err());
    let own = machine.write("p", "via = \"tor\"");
    mode(&own, 0o666);
    assert!(check(&own).is_err());
}

#[test]
fn nobody_is_told_to_close_what_everybody_writes_to() {
    let machine = Machine::new();
    let everybodys = [Path::new("/tmp"), Path::new("/var/tmp"), Path::new("/dev/shm")]
        .into_iter()
        .find(|place| fs::metadata(place).is_ok_and(|found| found.permissions().mode() & 0o1002 == 0o1002));
    let Some(place) = everybodys else {
        eprintln!("skipped: there is no such directory here");
        return;
    };
    let mut host = machine.host();
    let absent = place.join(format!("appfw-absent-{}", std::process::id()));
    host.environment.push(("XDG_CONFIG_HOME".into(), absent.clone().into()));
    host.environment.remove(1);
    let command = ProfileCommand::New { name: "p".to_owned(), options: vec!["--via=tor".into()] };
    let refusal = format!("{:#}", manage::answer(&command, machine.root.path(), host).unwrap_err());
    assert!(refusal.contains("choose a directory of your own") && !refusal.contains("chmod"), "{refusal}");
    assert!(!absent.exists());
}

#[test]
fn a_directory_that_is_away_takes_no_rules_with_it() {
    for link in ["appfw", "appfw/profiles", "."] {
        let machine = Machine::new();
        let place = machine.root.path().join("config");
        let host = |machine: &Machine| {
            let mut host = machine.host();
            host.environment = vec![("XDG_CONFIG_HOME".into(), place.clone().into())];
            host
        };
        let complete = |machine: &Machine, line: &[&str]| {
            profile::complete(&fixture::parse(line).unwrap(), machine.root.path(), &host(machine))
                .map_err(|error| format!("{error:#}"))
        };
        let link = if link == "." { place.clone() } else { place.join(link) };
        let away = machine.root.path().join("dot");
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        fs::create_dir(&away).unwrap();
        symlink(&away, &link).unwrap();
        assert!(complete(&machine, &["x"]).is_ok());
        fs::remove_dir(&away).unwrap();
        let refusal = complete(&machine, &["x"]).expect_err("the rules are away");
        assert!(refusal.contains(&*link.to_string_lossy()), "{refusal}");
        assert!(refusal.contains("is a symbolic link that leads nowhere"), "{refusal}");
        // Without profiles only config.toml counts.
        assert_eq!(complete(&machine, &["--no-profile", "x"]).is_ok(), link.ends_with("profiles"));
        assert!(complete(&machine, &["--profile", "curl", "x"]).is_err());
        fs::remove_file(&link).unwrap();
        assert!(complete(&machine, &["x"]).is_ok());
    }
}

#[test]
fn what_others_could_take_away_is_refused_though_it_is_gone() {
    let machine = Machine::new();
    let above = machine.root.path().join("xdg");
    fs::create_dir(&above).unwrap();
    let mut host = machine.host();
    host.environment.push(("XDG_CONFIG_HOME".into(), above.clone().into()));
    host.environment.remove(1);
    let complete = || {
        let args = fixture::parse(&["x"]).unwrap();
        profile::complete(&args, machine.root.path(), &host).map(drop).map_err(|error| format!("{error:#}"))
    };
    let new = || {
        let command = ProfileCommand::New { name: "p".to_owned(), options: vec!["--via=tor".into()] };
        manage::answer(&command, machine.root.path(), host.clone()).map_err(|error| format!("{error:#}"))
    };
    for open in [0o777, 0o775, 0o757] {
        mode(&above, open);
        for refusal in [complete().unwrap_err(), new().unwrap_err()] {
            assert!(refusal.contains(&format!("chmod go-w {}", above.display())), "{refusal}");
        }
    }
    mode(&above, 0o1777);
    assert_eq!(complete(), Ok(()));
    mode(&above, 0o755);
    assert!(complete().is_ok() && new().is_ok());
}

#[test]
fn a_home_is_the_callers_or_it_is_not_looked_at() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root gives directories away");
        return;
    }
    let machine = Machine::new();
    let [own, other, closed] = ["own", "other", "other/closed"].map(|name| machine.root.path().join(name));
    for (home, owner) in [(&own, 1), (&other, 12345), (&closed, 1)] {
        fs::create_dir_all(home.join(".config/appfw")).unwrap();
        fs::write(home.join(".config/appfw/config.toml"), "").unwrap();
        std::os::unix::fs::chown(home, Some(owner), None).unwrap();
    }
    let mut host = machine.host();
    host.caller.home = own.clone();
    let mut place = |home: &Path| {
        host.environment = vec![("HOME".into(), home.into())];
        Places::of(machine.root.path(), &host).own().to_owned()
    };
    let of = |home: &Path| home.join(".config/appfw");
    assert_eq!(place(&other), of(&own), "another's, whoever can read it");
    assert_eq!(place(Path::new("/")), of(&own), "root's");
    assert_eq!(place(Path::new(".")), of(&own), "relative");
    assert_eq!(place(&closed), of(&closed), "a second one of the caller's");
    assert_eq!(place(&own.join("gone")), of(&own.join("gone")), "one that is to be made");
    assert_eq!(place(&other.join("gone")), of(&own));
}

#[test]
fn what_is_wrong_with_a_whole_place_is_told_once() {
    let machine = Machine::new();
    symlink("/absent", machine.root.path().join("appfw")).unwrap();
    let refusal = machine.appfw(&ProfileCommand::Check { files: Vec::new() }).unwrap_err();
    assert!(refusal.starts_with("there is a mistake"), "{refusal}");
    let refusal = machine.new_profile("p", &["--via", "tor"]).unwrap_err();
    assert!(refusal.contains("appfw is a symbolic link that leads nowhere"), "{refusal}");
}
