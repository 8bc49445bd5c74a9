//! Names that may be meant by a wrong one.

/// The known name that a wrong one may stand for: at most one letter in three is another.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let count = name.chars().count();
    // At least as many letters differ as one name has more, which is told without the table of all
    // pairs of letters: names come from files, and may be of any length.
    let near = |other: &str, letters: usize| letters * 3 <= other.chars().count();
    let known = known.filter(|other| near(other, count.abs_diff(other.chars().count())));
    let with_distance = known.map(|other| (distance(name, other), other));
    let (distance, other) = with_distance.min_by_key(|(distance, _)| *distance)?;
    near(other, distance).then_some(other)
}

/// Letters to insert, remove, change or swap with the next between two names, whatever their case.
fn distance(a: &str, b: &str) -> usize {
    let letters = |text: &str| text.to_lowercase().chars().collect::<Vec<char>>();
    let (a, b) = (letters(a), letters(b));
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (at, x) in a.iter().enumerate() {
        let mut next = vec![at + 1];
        for (index, y) in b.iter().enumerate() {
            let changed = row[index] + usize::from(x != y);
            let mut least = changed.min(row[index + 1] + 1).min(next[index] + 1);
            if at > 0 && index > 0 && *x == b[index - 1] && a[at - 1] == *y {
                least = least.min(before[index - 1] + 1);
            }
            next.push(least);
        }
        before = std::mem::replace(&mut row, next);
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_take_no_time() {
        let long = "x".repeat(1 << 20);
        let known = || ["input_ids"; 1 << 8].into_iter();
        assert_eq!(nearest(&long, known()), None);
        assert_eq!(nearest("input_id", known().chain([long.as_str()])), Some("input_ids"));
    }

    #[test]
    fn a_name_is_matched_with_what_it_may_stand_for() {
        let known = ["input_ids", "attention_mask", "x", "Relu"];
        let check = |name, wanted| assert_eq!(nearest(name, known.into_iter()), wanted, "{name}");
        check("input_id", Some("input_ids"));
        check("Input_IDs", Some("input_ids"));
        check("atention_msk", Some("attention_mask"));
        check("X", Some("x"));
        check("Reul", Some("Relu"));
        check("y", None);
        check("token_type_ids", None);
        assert_eq!(nearest("x", [].into_iter()), None);
    }

    #[test]
    fn distances_are_of_the_shortest_way() {
        for (a, b, wanted) in [
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("a", "a", 0),
            ("ab", "ba", 1),
            ("abcd", "badc", 2),
        ] {
            assert_eq!(distance(a, b), wanted, "{a} {b}");
        }
    }
}
