use proptest::prelude::*;

use super::*;

fn host(text: &str) -> Host {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error:#}"))
}

fn inside(text: &str) -> bool {
    match host(text) {
        Host::Name(name) => inside_name(&name, &["box.example.org".into()]),
        Host::Ip(address) => inside_address(address, &["203.0.113.9".parse().unwrap()]).is_some(),
    }
}

#[test]
fn every_spelling_of_loopback_is_the_address() {
    for spelling in [
        "127.0.0.1",
        "127.0.0.1.",
        "127.1",
        "127.1.",
        "127.0.1",
        "2130706433",
        "017700000001",
        "0x7f000001",
        "0X7F000001",
        "0x7f.1",
        "0177.0.0.1",
        "0177.0.0.01",
        "0x7f.0x0.0x0.0x1",
        "00000177.1",
        "127.0.0.0x1",
        "１２７.0.0.1",
        "127。0。0。1",
    ] {
        assert_eq!(host(spelling), Host::Ip([127, 0, 0, 1].into()), "{spelling}");
    }
}

#[test]
fn inside_in_every_spelling() {
    for spelling in [
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "0",
        "0.1.2.3",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "100.127.255.255",
        "192.0.0.192",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "3232235777",
        "012.0.0.1",
        "::",
        "::1",
        "[::1]",
        "0:0:0:0:0:0:0:1",
        "fe80::1",
        "fe80::1%eth0",
        "[fe80::1%25eth0]",
        "febf::1",
        "fec0::1",
        "fc00::1",
        "fd12:3456::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:7f00:1",
        "::127.0.0.1",
        "::ffff:0:10.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b::a00:1",
        "64:ff9b:1::1",
        "64:ff9b:1::8.8.8.8",
        "2002:7f00:1::",
        "2002:c0a8:101::1",
        "2001:0:a00:1::",
        "2001:0:808:808:0:0:80ff:fffe",
        "2001:db8::5efe:10.0.0.1",
        "203.0.113.9",
        "::ffff:203.0.113.9",
        "2002:cb00:7109::1",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "a.localhost",
        "a.b.LocalHost.",
        "localhost.localdomain",
        "localhost4.localdomain4.localdomain",
        "ip6-localhost",
        "ip6-loopback",
        "_gateway",
        "_localdnsproxy",
        "box",
        "BOX.",
        "box.example.org",
        "box.local",
        "box.localdomain",
        "ｌｏｃａｌｈｏｓｔ",
    ] {
        assert!(inside(spelling), "{spelling} must be inside");
    }
}

#[test]
fn outside_stays_outside() {
    for spelling in [
        "8.8.8.8",
        "134744072",
        "192.0.2.1",
        "198.51.100.1",
        "203.0.113.1",
        "198.18.0.1",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.0.1",
        "172.32.0.1",
        "169.253.0.1",
        "223.255.255.255",
        "2001:db8::1",
        "2606:4700::1111",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
        "2002:808:808::1",
        "2001:0:808:808:0:0:f7f7:f7f7",
        "example.org",
        "notlocalhost",
        "localhost.example.org",
        "example.org.local",
        "xbox",
        "local",
    ] {
        assert!(!inside(spelling), "{spelling} must be outside");
    }
}

#[test]
fn names_are_normalised() {
    for (text, normal) in [
        ("Example.ORG", "example.org"),
        ("example.org.", "example.org"),
        ("my_host", "my_host"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("a-b.c", "a-b.c"),
        ("1e100.net", "1e100.net"),
        ("0x7f.example", "0x7f.example"),
        ("abc", "abc"),
        ("0xzz", "0xzz"),
    ] {
        assert_eq!(host(text), Host::Name(normal.into()), "{text}");
    }
}

#[test]
fn what_is_no_host_is_refused() {
    let long_label = "a".repeat(64);
    let long_name = "a.".repeat(127) + "com";
    for text in [
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "a..",
        "a b",
        "a\nb",
        "a\r\nHost: b",
        "a\0b",
        "a/b",
        "a@b",
        "a:b",
        "*.a",
        "[a]",
        "[127.0.0.1]",
        "1.2.3.4.5",
        "256.1.1.1",
        "1.2.3.256",
        "4294967296",
        "127.0.0.08",
        "127.0.0.0x",
        "127.0.0.+1",
        "a.1",
        "a.0x7f",
        "-1",
        "\u{202e}a",
        "a%b",
        &long_label,
        &long_name,
    ] {
        // `-1` alone is a legal, if odd, name.
        assert_eq!(text.parse::<Host>().is_err(), text != "-1", "{text:?}");
    }
}

#[test]
fn destinations_split_at_the_right_colon() {
    for (text, shown) in [
        ("example.org:443", "example.org:443"),
        ("[2001:db8::a]:443", "[2001:db8::a]:443"),
        ("2001:67c:4e8:f002::a:443", "[2001:67c:4e8:f002::a]:443"),
        ("127.1:80", "127.0.0.1:80"),
        ("Example.org.:22", "example.org:22"),
    ] {
        assert_eq!(Destination::parse(text, None).unwrap().to_string(), shown, "{text}");
    }
    assert_eq!(Destination::parse("a", Some(80)).unwrap().port, 80);
    assert_eq!(Destination::parse("[::1]", Some(80)).unwrap().to_string(), "[::1]:80");
    for text in ["a", "a:", "a:0", "a:65536", "a:+80", "a: 80", ":80", "[::1]", "a:80:80"] {
        assert!(Destination::parse(text, None).is_err(), "{text}");
    }
}

fn pattern(text: &str) -> Pattern {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error:#}"))
}

#[test]
fn a_pattern_matches_exactly_what_it_says() {
    for (rule, yes, no) in [
        (
            "127.0.0.1:5432",
            &["127.0.0.1:5432", "127.1:5432", "[::ffff:127.0.0.1]:5432"][..],
            &["127.0.0.1:5433", "127.0.0.2:5432", "localhost:5432", "[::1]:5432"][..],
        ),
        (
            "db.internal:5000-5010",
            &["db.internal:5000", "DB.internal.:5010"],
            &["db.internal:5011", "x.db.internal:5000", "db.internal:4999"],
        ),
        ("Db.Internal.", &["db.internal:1", "DB.internal.:65535"], &["x.db.internal:1"]),
        ("bücher.example", &["xn--bcher-kva.example:80", "BÜCHER.example:80"], &["bucher.example:80"]),
        ("*.corp", &["a.corp:1", "a.b.corp:65535", "A.CORP.:1"], &["corp:80", "acorp:80", "a.corp.org:80"]),
        ("*.Bücher.example.:443", &["a.xn--bcher-kva.example:443"], &["xn--bcher-kva.example:443"]),
        ("10.0.0.0/8", &["10.255.0.1:80", "[::ffff:10.0.0.1]:80"], &["11.0.0.1:80", "ten.test:80"]),
        ("10.0.0.0/8:80", &["10.9.9.9:80"], &["10.9.9.9:81"]),
        ("10.1.2.3", &["10.1.2.3:1", "167838211:1"], &["10.1.2.4:1"]),
        ("[fd00::]:80", &["[fd00::]:80"], &["[fd00::1]:80"]),
        ("[fd00::/8]:80", &["[fd00::1]:80"], &["[fd00::1]:81"]),
        ("fd00::/8", &["[fd00::1]:81"], &["[fc00::1]:81"]),
        ("::1", &["[::1]:9"], &["127.0.0.1:9"]),
        ("::ffff:10.0.0.0/104", &["10.1.2.3:80", "[::ffff:10.1.2.3]:80"], &["11.0.0.1:80"]),
        (
            "localhost",
            &["127.9.9.9:1", "[::1]:1", "localhost:1", "a.localhost:1"],
            &["10.0.0.1:1", "[::2]:1", "example.org:1"],
        ),
        ("LocalHost.:80", &["localhost:80", "127.0.0.1:80"], &["localhost:81"]),
        ("link-local", &["169.254.1.1:1", "[fe80::1]:1"], &["[fec0::1]:1"]),
        ("multicast", &["224.0.0.1:1", "[ff02::1]:1"], &["223.0.0.1:1"]),
        ("any", &["10.0.0.1:1", "[::1]:1", "example.org:1", "localhost:1"], &[]),
        ("ANY:25", &["10.0.0.1:25", "example.org:25"], &["example.org:26"]),
    ] {
        for destination in yes {
            assert!(pattern(rule).matches(&Destination::parse(destination, None).unwrap()), "{rule} {destination}");
        }
        for destination in no {
            assert!(!pattern(rule).matches(&Destination::parse(destination, None).unwrap()), "{rule} {destination}");
        }
    }
}

#[test]
fn a_service_of_the_loopback_is_one_address_at_one_port() {
    for (rule, socket) in [
        ("127.0.0.1:5432", Some("127.0.0.1:5432")),
        ("127.9.9.9:53", Some("127.9.9.9:53")),
        ("[::1]:80", Some("[::1]:80")),
        ("[::ffff:127.0.0.1]:80", Some("127.0.0.1:80")),
        ("127.0.0.1", None),
        ("127.0.0.1:80-81", None),
        ("127.0.0.0/31:80", None),
        ("[::2]:80", None),
        ("10.0.0.1:80", None),
        ("0.0.0.0:80", None),
        ("localhost:80", None),
        ("any:80", None),
        ("a.test:80", None),
    ] {
        assert_eq!(pattern(rule).loopback_socket().map(|at| at.to_string()).as_deref(), socket, "{rule}");
    }
}

#[test]
fn of_a_pattern_the_loopback_addresses_are_known() {
    for (rule, loopback) in [
        ("127.0.0.1:5432", "127.0.0.1/32"),
        ("[::1]:80", "::1/128"),
        ("127.8.0.0/16", "127.8.0.0/16"),
        ("126.0.0.0/7", "127.0.0.0/8"),
        ("::/0", "::1/128"),
        ("any:80", "127.0.0.0/8 ::1/128"),
        ("localhost", "127.0.0.0/8 ::1/128"),
        ("db.localhost:80", "127.0.0.0/8 ::1/128"),
        ("*.localhost", "127.0.0.0/8 ::1/128"),
        ("localhost.a.test", ""),
        ("10.0.0.0/8", ""),
        ("link-local", ""),
        ("*.a.test", ""),
    ] {
        let words: Vec<_> = pattern(rule).loopback().iter().map(ToString::to_string).collect();
        assert_eq!(words.join(" "), loopback, "{rule}");
    }
}

#[test]
fn loopback_by_address_and_by_name() {
    for (text, is_loopback) in [
        ("127.0.0.1", true),
        ("127.255.0.9", true),
        ("::1", true),
        ("::ffff:127.0.0.1", true),
        ("localhost", true),
        ("LocalHost.", true),
        ("db.localhost", true),
        // Inside, but not for sure there.
        ("0.0.0.0", false),
        ("64:ff9b::127.0.0.1", false),
        ("10.0.0.1", false),
        ("localhost.a.test", false),
        ("notlocalhost", false),
        ("ip6-localhost", false),
        ("box.example.org", false),
    ] {
        assert_eq!(host(text).is_loopback(), is_loopback, "{text}");
    }
}

#[test]
fn what_is_no_pattern_is_told_the_nearest_one() {
    for (text, near) in [
        (":80", "any:80"),
        ("a:", "a"),
        ("a:*", "a"),
        ("a:90-80", "a:80-90"),
        ("[a]:80", "a:80"),
        ("[::1", "[::1]"),
        ("[10.0.0.1]", "10.0.0.1"),
        ("*", "any"),
        ("*:443", "any:443"),
        (".a.test", "*.a.test"),
        ("*a.test:443", "*.a.test:443"),
        ("*..a", "*.a"),
        ("http://a", "a:80"),
        ("https://me@A.test/x?y", "a.test:443"),
        ("https://a.test:8443/", "a.test:8443"),
        ("ssh://a.test", "a.test"),
        ("http://[2001:db8::1]/", "[2001:db8::1]:80"),
        ("a.test/x", "a.test"),
        (" a.test ", "a.test"),
        ("10.0.0.0/33", "10.0.0.0"),
        ("10.0.0/8", "10.0.0.0/8"),
        ("10.0.0/24:80", "10.0.0.0/24:80"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("10.1.2.3/8:80", "10.0.0.0/8:80"),
        ("fd00::1/8", "[fd00::/8]"),
        ("10.", "10.0.0.0/8"),
        ("10.1", "10.1.0.0/16"),
        ("0x7f.1:80", "127.0.0.1:80"),
        ("2130706433", "127.0.0.1"),
    ] {
        let error = text.parse::<Pattern>().unwrap_err().to_string();
        assert_eq!(error, format!("`{text}` is not a destination: did you mean {near}?"));
        pattern(near);
    }
    for text in ["", "a:0", "a:80-", "a:90000", "[::1]80", "*.", "*.1.2.3.4", "a/8", "a,b", "a\nb", "http://"] {
        let error = text.parse::<Pattern>().unwrap_err().to_string();
        assert!(error.contains("is not a destination: use HOST"), "{text}: {error}");
        assert!(!error.contains('\n'), "{text}: {error}");
    }
}

#[test]
fn a_wrong_value_names_its_option() {
    let words = ["a.test", "*"].map(str::to_owned);
    let error = Pattern::parse_list("--only", &words).unwrap_err().to_string();
    assert_eq!(error, "--only `*` is not a destination: did you mean any?");
    assert_eq!(Pattern::parse_list("--only", &words[..1]).unwrap(), [pattern("a.test")]);
}

proptest! {
    #[test]
    fn hosts_never_panic_and_print_what_parses_back(text in "\\PC{0,40}") {
        if let Ok(host) = text.parse::<Host>() {
            prop_assert_eq!(host.to_string().parse::<Host>().unwrap(), host);
        }
    }

    #[test]
    fn addresses_in_all_radices_agree(address: u32, radix in 0..3) {
        let text = match radix { 0 => format!("{address}"), 1 => format!("0{address:o}"), _ => format!("{address:#x}") };
        prop_assert_eq!(host(&text), Host::Ip(Ipv4Addr::from(address).into()));
    }

    #[test]
    fn embedded_addresses_are_judged_like_themselves(address: u32) {
        let v4 = Ipv4Addr::from(address);
        for wrapped in [format!("::ffff:{v4}"), format!("64:ff9b::{v4}")] {
            prop_assert_eq!(inside(&wrapped), inside(&v4.to_string()));
        }
    }

    #[test]
    fn patterns_print_what_parses_back(text in prop_oneof![
        "(\\*\\.)?[a-zA-Z0-9.:\\[\\]/-]{1,24}",
        "(\\*\\.)?([a-zA-Z0-9-]{1,8}\\.){0,3}[a-zA-Zü]{1,5}\\.?(:[0-9]{1,5}(-[0-9]{1,5})?)?",
        "[0-9]{1,3}\\.[0-9]{1,3}\\.0\\.0(/(16|24|32))?(:[0-9]{1,5}(-[0-9]{1,5})?)?",
        "\\[(::ffff:)?[0-9a-f]{1,4}::[0-9a-f]{0,4}(/[0-9]{1,3})?\\](:[0-9]{1,5})?",
        "(ANY|any|localhost|Link-Local|multicast)\\.?(:[0-9]{1,5}(-[0-9]{1,5})?)?",
    ]) {
        if let Ok(pattern) = text.parse::<Pattern>() {
            prop_assert_eq!(pattern.to_string().parse::<Pattern>().unwrap(), pattern);
        }
    }

    #[test]
    fn no_pattern_panics(text in "\\PC{0,40}") {
        if let Ok(pattern) = text.parse::<Pattern>() {
            prop_assert_eq!(pattern.to_string().parse::<Pattern>().unwrap(), pattern);
        }
    }
}
