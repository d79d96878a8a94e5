//! The commands of a service as systemd tells them, and the text that says the same again. Pure.

use anyhow::{Result, bail};
use zbus::zvariant::Value as Variant;

use crate::units::text::quoted;

/// One command of `ExecStart=` or its kin: an entry of `ExecStartEx`, org.freedesktop.systemd1(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// What is executed.
    pub path: String,
    /// Its arguments, with the name by which it is called.
    pub argv: Vec<String>,
    /// What it is exempt from, in systemd's words.
    pub flags: Vec<String>,
}

/// systemd's words for the prefixes of a command (systemd.service(5), "Special executable prefixes"; exec_command_flags
/// in src/core/execute.c).
const PREFIXES: [(&str, &str); 6] = [
    ("ignore-failure", "-"),
    ("privileged", "+"),
    ("no-setuid", "!"),
    ("ambient", "!!"),
    ("no-env-expand", ":"),
    ("via-shell", "|"),
];

impl Exec {
    /// All commands of one directive, as its `…Ex` property holds them.
    ///
    /// # Errors
    /// It is none of the kind, or has a flag that this version cannot write.
    pub fn list(directive: &str, held: &Variant<'_>) -> Result<Vec<Self>> {
        let Variant::Array(commands) = held else { bail!("systemd tells {directive}= in an unknown form") };
        commands.inner().iter().map(|command| Self::one(directive, command)).collect()
    }

    fn one(directive: &str, held: &Variant<'_>) -> Result<Self> {
        let words = |list: &Variant<'_>| -> Option<Vec<String>> {
            let Variant::Array(list) = list else { return None };
            list.inner().iter().map(|word| <&str>::try_from(word).ok().map(str::to_owned)).collect()
        };
        let fields = match held {
            Variant::Structure(fields) => fields.fields(),
            _ => &[],
        };
        let read = match fields {
            [Variant::Str(path), argv, flags, ..] => {
                words(argv).zip(words(flags)).map(|(argv, flags)| Self { path: path.to_string(), argv, flags })
            }
            _ => None,
        };
        let Some(exec) = read else { bail!("systemd tells {directive}= in an unknown form") };
        if let Some(flag) = exec.flags.iter().find(|flag| !PREFIXES.iter().any(|(known, _)| known == flag)) {
            bail!("{directive}={} has the flag {flag}, which appfw does not know", exec.path);
        }
        Ok(exec)
    }

    /// Whether it runs with full privileges, past every setting but those of its cgroup and its network namespace.
    #[must_use]
    pub fn is_privileged(&self) -> bool {
        self.flags.iter().any(|flag| flag == "privileged")
    }

    /// Whether it runs as root whatever `User=` says, but behind every other setting.
    #[must_use]
    pub fn is_roots(&self) -> bool {
        self.flags.iter().any(|flag| flag == "no-setuid")
    }

    /// The value of its directive in a unit file. Specifiers were expanded long ago; variables are when it is executed.
    #[must_use]
    pub fn text(&self) -> String {
        let prefixes = PREFIXES.iter().filter(|(flag, _)| self.flags.iter().any(|set| set == flag));
        let renamed = self.argv.first().is_none_or(|name| *name != self.path);
        let mut text: String = prefixes.map(|(_, prefix)| *prefix).collect();
        if renamed {
            text.push('@');
        }
        text.push_str(&quoted(&self.path));
        for word in &self.argv[usize::from(!renamed)..] {
            text.push(' ');
            text.push_str(&quoted(word));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn exec(path: &str, argv: &[&str], flags: &[&str]) -> Exec {
        let owned = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        Exec { path: path.to_owned(), argv: owned(argv), flags: owned(flags) }
    }

    /// One command as systemd reads it (config_parse_exec in src/core/load-fragment.c), for what [`Exec::text`] writes.
    fn read(text: &str) -> Exec {
        let mut flags = Vec::new();
        let mut rest = text;
        let mut renamed = false;
        while let Some(prefix) = rest.chars().next().filter(|c| "-+!:@|".contains(*c)) {
            rest = &rest[1..];
            match prefix {
                '@' => renamed = true,
                '!' if rest.starts_with('!') => {
                    rest = &rest[1..];
                    flags.push("ambient".to_owned());
                }
                _ => flags.extend(
                    PREFIXES.iter().filter(|(_, one)| *one == prefix.to_string()).map(|(flag, _)| (*flag).to_owned()),
                ),
            }
        }
        let mut words = split(rest).into_iter();
        let path = words.next().unwrap();
        let argv = if renamed { words.collect() } else { std::iter::once(path.clone()).chain(words).collect() };
        Exec { path, argv, flags }
    }

    /// extract-word.c with EXTRACT_UNQUOTE and EXTRACT_CUNESCAPE; an unquoted `;` would begin another command.
    fn split(text: &str) -> Vec<String> {
        let (mut words, mut rest) = (Vec::new(), text.chars().peekable());
        while rest.peek().is_some() {
            let (mut word, mut quoted, mut was_quoted) = (String::new(), false, false);
            while let Some(c) = rest.next() {
                match c {
                    '"' => (quoted, was_quoted) = (!quoted, true),
                    '\\' => word.push(match rest.next().unwrap() {
                        'n' => '\n',
                        't' => '\t',
                        'u' => {
                            let code: String = rest.by_ref().take(4).collect();
                            char::from_u32(u32::from_str_radix(&code, 16).unwrap()).unwrap()
                        }
                        c => c,
                    }),
                    '%' => {
                        assert_eq!(rest.next(), Some('%'), "a specifier in {text}");
                        word.push('%');
                    }
                    ' ' if !quoted => break,
                    '\'' if !quoted => panic!("an unquoted ' in {text}"),
                    c => word.push(c),
                }
            }
            assert!(word != ";" || was_quoted, "a second command in {text}");
            words.push(word);
        }
        words
    }

    #[test]
    fn commands_are_written_as_people_write_them() {
        for (text, exec) in [
            ("/usr/sbin/nginx -t -q", exec("/usr/sbin/nginx", &["/usr/sbin/nginx", "-t", "-q"], &[])),
            ("-/bin/x", exec("/bin/x", &["/bin/x"], &["ignore-failure"])),
            ("-+:/bin/x", exec("/bin/x", &["/bin/x"], &["ignore-failure", "privileged", "no-env-expand"])),
            ("!!@/bin/x y z", exec("/bin/x", &["y", "z"], &["ambient"])),
            ("/bin/sh -c \"exec $FOO; ${BAR}\"", exec("/bin/sh", &["/bin/sh", "-c", "exec $FOO; ${BAR}"], &[])),
            ("/bin/x \";\" 100%% \"\"", exec("/bin/x", &["/bin/x", ";", "100%", ""], &[])),
        ] {
            assert_eq!(exec.text(), text);
            assert_eq!(read(text), exec);
        }
    }

    #[test]
    fn a_line_break_begins_no_line() {
        let evil = exec("/bin/x", &["/bin/x", "a\nExecStart=/bin/evil\n", "\\"], &[]);
        assert!(!evil.text().contains('\n'), "{}", evil.text());
        assert_eq!(read(&evil.text()), evil);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_it_was(
            path in "/[ -~]{0,12}",
            name in prop::option::of("[ -~]{1,8}"),
            words in prop::collection::vec("[ -~\n\tü;$%\"'\\\\]{0,12}", 0..5),
            which in 0_usize..64,
        ) {
            let flags: Vec<String> = PREFIXES.iter().enumerate().filter(|(bit, _)| which >> bit & 1 == 1)
                // Both are written with `!`, and systemd takes one of them alone.
                .filter(|(bit, _)| !(*bit == 2 && which >> 3 & 1 == 1))
                .map(|(_, (flag, _))| (*flag).to_owned()).collect();
            let argv = std::iter::once(name.unwrap_or_else(|| path.clone())).chain(words).collect();
            let exec = Exec { path, argv, flags };
            prop_assert_eq!(read(&exec.text()), exec);
        }
    }
}
