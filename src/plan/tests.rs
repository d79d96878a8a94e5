use ipnet::IpNet;

use super::*;
use crate::fixture::{self, host, host_of, plan, plan_on};

fn words(list: &[IpNet]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[test]
fn what_cannot_be_honoured_is_refused_with_what_can() {
    for (line, phrase) in [
        ("--via direct --allow 10.0.0.0/8 x", "--allow needs --wall address: in the strict wall"),
        ("--via direct --wall strict --allow 10.0.0.0/8 x", "--allow needs --wall address"),
        ("--via direct --deny any x", "--deny adds nothing here"),
        ("--via direct --wall address --deny 8.8.8.8 x", "plain rules go with --via none"),
        ("--via none --allow 10.0.0.0/8 x", "allows alone restrict nothing: add --deny any"),
        ("--via none --wall address --allow localhost x", "allows alone restrict nothing: add --deny any"),
        ("--via none --wall address x", "--wall address with --via none needs rules"),
        ("--via none --wall strict --deny any x", "--allow and --deny need --wall address"),
        ("--via none --deny any --allow any x", "--allow covers every documentation network"),
        ("--via direct --wall address --allow any x", "--allow covers every documentation network"),
        ("--via none --env-scheme socks x", "--env-scheme says how programs reach the forwarder"),
        ("--via none --log-destinations no x", "--log-destinations is about the forwarder's log"),
        ("--via none --allow-destination 10.0.0.1 x", "--allow-destination is the forwarder's"),
        ("--via direct --allow-destination :// x", "is not a destination"),
        ("--via direct --isolate launch x", "--isolate divides Tor's circuits, and --via direct has no Tor"),
        (
            "--via http://u:p@h:1 --via socks5://h --isolate destination x",
            "--via http://***:***@h:1, socks5h://h:1080 has no",
        ),
        ("--via socks5://h --via tor x", "`tor` is this machine's Tor: put it first in the chain"),
        (
            "--via none --only a.test x",
            "--only is the forwarder's, and --via none has none; use --deny any with --allow",
        ),
        (
            "--via none --deny any --block a.test x",
            "--block is the forwarder's, and --via none has none; use --deny for",
        ),
        ("--via none --only 10.0.0.1 x", "or --via direct for names"),
        ("--via direct --allow-destination :// x", "--allow-destination `://` is not a destination: use HOST"),
        (
            "--via direct --only http://a.test/ x",
            "--only `http://a.test/` is not a destination: did you mean a.test:80?",
        ),
        (
            "--via direct --only a.test --block 10.0.0.5/24 x",
            "--block `10.0.0.5/24` is not a destination: did you mean",
        ),
        ("--via none --wall address --allow 10.0.0.1 --egress-filter /sys/fs/bpf/x y", "allows alone restrict nothing"),
        ("--via direct --egress-filter out.o x", "takes the path of a pinned BPF program below /sys/fs/bpf"),
        ("--via direct --standalone --egress-filter /sys/fs/bpf/x y", "which attaches it: leave --standalone out"),
        ("--via direct --address 127.0.0.9 x", "--address goes with --wall address and a forwarder"),
        ("--via none --deny any --address 127.0.0.9 x", "--address goes with --wall address and a forwarder"),
        ("--via direct --wall address --address 10.0.0.1:1080 x", "takes an address of 127.0.0.0/8"),
        ("--via direct --wall address --address 127.0.0.9:0 x", "takes an address of 127.0.0.0/8"),
        ("--via direct --wall address --address 127.0.0.9:66000 x", "takes an address of 127.0.0.0/8"),
        ("--via direct --wall address --address [::1]:1080 x", "takes an address of 127.0.0.0/8"),
        ("--via direct --wall address --address localhost:1080 x", "takes an address of 127.0.0.0/8"),
        ("--via none --deny any --allow example.org x", "takes addresses; for names use --only/--block"),
        ("--via none --deny dns.google x", "takes addresses; for names use --only/--block"),
        ("--via none --deny 10.0.0.5/24 x", "write 10.0.0.0/24 for the network"),
        ("--via none --deny loclahost x", "did you mean localhost?"),
        ("--via direct --unit web-forward x", "must not end in -forward"),
        ("--via direct --unit a/b x", "takes 1 to 64 of A-Z a-z 0-9 _ . -"),
        ("--via direct --unit .. x", "needs a letter or digit"),
        ("--via direct --uid nobody-here x", "there is no user \"nobody-here\""),
        ("--via direct --env =x x", "takes NAME=VALUE or NAME"),
        ("--via direct --dns dns.google x", "takes synthetic, host, off or tcp://IP[:PORT]"),
        ("--via direct --dns tcp://dns.google x", "takes the resolver's address"),
        ("--via direct --dns tcp://10.0.0.53 x", "(private); --allow-destination 10.0.0.53:53 opens it"),
        ("--via tor --dns host x", "asks this host's resolver for every name, past tor; use --dns synthetic"),
        ("--via direct --wall address --dns synthetic x", "--dns synthetic needs --wall strict"),
        ("--via direct --wall address --dns what x", "takes synthetic, host, off"),
        ("--via none --dns synthetic x", "is the forwarder's, and --via none has none; use --dns host"),
        ("--via none --deny any --dns tcp://9.9.9.9 x", "is the forwarder's, and --via none has none"),
        ("--via none --dns host x", "--dns host has no network to go with"),
        ("--via direct --capture x", "--capture needs --wall namespace: the IP filter of the strict wall drops"),
        (
            "--via direct --wall address --capture x",
            "--capture needs --wall namespace: the IP filter of the address wall",
        ),
        (
            "--via none --wall namespace --capture x",
            "--capture leads connections to the forwarder, and --via none has none",
        ),
        ("--via direct --wall namespace --allow any x", "--allow needs --wall address: in the namespace wall"),
        ("--via direct --wall namespace --deny any x", "--deny adds nothing here"),
        ("--via none --wall namespace --deny any x", "need --wall address: the namespace wall has no other network"),
        ("--via direct --wall namespace --address 127.0.0.9 x", "--address goes with --wall address"),
        (
            "--via direct --wall namespace --allow-destination 127.0.0.1:1081 x",
            "--allow-destination 127.0.0.1:1081: in the program's namespace the forwarder itself, at every address, listens there",
        ),
        (
            "--via direct --allow-destination 127.100.90.50:1080 x",
            "--allow-destination 127.100.90.50:1080: in the program's namespace the forwarder itself listens there; let the service",
        ),
        ("--via tor --allow-destination 127.100.90.50:53 x", "the program's namespace its DNS listens there"),
        ("--via tor --publish 8080 x", "--publish 8080 needs --wall namespace: in the strict wall"),
        (
            "--via tor --wall address --publish 8080 x",
            "needs --wall namespace: in the address wall the program listens on",
        ),
        (
            "--via none --deny any --publish 8080 x",
            "needs --wall namespace: in the address wall the program listens on",
        ),
        ("--via tor --wall namespace --publish 8080:80 x", "so write --publish 8080=80"),
        (
            "--via tor --wall namespace --publish 8080 --publish 127.0.0.1:8080=80 x",
            "--publish 127.0.0.1:8080=80: 127.0.0.1:8080 is published already",
        ),
        (
            "--via tor --wall namespace --publish 8080=1081 x",
            "--publish 127.0.0.1:8080=1081: in the program's namespace the forwarder listens at 127.0.0.1:1081",
        ),
        (
            "--via tor --wall namespace --allow-destination [::1]:5432 --publish 0.0.0.0:5432 x",
            "--publish 0.0.0.0:5432=5432: in the program's namespace the forwarder listens at [::1]:5432",
        ),
    ] {
        let message = format!("{:#}", plan(line).expect_err(line));
        assert!(message.contains(phrase), "{line}: {message}");
        assert!(!message.contains('\n'), "{line}: {message}");
    }
}

#[test]
fn an_empty_word_is_no_command() {
    let message = plan_on(&host(), &["--via", "direct", ""]).unwrap_err().to_string();
    assert!(message.contains("the command is empty"), "{message}");
}

#[test]
fn what_the_forwarder_lets_through_is_as_it_was_given() {
    let plan = plan("--via tor --only A.test. --only *.b.test:443 --block any:25 --block [2001:db8::]:1-9 x").unwrap();
    let written = |list: &[Pattern]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let Rules { only, block } = &plan.destinations;
    assert_eq!((written(only), written(block)), ("a.test *.b.test:443".into(), "any:25 [2001:db8::]:1-9".into()));
}

#[test]
fn a_block_that_an_upstream_resolves_past_is_warned_of() {
    for (line, warned) in [
        (
            "--via tor --block a.test --block 192.0.2.0/24 x",
            Some("--block 192.0.2.0/24 keeps out what is asked for by"),
        ),
        ("--via tor --block a.test --only 192.0.2.0/24 x", None),
        ("--via direct --block 192.0.2.0/24 x", None),
    ] {
        let warning = plan(line).unwrap().warning();
        assert_eq!(warning.is_some(), warned.is_some(), "{line}");
        assert!(warning.unwrap_or_default().starts_with(warned.unwrap_or_default()), "{line}");
    }
}

#[test]
fn who_runs_it_follows_from_the_caller_and_the_machine() {
    let (root, alice) = (host(), host_of("alice"));
    let bare = |host: Host| Host { booted: false, ..host };
    let session = || Host { user_bus: Some("/run/user/1000/bus".into()), ..host_of("alice") };
    for (host, line, supervisor, wall) in [
        (root, "--via direct x", Supervisor::System, WallKind::Strict),
        (host(), "--standalone --via direct x", Supervisor::Standalone, WallKind::Namespace),
        (bare(host()), "--via direct x", Supervisor::Standalone, WallKind::Namespace),
        (bare(host()), "--via none x", Supervisor::Standalone, WallKind::Namespace),
        (alice, "--via direct x", Supervisor::Standalone, WallKind::Namespace),
        (bare(host_of("alice")), "--via direct --wall namespace x", Supervisor::Standalone, WallKind::Namespace),
        (host_of("alice"), "--via direct --system x", Supervisor::System, WallKind::Strict),
        (session(), "--via direct x", Supervisor::User, WallKind::Namespace),
        (session(), "--user --via none x", Supervisor::User, WallKind::Namespace),
        (session(), "--standalone --via direct x", Supervisor::Standalone, WallKind::Namespace),
        (Host { caller: host().caller, ..session() }, "--via direct x", Supervisor::System, WallKind::Strict),
    ] {
        let plan = plan_on(&host, &line.split(' ').collect::<Vec<_>>()).unwrap();
        assert_eq!((plan.supervisor, plan.wall), (supervisor, wall), "{line}");
    }
}

#[test]
fn what_only_the_system_manager_can_do_is_refused_to_others_by_its_name() {
    for (line, phrase) in [
        ("--via direct --wall strict x", "--wall strict needs the system manager: use sudo appfw-run --uid"),
        ("--via direct --wall address x", "--wall address needs the system manager"),
        ("--via none --deny any x", "IP rules (--allow, --deny) need the system manager"),
        ("--via direct --uid bob x", "--uid needs root or the system manager"),
        ("--system --wall namespace --via direct x", "runs /usr/bin/appfw as root, and an ordinary user's can be"),
        ("--user --via direct x", "--user needs this user's systemd and its bus"),
        ("--via direct --ingress-filter /sys/fs/bpf/x y", "--ingress-filter is for the system manager"),
        ("--system --via direct --egress-filter /sys/fs/bpf/x y", "--egress-filter takes root, as nobody else may ask"),
        ("--via direct --address 127.0.0.9 x", "in a namespace it is always 127.100.90.50"),
    ] {
        let message = plan_on(&host_of("alice"), &line.split(' ').collect::<Vec<_>>()).unwrap_err().to_string();
        assert!(message.contains(phrase), "{line}: {message}");
    }
    assert!(plan("--user --via direct x").unwrap_err().to_string().starts_with("--user is an ordinary user's"));
}

#[test]
fn where_no_systemd_is_booted_none_is_advised() {
    for user in ["alice", "root"] {
        let host = Host { booted: false, ..host_of(user) };
        for (line, phrase) in [
            ("--via direct --wall strict x", "no systemd is booted here: leave --wall out"),
            ("--via direct --wall address x", "no systemd is booted here: leave --wall out"),
            ("--via none --deny any x", "no systemd is booted here: use --via direct with --only or --block"),
            ("--via direct -p Nice=1 x", "none is booted here; use prlimit and nice"),
        ] {
            let message = plan_on(&host, &line.split(' ').collect::<Vec<_>>()).unwrap_err().to_string();
            assert!(message.contains(phrase) && !message.contains("--system"), "{line}: {message}");
        }
    }
    let alice = Host { booted: false, ..host_of("alice") };
    let message = plan_on(&alice, &["--via", "direct", "--uid", "bob", "x"]).unwrap_err().to_string();
    assert_eq!(message, "--uid needs root where no systemd is booted: sudo appfw-run --uid …");
}

#[test]
fn an_ordinary_user_asking_for_the_system_runs_as_themselves() {
    let plan = plan_on(&host_of("alice"), &["--system", "--via", "direct", "x"]).unwrap();
    assert!(matches!(&plan.app, Identity::Caller(user) if user.name == "alice"), "{:?}", plan.app);
}

#[test]
fn the_wall_and_its_lists_follow_from_the_way_out() {
    let (any, strict, address) = ("0.0.0.0/0 ::/0", WallKind::Strict, WallKind::Address);
    for (line, wall, allow, deny, resolver) in [
        ("--via direct x", strict, "127.100.90.50/32", any, Resolver::Forwarder),
        ("--via direct --dns off x", strict, "127.100.90.50/32", any, Resolver::Off),
        ("--via direct --wall address x", address, "127.100.7.7/32", any, Resolver::Off),
        (
            "--via direct --wall address --address 127.1.2.3 --allow 10.0.0.0/8 --allow 127.1.2.3 x",
            address,
            "127.1.2.3/32 10.0.0.0/8",
            any,
            Resolver::Off,
        ),
        ("--via none x", strict, "", any, Resolver::Off),
        ("--via none --deny 8.8.8.8 x", address, "", "8.8.8.8/32 192.0.2.1/32", Resolver::Host),
        (
            "--via none --deny 8.8.8.8 --allow 192.0.2.0/24 x",
            address,
            "192.0.2.0/24",
            "8.8.8.8/32 198.51.100.1/32",
            Resolver::Host,
        ),
        ("--via none --deny 192.0.2.0/24 x", address, "", "192.0.2.0/24", Resolver::Host),
        ("--via none --deny any --allow localhost x", address, "127.0.0.0/8 ::1/128", any, Resolver::Off),
        ("--via none --deny 0.0.0.0/0 x", address, "", "0.0.0.0/0", Resolver::Host),
    ] {
        let plan = plan(line).unwrap_or_else(|error| panic!("{line}: {error:#}"));
        let lists = plan.lists();
        assert_eq!((plan.wall, plan.resolver), (wall, resolver), "{line}");
        assert_eq!((words(&lists.allow).as_str(), words(&lists.deny).as_str()), (allow, deny), "{line}");
        assert!(lists.canary().is_some(), "{line}: nothing to prove the filter by");
    }
}

#[test]
fn the_namespace_wall_captures_unless_told_not_to_and_has_no_lists() {
    for (line, capture, resolver) in [
        ("--via direct --wall namespace x", Capture::Streams, Resolver::Forwarder),
        ("--via tor --wall namespace --capture --dns off x", Capture::Streams, Resolver::Off),
        ("--via tor --wall namespace --no-capture x", Capture::Off, Resolver::Forwarder),
        ("--via none --wall namespace x", Capture::Off, Resolver::Off),
        ("--via none --wall namespace --no-capture x", Capture::Off, Resolver::Off),
    ] {
        let plan = plan(line).unwrap_or_else(|error| panic!("{line}: {error:#}"));
        assert_eq!((plan.wall, plan.capture, plan.resolver), (WallKind::Namespace, capture, resolver), "{line}");
        assert_eq!(plan.lists(), IpLists::default(), "{line}");
        assert_eq!(plan.address, ADDRESS, "{line}");
    }
    for line in ["--via direct x", "--via direct --no-capture x", "--via none --deny any x"] {
        assert_eq!(plan(line).unwrap().capture, Capture::Off, "{line}");
    }
}

#[test]
fn a_service_of_the_loopback_is_in_the_strict_wall_at_its_own_address() {
    for (line, services, allow) in [
        ("--via tor x", "", "127.100.90.50/32"),
        ("--via tor --allow-destination 127.0.0.1:5432 x", "127.0.0.1:5432", "127.100.90.50/32 127.0.0.1/32"),
        (
            "--via direct --allow-destination [::1]:80 --allow-destination 127.0.0.1:81 --allow-destination 127.0.0.1:80 --allow-destination [::ffff:127.0.0.1]:80 x",
            "127.0.0.1:80 127.0.0.1:81 [::1]:80",
            "127.100.90.50/32 127.0.0.1/32 ::1/128",
        ),
        // Beside the forwarder there is room, and without its DNS at its port.
        (
            "--via direct --dns off --allow-destination 127.100.90.50:53 --allow-destination 127.0.0.1:1080 x",
            "127.0.0.1:1080 127.100.90.50:53",
            "127.100.90.50/32 127.0.0.1/32",
        ),
        // What is no single socket, and what is not on the loopback, is reached by the proxy alone.
        (
            "--via tor --allow-destination localhost:80 --allow-destination 127.0.0.1 --allow-destination 127.0.0.0/8:80 --allow-destination 127.0.0.1:80-90 --allow-destination 10.0.0.1:80 --allow-destination any:80 x",
            "",
            "127.100.90.50/32",
        ),
        // The address wall is on the host's loopback.
        ("--via tor --wall address --allow-destination 127.0.0.1:5432 x", "", "127.100.7.7/32"),
        ("--via tor --wall address --address 127.0.0.9 --allow-destination 127.0.0.9:1080 x", "", "127.0.0.9/32"),
    ] {
        let plan = plan(line).unwrap_or_else(|error| panic!("{line}: {error:#}"));
        let listening: Vec<_> = plan.services().iter().map(ToString::to_string).collect();
        assert_eq!((listening.join(" ").as_str(), words(&plan.lists().allow).as_str()), (services, allow), "{line}");
        assert!(plan.lists().denies_any(), "{line}");
    }
}

#[test]
fn who_answers_dns_follows_from_the_way_out_and_the_wall() {
    let quad9 = Dns::Tcp("9.9.9.9:53".parse().unwrap());
    let inside = Dns::Tcp("10.0.0.53:53".parse().unwrap());
    for (line, dns, resolver) in [
        ("--via direct x", Dns::Host, Resolver::Forwarder),
        ("--via direct --dns host x", Dns::Host, Resolver::Forwarder),
        ("--via direct --dns synthetic x", Dns::Synthetic, Resolver::Forwarder),
        ("--via tor x", Dns::Synthetic, Resolver::Forwarder),
        ("--via http://203.0.113.20:3128 x", Dns::Synthetic, Resolver::Forwarder),
        ("--via tor --dns tcp://9.9.9.9 x", quad9, Resolver::Forwarder),
        ("--via direct --dns tcp://10.0.0.53 --allow-destination 10.0.0.53:53 x", inside, Resolver::Forwarder),
        ("--via tor --dns off x", Dns::Off, Resolver::Off),
        ("--via tor --wall address x", Dns::Off, Resolver::Off),
        ("--via tor --wall address --dns off x", Dns::Off, Resolver::Off),
        ("--via none x", Dns::Off, Resolver::Off),
        ("--via none --deny 8.8.8.8 x", Dns::Off, Resolver::Host),
        ("--via none --deny 8.8.8.8 --dns off x", Dns::Off, Resolver::Off),
        ("--via none --deny any --allow localhost --dns host x", Dns::Off, Resolver::Host),
    ] {
        let plan = plan(line).unwrap_or_else(|error| panic!("{line}: {error:#}"));
        assert_eq!((plan.dns, plan.resolver), (dns, resolver), "{line}");
    }
}

#[test]
fn only_an_address_to_be_reserved_is_left_open() {
    let address = |line: &str| {
        let args = fixture::parse(&line.split(' ').collect::<Vec<_>>()).unwrap();
        let plan = Plan::new(&args, Via::parse(&args.via).unwrap(), &host()).unwrap();
        (plan.address.to_string(), plan.address.ip().is_unspecified())
    };
    assert_eq!(address("--via direct x"), ("127.100.90.50:1080".into(), false));
    assert_eq!(address("--via direct --wall address x"), ("0.0.0.0:1080".into(), true));
    assert_eq!(address("--via direct --wall address --address 127.0.0.9 x"), ("127.0.0.9:1080".into(), false));
    assert_eq!(address("--via direct --wall address --address 127.0.0.9:9 x"), ("127.0.0.9:9".into(), false));
}

#[test]
fn a_pty_takes_a_terminal_for_both_input_and_output() {
    let [tty, pipe] = [true, false];
    for (terminals, detach, stdio) in [
        ([tty, tty, tty], "", Stdio::Terminal { errors: true }),
        ([tty, tty, pipe], "", Stdio::Terminal { errors: false }),
        ([tty, pipe, tty], "", Stdio::Descriptors),
        ([pipe, tty, tty], "", Stdio::Descriptors),
        ([pipe, pipe, pipe], "", Stdio::Descriptors),
        ([tty, tty, tty], "--detach ", Stdio::Journal),
    ] {
        let line = format!("--via direct {detach}x");
        let host = Host { terminals, ..host() };
        assert_eq!(plan_on(&host, &line.split(' ').collect::<Vec<_>>()).unwrap().stdio, stdio, "{terminals:?}");
    }
}

#[test]
fn as_whom_and_where_the_program_runs() {
    for (line, other, directory) in [
        ("--via direct x", false, Directory::Caller(Some("/srv/work".into()))),
        ("--via direct --uid 0 x", false, Directory::Caller(Some("/srv/work".into()))),
        ("--via direct --uid alice x", true, Directory::Caller(Some("/srv/work".into()))),
        ("--via direct --uid 1001 --workdir /tmp x", true, Directory::Asked("/tmp".into())),
        ("--via direct --workdir sub x", false, Directory::Asked("/srv/work/sub".into())),
    ] {
        let plan = plan(line).unwrap();
        assert_eq!((matches!(plan.app, Identity::Other(_)), plan.directory), (other, directory), "{line}");
    }
    let gone = Host { directory: None, ..host() };
    let message = plan_on(&gone, &["--via", "direct", "--workdir", "sub", "x"]).unwrap_err().to_string();
    assert!(message.contains("relative to a directory that is gone"), "{message}");
}

#[test]
fn there_is_a_relay_where_the_way_out_carries_datagrams() {
    for (line, has_relay) in [
        ("--via direct x", true),
        ("--via direct --only a.test x", true),
        ("--via socks5h://h x", true),
        ("--via socks://u:p@192.0.2.1:9 x", true),
        ("--via direct --wall address x", false),
        ("--via socks5h://h --wall address x", false),
        ("--via none x", false),
        ("--via tor x", false),
        ("--via tor://h x", false),
        ("--via unix:/run/socks x", false),
        ("--via socks4a://h x", false),
        ("--via http://h:1 x", false),
        ("--via https://h x", false),
        ("--via socks5h://h --via socks5h://i x", false),
        ("--via tor --via socks5h://h x", false),
    ] {
        assert_eq!(plan(line).unwrap().has_relay(), has_relay, "{line}");
    }
}

#[test]
fn env_takes_a_value_or_the_callers() {
    let plan = plan("--via direct --env A=b=c --env LANG --env UNSET --env E= x").unwrap();
    let expected = [("A", "b=c"), ("LANG", "C.UTF-8"), ("E", "")];
    assert_eq!(plan.env, expected.map(|(name, value)| (name.into(), value.into())));
}
