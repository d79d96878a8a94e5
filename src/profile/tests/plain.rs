//! What profiles and the configuration are where there is no forwarder.

use super::*;

#[test]
fn what_is_said_of_the_forwarder_says_nothing_where_there_is_none() {
    let keys = "only = \"a.test\"\nblock = \"any\"\nallow-destination = \"10.0.0.1\"\nisolate = \"destination\"\n\
                env-scheme = \"socks\"\nlog-destinations = \"no\"\ndns = \"synthetic\"\ncapture = true\naddress = \"127.0.0.9\"";
    let machine = Machine::of_root();
    machine.write("etc/appfw/config.toml", keys);
    let bob = Machine::new();
    bob.write("~/config.toml", keys);
    let openings = |machine: &Machine, line: &str| {
        let (plan, applied, args) = machine.plan(line);
        applied.openings(&args, &plan.unwrap_or_else(|error| panic!("{line}: {error:#}")))
    };
    for line in ["--via none x", "--via none --no-profile x"] {
        assert_eq!((openings(&machine, line), openings(&bob, line)), (Vec::new(), Vec::new()), "{line}");
    }
    assert_eq!(openings(&machine, "--via none --deny any --allow 192.0.2.7 x"), [""; 0]);
    assert_eq!(openings(&machine, "--via none --deny 0.0.0.0/0 --deny ::/0 x"), [""; 0]);
    // What is typed is refused as ever, and so is what would be open without it.
    let refused = |line: &str, option: &str| {
        let sentence = format!("{:#}", machine.plan(line).0.expect_err(line));
        assert!(sentence.starts_with(option), "{line}: {sentence}");
        sentence
    };
    refused("--via none --block a.test x", "--block");
    refused("--via none --env-scheme socks x", "--env-scheme");
    for rules in ["--deny 8.8.8.8", "--wall address --egress-filter /sys/fs/bpf/x"] {
        machine.write("etc/appfw/config.toml", "block = \"10.0.0.0/8\"");
        assert!(refused(&format!("--via none {rules} x"), "--block").ends_with("etc/appfw/config.toml:1)"));
        machine.write("etc/appfw/config.toml", "only = \"10.0.0.0/8\"");
        refused(&format!("--via none {rules} x"), "--only");
        machine.write("etc/appfw/config.toml", "dns = \"synthetic\"");
        refused(&format!("--via none {rules} x"), "--dns");
    }
}

#[test]
fn no_lower_place_makes_a_network_of_none() {
    let machine = Machine::of_root();
    let config = |text: &str| drop(machine.write("etc/appfw/config.toml", text));
    let profile = |text: &str| drop(machine.write("etc/appfw/profiles/x.toml", &format!("commands = \"x\"\n{text}")));
    let refused = |line: &str, key: &str| {
        let sentence = machine.refusal(line);
        assert!(
            sentence.starts_with(key) && sentence.contains("would leave all else open under --via none"),
            "{sentence}"
        );
        sentence
    };
    config("# firewall\ndeny = [\"8.8.8.8\"]");
    assert_eq!(
        refused("--via none x", "deny"),
        "deny = \"8.8.8.8\" (from /etc/appfw/config.toml:2) would leave all else open under --via none, which is no network whatever without it: say --deny any as well, or take deny out there"
    );
    refused("--via none --allow localhost x", "deny");
    refused("--via none --egress-filter /sys/fs/bpf/x x", "deny");
    assert_eq!(machine.completed("--via none --deny any x").deny, ["any", "8.8.8.8"]);
    assert_eq!(machine.completed("--via none --deny 1.1.1.1 x").deny, ["1.1.1.1", "8.8.8.8"]);
    // Whoever says the way out says the rules that go with it.
    config("via = \"none\"\ndeny = \"8.8.8.8\"");
    assert_eq!(machine.completed("x").deny, ["8.8.8.8"]);
    profile("via = \"none\"");
    refused("x", "deny");
    profile("via = \"none\"\ndeny = \"1.1.1.1\"");
    assert_eq!(machine.completed("x").deny, ["1.1.1.1", "8.8.8.8"]);
    refused("--via none x", "deny");
    profile("deny = \"1.1.1.1\"");
    assert_eq!(machine.completed("x").deny, ["1.1.1.1", "8.8.8.8"]);
    refused("--no-profile --via none x", "deny");
    // By its name it is the same.
    profile("");
    config("deny = \"8.8.8.8\"\n[vias.nowhere]\nspec = \"none\"");
    refused("--via nowhere x", "deny");
    // Of rules that close all, what is opened is said beside them.
    config("deny = \"any\"");
    refused("--via none x", "deny");
    assert_eq!(machine.completed("--via none --allow localhost x").deny, ["any"]);
    config("wall = \"address\"\negress-filter = \"/sys/fs/bpf/x\"");
    refused("--via none x", "wall");
    assert!(refused("--via none --egress-filter /sys/fs/bpf/y x", "wall").contains("say --wall strict"));
    assert_eq!(machine.completed("--via none --wall strict x").wall, Some(crate::cli::WallKind::Strict));
    let filters = machine.completed("--via none --wall address --egress-filter /sys/fs/bpf/y x").egress_filter;
    assert_eq!(filters, ["/sys/fs/bpf/y", "/sys/fs/bpf/x"], "each lets less through");
}

#[test]
fn a_resolver_that_a_configuration_opens_is_said() {
    let machine = Machine::of_root();
    machine.write("etc/appfw/config.toml", "dns = \"host\"");
    let openings = |line: &str| {
        let (plan, applied, args) = machine.plan(line);
        applied.openings(&args, &plan.unwrap()).len()
    };
    assert_eq!(openings("--via none --deny any x"), 1);
    for same in ["--via none --deny 8.8.8.8 x", "--via direct x", "--via none --deny any --dns host x"] {
        assert_eq!(openings(same), 0, "{same}");
    }
}
