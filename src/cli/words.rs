//! The launcher's options written again as words, for the mark of what is made by them.

use std::ffi::OsString;

use clap::ValueEnum;

use super::LaunchArgs;

impl LaunchArgs {
    /// The options and the command as words that mean the same to clap. What says only how much is said, or belongs
    /// to launches alone, is left out.
    #[must_use]
    pub fn words(&self) -> Vec<OsString> {
        let mut words = Words(Vec::new());
        words.texts("via", &self.via);
        words.choice("isolate", self.isolate);
        words.texts("dns", &self.dns);
        words.texts("only", &self.only);
        words.texts("block", &self.block);
        words.texts("allow-destination", &self.allow_destination);
        words.texts("allow", &self.allow);
        words.texts("deny", &self.deny);
        words.texts("ingress-filter", &self.ingress_filter);
        words.texts("egress-filter", &self.egress_filter);
        words.choice("wall", self.wall);
        words.flag("capture", self.capture);
        words.flag("no-capture", self.no_capture);
        words.texts("publish", &self.publish);
        words.texts("address", &self.address);
        words.choice("dbus", self.dbus);
        words.flag("system", self.system);
        words.flag("user", self.user);
        words.texts("property", &self.property);
        words.texts("uid", &self.uid);
        words.texts("profile", &self.profile);
        words.flag("own-profile", self.own_profile);
        words.texts("env", &self.env);
        words.choice("env-scheme", self.env_scheme);
        words.texts("workdir", &self.workdir);
        words.flag("exit-with-main", self.exit_with_main);
        words.choice("log-destinations", self.log_destinations);
        words.0.push("--".into());
        words.0.extend(self.command.iter().cloned());
        words.0
    }
}

struct Words(Vec<OsString>);

impl Words {
    fn flag(&mut self, option: &str, on: bool) {
        self.0.extend(on.then(|| format!("--{option}").into()));
    }

    fn texts<'a, T: AsRef<std::ffi::OsStr> + 'a>(&mut self, option: &str, values: impl IntoIterator<Item = &'a T>) {
        for value in values {
            let mut word = OsString::from(format!("--{option}="));
            word.push(value);
            self.0.push(word);
        }
    }

    fn choice(&mut self, option: &str, value: Option<impl ValueEnum>) {
        let value = value.as_ref().and_then(ValueEnum::to_possible_value);
        self.texts(option, value.as_ref().map(|value| value.get_name()).map(str::to_owned).as_ref());
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::fixture::parse;

    /// Those that are no part of what a unit is.
    const LEFT_OUT: [&str; 11] = [
        "unit",
        "detach",
        "background",
        "settled",
        "dry-run",
        "quiet",
        "verbose",
        "help",
        "version",
        "standalone",
        "no-profile",
    ];

    #[test]
    fn every_option_is_written_so_that_it_is_read_as_it_was() {
        for option in LaunchArgs::command().get_arguments() {
            let Some(name) = option.get_long().filter(|name| !LEFT_OUT.contains(name)) else { continue };
            let mut line = vec![format!("--{name}")];
            if option.get_action().takes_values() {
                let value = option.get_possible_values().last().map(|value| value.get_name().to_owned());
                line.push(value.unwrap_or_else(|| "-a b=c\n%".to_owned()));
                line = vec![line.join("=")];
            }
            line.extend(["--", "x", "--via", ""].map(str::to_owned));
            let args = parse(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
            let words: Vec<String> = args.words().into_iter().map(|word| word.into_string().unwrap()).collect();
            assert!(words[0].starts_with(&format!("--{name}")), "{line:?}: {words:?}");
            let again = parse(&words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
            assert_eq!(format!("{again:?}"), format!("{args:?}"), "{words:?}");
        }
    }
}
