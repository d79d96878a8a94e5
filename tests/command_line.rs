//! The two programs as a user meets them before anything is started: sentences and exit codes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::process::{Command, Output};
use std::time::Duration;

fn run(program: &str, line: &str) -> (Option<i32>, String, String) {
    let words = line.split(' ').filter(|word| !word.is_empty());
    let Output { status, stdout, stderr } =
        Command::new(program).args(words).env("XDG_RUNTIME_DIR", "/run/user/x").output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

const LAUNCHER: &str = env!("CARGO_BIN_EXE_appfw-run");
const APPFW: &str = env!("CARGO_BIN_EXE_appfw");

#[test]
fn what_cannot_be_run_is_125_and_one_sentence() {
    for (program, line, phrase) in [
        (
            LAUNCHER,
            "firefox",
            "appfw-run: where may firefox go? --via tor, --via socks5h://HOST:PORT, --via direct with --only, or --via none",
        ),
        (
            LAUNCHER,
            "--via direct --system --only *a.test curl",
            "appfw-run: --only `*a.test` is not a destination: did you mean *.a.test?",
        ),
        (LAUNCHER, "--via none --system --block a.test curl", "appfw-run: --block is the forwarder's"),
        (LAUNCHER, "--via socks6://203.0.113.20 curl", "appfw-run: `socks6://` is no scheme"),
        (LAUNCHER, "--via direct --via none curl", "appfw-run: `direct` and `none` stand alone"),
        (LAUNCHER, "--via @/absent/file curl", "/absent/file"),
        (LAUNCHER, "--via direct --system --capture curl", "appfw-run: --capture needs --wall namespace"),
        (APPFW, "forward --listen 127.0.0.1:0 --via direct --dns host", "use --dns-listen ADDRESS:PORT"),
        (APPFW, "forward --listen 127.0.0.1:0 --via tor://127.0.0.1:9 --dns host", "past tor://127.0.0.1:9"),
        (APPFW, "forward --dns-listen 127.0.0.1:0 --via direct", "nothing to listen on"),
        (
            LAUNCHER,
            "--vai tor curl",
            "appfw-run: unexpected option --vai; did you mean --via? (appfw-run --help lists all)",
        ),
        (LAUNCHER, "", "appfw-run: COMMAND is missing"),
        (LAUNCHER, "--wall str\x1bong curl", "appfw-run: --wall \"str\\u{1b}ong\": takes strict, namespace, address"),
        (APPFW, "stop", "appfw: NAME is missing (appfw stop --help lists all)"),
        (APPFW, "forward --via direct --only *a.test", "did you mean *.a.test?"),
        (APPFW, "check", "appfw: appfw check is not there yet"),
        (APPFW, "stpo web", "did you mean appfw stop?"),
        (APPFW, "unit instal web", "there is no appfw unit instal; did you mean appfw unit install?"),
        (APPFW, "unit install --via none -- sleep 5", "appfw: NAME is missing: it stands before the --"),
        (APPFW, "stop a/b", "launch name \"a/b\""),
        (APPFW, "frobnicate", "there is no appfw frobnicate"),
    ] {
        let (code, said, complaint) = run(program, line);
        assert_eq!((code, said.as_str()), (Some(125), ""), "{line}");
        assert!(complaint.contains(phrase), "{line}: {complaint}");
        assert_eq!(complaint.lines().count(), 1, "{line}: {complaint}");
    }
}

#[test]
fn a_forwarder_run_by_hand_answers_dns_where_it_is_told_to() {
    let line = "forward --listen 127.0.0.1:0 --dns-listen 127.0.0.1:0 --via socks5h://127.0.0.1:9";
    let mut forwarder = Command::new(APPFW)
        .args(line.split(' '))
        .env("APPFW_LOG", "debug")
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(forwarder.stderr.take().unwrap()).lines().map(Result::unwrap);
    let ready = said.take(20).find(|line| line.contains("answers DNS") && line.contains("dns=synthetic")).unwrap();
    let address = ready.split(['(', ')']).find(|part| part.starts_with("127.0.0.1:")).unwrap().to_owned();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // A of web.test
    client.send_to(b"\x00\x07\x01\0\0\x01\0\0\0\0\0\0\x03web\x04test\0\0\x01\0\x01", address).unwrap();
    let mut answer = [0; 512];
    let length = client.recv(&mut answer);
    forwarder.kill().unwrap();
    forwarder.wait().unwrap();
    let length = length.unwrap();
    assert_eq!((answer[1], answer[3] & 15, answer[7]), (7, 0, 1));
    assert!(matches!(answer[length - 4..length], [198, 18 | 19, _, _]), "{:?}", &answer[..length]);
}

#[test]
fn a_closed_output_is_no_panic() {
    let closed = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    let dry_run = ["--system", "--dry-run", "--via", "direct", "curl"];
    for (program, words) in [(LAUNCHER, &dry_run[..]), (APPFW, &["profile", "list"])] {
        let out = Command::new(program).args(words).stdout(closed()).output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!((out.status.code(), said.as_str()), (Some(0), ""), "whoever closed it has read enough");
        let full = std::fs::File::create("/dev/full").unwrap();
        let out = Command::new(program).args(words).stdout(full).output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!((out.status.code(), said.lines().count()), (Some(125), 1), "{said}");
        assert!(said.contains("cannot write to standard output: No space left"), "{said}");
    }
    let error = Command::new(LAUNCHER).arg("curl").stderr(closed()).output().unwrap();
    assert_eq!(error.status.code(), Some(125));
}

#[test]
fn a_usage_error_is_125_too_and_help_is_0() {
    for (program, line, code) in [
        (LAUNCHER, "--vai tor curl", 125),
        (LAUNCHER, "", 125),
        (LAUNCHER, "--via", 125),
        (APPFW, "stop", 125),
        (APPFW, "inside --wall strict", 125),
        (LAUNCHER, "--help", 0),
        (LAUNCHER, "--version", 0),
        (APPFW, "--help", 0),
    ] {
        assert_eq!(run(program, line).0, Some(code), "{program} {line}");
    }
}

#[test]
fn a_password_in_the_command_line_is_warned_of_and_shown_nowhere() {
    let (code, units, warning) =
        run(LAUNCHER, "--system --dry-run --via socks5h://alice:hunter2@203.0.113.20 --via-typo curl");
    assert_eq!((code, units.as_str()), (Some(125), ""));
    assert!(!warning.contains("hunter2"), "{warning}");

    let (code, units, warning) = run(LAUNCHER, "--system --dry-run --via socks5h://alice:hunter2@203.0.113.20 curl");
    assert_eq!(code, Some(0), "{warning}");
    assert!(warning.contains("seen by everyone in the process list") && warning.contains("--via @FILE"), "{warning}");
    assert!(units.contains("LoadCredential=via:") && !(units + &warning).contains("hunter2"));
}
