//! A command line that does not parse, in one sentence as all our errors are; clap's own take several lines.

use std::error::Error as _;
use std::ffi::OsString;

use clap::Command;
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

use crate::destination::printable;
use crate::nearest::nearest;

/// What other programs call it.
const OTHER_WORDS: [(&str, &str); 3] = [("uninstall", "remove"), ("delete", "remove"), ("rm", "remove")];

/// What is wrong with `words`, the first of which is the program, and what to do.
pub(super) fn sentence(command: &Command, words: &[OsString], error: &Error) -> String {
    let (asked, program) = asked(command, words);
    let told = |kind: ContextKind| told(error, kind);
    if let Some(word) = told(ContextKind::InvalidSubcommand).first() {
        let other = OTHER_WORDS.iter().find(|(other, _)| other == word).map(|(_, ours)| *ours);
        let near = other.filter(|ours| asked.find_subcommand(ours).is_some());
        let near = near.or_else(|| nearest(word, asked.get_subcommands().map(Command::get_name)));
        let near = near.map(|near| format!("; did you mean {program} {near}?"));
        let near = near.unwrap_or_else(|| format!("; {program} --help lists what there is"));
        return format!("there is no {program} {word}{near}");
    }
    let [arguments, values] = [ContextKind::InvalidArg, ContextKind::InvalidValue].map(told);
    let (Some(argument), value) = (arguments.first(), values.first().map_or("", String::as_str)) else {
        return first_line(error);
    };
    // As in `--via <SPEC>`
    let (option, placeholder) = argument.split_once(' ').unwrap_or((argument, "<VALUE>"));
    match error.kind() {
        ErrorKind::UnknownArgument => {
            let what = if option.starts_with('-') { "option" } else { "argument" };
            let known = asked.get_arguments().filter_map(clap::Arg::get_long);
            let near = option.strip_prefix("--").and_then(|word| nearest(word, known));
            let near = near.map(|near| format!("; did you mean --{near}?")).unwrap_or_default();
            format!("unexpected {what} {option}{near} ({program} --help lists all)")
        }
        ErrorKind::MissingRequiredArgument => {
            let missing: Vec<&str> = arguments.iter().map(|argument| bare(argument)).collect();
            let are = if missing.len() > 1 { "are" } else { "is" };
            let installed = match words {
                [_, unit, show, name, ..] if unit == "unit" && show == "show" && missing == ["COMMAND"] => {
                    format!(
                        "; systemctl cat appfw-{}.service, with --user for your own, shows what is installed",
                        printable(&name.to_string_lossy())
                    )
                }
                _ => String::new(),
            };
            format!("{} {are} missing ({program} --help lists all){installed}", missing.join(" and "))
        }
        ErrorKind::InvalidValue if value.is_empty() => {
            format!("{option} takes a value: {option} {}", bare(placeholder))
        }
        ErrorKind::InvalidValue => {
            let near = told(ContextKind::SuggestedValue).first().map(|near| format!("; did you mean {near}?"));
            let valid = told(ContextKind::ValidValue).join(", ");
            format!("{option} {value:?}: takes {valid}{}", near.unwrap_or_default())
        }
        ErrorKind::ValueValidation => {
            let why = error.source().map(ToString::to_string).unwrap_or_default();
            format!("{option} {value:?}: {why}")
        }
        ErrorKind::TooManyValues => format!("{option} takes no value; leave ={value} out"),
        ErrorKind::ArgumentConflict => match told(ContextKind::PriorArg).first() {
            Some(other) if other != argument => {
                let other = other.split(' ').next().unwrap_or_default();
                format!("{option} and {other} exclude one another; leave one of them out")
            }
            _ => format!("{option} stands twice; give it once"),
        },
        _ => first_line(error),
    }
}

/// What to say of a unit without a name, for which clap takes the first word after `--`: that is the program.
pub(super) fn nameless(command: &Command, words: &[OsString]) -> Option<String> {
    let before = words.iter().position(|word| word == "--").and_then(|end| words.get(..end))?;
    if before.get(1)? != "unit" {
        return None;
    }
    let error = command.clone().try_get_matches_from(before).err()?;
    let arguments = told(&error, ContextKind::InvalidArg);
    let missing = ["NAME", "COMMAND"].into_iter().eq(arguments.iter().map(|argument| bare(argument)));
    missing.then(|| format!("NAME is missing: it stands before the -- ({} --help lists all)", asked(command, words).1))
}

/// The subcommand that is asked for, and how it is called.
fn asked<'a>(command: &'a Command, words: &[OsString]) -> (&'a Command, String) {
    let (mut asked, mut program) = (command, command.get_name().to_owned());
    for subcommand in words.iter().skip(1) {
        let Some(subcommand) = asked.find_subcommand(subcommand) else { break };
        (asked, program) = (subcommand, format!("{program} {}", subcommand.get_name()));
    }
    (asked, program)
}

/// What clap tells of one kind.
fn told(error: &Error, kind: ContextKind) -> Vec<String> {
    match error.get(kind) {
        Some(ContextValue::String(word)) => vec![word.clone()],
        Some(ContextValue::Strings(words)) => words.clone(),
        _ => Vec::new(),
    }
}

/// Of an error that has no sentence here.
fn first_line(error: &Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// `<NAME>`, or `<COMMAND>...` of several words, as the help has it.
fn bare(placeholder: &str) -> &str {
    let one = placeholder.trim_end_matches("...");
    one.strip_prefix('<').and_then(|one| one.strip_suffix('>')).unwrap_or(one)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::{Appfw, LaunchArgs};

    #[test]
    fn every_usage_error_is_one_sentence_that_names_what_is_wrong() {
        for (line, expected) in [
            ("appfw-run --vai tor curl", "unexpected option --vai; did you mean --via? (appfw-run --help lists all)"),
            (
                "appfw-run --vai=socks5h://a:hunter2@h curl",
                "unexpected option --vai; did you mean --via? (appfw-run --help lists all)",
            ),
            ("appfw-run -z curl", "unexpected option -z (appfw-run --help lists all)"),
            ("appfw-run --frobnicate curl", "unexpected option --frobnicate (appfw-run --help lists all)"),
            ("appfw-run", "COMMAND is missing (appfw-run --help lists all)"),
            ("appfw-run --via tor --", "COMMAND is missing (appfw-run --help lists all)"),
            ("appfw-run --via", "--via takes a value: --via SPEC"),
            ("appfw-run --publish", "--publish takes a value: --publish [ADDR:]PORT[=INNER]"),
            ("appfw-run --wall strong x", "--wall \"strong\": takes strict, namespace, address"),
            (
                "appfw-run --env-scheme htp x",
                "--env-scheme \"htp\": takes http, socks5h, socks5, socks; did you mean http?",
            ),
            ("appfw-run --dry-run=3 x", "--dry-run takes no value; leave =3 out"),
            ("appfw-run -q -v x", "--quiet and --verbose exclude one another; leave one of them out"),
            ("appfw-run --unit a --unit b x", "--unit stands twice; give it once"),
            (
                "appfw unit show web",
                "COMMAND is missing (appfw unit show --help lists all); systemctl cat appfw-web.service, with --user for your own, shows what is installed",
            ),
            ("appfw unit install web --via tor", "COMMAND is missing (appfw unit install --help lists all)"),
            ("appfw unit uninstall web", "there is no appfw unit uninstall; did you mean appfw unit remove?"),
            ("appfw unit rm web", "there is no appfw unit rm; did you mean appfw unit remove?"),
            ("appfw stop", "NAME is missing (appfw stop --help lists all)"),
            ("appfw stop a b", "unexpected argument b (appfw stop --help lists all)"),
            (
                "appfw forward --lisen x",
                "unexpected option --lisen; did you mean --listen? (appfw forward --help lists all)",
            ),
            ("appfw forward --via direct --listen x", "--listen \"x\": invalid socket address syntax"),
            ("appfw help frobnicate", "there is no appfw frobnicate; appfw --help lists what there is"),
            ("appfw unit instal x", "there is no appfw unit instal; did you mean appfw unit install?"),
            ("appfw unit show", "NAME and COMMAND are missing (appfw unit show --help lists all)"),
            ("appfw profile new", "NAME is missing (appfw profile new --help lists all)"),
            (
                "appfw unit install x --vai tor y",
                "unexpected option --vai; did you mean --via? (appfw unit install --help lists all)",
            ),
        ] {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(nameless(&Appfw::command(), &words), None, "{line}");
            let command = if line.starts_with("appfw-run") { LaunchArgs::command() } else { Appfw::command() };
            let error = command.clone().try_get_matches_from(&words).expect_err(line);
            assert_eq!(sentence(&command, &words, &error), expected, "{line}");
        }
    }

    #[test]
    fn a_program_is_not_taken_for_the_name_of_its_unit() {
        let told = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            nameless(&Appfw::command(), &words)
        };
        for line in ["appfw unit install --via none -- /bin/sleep", "appfw unit install --now -- sleep 5"] {
            let expected = "NAME is missing: it stands before the -- (appfw unit install --help lists all)";
            assert_eq!(told(line).as_deref(), Some(expected), "{line}");
        }
        assert!(told("appfw unit show -- x").is_some_and(|told| told.contains("appfw unit show --help")));
        for line in [
            "appfw unit install web -- sleep 5",
            "appfw unit install web sh -- x",
            "appfw unit install --env -- web sleep",
            "appfw unit install --vai none -- sleep 5",
            "appfw unit install --help -- x",
            "appfw unit remove -- web",
            "appfw stop -- web",
            "appfw unit --",
        ] {
            assert_eq!(told(line), None, "{line}");
        }
    }
}
