use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, gettid};

use super::*;

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn wanted(&self, name: &str, text: &str) -> Wanted {
        Wanted { path: self.path(name), text: text.to_owned(), mode: 0o644 }
    }

    fn install(&self, wanted: &[Wanted]) -> Result<()> {
        apply(&changes(wanted, &own())?)
    }

    /// Every file and directory with what it holds.
    fn all(&self) -> Vec<(PathBuf, Option<String>)> {
        fn walk(directory: &Path, into: &mut Vec<(PathBuf, Option<String>)>) {
            for entry in fs::read_dir(directory).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() && !path.is_symlink() {
                    into.push((path.clone(), None));
                    walk(&path, into);
                } else {
                    into.push((path.clone(), fs::read_to_string(&path).ok()));
                }
            }
        }
        let mut found = Vec::new();
        walk(self.directory.path(), &mut found);
        found.sort();
        found
    }
}

/// What makes the files here.
fn own() -> Vec<String> {
    ["unit", "install", "x"].map(str::to_owned).to_vec()
}

#[test]
fn what_another_command_made_is_neither_written_nor_removed() {
    let place = Place::new();
    let wanted = [place.wanted("a.service", "[Service]\n")];
    apply(&changes(&wanted, &["confine".to_owned(), "a.service".to_owned()]).unwrap()).unwrap();
    let before = place.all();
    let message = place.install(&wanted).unwrap_err().to_string();
    assert!(message.ends_with("belongs to what `appfw confine a.service` made: remove that first"), "{message}");
    assert!(removals(&[place.path("a.service")], &own()).unwrap().is_empty());
    assert_eq!(place.all(), before);
}

#[test]
fn what_is_installed_is_found_replaced_and_gone_again() {
    let place = Place::new();
    let before = place.all();
    place.install(&[place.wanted("a.service.d/x.conf", "[Unit]\n"), place.wanted("b.service", "[Service]\n")]).unwrap();
    let (text, mark) = find(&place.path("b.service")).unwrap().unwrap();
    assert!(text.ends_with("}\n[Service]\n") && !mark.is_stale() && !mark.made_directory, "{text}");
    assert!(find(&place.path("a.service.d/x.conf")).unwrap().unwrap().1.made_directory);

    let same = changes(&[place.wanted("b.service", "[Service]\n")], &own()).unwrap();
    assert!(same[0].is_none());
    let other =
        changes(&[place.wanted("b.service", "[Service]\nType=exec\n")], &[own(), vec!["--other".to_owned()]].concat())
            .unwrap();
    assert!(other[0].diff().contains("+Type=exec\n"), "{}", other[0].diff());
    apply(&other).unwrap();
    assert!(find(&place.path("b.service")).unwrap().unwrap().0.contains("Type=exec"));

    let paths = ["a.service.d/x.conf", "b.service", "never.service"].map(|name| place.path(name));
    apply(&removals(&paths, &own()).unwrap()).unwrap();
    assert_eq!(place.all(), before);
}

#[test]
fn a_directory_that_was_there_or_holds_something_else_stays() {
    let place = Place::new();
    fs::create_dir(place.path("old.d")).unwrap();
    place.install(&[place.wanted("old.d/x.conf", "x\n"), place.wanted("new.d/x.conf", "x\n")]).unwrap();
    fs::write(place.path("new.d/users.conf"), "[Service]\n").unwrap();
    apply(&removals(&[place.path("old.d/x.conf"), place.path("new.d/x.conf")], &own()).unwrap()).unwrap();
    assert!(place.path("old.d").is_dir() && place.path("new.d/users.conf").is_file());
}

#[test]
fn nothing_that_others_wrote_is_touched() {
    let place = Place::new();
    fs::write(place.path("users.service"), "[Service]\n").unwrap();
    fs::write(place.path("bytes.service"), [0xff, 0xfe]).unwrap();
    std::os::unix::fs::symlink(place.path("users.service"), place.path("link.service")).unwrap();
    fs::create_dir(place.path("directory.service")).unwrap();
    let before = place.all();
    for (name, what) in [
        ("users.service", "no mark of appfw in it"),
        ("bytes.service", "no mark of appfw in it"),
        ("link.service", "a symbolic link"),
        ("directory.service", "no regular file"),
    ] {
        for failure in [
            place.install(&[place.wanted("new.service", "x\n"), place.wanted(name, "x\n")]).unwrap_err(),
            removals(&[place.path(name)], &own()).unwrap_err(),
        ] {
            let message = format!("{failure:#}");
            assert!(message.contains(what) && message.contains(name), "{message}");
        }
        assert_eq!(place.all(), before);
    }
}

#[test]
fn a_file_that_came_meanwhile_stays_and_what_was_done_before_is_undone() {
    let place = Place::new();
    place.install(&[place.wanted("a.service", "old\n")]).unwrap();
    let wanted =
        [place.wanted("a.service", "new\n"), place.wanted("c.d/c.conf", "new\n"), place.wanted("b.service", "new\n")];
    let changes = changes(&wanted, &own()).unwrap();
    fs::write(place.path("b.service"), "the user's\n").unwrap();
    let before = place.all();
    assert!(format!("{:#}", apply(&changes).unwrap_err()).contains("b.service"));
    assert_eq!(place.all(), before);
}

#[test]
fn what_is_put_back_is_the_very_file() {
    let place = Place::new();
    let secret = Wanted { mode: 0o600, ..place.wanted("a", "old\n") };
    place.install(&[secret, place.wanted("b", "old\n")]).unwrap();
    let identity = |name: &str| {
        let found = fs::metadata(place.path(name)).unwrap();
        (found.ino(), found.mode() & 0o777)
    };
    let before = [identity("a"), identity("b")];
    let mut all = removals(&[place.path("a")], &own()).unwrap();
    all.extend(changes(&[place.wanted("b", "new\n"), place.wanted("c", "new\n")], &own()).unwrap());
    fs::write(place.path("c"), "the user's\n").unwrap();
    apply(&all).unwrap_err();
    assert_eq!([identity("a"), identity("b")], before);
}

#[test]
fn a_directory_that_others_write_is_refused() {
    let place = Place::new();
    fs::create_dir(place.path("open")).unwrap();
    fs::set_permissions(place.path("open"), fs::Permissions::from_mode(0o777)).unwrap();
    let message = format!("{:#}", place.install(&[place.wanted("open/a.service", "x\n")]).unwrap_err());
    assert!(message.contains("can be written by others"), "{message}");
    fs::write(place.path("file"), "").unwrap();
    assert!(place.install(&[place.wanted("file/a.service", "x\n")]).is_err());
}

#[test]
fn what_a_killed_one_left_is_in_nobodys_way() {
    let place = Place::new();
    fs::write(place.path(".a.service.appfw-new"), "# Written by app").unwrap();
    place.install(&[place.wanted("a.service", "whole\n")]).unwrap();
    assert!(find(&place.path("a.service")).unwrap().unwrap().0.ends_with("whole\n"));
    assert!(!place.path(".a.service.appfw-new").exists());
}

#[test]
fn what_a_killed_one_left_half_written_goes_and_the_directory_that_was_there_stays() {
    let place = Place::new();
    fs::create_dir(place.path("a.d")).unwrap();
    let before = place.all();
    let wanted = ["a.d/a.conf", "a.d/b.conf", "b.service"].map(|name| place.wanted(name, "[Unit]\n"));
    let paths = wanted.clone().map(|wanted| wanted.path);
    for end in [usize::MAX, 40, 0] {
        for was_put in [false, true] {
            place.install(&wanted).unwrap();
            for path in &paths {
                let text = fs::read_to_string(path).unwrap();
                fs::write(beside(path), &text[..end.min(text.len())]).unwrap();
                if !was_put {
                    fs::remove_file(path).unwrap();
                }
            }
            apply(&sweep(&paths, &own()).unwrap()).unwrap();
            assert_eq!(place.all(), before);
        }
    }
}

#[test]
fn what_others_put_where_a_directory_is_claimed_is_in_the_way_and_stays() {
    let place = Place::new();
    let wanted = [place.wanted("a.d/a.conf", "x\n")];
    let paths = wanted.clone().map(|wanted| wanted.path);
    fs::write(place.path(".a.d.appfw-directory"), "mine\n").unwrap();
    let before = place.all();
    let message = format!("{:#}", place.install(&wanted).unwrap_err());
    assert!(message.contains(".a.d.appfw-directory is not ours"), "{message}");
    assert_eq!(place.all(), before);
    fs::remove_file(place.path(".a.d.appfw-directory")).unwrap();
    place.install(&wanted).unwrap();
    fs::write(place.path(".a.d.appfw-directory"), "mine\n").unwrap();
    apply(&sweep(&paths, &own()).unwrap()).unwrap();
    assert_eq!(place.all(), before);
}

#[test]
fn a_directory_goes_when_the_last_that_is_ours_does() {
    let place = Place::new();
    let before = place.all();
    let wanted = [place.wanted("a.d/a.conf", "x\n"), place.wanted("a.d/b.conf", "x\n")];
    place.install(&wanted[..1]).unwrap();
    place.install(&wanted).unwrap();
    apply(&sweep(&wanted.map(|wanted| wanted.path), &own()).unwrap()).unwrap();
    assert_eq!(place.all(), before);
}

#[test]
fn what_others_put_where_ours_are_written_is_in_the_way_and_stays() {
    let place = Place::new();
    let wanted = [place.wanted("a.d/a.conf", "x\n"), place.wanted("b.d/b.conf", "x\n")];
    fs::create_dir(place.path("b.d")).unwrap();
    fs::write(beside(&wanted[1].path), "mine\n").unwrap();
    let before = place.all();
    let message = format!("{:#}", place.install(&wanted).unwrap_err());
    assert!(message.contains(".b.conf.appfw-new is not ours"), "{message}");
    assert_eq!(place.all(), before);
    // Nor is it replaced by what is on its way out.
    fs::remove_file(beside(&wanted[1].path)).unwrap();
    place.install(&wanted).unwrap();
    fs::write(beside(&wanted[1].path), "mine\n").unwrap();
    let before = place.all();
    let paths = wanted.map(|wanted| wanted.path);
    apply(&sweep(&paths, &own()).unwrap()).unwrap_err();
    assert_eq!(place.all(), before);
}

#[test]
fn half_a_letter_may_be_the_last_that_was_written() {
    let place = Place::new();
    fs::write(place.path("b.service"), "[Service]\n").unwrap();
    let (path, before) = (place.path("a.service"), place.all());
    let command = [own(), vec!["ü".to_owned()]].concat();
    let text = Mark::new(&command).lines().unwrap();
    let end = text.find('ü').unwrap() + 1;
    fs::write(beside(&path), &text.as_bytes()[..end]).unwrap();
    apply(&sweep(&[path], &own()).unwrap()).unwrap();
    assert_eq!(place.all(), before);
}

#[test]
fn what_others_put_beside_stays() {
    let place = Place::new();
    let paths = ["a.service", "b.service", "c.service"].map(|name| place.path(name));
    fs::write(beside(&paths[0]), "half\n").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", beside(&paths[1])).unwrap();
    let other = Mark::new(&["confine".to_owned(), "c.service".to_owned()]);
    fs::write(beside(&paths[2]), other.lines().unwrap()).unwrap();
    assert_eq!(leftovers(&paths, &own()), []);
    assert_eq!(leftovers(&paths[2..], &other.command).len(), 1);
}

const KILLED: &str = "APPFW_TEST_KILLED";

/// What stands in the files of the test below, and where they are.
fn written(directory: &Path, text: &str) -> [Wanted; 4] {
    ["a.d/a.conf", "a.d/b.conf", "b.service", "c.d/c.conf"].map(|name| Wanted {
        path: directory.join(name),
        text: text.to_owned(),
        mode: 0o644,
    })
}

fn do_it(what: &str, directory: &Path) {
    let wanted = written(directory, if what == "change" { "new\n" } else { "old\n" });
    let paths = wanted.clone().map(|wanted| wanted.path);
    match what {
        "remove" => apply(&sweep(&paths, &own()).unwrap()).unwrap(),
        _ => {
            apply(&leftovers(&paths, &own())).unwrap();
            apply(&changes(&wanted, &own()).unwrap()).unwrap();
        }
    }
}

/// Has a process do it that is killed on its way into its `calls`-th system call. Whether it came so far.
fn is_killed(what: &str, directory: &Path, calls: usize) -> bool {
    let name = "installed::tests::who_is_killed_at_any_call_is_followed_by_one_who_does_it";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env(KILLED, format!("{what}:{}", directory.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // That of the thread that runs the test.
    let said = BufReader::new(child.stdout.take().unwrap()).lines();
    let tid = said.map(Result::unwrap).find_map(|line| line.strip_prefix(KILLED)?.parse().ok());
    let pid = Pid::from_raw(tid.unwrap());
    let wait = || waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap();
    assert_eq!(wait(), WaitStatus::Stopped(pid, Signal::SIGSTOP));
    let mut was_killed = true;
    // A stop on the way in, and another on the way out.
    for _ in 0..2 * calls - 1 {
        ptrace::syscall(pid, None).unwrap();
        let stop = wait();
        if stop != WaitStatus::Stopped(pid, Signal::SIGTRAP) {
            assert_eq!(stop, WaitStatus::Exited(pid, 0));
            was_killed = false;
            break;
        }
    }
    if was_killed {
        child.kill().unwrap();
        assert_eq!(wait(), WaitStatus::Signaled(pid, Signal::SIGKILL, false));
    }
    child.wait().unwrap();
    was_killed
}

#[test]
fn who_is_killed_at_any_call_is_followed_by_one_who_does_it() {
    if let Ok(told) = std::env::var(KILLED) {
        let (what, directory) = told.split_once(':').unwrap();
        ptrace::traceme().unwrap();
        writeln!(std::io::stdout(), "\n{KILLED}{}", gettid()).unwrap();
        raise(Signal::SIGSTOP).unwrap();
        do_it(what, Path::new(directory));
        std::process::exit(0);
    }
    for what in ["install", "change", "remove"] {
        for then in ["install", "remove"] {
            let mut calls = 0;
            loop {
                calls += 1;
                let place = Place::new();
                let directory = place.directory.path();
                fs::create_dir(place.path("c.d")).unwrap();
                let before = place.all();
                if what != "install" {
                    do_it("install", directory);
                }
                let was_killed = is_killed(what, directory, calls);
                if then == "install" {
                    do_it(then, directory);
                    let texts = written(directory, "").map(|wanted| find(&wanted.path).unwrap().unwrap().0);
                    assert!(texts.iter().all(|text| Mark::body(text) == "old\n"), "{what} {calls}: {texts:?}");
                    assert_eq!(place.all().len(), 6, "{what} {calls}: {:?}", place.all());
                }
                do_it("remove", directory);
                assert_eq!(place.all(), before, "{what}, killed at call {calls}, then {then}");
                if !was_killed {
                    break;
                }
            }
            assert!(calls > 50, "{what}: {calls}");
        }
    }
}
