//! The text of unit files, for what systemd holds of them and does not tell. Pure.

/// What a unit file's text sets a directive to, each time. Longer lines are made of several by a backslash at their ends
/// (systemd.syntax(7)).
pub(super) fn values(text: &str, directive: &str) -> Vec<String> {
    let mut values = Vec::new();
    let mut whole = String::new();
    for line in text.lines().chain([""]) {
        let line = line.trim_start();
        if line.starts_with(['#', ';']) {
            continue;
        }
        let backslashes = line.bytes().rev().take_while(|byte| *byte == b'\\').count();
        if backslashes % 2 == 1 {
            whole += &line[..line.len() - 1];
            whole.push(' ');
            continue;
        }
        whole += line;
        if let Some((name, value)) = whole.split_once('=')
            && name.trim() == directive
        {
            values.push(value.trim().to_owned());
        }
        whole.clear();
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directives_values_are_read_as_systemd_does() {
        for (text, expected) in [
            ("[Service]\nX=1\n X = 2 \nXY=3\n", &["1", "2"][..]),
            ("#X=1\n;X=2\n", &[]),
            ("Y=a \\\nX=1\nX=2\n", &["2"]),
            ("X=a \\\n# no\n  b\n", &["a  b"]),
            ("Y=c:\\\\\nX=1", &["1"]),
            ("X=\nX=a=b", &["", "a=b"]),
            ("X=1\\", &["1"]),
        ] {
            assert_eq!(values(text, "X"), expected, "{text:?}");
        }
    }
}
