//! Reads the units back as systemd holds them, and compares them with the plan before anything is
//! started: drop-ins (`service.d/`, `appfw-.service.d/`), a slice's lists and defaults of the
//! manager apply to transient units too, and could open one. The judgement is pure.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use zbus::zvariant::{OwnedValue, Value as Variant};

use crate::manager::{Kind, Manager, Properties};
use crate::name::{ROOT_SLICE, SLICE};
use crate::units::{Setting, Unit, Units, Value, transient};

/// Settings that would run something else, elsewhere or before the proof, each with the interface
/// value that means "not set". Any other value is refused, whoever set it.
const MUST_BE_EMPTY: [&str; 22] = [
    // A proof that fails would count as none that does.
    "SuccessExitStatus",
    "ExecCondition",
    "ExecStartPre",
    "ExecStartPost",
    "ExecReload",
    "ExecStop",
    "ExecStopPost",
    "PAMName",
    "NetworkNamespacePath",
    "RootDirectory",
    "RootImage",
    "BindReadOnlyPaths",
    // Reopens what is read-only above it.
    "ReadWritePaths",
    "EnvironmentFiles",
    "PassEnvironment",
    "MountImages",
    "ExtensionImages",
    "ExtensionDirectories",
    "OpenFile",
    "Sockets",
    "USBFunctionDescriptors",
    "ExtraFileDescriptorNames",
];

/// What else must hold whatever the plan says: name and the only value accepted.
const MUST_BE_FALSE: [&str; 2] = ["Delegate", "RootDirectoryStartOnly"];

/// What no service of ours has but by the plan: its end would be seen by nobody, who would wait for it for ever, or
/// what it leads to would not be there.
const BY_PLAN_ALONE: [&str; 2] = ["RemainAfterExit", "PrivateNetwork"];

/// Reads the app's unit and the slices above it back, and judges them: before it is started.
///
/// # Errors
/// One of them differs from the plan, or cannot be read; with the drop-ins that may be why.
pub async fn app(manager: &Manager<'_>, units: &Units) -> Result<()> {
    let unit = &units.app;
    let namespace = async {
        let held = manager.property(&unit.name, Kind::Unit, "JoinsNamespaceOf").await?;
        match unit.get("JoinsNamespaceOf") {
            Some(Value::Words(asked)) => joins(&unit.name, asked, &held),
            _ => joins(&unit.name, &[], &held),
        }
    };
    let of_slice = async |name: &str| match manager.property(name, Kind::Slice, "IPAddressAllow").await {
        Ok(list) if is_empty(&list) => Ok(()),
        Ok(_) => {
            let error = anyhow::anyhow!("{name} has IPAddressAllow=, which opens every unit below it: remove it");
            Err(blame(manager, name, error).await)
        }
        Err(_) => bail!("cannot read IPAddressAllow= of {name}, which could open the wall"),
    };
    // The app's own Slice= is among the settings compared; what is above a slice stands in its name
    // (systemd.slice(5)).
    tokio::try_join!(compared(manager, unit, Kind::Service, service), namespace, of_slice(SLICE), of_slice(ROOT_SLICE))
        .map(drop)
}

/// Reads the units that serve the app back and judges them: before `inside` is told what to run.
///
/// # Errors
/// One of them differs from the plan, or cannot be read; with the drop-ins that may be why.
pub async fn servants(manager: &Manager<'_>, units: &Units) -> Result<()> {
    let compared = async |unit: &Option<Unit>, kind| match unit {
        Some(unit) => compared(manager, unit, kind, settings).await,
        None => Ok(()),
    };
    tokio::try_join!(
        compared(&units.socket, Kind::Socket),
        compared(&units.forwarder, Kind::Service),
        compared(&units.publisher, Kind::Service)
    )
    .map(drop)
}

/// Reads of the services that are not compared as a whole what would keep the launcher waiting: of the life-line, and where a
/// user's own systemd has no part in the wall, of `all`.
///
/// # Errors
/// One of them has it, or cannot be read; with the drop-ins that may be why.
pub async fn ending(manager: &Manager<'_>, units: &Units, all: bool) -> Result<()> {
    let asked = async |unit: Option<&Unit>| {
        let Some(unit) = unit else { return Ok(()) };
        let (remains, private) = tokio::try_join!(
            manager.property(&unit.name, Kind::Service, BY_PLAN_ALONE[0]),
            manager.property(&unit.name, Kind::Service, BY_PLAN_ALONE[1])
        )?;
        for (name, held) in BY_PLAN_ALONE.into_iter().zip([remains, private]) {
            if let Err(error) = by_plan(unit, name, &held) {
                return Err(blame(manager, &unit.name, error).await);
            }
        }
        Ok(())
    };
    let others = [Some(&units.app), units.forwarder.as_ref(), units.publisher.as_ref()];
    let [app, forwarder, publisher] = others.map(|unit| unit.filter(|_| all));
    tokio::try_join!(asked(units.lifeline.as_ref()), asked(app), asked(forwarder), asked(publisher)).map(drop)
}

fn by_plan(unit: &Unit, name: &str, held: &Variant<'_>) -> Result<()> {
    match held {
        Variant::Bool(true) if unit.get(name) != Some(&Value::Bool(true)) => {
            bail!("{}: {name}= is on, by which it would not end, or not reach anything: remove that", unit.name)
        }
        _ => Ok(()),
    }
}

/// One unit, read back and judged.
async fn compared(
    manager: &Manager<'_>,
    unit: &Unit,
    kind: Kind,
    judge: impl Fn(&Unit, &Properties) -> Result<()>,
) -> Result<()> {
    let held = manager.properties(&unit.name, kind).await?;
    match judge(unit, &held) {
        Ok(()) => Ok(()),
        Err(error) => Err(blame(manager, &unit.name, error).await),
    }
}

/// Adds the drop-ins of a unit to what is wrong with it.
async fn blame(manager: &Manager<'_>, unit: &str, error: anyhow::Error) -> anyhow::Error {
    let paths = manager.property(unit, Kind::Unit, "DropInPaths").await.map(|paths| words(&paths)).unwrap_or_default();
    if paths.is_empty() {
        return error;
    }
    anyhow::anyhow!("{error}; look at {}", paths.into_iter().collect::<Vec<_>>().join(", "))
}

/// Exactly the namespace of the socket: another unit's could hold another way out.
fn joins(unit: &str, asked: &[String], held: &OwnedValue) -> Result<()> {
    if words(held) != asked.iter().cloned().collect() {
        bail!("{unit}: systemd holds another JoinsNamespaceOf= than was asked for");
    }
    Ok(())
}

/// Compares the app's unit: all that the plan set, and nothing that would lead round it.
///
/// # Errors
/// Names the setting that differs.
pub fn service(unit: &Unit, read: &Properties) -> Result<()> {
    settings(unit, read)?;
    for name in MUST_BE_EMPTY {
        // One of ours was compared, as the only one.
        if unit.get(name).is_none() && read.get(name).is_some_and(|value| !is_empty(value)) {
            bail!("{}: {name}= is set, which leads round the wall", unit.name);
        }
    }
    for name in MUST_BE_FALSE {
        if read.get(name).is_some_and(|value| **value == Variant::Bool(true)) {
            bail!("{}: {name}= is on, which leads round the wall", unit.name);
        }
    }
    const ONLY_OURS: [&str; 7] = [
        "AmbientCapabilities",
        "BindPaths",
        "Environment",
        "IPAddressAllow",
        "LoadCredential",
        "SetCredential",
        "User",
    ];
    for name in ONLY_OURS {
        if unit.get(name).is_none() && read.get(name).is_some_and(|value| !is_empty(value)) {
            bail!("{}: {name}= is set from outside", unit.name);
        }
    }
    Ok(())
}

/// Compares the settings of a unit's own type with what systemd holds. Those of `[Unit]` are left
/// out: drop-ins add dependencies and can't take one away.
///
/// # Errors
/// Names the setting that differs.
pub fn settings(unit: &Unit, read: &Properties) -> Result<()> {
    for setting in &unit.kind {
        if !holds(setting, read) {
            bail!("{}: systemd holds another {}= than was asked for", unit.name, setting.directive);
        }
    }
    BY_PLAN_ALONE
        .into_iter()
        .filter_map(|name| Some((name, read.get(name)?)))
        .try_for_each(|(name, held)| by_plan(unit, name, held))
}

/// Whether what systemd holds is what the setting asks for.
pub(crate) fn holds(setting: &Setting, read: &Properties) -> bool {
    let Some(held) = read.get(transient::name(setting)) else {
        // Descriptors are write-only on the bus; anything else that can't be read isn't proven.
        return matches!(setting.value, Value::Descriptor(_));
    };
    match &setting.value {
        Value::Descriptor(_) => true,
        Value::Exec(command) => executes(held, command, transient::flags(command)),
        Value::Privileged(command) => executes(held, command, &transient::PRIVILEGED),
        Value::Words(asked) => words(held) == asked.iter().cloned().collect(),
        // systemd expands sets of system calls.
        Value::Filter { allow, names } if names.iter().any(|name| name.starts_with('@')) => {
            filter(held).is_some_and(|(held, expanded)| held == *allow && !expanded.is_empty())
        }
        Value::Filter { allow, names } => filter(held) == Some((*allow, names.iter().cloned().collect())),
        Value::Networks(_) | Value::Binds(_) | Value::FileSystems(_) | Value::Pairs(_) => {
            items(held) == items(&transient::plain(&setting.value))
        }
        other => **held == transient::plain(other),
    }
}

/// Exactly one command, with this path and these arguments, and no flag but those we set.
fn executes(held: &Variant<'_>, command: &[String], asked: &[&str]) -> bool {
    let Variant::Array(commands) = held else { return false };
    let [Variant::Structure(only)] = commands.inner() else { return false };
    let [Variant::Str(path), Variant::Array(argv), Variant::Array(flags), ..] = only.fields() else { return false };
    let argv: Vec<&str> = argv.inner().iter().filter_map(|word| <&str>::try_from(word).ok()).collect();
    let flags: Vec<&str> = flags.inner().iter().filter_map(|word| <&str>::try_from(word).ok()).collect();
    command.first().is_some_and(|first| first == path.as_str()) && argv == command && flags == asked
}

fn filter(held: &Variant<'_>) -> Option<(bool, BTreeSet<String>)> {
    let Variant::Structure(pair) = held else { return None };
    let [Variant::Bool(allow), names] = pair.fields() else { return None };
    Some((*allow, words(names)))
}

fn words(value: &Variant<'_>) -> BTreeSet<String> {
    match value {
        Variant::Array(array) => {
            array.inner().iter().filter_map(|word| <&str>::try_from(word).ok()).map(str::to_owned).collect()
        }
        _ => BTreeSet::new(),
    }
}

/// A list without its order.
fn items(value: &Variant<'_>) -> Option<BTreeSet<String>> {
    match value {
        Variant::Array(array) => Some(array.inner().iter().map(|item| format!("{item:?}")).collect()),
        _ => None,
    }
}

pub(crate) fn is_empty(value: &OwnedValue) -> bool {
    match &**value {
        Variant::Array(array) => array.inner().is_empty(),
        Variant::Str(text) => text.is_empty(),
        Variant::U64(mask) => *mask == 0,
        // (ss), (bs): "not set" is empty strings.
        Variant::Structure(pair) => pair.fields().iter().all(|field| match field {
            Variant::Str(text) => text.is_empty(),
            Variant::Bool(on) => !on,
            // (aiai)
            Variant::Array(list) => list.inner().is_empty(),
            _ => false,
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Bind;

    fn unit(settings: Vec<Setting>) -> Unit {
        Unit { name: "appfw-x.service".into(), unit: vec![], kind: settings, install: vec![] }
    }

    fn deny() -> Setting {
        Setting { directive: "IPAddressDeny", value: Value::Networks(crate::network::any()) }
    }

    #[test]
    fn what_was_set_is_what_is_held() {
        let settings = vec![
            deny(),
            Setting { directive: "PrivateNetwork", value: Value::Bool(true) },
            Setting { directive: "RequiresMountsFor", value: Value::Words(vec!["/a".into(), "/b".into()]) },
            Setting {
                directive: "BindPaths",
                value: Value::Binds(vec![Bind { source: "/a".into(), target: "/b".into() }]),
            },
            Setting { directive: "ExecStart", value: Value::Exec(vec!["/x".into(), "y".into()]) },
        ];
        let unit = unit(settings);
        let mut held: Properties = unit
            .settings()
            .map(|setting| {
                (transient::name(setting).to_owned(), transient::plain(&setting.value).try_to_owned().unwrap())
            })
            .collect();
        held.insert("RequiresMountsFor".into(), Variant::new(vec!["/b", "/a"]).try_to_owned().unwrap());
        service(&unit, &held).unwrap();

        for (name, value) in [
            ("IPAddressDeny", Variant::new(Vec::<(i32, Vec<u8>, u32)>::new())),
            ("PrivateNetwork", Variant::from(false)),
            ("RequiresMountsFor", Variant::new(vec!["/a"])),
            ("PAMName", Variant::from("login")),
            ("Delegate", Variant::from(true)),
            ("RemainAfterExit", Variant::from(true)),
            ("Environment", Variant::new(vec!["LD_PRELOAD=/tmp/x.so"])),
            ("IPAddressAllow", Variant::new(vec![(2_i32, vec![0_u8; 4], 0_u32)])),
        ] {
            let mut bad = held.clone();
            bad.insert(name.into(), value.try_to_owned().unwrap());
            let message = service(&unit, &bad).unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        }
        let mut missing = held.clone();
        missing.remove("IPAddressDeny");
        assert!(service(&unit, &missing).is_err(), "what cannot be read is not proven");
    }

    #[test]
    fn a_servant_without_a_network_or_an_end_is_not_ours() {
        let on = |name: &str| Properties::from([(name.to_owned(), Variant::from(true).try_to_owned().unwrap())]);
        for name in BY_PLAN_ALONE {
            let message = settings(&unit(vec![]), &on(name)).unwrap_err().to_string();
            assert!(message.starts_with(&format!("appfw-x.service: {name}= is on")), "{message}");
        }
        let asked = unit(vec![Setting { directive: "PrivateNetwork", value: Value::Bool(true) }]);
        settings(&asked, &on("PrivateNetwork")).unwrap();
    }

    #[test]
    fn a_second_command_is_not_ours() {
        let command = ("/x".to_owned(), vec!["/x".to_owned()], Vec::<String>::new());
        let one = Variant::new(vec![command.clone()]);
        let two = Variant::new(vec![command.clone(), command]);
        assert!(executes(&one, &["/x".to_owned()], &[]));
        assert!(!executes(&two, &["/x".to_owned()], &[]));
    }
}
