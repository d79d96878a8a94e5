use std::collections::HashMap;

use zbus::zvariant::OwnedValue;

use super::*;
use crate::confine::Files;
use crate::confine::tests::service;
use crate::fixture::{host, parse};
use crate::via::Via;

fn bind(source: &str, target: &str, is_writable: bool) -> Bind {
    Bind { source: source.into(), target: target.into(), is_writable, is_optional: false, is_recursive: true }
}

/// What is said of a service of `user` with these settings, where `/` is the test's own.
fn said(user: &str, change: impl FnOnce(&mut Service)) -> String {
    let mut service = Service { user: user.into(), ..service() };
    change(&mut service);
    let args = parse(&["--via", "socks5h://203.0.113.20:1080", "x"]).unwrap();
    let via = Via::parse(&args.via).unwrap();
    let files = Files::new(args, via, &host(), &service).unwrap();
    refuse(&service, &files.drop_in, Path::new("/usr/bin/appfw"))
        .map_or_else(|error| error.to_string(), |()| String::new())
}

#[test]
fn binds_that_take_a_cover_away_are_refused() {
    for (user, source, target, is_writable, expected) in [
        ("", "/sys/fs/cgroup", "/opt/cg", true, "with that /sys"),
        ("", "/sys", "/opt/sys", false, "with that /sys"),
        ("", "/sys/fs/cgroup", "/sys/fs/cgroup", true, "with that /sys"),
        ("", "/proc", "/opt/proc", true, "with that /proc"),
        ("alice", "/etc", "/opt/etc", false, "with that /etc/appfw/credentials"),
        ("", "/etc", "/opt/etc", true, "with that /etc"),
        ("", "/etc/systemd/system", "/etc/systemd/system", true, "with that /etc/systemd"),
        ("", "/var", "/opt/var", true, "with that /var"),
        ("alice", "/var/lib/lxd", "/opt/lxd", false, "with that /var/lib/lxd/unix.socket"),
        ("alice", "/tmp/x", "/opt/x", true, "put a link into /tmp"),
        ("alice", "/tmp", "/tmp", false, "with that /tmp, which its wall hides"),
        ("", "/tmp", "/opt/tmp", false, "with that /tmp"),
        ("alice", "/opt/x", "/var/tmp/x", false, "put a link into /var/tmp"),
    ] {
        let said = said(user, |service| service.binds = vec![bind(source, target, is_writable)]);
        assert!(said.contains(expected), "{source}:{target}: {said:?}");
    }
    for (user, source, target, is_writable) in [
        ("", "/etc", "/etc", true),
        ("", "/sys", "/sys", false),
        ("", "/etc/cron.d", "/opt/cron.d", false),
        ("", "/opt/data", "/opt/shown", true),
        ("alice", "/proc", "/opt/proc", false),
        ("alice", "/sys/class", "/opt/class", true),
    ] {
        assert_eq!(
            said(user, |service| service.binds = vec![bind(source, target, is_writable)]),
            "",
            "{source}:{target}"
        );
    }
}

#[test]
fn what_root_may_write_to_is_not_what_is_kept_from_it() {
    for path in ["/etc/systemd/system", "/proc/sys/kernel", "/sys/fs/cgroup", "/etc/cron.d", "/run/udev"] {
        let said = |user| said(user, |service| service.paths.writable = vec![path.into()]);
        assert!(said("").contains("keeps root from writing"), "{path}: {}", said(""));
        assert_eq!(said("alice"), "");
    }
    // What is kept in it is covered there.
    assert_eq!(said("", |service| service.paths.writable = vec!["/etc".into(), "/".into()]), "");
}

#[test]
fn what_the_proof_needs_is_not_emptied() {
    for path in ["/run", "/var", "/etc", "/usr", "/", "/usr/bin", "/etc/appfw", "/proc"] {
        let said = said("alice", |service| service.paths.empty = vec![path.into()]);
        assert!(said.contains(&format!("empty directory at {path} (TemporaryFileSystem=)")), "{path}: {said}");
    }
    for path in ["/run/systemd", "/home", "/var/lib/x", "/etc/ssl", "/usr/lib/x"] {
        assert_eq!(said("alice", |service| service.paths.empty = vec![path.into()]), "", "{path}");
    }
    assert!(said("alice", |service| service.paths.is_without_loopback = true).contains("add lo"));
}

#[test]
fn the_settings_are_read_as_systemd_tells_them() {
    let interfaces = |allow, names: Vec<&str>| OwnedValue::try_from(Variant::from((allow, names))).unwrap();
    let strings = |names: Vec<&str>| OwnedValue::try_from(Variant::from(names)).unwrap();
    let mut told = HashMap::from([
        ("StandardInput".to_owned(), OwnedValue::try_from(Variant::from("null")).unwrap()),
        ("StandardOutput".to_owned(), OwnedValue::try_from(Variant::from("append")).unwrap()),
        ("ReadWritePaths".to_owned(), strings(vec!["-/a", "+/b", "-+/c"])),
        ("RuntimeDirectory".to_owned(), strings(vec!["x"])),
        ("TemporaryFileSystem".to_owned(), OwnedValue::try_from(Variant::from(vec![("/d", "ro")])).unwrap()),
    ]);
    let credentials = Variant::from(vec![("a", "/e"), ("b", "b.cred")]);
    told.insert("LoadCredential".to_owned(), OwnedValue::try_from(credentials).unwrap());
    told.insert("TTYPath".to_owned(), OwnedValue::try_from(Variant::from("/dev/tty7")).unwrap());
    assert_eq!(Paths::of(&told).opened, [("LoadCredential", PathBuf::from("/e"))]);
    told.insert("StandardInput".to_owned(), OwnedValue::try_from(Variant::from("tty-force")).unwrap());
    assert_eq!(Paths::of(&told).opened[0], ("TTYPath", PathBuf::from("/dev/tty7")));
    let paths = Paths::of(&told);
    assert_eq!(paths.streams, [("StandardOutput", "append".to_owned())]);
    assert_eq!(paths.writable, ["/a", "/b", "/c"].map(PathBuf::from));
    assert_eq!(paths.made, [("RuntimeDirectory", PathBuf::from("/run/x"))]);
    let links = Variant::from(vec![("oj", "oj/data/current", 0_u64)]);
    told.insert("StateDirectorySymlink".to_owned(), OwnedValue::try_from(links).unwrap());
    assert_eq!(Paths::of(&told).made[1], ("StateDirectory", PathBuf::from("/var/lib/oj/data/current")));
    assert_eq!(paths.empty, [PathBuf::from("/d")]);
    for (allow, names, is_without) in [
        (true, vec!["lab0"], true),
        (true, vec![], true),
        (true, vec!["lo", "lab0"], false),
        (false, vec!["lo"], true),
        (false, vec!["lab0"], false),
        (false, vec![], false),
    ] {
        told.insert("RestrictNetworkInterfaces".to_owned(), interfaces(allow, names.clone()));
        assert_eq!(Paths::of(&told).is_without_loopback, is_without, "{allow} {names:?}");
    }
}
