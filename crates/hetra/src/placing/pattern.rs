//! Patterns of names.

/// Whether a text is one that a pattern means: `*` stands for any text.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, between)) = parts.split_last() else { return rest.is_empty() };
    for part in between {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match() {
        assert!(matches("a", "a") && !matches("a", "ab"));
        assert!(matches("a*", "abc") && matches("*c", "abc") && matches("*", ""));
        assert!(
            matches("enc*.conv*", "encoder.1.conv2") && !matches("enc*.conv", "encoder.1.conv2")
        );
        assert!(matches("a*b*c", "a-b-c") && !matches("a*b*c", "a-c-b"));
    }
}
