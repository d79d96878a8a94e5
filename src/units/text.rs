//! The second renderer: settings as unit-file text, for `--dry-run` and for files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Setting, Unit, Units, Value, transient};
use crate::confinement::capability_names;
use crate::view::View;

/// All units of a launch, each under a comment with its name, and what the last one's main process
/// does to the app's view of the file system.
#[must_use]
pub fn all(units: &Units) -> String {
    let texts = units.iter().map(|unit| format!("# {}\n{}", unit.name, one(unit)));
    texts.chain(std::iter::once(of_view(&units.view))).collect::<Vec<_>>().join("\n")
}

/// As comments: no directive says it.
pub(crate) fn of_view(view: &View) -> String {
    let paths =
        |paths: &[PathBuf]| -> Vec<String> { paths.iter().map(|path| quoted(&path.to_string_lossy())).collect() };
    let replaced = view.replaced.iter().map(|bind| {
        format!("{} (by {})", quoted(&bind.target.to_string_lossy()), quoted(&bind.source.to_string_lossy()))
    });
    let session = view.session.iter().map(|bind| quoted(&bind.target.to_string_lossy()));
    [
        ("Made and closed to others", view.own.iter().map(|path| quoted(&path.to_string_lossy())).collect()),
        ("Read-only where there", paths(&view.read_only)),
        ("Sealed: nothing that comes later is seen in", vec![quoted(&view.sealed.to_string_lossy())]),
        ("Empty", paths(&view.empty)),
        ("The user's own", view.runtime.iter().map(|path| quoted(&path.to_string_lossy())).collect()),
        ("Of the session seen there, where there", session.collect()),
        ("Seen there all the same, where there", paths(&view.shown)),
        ("Replaced", replaced.collect()),
        ("Hidden where there", paths(&view.hidden)),
        ("Hidden, and what begins so", paths(&view.sessions)),
        ("Made where not there, to be hidden", paths(&view.made)),
        ("Hidden if a socket", paths(&view.sockets)),
    ]
    .into_iter()
    .filter(|(_, items)| !items.is_empty())
    .fold("# What the app sees of the file system, made by its appfw inside:\n".to_owned(), |text, (what, items)| {
        text + &format!("# {what}: {}\n", items.join(" "))
    })
}

/// One unit file.
#[must_use]
pub fn one(unit: &Unit) -> String {
    let kind = if unit.name.ends_with(".socket") { "Socket" } else { "Service" };
    let install = match unit.install[..] {
        [] => String::new(),
        _ => format!("\n[Install]\n{}", section(&unit.install)),
    };
    format!("[Unit]\n{}\n[{kind}]\n{}{install}", section(&unit.unit), section(&unit.kind))
}

fn section(settings: &[Setting]) -> String {
    settings.iter().flat_map(lines).map(|line| line + "\n").collect()
}

pub(crate) fn lines(setting: &Setting) -> Vec<String> {
    let directive = setting.directive;
    let assign = |value: String| format!("{directive}={value}");
    match &setting.value {
        Value::Bool(on) => vec![assign(if *on { "yes" } else { "no" }.into())],
        Value::Word(word) => vec![assign(specifiers(word))],
        Value::Number(number) if matches!(directive, "UMask" | "RuntimeDirectoryMode") => {
            vec![assign(format!("{number:04o}"))]
        }
        Value::Number(number) => vec![assign(number.to_string())],
        Value::Unsigned(u64::MAX) => vec![assign("infinity".into())],
        Value::Unsigned(number) => vec![assign(number.to_string())],
        Value::Signed(number) => vec![assign(number.to_string())],
        Value::Quota(percent) => vec![assign(format!("{percent}%"))],
        Value::Choice { word, .. } => vec![assign((*word).to_owned())],
        Value::Span(span) if span.is_zero() => vec![assign("0".into())],
        Value::Span(Duration::MAX) => vec![assign("infinity".into())],
        Value::Span(span) => vec![assign(format!("{}ms", span.as_millis()))],
        Value::Words(words) if directive == "Environment" => words.iter().map(|word| assign(quoted(word))).collect(),
        // One path a line, blanks and quotes as they stand (config_parse_ip_filter_bpf_progs).
        Value::Words(paths) if directive.ends_with("FilterPath") => {
            paths.iter().map(|path| assign(specifiers(path))).collect()
        }
        Value::Words(words) => vec![assign(words.join(" "))],
        Value::Networks(networks) => {
            vec![assign(networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))]
        }
        Value::Binds(binds) => binds
            .iter()
            .map(|bind| assign(format!("{}:{}", beside_colon(&bind.source), beside_colon(&bind.target))))
            .collect(),
        Value::FileSystems(pairs) => {
            pairs.iter().map(|(path, options)| assign(quoted(&format!("{path}:{options}")))).collect()
        }
        // LoadCredential= takes quotes as they stand.
        Value::Pairs(pairs) => {
            pairs.iter().map(|(name, value)| assign(specifiers(&format!("{name}:{value}")))).collect()
        }
        Value::Filter { allow, names } => {
            vec![assign(format!("{}{}", if *allow { "" } else { "~" }, names.join(" ")))]
        }
        Value::NoFamilies => vec![assign("none".into())],
        // Display adds a description.
        Value::Errno(errno) => vec![assign(format!("{errno:?}"))],
        Value::Capabilities(mask) => vec![assign(capability_names(*mask))],
        Value::NoNamespaces => vec![assign("cgroup".into())],
        Value::Listen(addresses) => {
            addresses.iter().map(|one| format!("Listen{}={}", one.kind.as_str(), one.address)).collect()
        }
        // `:` switches off expansion of `$`, where there is one; specifiers have no switch.
        Value::Exec(command) if transient::flags(command).is_empty() => vec![assign(line(command))],
        Value::Exec(command) => vec![assign(format!(":{}", line(command)))],
        Value::Privileged(command) => vec![assign(format!("+:{}", line(command)))],
        Value::ExitCode(code) => vec![assign(code.to_string())],
        Value::Descriptor(_) => vec![format!("# {directive}= is a descriptor of the launcher")],
    }
}

fn line(command: &[String]) -> String {
    command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// `%` is a specifier in every value (systemd.unit(5), "Specifiers").
fn specifiers(text: &str) -> String {
    text.replace('%', "%%")
}

/// A path of a colon-separated value, where a colon separates outside quotes alone.
fn beside_colon(path: &std::path::Path) -> String {
    let text = path.display().to_string();
    if text.contains(':') { in_quotes(&text) } else { quoted(&text) }
}

/// A path as systemd keeps it: without a slash at the end or twice, or `.` (path_simplify()); with `..` it takes none.
pub(crate) fn simplified(path: &str) -> Option<PathBuf> {
    let simple: PathBuf = Path::new(path).components().collect();
    (!simple.iter().any(|part| part == "..")).then_some(simple)
}

/// One word, quoted where systemd would split or unescape it (systemd.syntax(7), "Quoting").
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=,@+~%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return specifiers(word);
    }
    in_quotes(word)
}

fn in_quotes(word: &str) -> String {
    let mut text = String::from("\"");
    for c in word.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            '%' => text.push_str("%%"),
            c if c.is_control() => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text + "\""
}
