//! What there is in ONNX: the operators of its domains and of com.microsoft, beside those of which
//! Hetra has rows. `tools/list_schemas.py` writes the list from the definitions themselves.

use std::collections::BTreeMap;
use std::sync::OnceLock;

/// An operator as it is defined.
#[derive(Debug, PartialEq, Eq)]
pub struct Schema {
    /// The first version of its domain that has it.
    pub since: u32,
    /// The names of its attributes, in any version.
    pub attributes: Vec<&'static str>,
}

/// All of them, by domain (empty for ai.onnx) and name.
pub fn schemas() -> &'static BTreeMap<(&'static str, &'static str), Schema> {
    static INDEX: OnceLock<BTreeMap<(&str, &str), Schema>> = OnceLock::new();
    INDEX.get_or_init(|| include_str!("../assets/schemas.txt").lines().filter_map(line).collect())
}

/// `domain name since attribute ..`
fn line(line: &'static str) -> Option<((&'static str, &'static str), Schema)> {
    let mut words = line.split_ascii_whitespace();
    let (domain, name, since) = (words.next()?, words.next()?, words.next()?.parse().ok()?);
    let domain = if domain == "ai.onnx" { "" } else { domain };
    Some(((domain, name), Schema { since, attributes: words.collect() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ALL_OPS;

    #[test]
    fn the_list_is_read_whole_and_knows_the_rows() {
        assert_eq!(schemas().len(), include_str!("../assets/schemas.txt").lines().count());
        let softmax = Schema { since: 1, attributes: vec!["axis"] };
        assert_eq!(schemas()[&("", "Softmax")], softmax);
        let rows = ALL_OPS.iter().copied().flatten().flat_map(|def| def.onnx);
        let (mut known, mut unknown) = (0, Vec::new());
        for row in rows {
            match schemas().get(&(row.domain, row.name)) {
                Some(schema) => {
                    assert!(schema.since <= row.version, "{row:?} since {}", schema.since);
                    known += 1;
                }
                None => unknown.push(row),
            }
        }
        // The rest is of a version that the list is too old for.
        assert!(known > 200 && unknown.len() < 20, "{unknown:?}");
    }
}
