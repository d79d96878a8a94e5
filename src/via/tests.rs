use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use proptest::prelude::*;

use super::*;

fn parse(spec: &str) -> Result<Via> {
    Via::parse(&[spec.to_owned()])
}

#[test]
fn a_file_has_one_path_wherever_one_starts() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path().canonicalize().unwrap();
    std::fs::create_dir_all(root.join("real/below")).unwrap();
    symlink("real/below", root.join("link")).unwrap();
    for (path, expected) in [
        ("link//./spec/", Some("link/spec")),
        ("real/below/../spec", Some("real/spec")),
        // As the kernel goes.
        ("link/../spec", Some("real/spec")),
        ("link/../below/../../link/spec", Some("link/spec")),
        ("absent/../spec", None),
    ] {
        let expected = expected.map(|place| root.join(place).into_os_string());
        // As text: paths that differ in a slash alone are equal.
        assert_eq!(plain(&root.join(path)).ok().map(std::path::PathBuf::into_os_string), expected, "{path}");
    }
    assert_eq!(plain(Path::new("spec")).unwrap(), std::env::current_dir().unwrap().join("spec"));
}

#[test]
fn what_is_well_formed() {
    for (spec, shown) in [
        ("direct", "direct"),
        ("none", "none"),
        ("tor", "tor"),
        ("tor://127.0.0.1:9150", "tor://127.0.0.1:9150"),
        ("tor://gate", "tor://gate:9050"),
        ("tor:/run/tor/socks", "tor:/run/tor/socks"),
        ("socks://a", "socks5h://a:1080"),
        ("socks5://a:1", "socks5h://a:1"),
        ("SOCKS5H://A.:65535/", "socks5h://a:65535"),
        ("socks5h://[2001:DB8::1]:9", "socks5h://[2001:db8::1]:9"),
        ("socks5h://[2001:db8::1]", "socks5h://[2001:db8::1]:1080"),
        ("http://proxy:3128/", "http://proxy:3128"),
        ("http://u:p@proxy:3128", "http://***:***@proxy:3128"),
        ("socks5://u@a", "socks5h://***:***@a:1080"),
        ("socks4a://A", "socks4a://a:1080"),
        ("socks4a://id@[2001:db8::1]:9", "socks4a://***@[2001:db8::1]:9"),
        ("https://proxy.test", "https://proxy.test:443"),
        ("https://u:p@192.0.2.1:8443/", "https://***:***@192.0.2.1:8443"),
        ("unix:/run/proxy/socks", "unix:/run/proxy/socks"),
        ("unix:/run//proxy/./socks/", "unix:/run/proxy/socks"),
    ] {
        let via = parse(spec).unwrap_or_else(|error| panic!("{spec}: {error:#}"));
        assert_eq!(via.to_string(), shown, "{spec}");
    }
}

#[test]
fn credentials_are_decoded_and_never_shown() {
    let via = parse("socks5://us%40er:p%3Aa%2Fss%25@h:1").unwrap();
    let Via::Chain(hops) = &via else { panic!("{via}") };
    let credentials = hops[0].credentials.as_ref().unwrap();
    assert_eq!((credentials.user.as_str(), credentials.password.as_str()), ("us@er", "p:a/ss%"));
    assert!(via.has_secret());
    for text in [format!("{via}"), format!("{via:?}"), format!("{}", hops[0]), format!("{:?}", hops[0])] {
        assert!(text.contains("***:***") && !text.contains("ss%") && !text.contains("us@"), "{text}");
    }
    assert_eq!(via.secret_specs().concat(), "socks5h://us%40er:p%3Aa%2Fss%25@h:1");
}

#[test]
fn what_is_malformed_is_named() {
    let long = format!("socks5://{}:p@h:1", "u".repeat(256));
    for (spec, message) in [
        ("", "--via is empty"),
        ("sock5://h:1", "`sock5://` is no scheme: did you mean socks5://HOST:PORT?"),
        ("htp://h:1", "did you mean http://HOST:PORT?"),
        ("ftp://h:1", "`ftp://` is no scheme"),
        ("gopher://h:1", "`gopher://` is no scheme: use socks5h://HOST:PORT"),
        ("socks5:/h:1", "did you mean socks5://HOST:PORT?"),
        ("h:1", "does not say how to speak to it: use socks5h://HOST:PORT"),
        ("torr", "did you mean tor?"),
        ("work", "`work` is no way out: use tor, direct, none or socks5h://HOST:PORT"),
        ("socks4://h:1", "`socks4://` carries no names, so they would be resolved here: use socks4a://HOST:PORT"),
        ("socks4a://u:p@h:1", "takes a user id and no password"),
        ("htps://h:1", "did you mean https://HOST:PORT?"),
        ("https://a%3ab:p@h:1", "a colon in it"),
        ("unix:x", "`unix:x` needs an absolute path: unix:/run/proxy/socks"),
        ("unix:///x", "`unix:///x` needs an absolute path"),
        ("unix:", "needs an absolute path"),
        ("unix:/run/x/../s", "`unix:/run/x/../s` has a `..` in it: write the path without"),
        ("http://h", "http://h needs a port, for example http://h:3128"),
        ("socks5://", "host is empty"),
        ("socks5://:1", "host is empty"),
        ("socks5://h:0", "`0` is not a port"),
        ("socks5://h:", "`` is not a port"),
        ("socks5://h:99999", "`99999` is not a port"),
        ("socks5://::1:80", "put an IPv6 address in brackets"),
        ("socks5://[::1:80", "has a character that no host name has"),
        ("socks5://h:1/path", "`/path` has something after its port"),
        ("socks5://h\n:1", "a control character"),
        ("socks5://h\0:1", "a control character"),
        ("socks5://a b:1", "a space"),
        ("socks5://u%0a:p@h:1", "a control character"),
        ("socks5://u%ff:p@h:1", "not UTF-8"),
        ("socks5://:p@h:1", "the user before the @ is empty"),
        ("http://a%3ab:p@h:1", "a colon in it"),
        ("tor://u:p@h:1", "takes no user and password"),
        ("tor:socks", "an absolute path: tor:/run/tor/socks"),
        ("@x", "a file cannot name another file"),
        (&long, "longer than 255 bytes"),
    ] {
        let error = format!("{:#}", parse(spec).expect_err(spec));
        assert!(error.contains(message), "{spec:?}: {error}");
    }
}

#[test]
fn errors_do_not_show_passwords() {
    for spec in [
        "sock5://user:hunter2@h:1",
        "user:hunter2@h:1",
        "socks5://user:hunter2@h:x",
        "user:hunter2@h",
        "socks5://user:hunter2@a b:1",
        "socks5://user:hunter2@::1:2",
        "socks5:/user:hunter2@h",
        "socks5://user:hunter2%ff@h:1",
        "tor://user:hunter2@h",
        "http://user:hunter2@h",
        "socks5:user:hunter2@h:1",
        "socks4a://user:hunter2@h:1",
        "socks4://user:hunter2@h:1",
        "https://user:hunter2@h:1/x",
        "unix:user:hunter2@h",
    ] {
        let error = format!("{:#}", parse(spec).expect_err(spec));
        assert!(!error.contains("hunter2") && !error.contains("user:"), "{spec}: {error}");
    }
}

fn chain(specs: &[&str]) -> Result<Via> {
    Via::parse(&specs.iter().map(|spec| spec.to_string()).collect::<Vec<_>>())
}

#[test]
fn chains() {
    let via = chain(&["tor", "socks4a://id@b", "https://u:p@c", "tor://d", "http://e:1"]).unwrap();
    assert_eq!(via.to_string(), "tor, socks4a://***@b:1080, https://***:***@c:443, tor://d:9050, http://e:1");
    assert_eq!(via.kind(), "tor+socks4a+https+tor+http");
    assert_eq!(via.secret_specs(), ["tor", "socks4a://id@b:1080", "https://u:p@c:443", "tor://d:9050", "http://e:1"]);
    assert!(via.wants_tor() && via.has_secret());
    assert_eq!(via.socket(), None);
    assert_eq!(chain(&["unix:/a", "http://e:1"]).unwrap().socket(), Some(Path::new("/a")));

    let many = ["socks5://h"; 9];
    for (specs, message) in [
        (&[][..], "no way out is given"),
        (&["direct", "socks5://h"], "stand alone"),
        (&["socks5://h", "none"], "stand alone"),
        (&["socks5://h", "tor"], "`tor` is this machine's Tor: put it first in the chain"),
        (&["socks5://h", "unix:/x"], "`unix:/x` is a socket of this machine: put it first in the chain"),
        (&["socks5://h", "tor:/x"], "`tor:/x` is a socket of this machine: put it first in the chain"),
        (&["tor", "socks6://u:p@h"], "`socks6://` is no scheme"),
        (&many, "9 upstreams are given: a chain has at most 8 hops"),
    ] {
        let error = chain(specs).unwrap_err().to_string();
        assert!(error.contains(message), "{specs:?}: {error}");
    }
}

#[test]
fn isolation_is_for_tor() {
    for (specs, asked, isolate) in [
        (&["tor"][..], None, Some(Isolate::Launch)),
        (&["direct"], None, Some(Isolate::Launch)),
        (&["socks5://h", "tor://d"], Some(Isolate::Destination), Some(Isolate::Destination)),
        (&["socks5://h"], Some(Isolate::Launch), None),
        (&["direct"], Some(Isolate::Profile), None),
    ] {
        assert_eq!(chain(specs).unwrap().isolation(asked).ok(), isolate, "{specs:?} {asked:?}");
    }
}

#[test]
fn tor_is_replaced_by_its_place() {
    let place = Endpoint::Unix("/run/tor/socks".into());
    let mut found = parse("tor").unwrap();
    assert!(found.wants_tor());
    found.settle_tor(place);
    assert!(!found.wants_tor());
    assert_eq!(found.to_string(), "tor:/run/tor/socks");
    assert_eq!(parse(&found.secret_specs().concat()).unwrap(), found);
}

#[test]
fn spec_files() {
    let directory = tempfile::tempdir().unwrap();
    let (path, elsewhere) = (directory.path().join("spec"), directory.path().join("other"));
    let put = |text: &str, mode| {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let read = |trusted| read_spec_file(&path, trusted).map_err(|error| format!("{error:#}"));

    put("# my proxy\n\n  socks5://u:p@h:1  \n", 0o600);
    assert_eq!(read(None).unwrap(), ["socks5://u:p@h:1"]);
    let load = |specs: &[&str]| {
        let at_the_file = format!("@{}", path.display());
        let specs: Vec<_> = specs.iter().map(|spec| spec.replace("@FILE", &at_the_file)).collect();
        file::load(&specs, |_| None).map(|via| via.secret_specs().join(" "))
    };
    assert_eq!(load(&["@FILE"]).unwrap(), "socks5h://u:p@h:1");

    // A chain, in the file and around it.
    put("socks5://u:p@h:1\n# then\nhttp://h:2\n", 0o600);
    assert_eq!(load(&["tor", "@FILE", "socks4a://l"]).unwrap(), "tor socks5h://u:p@h:1 http://h:2 socks4a://l:1080");
    put("tor\ndirect\n", 0o600);
    assert!(load(&["@FILE"]).unwrap_err().to_string().contains("stand alone"));

    put("socks5://u:p@h:1", 0o440);
    assert!(read(None).unwrap_err().contains("chmod 600"));
    assert_eq!(read(Some(directory.path())).unwrap(), ["socks5://u:p@h:1"]);
    assert!(read(Some(&elsewhere)).is_err());

    for (text, message) in [("", "is empty"), ("# nothing\n", "is empty"), (&"x".repeat(20_000), "is larger")] {
        fs::remove_file(&path).unwrap();
        put(text, 0o600);
        assert!(read(None).unwrap_err().contains(message), "{message}");
    }

    let link = directory.path().join("link");
    symlink(&path, &link).unwrap();
    assert!(read_spec_file(&link, None).unwrap_err().to_string().contains("symbolic link"));
    assert!(read_spec_file(directory.path(), None).unwrap_err().to_string().contains("not a regular file"));
    assert!(read_spec_file(&directory.path().join("absent"), None).is_err());
}

/// A hop as the grammar makes them; `first` ones may be of this machine.
fn any_hop(first: bool) -> impl Strategy<Value = Hop> {
    let kinds = [HopKind::Socks5, HopKind::Socks4a, HopKind::Http, HopKind::Https, HopKind::Tor];
    let login = prop::option::of(("\\PC{1,30}", "\\PC{0,30}"));
    let host = prop_oneof!["[a-z]{1,9}".prop_map(Host::Name), any::<std::net::IpAddr>().prop_map(Host::Ip)];
    (prop::sample::select(kinds.to_vec()), login, host, 1u16.., prop::option::of("(/[!--0-~][!-.0-~]{0,8}){1,3}"))
        .prop_map(move |(kind, login, host, port, path)| {
            let mut hop = Hop { kind, endpoint: Endpoint::Tcp { host, port }, credentials: None };
            match (kind, path) {
                (HopKind::Socks5 | HopKind::Tor, Some(path)) if first => hop.endpoint = Endpoint::Unix(path.into()),
                (HopKind::Tor, _) => {}
                (HopKind::Socks4a, _) => {
                    hop.credentials = login.map(|(user, _)| Credentials { user, password: String::new() });
                }
                (HopKind::Http | HopKind::Https, _) => {
                    hop.credentials =
                        login.map(|(user, password)| Credentials { user: user.replace(':', "."), password });
                }
                (HopKind::Socks5, _) => {
                    hop.credentials = login.map(|(user, password)| Credentials { user, password });
                }
            }
            hop
        })
}

proptest! {
    #[test]
    fn full_specs_parse_back(first in any_hop(true), further in prop::collection::vec(any_hop(false), 0..7)) {
        let via = Via::Chain([vec![first], further].concat());
        prop_assert_eq!(&Via::parse(&via.secret_specs()).unwrap(), &via);

        // What is shown says the same but for the credentials, of which nothing shows.
        let bare = Via::Chain(match &via {
            Via::Chain(hops) => hops.iter().map(|hop| Hop { credentials: None, ..hop.clone() }).collect(),
            _ => unreachable!(),
        });
        let shown: Vec<_> = via.to_string().replace("***:***@", "").split(", ").map(|spec| spec.replace("***@", "")).collect();
        prop_assert_eq!(Via::parse(&shown).unwrap(), bare);
    }

    #[test]
    fn parsing_never_panics_and_printing_is_stable(spec in "(socks5|socks4a|https?|tor|unix|x)?(:|://)?\\PC{0,30}") {
        if let Ok(via) = parse(&spec) {
            prop_assert_eq!(Via::parse(&via.secret_specs()).unwrap(), via);
        }
    }
}
