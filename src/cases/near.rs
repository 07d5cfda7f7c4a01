//! What a word that is wrong may have been meant to be.

/// The nearest of some words, if one is near.
pub fn nearest<'a>(word: &str, all: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = (word.chars().count() / 3).clamp(1, 4);
    let lower = word.to_lowercase();
    let distance = |other: &str| strsim::damerau_levenshtein(&lower, &other.to_lowercase());
    all.into_iter().map(|other| (distance(other), other)).filter(|(far, _)| *far <= most).min().map(|(_, other)| other)
}

/// Help for a word that is wrong: the nearest one, or all.
pub fn help(word: &str, all: &[&str]) -> String {
    match nearest(word, all.iter().copied()) {
        Some(other) => format!("did you mean `{other}`?"),
        None => {
            const SOME: usize = 20;
            let more = if all.len() > SOME { ", ..." } else { "" };
            format!(
                "there is {}{more}",
                all.iter().take(SOME).map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let keys = ["method", "metadata", "verdict", "per_page"];
        assert_eq!(nearest("verdct", keys), Some("verdict"));
        assert_eq!(nearest("Method", keys), Some("method"));
        assert_eq!(nearest("perPage", keys), Some("per_page"));
        assert_eq!(nearest("colour", keys), None);
        assert_eq!(help("colour", &["a", "b"]), "there is `a`, `b`");
    }
}
