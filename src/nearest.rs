//! The word that was most likely meant by a mistyped one. Only for messages.

/// The nearest to `word` of those that are known, if one is near: two letters added, left out, replaced or changed
/// round, in capitals or not.
pub(crate) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let near = known.map(|known| (strsim::damerau_levenshtein(&known.to_lowercase(), &word), known));
    near.min_by_key(|(distance, _)| *distance).filter(|(distance, _)| *distance <= 2).map(|(_, known)| known)
}
