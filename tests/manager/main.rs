//! The launcher against a fake systemd: what the lab cannot make the real one do.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../fixture/mod.rs"]
mod fixture;
mod systemd;

use std::fs::File;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::Result;
use appfw::control::Order;
use appfw::exit;
use appfw::host::Host;
use appfw::keeper::{Keeper, Unit};
use appfw::manager::Manager;
use appfw::plan::Plan;
use appfw::reception::{self, Reached};
use appfw::state::State;
use appfw::units::Units;
use appfw::verify;
use appfw::view::View;
use appfw::wait::{Signal, Signals, Watch};
use systemd::{Script, command, serve, value};
use zbus::zvariant::{OwnedValue, Value};

const STRICT: &str = "--via direct --unit web curl";
const APP: &str = "appfw-web.service";

/// A test that waits longer than this hangs.
async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it hangs")
}

/// The host of a launch that this process makes, whoever runs it.
fn own_host() -> Host {
    let mut host = fixture::host();
    host.caller.uid = nix::unistd::geteuid().as_raw();
    host
}

fn planned(line: &str) -> (Plan, Units, Host) {
    let host = own_host();
    let plan = fixture::plan_on(&host, &format!("--system {line}").split(' ').collect::<Vec<_>>()).unwrap();
    let units = fixture::units(&plan, &host);
    (plan, units, host)
}

/// Hands the units of a command line over to a systemd with this script, reads them back and starts the app.
async fn launch(line: &str, script: Script) -> Result<()> {
    in_time(async {
        let (_, units, _) = planned(line);
        let (bus, _) = serve(script).await;
        let manager = Manager::new(&bus).await?;
        manager.load(&units, &[File::open("/dev/null")?.into()]).await?;
        verify::app(&manager, &units).await?;
        tokio::try_join!(manager.start(&units), verify::servants(&manager, &units)).map(drop)
    })
    .await
}

/// The whole sentence, as `main` prints it.
async fn sentence(line: &str, script: Script) -> String {
    let error = launch(line, script).await.expect_err("it must be refused");
    assert_eq!(exit::code_of(&error), exit::OURS);
    format!("{error:#}")
}

#[tokio::test]
async fn a_systemd_that_holds_what_it_was_sent_starts_the_app() {
    for line in [
        STRICT,
        "--via socks5h://a:b@203.0.113.20 --unit web curl",
        "--via direct --uid alice --unit web git",
        "--via direct --wall address --allow 10.0.0.0/24 --unit web psql",
        "--via none --unit web true",
        "--via none --deny any --allow localhost --unit web true",
        "--via direct --detach --unit web sleep",
    ] {
        launch(line, Script::default()).await.unwrap_or_else(|error| panic!("{line}: {error:#}"));
    }
}

#[tokio::test]
async fn a_job_that_does_not_end_well_is_told_with_its_result_and_where_to_look() {
    let ends = |result| Script { result: Some((APP, result)), ..Script::default() };
    for result in ["failed", "timeout", "canceled", "skipped"] {
        let expected = format!("systemd could not start {APP} (job {result}); see: journalctl -u {APP}");
        assert_eq!(sentence(STRICT, ends(result)).await, expected);
    }
    assert_eq!(
        sentence(STRICT, ends("dependency")).await,
        "appfw-web-forward.socket or appfw-web-lifeline.service failed, without which appfw-web.service does not start; \
         see: journalctl -u appfw-web-forward.socket"
    );
}

#[tokio::test]
async fn a_refusal_is_told_with_systemds_own_words() {
    for name in ["org.freedesktop.DBus.Error.AccessDenied", "org.freedesktop.DBus.Error.InvalidArgs"] {
        let message = sentence(STRICT, Script { refusals: vec![name], ..Script::default() }).await;
        assert!(message.starts_with("systemd did not take the launch's units (appfw-web.service): "), "{message}");
        assert!(message.contains(name) && message.contains("said the fake"), "{message}");
    }
}

#[tokio::test]
async fn where_polkit_has_nobody_to_ask_it_is_said_what_to_do() {
    let name = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired";
    let message = sentence(STRICT, Script { refusals: vec![name], ..Script::default() }).await;
    assert!(message.contains("polkit has nobody to ask here: use sudo") && !message.contains(name), "{message}");
}

#[tokio::test]
async fn the_units_of_a_launch_just_ended_are_waited_for() {
    let exists = "org.freedesktop.systemd1.UnitExists";
    launch(STRICT, Script { refusals: vec![exists; 3], ..Script::default() }).await.unwrap();
    let message = sentence(STRICT, Script { refusals: vec![exists; 1000], ..Script::default() }).await;
    assert!(message.contains(exists), "{message}");
}

#[tokio::test]
async fn a_systemd_that_many_call_at_once_is_waited_for() {
    launch(STRICT, Script { busy: true, ..Script::default() }).await.unwrap();
}

#[tokio::test]
async fn a_job_over_before_its_reply_is_not_missed() {
    launch(STRICT, Script { early: true, ..Script::default() }).await.unwrap();
}

#[tokio::test]
async fn other_units_jobs_neither_count_nor_block() {
    launch(STRICT, Script { foreign: 500, ..Script::default() }).await.unwrap();
    launch(STRICT, Script { foreign: 500, early: true, ..Script::default() }).await.unwrap();
}

#[tokio::test]
async fn a_lost_connection_is_an_error_and_never_a_wait() {
    for method in ["StartTransientUnit", "GetAll", "StartUnit"] {
        let message = sentence(STRICT, Script { hang_up: Some(method), ..Script::default() }).await;
        let said = ["cannot read", "cannot talk to systemd", "the connection to systemd was lost"];
        assert!(said.iter().any(|said| message.starts_with(said)), "{method}: {message}");
    }
}

fn everywhere(families: &[i32]) -> OwnedValue {
    let length = |family: i32| if family == nix::libc::AF_INET { 4 } else { 16 };
    let networks = families.iter().map(|family| (*family, vec![0_u8; length(*family)], 0_u32));
    value(Value::new(networks.collect::<Vec<_>>()))
}

fn words(list: &[&str]) -> Option<OwnedValue> {
    Some(value(Value::new(list.to_vec())))
}

/// Where to look is part of every sentence.
const DROP_IN: &str = "/etc/systemd/system/appfw-.service.d/open.conf";

#[tokio::test]
async fn a_unit_held_otherwise_than_it_was_sent_is_named_and_not_started() {
    let (v4, v6) = (nix::libc::AF_INET, nix::libc::AF_INET6);
    let (_, units, _) = planned(STRICT);
    let Some(appfw::units::Value::Exec(ours)) = units.app.get("ExecStart") else { panic!("no ExecStart") };
    let ours: Vec<&str> = ours.iter().map(String::as_str).collect();
    let ours = |flags: &[&str]| command(ours[0], &ours, flags);
    let other = || command("/bin/sh", &["/bin/sh"], &["no-env-expand"]);
    let commands = |list: Vec<systemd::Command>| Some(value(Value::new(list)));
    let differs = |directive: &str| format!("{APP}: systemd holds another {directive}= than was asked for");
    let (filter, variables) = ("SystemCallFilter", "Environment");

    for (property, held, expected) in [
        ("IPAddressDeny", Some(everywhere(&[v4])), differs("IPAddressDeny")),
        ("IPAddressDeny", Some(everywhere(&[v6])), differs("IPAddressDeny")),
        ("IPAddressDeny", Some(everywhere(&[])), differs("IPAddressDeny")),
        ("IPAddressDeny", None, differs("IPAddressDeny")),
        ("IPAddressAllow", Some(everywhere(&[v4, v6])), differs("IPAddressAllow")),
        ("PrivateNetwork", Some(value(false)), differs("PrivateNetwork")),
        ("PrivateNetwork", None, differs("PrivateNetwork")),
        ("JoinsNamespaceOf", words(&[]), differs("JoinsNamespaceOf")),
        ("JoinsNamespaceOf", words(&["appfw-web-forward.socket", "vpn.service"]), differs("JoinsNamespaceOf")),
        ("ExecStartEx", commands(vec![other()]), differs("ExecStart")),
        ("ExecStartEx", commands(vec![ours(&[]), other()]), differs("ExecStart")),
        ("ExecStartEx", commands(vec![other(), ours(&[])]), differs("ExecStart")),
        ("ExecStartEx", commands(vec![ours(&["fully-privileged"])]), differs("ExecStart")),
        (variables, words(&["http_proxy=http://127.100.90.50:1080", "LD_PRELOAD=/tmp/x.so"]), differs(variables)),
        ("CapabilityBoundingSet", Some(value(u64::MAX)), differs("CapabilityBoundingSet")),
        ("NoNewPrivileges", Some(value(false)), differs("NoNewPrivileges")),
        (filter, Some(value(Value::new((false, Vec::<String>::new())))), differs(filter)),
        ("Slice", Some(value("system.slice")), differs("Slice")),
        ("ExecStartPre", commands(vec![other()]), format!("{APP}: ExecStartPre= is set, which leads round the wall")),
        ("PAMName", Some(value("login")), format!("{APP}: PAMName= is set, which leads round the wall")),
        ("RootDirectory", Some(value("/srv")), format!("{APP}: RootDirectory= is set, which leads round the wall")),
        (
            "EnvironmentFiles",
            words(&["/etc/x"]),
            format!("{APP}: EnvironmentFiles= is set, which leads round the wall"),
        ),
        ("Delegate", Some(value(true)), format!("{APP}: Delegate= is on, which leads round the wall")),
        ("User", Some(value("daemon")), format!("{APP}: User= is set from outside")),
    ] {
        let held = vec![(APP, property, held), (APP, "DropInPaths", words(&[DROP_IN]))];
        let message = sentence(STRICT, Script { held, ..Script::default() }).await;
        assert!(message.starts_with(&expected), "{property}: {message}");
        if property != "JoinsNamespaceOf" {
            assert!(message.ends_with(&format!("; look at {DROP_IN}")), "{property}: {message}");
        }
    }
}

#[tokio::test]
async fn what_was_not_asked_for_must_not_be_there() {
    let line = "--via none --unit web true";
    let any = everywhere(&[nix::libc::AF_INET, nix::libc::AF_INET6]);
    for (property, held) in [("IPAddressAllow", Some(any)), ("Environment", words(&["LD_PRELOAD=/tmp/x.so"]))] {
        let message = sentence(line, Script { held: vec![(APP, property, held)], ..Script::default() }).await;
        assert_eq!(message, format!("{APP}: {property}= is set from outside"));
    }
    let vpn = vec![(APP, "JoinsNamespaceOf", words(&["vpn.service"]))];
    let message = sentence(line, Script { held: vpn, ..Script::default() }).await;
    assert_eq!(message, format!("{APP}: systemd holds another JoinsNamespaceOf= than was asked for"));
}

#[tokio::test]
async fn a_slice_that_opens_what_is_below_is_named() {
    for slice in ["appfw.slice", "-.slice"] {
        let any = Some(everywhere(&[nix::libc::AF_INET]));
        let held = vec![(slice, "IPAddressAllow", any), (slice, "DropInPaths", words(&["/etc/y.conf"]))];
        let message = sentence(STRICT, Script { held, ..Script::default() }).await;
        assert!(
            message.starts_with(&format!("{slice} has IPAddressAllow=, which opens every unit below it")),
            "{message}"
        );
        assert!(message.contains("/etc/y.conf"), "{message}");

        let unreadable = Script { held: vec![(slice, "IPAddressAllow", None)], ..Script::default() };
        let message = sentence(STRICT, unreadable).await;
        assert_eq!(message, format!("cannot read IPAddressAllow= of {slice}, which could open the wall"));
    }
}

/// A launch whose app has been started, and is now to report.
async fn received(script: Script, stranger: bool) -> (Result<Reached>, Option<String>) {
    let place = tempfile::tempdir().unwrap();
    let (plan, units, host) = planned(STRICT);
    let state = State::create(&place.path().join("appfw"), &plan, &host).unwrap();
    let sockets = state.sockets(&plan).unwrap();
    let order = Order {
        command: vec![],
        environment: vec![],
        directories: vec![],
        descriptors: 0,
        journal: None,
        view: View::default(),
        bounding: 0,
    };
    let (bus, _) = serve(script).await;
    let manager = Manager::new(&bus).await.unwrap();
    let watch = Watch::new(&manager, &units.app.name).await.unwrap();
    let mut keeper = Unit { manager: &manager, watch, launch: &plan.name };
    let mut signals = Signals::new().unwrap();
    let mut knocking = stranger.then(|| UnixStream::connect(state.directory.join("control")).unwrap());
    if let Err(error) = manager.start(&units).await {
        panic!("{error:#}");
    }
    let control = tokio::net::UnixListener::from_std(sockets.control).unwrap();
    let own = plan.name.cgroup();
    let inside = async move { reception::accept_of(&own, &control).await };
    let reached = reception::receive(&mut keeper, inside, || Ok(()), &order, &[], &mut signals);
    let reached = in_time(reached).await;
    let told = knocking.as_mut().map(|stream| {
        let mut told = String::new();
        // A connection that was not accepted is reset.
        let _ = stream.read_to_string(&mut told);
        told
    });
    (reached, told)
}

#[tokio::test]
async fn an_app_that_ends_before_its_report_was_not_run() {
    let (reached, _) = received(Script { dies: Some((1, 125)), ..Script::default() }, false).await;
    let error = reached.unwrap_err();
    assert_eq!(
        format!("{error:#}"),
        format!("{APP} ended before its wall was proven, so nothing was run; see: journalctl -u {APP}")
    );
    assert_eq!(exit::code_of(&error), exit::OURS);
}

#[tokio::test]
async fn a_process_outside_the_apps_unit_gets_no_order() {
    let (reached, told) = received(Script { dies: Some((1, 125)), ..Script::default() }, true).await;
    assert!(reached.is_err());
    assert_eq!(told.as_deref(), Some(""));
}

#[tokio::test]
async fn a_connection_lost_while_the_app_runs_ends_the_launch() {
    let (bus, _) = serve(Script { hang_up: Some("StartUnit"), ..Script::default() }).await;
    let (plan, units, _) = planned(STRICT);
    let manager = Manager::new(&bus).await.unwrap();
    let watch = Watch::new(&manager, APP).await.unwrap();
    let mut keeper = Unit { manager: &manager, watch, launch: &plan.name };
    let (started, over) = in_time(async { tokio::join!(manager.start(&units), keeper.over()) }).await;
    assert_eq!(format!("{:#}", started.unwrap_err()), "the connection to systemd was lost");
    assert_eq!(format!("{:#}", over.unwrap_err()), "the connection to systemd was lost, and the launch ends with it");
}

#[tokio::test]
async fn signals_go_to_every_process_or_to_the_main_one() {
    use nix::sys::signal::Signal as Number;
    let (bus, calls) = serve(Script::default()).await;
    let manager = Manager::new(&bus).await.unwrap();
    let (plan, units, _) = planned(STRICT);
    let watch = Watch::new(&manager, &units.app.name).await.unwrap();
    let keeper = Unit { manager: &manager, watch, launch: &plan.name };
    for number in [Number::SIGINT, Number::SIGTERM, Number::SIGHUP, Number::SIGQUIT, Number::SIGUSR1, Number::SIGUSR2] {
        Signal::Pass(number).forward(&keeper, None).await;
    }
    let made: Vec<String> = std::mem::take(&mut calls.lock().unwrap());
    let expected = ["all 2", "all 15", "all 1", "all 3", "main 10", "main 12"];
    assert_eq!(made, expected.map(|call| format!("KillUnit {APP} {call}")));
}
