//! `-p K=V`: settings of the app's unit that the caller may choose. Only what takes nothing from the wall:
//! resource control, limits, scheduling, logging, and what restricts further. Pure.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::nearest::nearest;
use crate::plan::Supervisor;
use crate::units::text::simplified;
use crate::units::{Setting, Value};

/// What a property's value is, and how it stands in a unit file and on the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Bytes with K, M, G, T to the base of 1024, or infinity.
    Bytes,
    /// A number, or infinity.
    Count,
    /// A number of this range.
    Range(i32, i32),
    /// 1 to 10000.
    Weight,
    /// Per cent of one CPU.
    Quota,
    /// Seconds, or with a unit.
    Span,
    /// One of these, by its number.
    Choice(&'static [(&'static str, i32)]),
    /// Only yes: no would loosen.
    Yes,
    /// A word of letters, digits and `_-.`.
    Word,
    /// One of these words.
    Words(&'static [&'static str]),
    /// Absolute paths.
    Paths,
}

/// syslog(3)
const LEVELS: [(&str, i32); 8] =
    [("emerg", 0), ("alert", 1), ("crit", 2), ("err", 3), ("warning", 4), ("notice", 5), ("info", 6), ("debug", 7)];
/// sched(7); the real-time policies are left out: RestrictRealtime= is what one would want.
const POLICIES: [(&str, i32); 3] = [("other", 0), ("batch", 3), ("idle", 5)];
/// ioprio_set(2)
const IO_CLASSES: [(&str, i32); 2] = [("best-effort", 2), ("idle", 3)];

/// Those that every manager honours.
const EVERYWHERE: [(&str, Shape); 29] = [
    ("MemoryMax", Shape::Bytes),
    ("MemoryHigh", Shape::Bytes),
    ("MemorySwapMax", Shape::Bytes),
    ("TasksMax", Shape::Count),
    ("CPUWeight", Shape::Weight),
    ("IOWeight", Shape::Weight),
    ("CPUQuota", Shape::Quota),
    ("RuntimeMaxSec", Shape::Span),
    ("LimitCORE", Shape::Bytes),
    ("LimitFSIZE", Shape::Bytes),
    ("LimitDATA", Shape::Bytes),
    ("LimitSTACK", Shape::Bytes),
    ("LimitAS", Shape::Bytes),
    ("LimitMEMLOCK", Shape::Bytes),
    ("LimitNOFILE", Shape::Count),
    ("LimitNPROC", Shape::Count),
    ("Nice", Shape::Range(-20, 19)),
    ("OOMScoreAdjust", Shape::Range(-1000, 1000)),
    ("CPUSchedulingPolicy", Shape::Choice(&POLICIES)),
    ("IOSchedulingClass", Shape::Choice(&IO_CLASSES)),
    ("IOSchedulingPriority", Shape::Range(0, 7)),
    ("SyslogIdentifier", Shape::Word),
    ("LogLevelMax", Shape::Choice(&LEVELS)),
    ("LockPersonality", Shape::Yes),
    ("MemoryDenyWriteExecute", Shape::Yes),
    ("RestrictRealtime", Shape::Yes),
    ("RestrictSUIDSGID", Shape::Yes),
    ("MemoryAccounting", Shape::Yes),
    ("IPAccounting", Shape::Yes),
];

/// Those that take mounts, which a user's own manager leaves out without a word where it may not make them.
const BY_MOUNTS: [(&str, Shape); 6] = [
    ("ProtectHome", Shape::Words(&["yes", "read-only", "tmpfs"])),
    ("ProtectSystem", Shape::Words(&["yes", "full", "strict"])),
    ("PrivateDevices", Shape::Yes),
    ("PrivateTmp", Shape::Yes),
    ("ReadOnlyPaths", Shape::Paths),
    ("InaccessiblePaths", Shape::Paths),
];

/// The settings that the words of `-p` are.
///
/// # Errors
/// One is on no list, twice there, or has a value that it does not take.
pub fn parse(words: &[String], supervisor: Supervisor, booted: bool) -> Result<Vec<Setting>> {
    if !words.is_empty() && supervisor == Supervisor::Standalone {
        match booted {
            true => bail!(
                "--property sets what a systemd does, and --standalone has none; use --user or --system, or prlimit and nice"
            ),
            false => bail!("--property sets what a systemd does, and none is booted here; use prlimit and nice"),
        }
    }
    let mut settings: Vec<Setting> = Vec::new();
    for word in words {
        let (name, value) = word.split_once('=').with_context(|| format!("--property {word:?}: takes NAME=VALUE"))?;
        let (name, shape) = find(name, supervisor)?;
        if settings.iter().any(|setting| setting.directive == name) {
            bail!("--property {name} stands twice; give it once");
        }
        let value =
            shape.value(value).with_context(|| format!("--property {name}={value}: takes {}", shape.takes()))?;
        settings.push(Setting { directive: name, value });
    }
    Ok(settings)
}

/// The cgroup controller that a setting needs to do anything (systemd.resource-control(5)).
fn controller(name: &str) -> Option<&'static str> {
    match name {
        "MemoryMax" | "MemoryHigh" | "MemorySwapMax" | "MemoryAccounting" => Some("memory"),
        "TasksMax" => Some("pids"),
        "CPUWeight" | "CPUQuota" => Some("cpu"),
        "IOWeight" => Some("io"),
        _ => None,
    }
}

/// Whether all that the settings need is among `controllers`, a manager's `cgroup.controllers` (cgroups(7)):
/// systemd leaves out what it has no controller for, and says nothing.
///
/// # Errors
/// Names the setting, and the controller that is missing.
pub fn expect(settings: &[Setting], controllers: &str) -> Result<()> {
    for Setting { directive, .. } in settings {
        if let Some(needed) = controller(directive)
            && !controllers.split_whitespace().any(|there| there == needed)
        {
            bail!(
                "--property {directive} would do nothing: the manager has not the cgroup controller {needed} (cgroup v1 has it, or Delegate= of user@.service lacks it), so nothing was run"
            );
        }
    }
    Ok(())
}

/// What a manager may give its units: its own hard limits, and its place before the OOM killer. A user's own
/// manager cannot raise these, and gives the nearest it can without a word (setrlimit_closest() of systemd).
#[derive(Debug)]
pub struct Bounds {
    /// The text of its /proc/PID/limits.
    pub limits: String,
    /// Its oom_score_adj.
    pub oom_score: i32,
}

impl Bounds {
    /// Refuses settings that the manager would not honour.
    ///
    /// # Errors
    /// Names the setting, and what is the most.
    pub fn expect(&self, settings: &[Setting]) -> Result<()> {
        for Setting { directive, value } in settings {
            let bound = match (*directive, value) {
                ("Nice", Value::Signed(nice)) => {
                    // getrlimit(2): RLIMIT_NICE is 20 less the lowest value.
                    let lowest = (20 - i32::try_from(self.hard("Max nice priority").unwrap_or(0).min(40))?).min(0);
                    (*nice < lowest).then(|| format!("less than {lowest}"))
                }
                ("OOMScoreAdjust", Value::Signed(score)) => {
                    (*score < self.oom_score).then(|| format!("less than {}", self.oom_score))
                }
                (limit, Value::Unsigned(asked)) => {
                    let hard = row(limit).and_then(|row| self.hard(row)).filter(|hard| asked > hard);
                    hard.map(|hard| format!("more than {hard}"))
                }
                _ => None,
            };
            if let Some(bound) = bound {
                bail!(
                    "--property {directive}: {bound} is not this user's manager's to give: use --system, so nothing was run"
                );
            }
        }
        Ok(())
    }

    /// The hard limit in that row; `None` for no such row.
    fn hard(&self, row: &str) -> Option<u64> {
        let fields = self.limits.lines().find_map(|line| line.strip_prefix(row))?;
        let word = fields.split_whitespace().nth(1)?;
        if word == "unlimited" { Some(u64::MAX) } else { word.parse().ok() }
    }
}

/// Of /proc/PID/limits (proc(5)).
fn row(directive: &str) -> Option<&'static str> {
    Some(match directive {
        "LimitCORE" => "Max core file size",
        "LimitFSIZE" => "Max file size",
        "LimitDATA" => "Max data size",
        "LimitSTACK" => "Max stack size",
        "LimitAS" => "Max address space",
        "LimitMEMLOCK" => "Max locked memory",
        "LimitNOFILE" => "Max open files",
        "LimitNPROC" => "Max processes",
        _ => return None,
    })
}

fn find(name: &str, supervisor: Supervisor) -> Result<(&'static str, Shape)> {
    let by_name = |list: &[(&'static str, Shape)]| list.iter().find(|(known, _)| *known == name).copied();
    if let Some(found) = by_name(&EVERYWHERE) {
        return Ok(found);
    }
    match by_name(&BY_MOUNTS) {
        Some(found) if supervisor == Supervisor::System => return Ok(found),
        Some(_) => bail!("--property {name} takes mounts, which only the system manager is sure to make: use --system"),
        None => {}
    }
    match nearest(name, EVERYWHERE.iter().chain(&BY_MOUNTS).map(|(known, _)| *known)) {
        Some(near) => bail!("--property {name} is none that can be set; did you mean {near}?"),
        None => bail!(
            "--property {name} cannot be set: only resource control, limits, scheduling, logging and what restricts further, as docs/security.md lists them"
        ),
    }
}

impl Shape {
    /// `None` where it does not take `text`.
    fn value(self, text: &str) -> Option<Value> {
        let range = |from: i32, to: i32| text.parse().ok().filter(|number| (from..=to).contains(number));
        Some(match self {
            Self::Bytes => Value::Unsigned(bytes(text)?),
            Self::Count => Value::Unsigned(if text == "infinity" { u64::MAX } else { text.parse().ok()? }),
            Self::Range(from, to) => Value::Signed(range(from, to)?),
            Self::Weight => Value::Unsigned(range(1, 10_000)?.unsigned_abs().into()),
            Self::Quota => Value::Quota(text.strip_suffix('%')?.parse().ok().filter(|percent| *percent > 0)?),
            Self::Span => Value::Span(span(text)?),
            Self::Choice(choices) => {
                let (word, number) = choices.iter().find(|(word, _)| *word == text)?;
                Value::Choice { word, number: *number }
            }
            Self::Yes => (text == "yes" || text == "true" || text == "1").then_some(Value::Bool(true))?,
            Self::Word => Value::Word(Some(text.to_owned()).filter(|text| is_word(text))?),
            Self::Words(words) => Value::Word((*words.iter().find(|word| **word == text)?).to_owned()),
            Self::Paths => Value::Words(paths(text)?),
        })
    }

    fn takes(self) -> String {
        match self {
            Self::Bytes => "a number of bytes such as 512M, or infinity".to_owned(),
            Self::Count => "a number, or infinity".to_owned(),
            Self::Range(from, to) => format!("a number from {from} to {to}"),
            Self::Weight => "a number from 1 to 10000".to_owned(),
            Self::Quota => "per cent of a CPU such as 50%".to_owned(),
            Self::Span => "seconds, or a time such as 10min".to_owned(),
            Self::Choice(choices) => choices.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", "),
            Self::Yes => "yes: to loosen is not the caller's".to_owned(),
            Self::Word => "1 to 64 of A-Z a-z 0-9 _ . -".to_owned(),
            Self::Words(words) => words.join(", "),
            Self::Paths => "absolute paths without .., blank-separated".to_owned(),
        }
    }
}

fn bytes(text: &str) -> Option<u64> {
    if text == "infinity" {
        return Some(u64::MAX);
    }
    let (number, power) = match text.strip_suffix(['K', 'M', 'G', 'T']) {
        Some(number) => (number, 1 + "KMGT".find(text.chars().last()?)? as u32),
        None => (text, 0),
    };
    number.parse::<u64>().ok()?.checked_mul(1024_u64.pow(power))
}

/// systemd.time(7), one number and one unit.
fn span(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 6] =
        [("ms", 1), ("min", 60_000), ("s", 1000), ("h", 3_600_000), ("d", 86_400_000), ("", 1000)];
    let (unit, factor) = UNITS.into_iter().find(|(unit, _)| text.ends_with(unit))?;
    let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
    Some(Duration::from_millis(number.checked_mul(factor)?)).filter(|span| !span.is_zero())
}

fn is_word(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    (1..=64).contains(&text.len()) && text.chars().all(allowed)
}

/// Such as need no quoting in a unit file, and none of systemd's prefixes (`-`, `+`).
fn paths(text: &str) -> Option<Vec<String>> {
    let is_plain =
        |path: &&str| path.starts_with('/') && path.chars().all(|c| c.is_alphanumeric() || "/_.-+@~,".contains(c));
    let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
    let simple = |path: &str| simplified(path)?.to_str().map(str::to_owned);
    if words.is_empty() || !words.iter().all(is_plain) {
        return None;
    }
    words.into_iter().map(simple).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(word: &str) -> Result<Value> {
        Ok(parse(&[word.to_owned()], Supervisor::System, true)?.remove(0).value)
    }

    #[test]
    fn values_are_read_as_systemd_reads_them() {
        for (word, value) in [
            ("MemoryMax=1G", Value::Unsigned(1 << 30)),
            ("MemoryMax=4096", Value::Unsigned(4096)),
            ("MemoryMax=infinity", Value::Unsigned(u64::MAX)),
            ("TasksMax=17", Value::Unsigned(17)),
            ("CPUQuota=150%", Value::Quota(150)),
            ("RuntimeMaxSec=10min", Value::Span(Duration::from_secs(600))),
            ("RuntimeMaxSec=90", Value::Span(Duration::from_secs(90))),
            ("Nice=-5", Value::Signed(-5)),
            ("CPUSchedulingPolicy=idle", Value::Choice { word: "idle", number: 5 }),
            ("LockPersonality=yes", Value::Bool(true)),
            ("ProtectHome=read-only", Value::Word("read-only".into())),
            (
                "InaccessiblePaths=/srv/ /srv//a/ /srv/./x / /srv/..x",
                Value::Words(["/srv", "/srv/a", "/srv/x", "/", "/srv/..x"].map(str::to_owned).to_vec()),
            ),
            ("InaccessiblePaths=/srv /home/x", Value::Words(vec!["/srv".into(), "/home/x".into()])),
        ] {
            assert_eq!(one(word).unwrap(), value, "{word}");
        }
    }

    #[test]
    fn what_is_not_on_the_list_is_refused_by_its_name() {
        for (word, phrase) in [
            ("IPAddressAllow=any", "--property IPAddressAllow cannot be set: only resource control"),
            ("PrivateNetwork=no", "--property PrivateNetwork cannot be set"),
            ("ExecStartPre=/bin/sh", "cannot be set"),
            ("PAMName=login", "cannot be set"),
            ("BindPaths=/run", "cannot be set"),
            ("User=root", "cannot be set"),
            ("MemoryMaxx=1", "did you mean MemoryMax?"),
            ("memorymax=1", "did you mean MemoryMax?"),
            ("MemoryMax", "takes NAME=VALUE"),
            ("MemoryMax=50%", "takes a number of bytes such as 512M"),
            ("MemoryMax=99999999T", "takes a number of bytes"),
            ("LockPersonality=no", "to loosen is not the caller's"),
            ("Nice=20", "a number from -20 to 19"),
            ("SyslogIdentifier=a\nUser=root", "1 to 64 of"),
            ("InaccessiblePaths=-/x", "absolute paths"),
            ("InaccessiblePaths=/srv/../x", "absolute paths without .."),
            ("InaccessiblePaths=/x\n/y", "absolute paths"),
            ("ProtectHome=no", "yes, read-only, tmpfs"),
            ("RuntimeMaxSec=0", "takes seconds"),
        ] {
            let message = format!("{:#}", one(word).unwrap_err());
            assert!(message.contains(phrase), "{word}: {message}");
        }
        let twice = ["Nice=1", "Nice=2"].map(str::to_owned);
        assert!(parse(&twice, Supervisor::System, true).unwrap_err().to_string().contains("stands twice"));
    }

    #[test]
    fn what_needs_a_controller_that_is_not_there_is_refused() {
        let settings =
            parse(&["TasksMax=5", "CPUQuota=5%", "Nice=1"].map(str::to_owned), Supervisor::System, true).unwrap();
        expect(&settings, "cpu io memory pids\n").unwrap();
        let message = expect(&settings, "cpuset pids").unwrap_err().to_string();
        assert!(
            message.starts_with("--property CPUQuota would do nothing: the manager has not the cgroup controller cpu")
        );
        assert!(expect(&settings, "").unwrap_err().to_string().contains("TasksMax"));
    }

    #[test]
    fn what_a_users_manager_would_clamp_is_refused_with_the_most_it_has() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
            Max file size             unlimited            unlimited            bytes     \n\
            Max open files            1024                 524288               files     \n\
            Max nice priority         0                    NICE                 \n";
        let expect = |words: &[&str], nice: &str| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            let bounds = Bounds { limits: limits.replace("NICE", nice), oom_score: 100 };
            bounds.expect(&parse(&words, Supervisor::User, true).unwrap()).map_err(|error| error.to_string())
        };
        let most = ["LimitNOFILE=524288", "LimitFSIZE=infinity", "Nice=0", "OOMScoreAdjust=100", "MemoryMax=1T"];
        expect(&most, "0").unwrap();
        expect(&["Nice=-5"], "25").unwrap();
        for (word, phrase) in [
            ("LimitNOFILE=524289", "--property LimitNOFILE: more than 524288 is not this user's manager's to give"),
            ("LimitNOFILE=infinity", "use --system"),
            ("Nice=-1", "--property Nice: less than 0 is not"),
            ("OOMScoreAdjust=-1", "--property OOMScoreAdjust: less than 100 is not"),
        ] {
            let message = expect(&[word], "0").unwrap_err();
            assert!(message.contains(phrase), "{word}: {message}");
        }
        assert!(expect(&["Nice=-6"], "25").unwrap_err().contains("less than -5"));
    }

    #[test]
    fn a_manager_that_might_leave_it_out_is_not_asked() {
        let parsed = |word: &str, supervisor| parse(&[word.to_owned()], supervisor, true);
        let message = parsed("ProtectHome=yes", Supervisor::User).unwrap_err().to_string();
        assert!(message.contains("only the system manager is sure to make"), "{message}");
        assert!(parsed("MemoryMax=1G", Supervisor::User).is_ok());
        let message = parsed("MemoryMax=1G", Supervisor::Standalone).unwrap_err().to_string();
        assert!(message.contains("--standalone has none"), "{message}");
    }
}
