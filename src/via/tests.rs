use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use proptest::prelude::*;

use super::*;

fn parse(spec: &str) -> Result<Via> {
    Via::parse(&[spec.to_owned()])
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
    assert_eq!(via.secret_spec(), "socks5h://us%40er:p%3Aa%2Fss%25@h:1");
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
        ("work", "names from the configuration come with a later version"),
        ("https://h:1", "`https://` comes with a later version"),
        ("socks4a://h:1", "`socks4a://` comes with a later version"),
        ("unix:/x", "`unix:` comes with a later version"),
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
    ] {
        let error = format!("{:#}", parse(spec).expect_err(spec));
        assert!(!error.contains("hunter2") && !error.contains("user:"), "{spec}: {error}");
    }
}

#[test]
fn one_hop_for_now() {
    let specs = |specs: &[&str]| Via::parse(&specs.iter().map(|spec| spec.to_string()).collect::<Vec<_>>());
    assert!(specs(&[]).unwrap_err().to_string().starts_with("no way out is given"));
    assert!(specs(&["tor", "socks5://h"]).unwrap_err().to_string().contains("come with a later version"));
    assert!(specs(&["direct", "socks5://h"]).unwrap_err().to_string().contains("stand alone"));
}

#[test]
fn tor_is_replaced_by_its_place() {
    let place = Endpoint::Unix("/run/tor/socks".into());
    let mut found = parse("tor").unwrap();
    assert!(found.wants_tor());
    found.settle_tor(place);
    assert!(!found.wants_tor());
    assert_eq!(found.to_string(), "tor:/run/tor/socks");
    assert_eq!(parse(&found.secret_spec()).unwrap(), found);
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
    assert_eq!(read(None).unwrap(), "socks5://u:p@h:1");
    let spec = [format!("@{}", path.display())];
    assert_eq!(file::load(&spec, |_| None).unwrap().secret_spec(), "socks5h://u:p@h:1");

    put("socks5://u:p@h:1", 0o440);
    assert!(read(None).unwrap_err().contains("chmod 600"));
    assert_eq!(read(Some(directory.path())).unwrap(), "socks5://u:p@h:1");
    assert!(read(Some(&elsewhere)).is_err());

    for (text, message) in [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("tor\ndirect\n", "more than one line"),
        (&"x".repeat(20_000), "is larger"),
    ] {
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

proptest! {
    #[test]
    fn full_specs_parse_back(user in "\\PC{1,30}", password in "\\PC{0,30}", host in "[a-z]{1,9}", port in 1u16..) {
        let credentials = Some(Credentials { user, password });
        let endpoint = Endpoint::Tcp { host: Host::Name(host), port };
        let via = Via::Chain(vec![Hop { kind: HopKind::Socks5, endpoint, credentials }]);
        prop_assert_eq!(parse(&via.secret_spec()).unwrap(), via);
    }

    #[test]
    fn parsing_never_panics_and_printing_is_stable(spec in "(socks5|http|tor|x)?(:|://)?\\PC{0,30}") {
        if let Ok(via) = parse(&spec) {
            prop_assert_eq!(parse(&via.secret_spec()).unwrap(), via);
        }
    }
}
