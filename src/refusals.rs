//! What `--only` and `--block` refused in a launch, said once at its end.

use crate::destination::{Pattern, printable};
use crate::forward::{REFUSED_NAMES, Refused, Rule};

/// Destinations written out in a sentence. The journal has all.
const SHOWN: usize = 10;

/// The refused destinations of one launch, each once, in order; the forwarder may tell one again
/// when it has been restarted.
#[derive(Debug, Default)]
pub struct Refusals {
    kept: Vec<Refused>,
    more: bool,
}

impl Refusals {
    /// Takes what the forwarder tells.
    pub fn add(&mut self, refused: Refused) {
        match self.kept.contains(&refused) {
            true => {}
            false if self.kept.len() < REFUSED_NAMES => self.kept.push(refused),
            false => self.more = true,
        }
    }

    /// A sentence for each option that refused something. `others` are to be let through as well, and have to be said
    /// again by who says `--only`.
    #[must_use]
    pub fn sentences(&self, others: &[Pattern]) -> Vec<String> {
        [Rule::Only, Rule::Block].into_iter().filter_map(|rule| self.sentence(rule, others)).collect()
    }

    fn sentence(&self, rule: Rule, others: &[Pattern]) -> Option<String> {
        let names: Vec<String> = self
            .kept
            .iter()
            .filter(|refused| refused.by == rule)
            .map(|refused| printable(&refused.destination))
            .collect();
        let count = names.len();
        let is_one = count == 1 && !self.more;
        let (over, noun) = (if self.more { "over " } else { "" }, if is_one { "name" } else { "names" });
        let rest = if count > SHOWN || self.more { ", …" } else { "" };
        let shown = names.get(..count.min(SHOWN))?.join(", ");
        let others: String = others.iter().map(|other| format!(" --only {other}")).collect();
        let why = match (rule, is_one) {
            (Rule::Only, true) => format!("--only NAME{others} lets it through"),
            (Rule::Only, false) => format!("--only NAME{others} lets one through"),
            (Rule::Block, true) => "--block keeps it out".to_owned(),
            (Rule::Block, false) => "--block keeps them out".to_owned(),
        };
        (count > 0).then(|| format!("refused {over}{count} {noun}: {shown}{rest}; {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(list: &[(&str, Rule)]) -> Vec<String> {
        let mut refusals = Refusals::default();
        for (destination, by) in list {
            refusals.add(Refused { destination: (*destination).to_owned(), by: *by });
        }
        refusals.sentences(&[])
    }

    #[test]
    fn what_is_named_elsewhere_is_to_be_named_again() {
        let mut refusals = Refusals::default();
        for by in [Rule::Only, Rule::Block] {
            refusals.add(Refused { destination: "a.test:80".to_owned(), by });
        }
        let words = ["*.b.test", "10.0.0.0/8:443"].map(str::to_owned);
        let others = Pattern::parse_list("--only", &words).unwrap();
        assert_eq!(
            refusals.sentences(&others),
            [
                "refused 1 name: a.test:80; --only NAME --only *.b.test --only 10.0.0.0/8:443 lets it through",
                "refused 1 name: a.test:80; --block keeps it out"
            ]
        );
    }

    #[test]
    fn each_is_named_once_and_with_what_lets_it_through() {
        use Rule::{Block, Only};
        for (list, sentences) in [
            (&[][..], &[][..]),
            (&[("a.test:80", Only)], &["refused 1 name: a.test:80; --only NAME lets it through"]),
            (
                &[("b.test:80", Only), ("a.test:443", Only), ("b.test:80", Only), ("b.test:81", Only)],
                &["refused 3 names: b.test:80, a.test:443, b.test:81; --only NAME lets one through"],
            ),
            (&[("x.test:1", Block)], &["refused 1 name: x.test:1; --block keeps it out"]),
            (
                &[("x.test:1", Block), ("a.test:80", Only), ("[2001:db8::1]:2", Block)],
                &[
                    "refused 1 name: a.test:80; --only NAME lets it through",
                    "refused 2 names: x.test:1, [2001:db8::1]:2; --block keeps them out",
                ],
            ),
            (&[("a\u{1b}[2J", Only)], &["refused 1 name: a\\u{1b}[2J; --only NAME lets it through"]),
        ] {
            assert_eq!(said(list), sentences);
        }
    }

    #[test]
    fn a_long_list_is_cut_and_says_so() {
        let names: Vec<String> = (0..=REFUSED_NAMES).map(|number| format!("n{number}.test:80")).collect();
        let list = |count: usize| names[..count].iter().map(|name| (name.as_str(), Rule::Only)).collect::<Vec<_>>();
        let shown = names[..SHOWN].join(", ");
        let end = "--only NAME lets one through";
        assert_eq!(said(&list(SHOWN)), [format!("refused 10 names: {shown}; {end}")]);
        assert_eq!(said(&list(SHOWN + 1)), [format!("refused 11 names: {shown}, …; {end}")]);
        assert_eq!(said(&list(REFUSED_NAMES)), [format!("refused 64 names: {shown}, …; {end}")]);
        assert_eq!(said(&list(REFUSED_NAMES + 1)), [format!("refused over 64 names: {shown}, …; {end}")]);
    }
}
