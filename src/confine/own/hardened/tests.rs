use zbus::zvariant::{OwnedValue, Value};

use super::*;
use crate::confine::service::Families;

fn held(name: &str, value: Value<'_>) -> Properties {
    Properties::from([(name.to_owned(), OwnedValue::try_from(value).unwrap())])
}

fn told(service: &Service, held: &Properties) -> Option<String> {
    let needs = Needs {
        runtime: Some("/run/user/1000".into()),
        files: vec!["/usr/bin/appfw-run".into(), "/home/bob/.config/appfw/credentials/web".into()],
    };
    refuse(service, held, &needs).err().map(|error| error.to_string())
}

fn of(name: &str, value: Value<'_>) -> Option<String> {
    let service = Service { families: None, ..crate::fixture::service() };
    told(&service, &held(name, value))
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn each_is_named_with_what_to_write() {
    let list = |allow: bool, names: &[&str]| Value::from((allow, words(names)));
    for (name, value, expected) in [
        ("SystemCallFilter", list(true, &["read", "write"]), "SystemCallFilter= without unshare"),
        ("SystemCallFilter", list(true, &[&CALLS[1..], &["read"]].concat()), "without unshare"),
        ("SystemCallFilter", list(false, &["mount:1", "swapon"]), "write SystemCallFilter=mount below"),
        ("RestrictNamespaces", Value::from(0_u64), "write RestrictNamespaces=user pid net ipc mnt below"),
        ("RestrictNamespaces", Value::from(!0x0800_0000_u64), "RestrictNamespaces= without ipc"),
        ("PrivateNetwork", Value::from(true), "write PrivateNetwork=no below [Service]"),
        ("ProtectKernelTunables", Value::from(true), "write ProtectKernelTunables=no below [Service]"),
        ("ProtectKernelLogs", Value::from(true), "ProtectKernelLogs=yes"),
        ("ProtectHome", Value::from("read-only"), "ProtectHome=read-only"),
        ("ProtectHome", Value::from("tmpfs"), "ProtectHome=tmpfs"),
        ("UMask", Value::from(0o277_u32), "UMask=0277"),
        ("ReadOnlyPaths", Value::from(words(&["/srv", "-+/run"])), "write ReadWritePaths=/run/user/1000 below"),
        ("ReadOnlyPaths", Value::from(words(&["/"])), "write ReadWritePaths=/run/user/1000 /proc below"),
        ("NoExecPaths", Value::from(words(&["/"])), "write ExecPaths=/usr/bin/appfw-run below"),
        ("RuntimeDirectory", Value::from(words(&["web"])), "has RuntimeDirectory=,"),
        ("LoadCredential", Value::from(vec![("a", "/b")]), "has LoadCredential=,"),
    ] {
        let told = of(name, value).unwrap_or_else(|| panic!("{name} is not refused"));
        assert!(told.contains(expected) && told.contains("systemctl --user edit"), "{told}");
    }
}

#[test]
fn what_is_not_in_the_way_stays() {
    let list = |allow: bool, names: &[&str]| Value::from((allow, words(names)));
    for (name, value) in [
        ("SystemCallFilter", list(false, &[])),
        ("SystemCallFilter", list(false, &["swapon", "mount_setattr"])),
        ("SystemCallFilter", list(true, &[&CALLS[..], &["read"]].concat())),
        ("RestrictNamespaces", Value::from(u64::MAX)),
        ("RestrictNamespaces", Value::from(0x7802_0000_u64)),
        ("PrivateNetwork", Value::from(false)),
        ("ProtectKernelTunables", Value::from(false)),
        ("ProtectHome", Value::from("no")),
        ("UMask", Value::from(0o077_u32)),
        ("ReadOnlyPaths", Value::from(words(&["/srv", "/run/user/10"]))),
        ("NoExecPaths", Value::from(words(&["/home"]))),
        ("RuntimeDirectory", Value::from(Vec::<String>::new())),
        ("LoadCredential", Value::from(Vec::<(String, String)>::new())),
    ] {
        assert_eq!(of(name, value), None, "{name}");
    }
    // The deepest that covers a path counts.
    let mut both = held("ReadOnlyPaths", Value::from(words(&["/"])));
    both.extend(held("ReadWritePaths", Value::from(words(&["/run/user", "/proc"]))));
    let service = crate::fixture::service();
    assert_eq!(told(&Service { families: None, ..service.clone() }, &both), None);
    let families = |allow: bool, names: &[&str]| {
        let families = Families { allow, names: words(names).into_iter().collect() };
        told(&Service { families: Some(families), ..service.clone() }, &Properties::new())
    };
    assert!(families(true, &["AF_UNIX", "AF_INET", "AF_INET6"]).unwrap().contains("without AF_NETLINK"));
    assert!(families(false, &["AF_INET6"]).unwrap().contains("write RestrictAddressFamilies=AF_INET6 below"));
    assert!(families(true, &[]).is_some());
    assert_eq!(families(false, &["AF_PACKET"]), None);
    assert_eq!(families(true, &FAMILIES), None);
}
