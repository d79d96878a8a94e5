//! The first renderer: settings as the properties that StartTransientUnit takes.
//! Names and types: org.freedesktop.systemd1(5) and systemd's src/core/dbus-*.c.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use ipnet::IpNet;
use zbus::zvariant::{Fd, Value as Variant};

use super::{Setting, Unit, Value};

/// One property: its name on the bus and its value.
pub type Property<'a> = (&'static str, Variant<'a>);

/// A unit's properties. `descriptors` are the launcher's, in the order of [`super::descriptor`].
#[must_use]
pub fn properties<'a>(unit: &'a Unit, descriptors: &'a [OwnedFd]) -> Vec<Property<'a>> {
    unit.settings().filter_map(|setting| property(setting, descriptors)).collect()
}

fn property<'a>(setting: &'a Setting, descriptors: &'a [OwnedFd]) -> Option<Property<'a>> {
    match &setting.value {
        Value::Descriptor(place) => Some((name(setting), Variant::from(Fd::from(descriptors.get(*place)?)))),
        // Where flags are given, systemd 252 writes a line `ExecStartEx=` that it can't read at its next reload: a
        // forwarder that crashes after that would not come back.
        Value::Exec(command) if flags(command).is_empty() => {
            Some((setting.directive, Variant::new(vec![(program(command), command.clone(), false)])))
        }
        other => Some((name(setting), plain(other))),
    }
}

/// What a directive is called on the bus, where it is read.
#[must_use]
pub fn name(setting: &Setting) -> &'static str {
    match (setting.directive, &setting.value) {
        ("StandardInput", Value::Descriptor(_)) => "StandardInputFileDescriptor",
        ("StandardOutput", Value::Descriptor(_)) => "StandardOutputFileDescriptor",
        ("StandardError", Value::Descriptor(_)) => "StandardErrorFileDescriptor",
        ("ExecStart", _) => "ExecStartEx",
        ("ExecStartPre", _) => "ExecStartPreEx",
        ("TimeoutStopSec", _) => "TimeoutStopUSec",
        ("RestartSec", _) => "RestartUSec",
        ("RuntimeMaxSec", _) => "RuntimeMaxUSec",
        ("CPUQuota", _) => "CPUQuotaPerSecUSec",
        ("StartLimitIntervalSec", _) => "StartLimitIntervalUSec",
        ("TriggerLimitIntervalSec", _) => "TriggerLimitIntervalUSec",
        (directive, _) => directive,
    }
}

/// A value that carries no descriptor.
#[must_use]
pub fn plain(value: &Value) -> Variant<'_> {
    match value {
        Value::Bool(on) => Variant::from(*on),
        Value::Word(word) => Variant::from(word.as_str()),
        Value::Number(number) => Variant::from(*number),
        Value::Unsigned(number) => Variant::from(*number),
        Value::Signed(number) | Value::Choice { number, .. } => Variant::from(*number),
        // Microseconds of CPU in a second.
        Value::Quota(percent) => Variant::from(percent.saturating_mul(10_000)),
        Value::Span(span) => Variant::from(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)),
        Value::Words(words) => Variant::new(words.clone()),
        Value::Networks(networks) => Variant::new(networks.iter().map(network).collect::<Vec<_>>()),
        Value::Binds(binds) => Variant::new(
            binds
                .iter()
                // No ignore-ENOENT; MS_REC as BindPaths= has it by default ("rbind").
                .map(|bind| (bind.source.display().to_string(), bind.target.display().to_string(), false, MS_REC))
                .collect::<Vec<_>>(),
        ),
        Value::FileSystems(pairs) | Value::Pairs(pairs) => Variant::new(pairs.clone()),
        // An allow-list of nothing; the word "none" is the unit file's.
        Value::NoFamilies => Variant::new((true, Vec::<String>::new())),
        Value::Filter { allow, names } => Variant::new((*allow, names.clone())),
        Value::Errno(errno) => Variant::from(*errno as i32),
        Value::Capabilities(mask) => Variant::from(*mask),
        // The mask of the kinds that are left (systemd, src/core/dbus-execute.c).
        Value::NoNamespaces => Variant::from(u64::from(nix::libc::CLONE_NEWCGROUP.unsigned_abs())),
        Value::Listen(addresses) => Variant::new(
            addresses.iter().map(|one| (one.kind.as_str().to_owned(), one.address.to_string())).collect::<Vec<_>>(),
        ),
        Value::Exec(command) => exec(command, flags(command)),
        Value::Privileged(command) => exec(command, &PRIVILEGED),
        // Exit codes, and signals.
        Value::ExitCode(code) => Variant::new((vec![i32::from(*code)], Vec::<i32>::new())),
        Value::Descriptor(_) => Variant::from(false),
    }
}

/// The flags of a command: `$FOO` in an argument would be rewritten.
#[must_use]
pub fn flags(command: &[String]) -> &'static [&'static str] {
    if command.iter().any(|word| word.contains('$')) { &["no-env-expand"] } else { &[] }
}

/// Those of `+`, in the order in which systemd tells them.
pub const PRIVILEGED: [&str; 2] = ["privileged", "no-env-expand"];

fn exec<'a>(command: &[String], flags: &[&str]) -> Variant<'a> {
    let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
    Variant::new(vec![(program(command), command.to_vec(), flags)])
}

fn program(command: &[String]) -> String {
    command.first().cloned().unwrap_or_default()
}

const MS_REC: u64 = 16384;

/// `(iayu)`: family, address, prefix length.
fn network(network: &IpNet) -> (i32, Vec<u8>, u32) {
    let (family, bytes) = match network.addr() {
        IpAddr::V4(address) => (nix::libc::AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (nix::libc::AF_INET6, address.octets().to_vec()),
    };
    (family, bytes, u32::from(network.prefix_len()))
}
