//! A scanner that knows just enough Rust: what is code, what is comment, what is string.
//!
//! It does not parse. [`mask`] replaces comments by spaces and the insides of literals by a
//! filler, keeping every line where it was; the rules then look for words and braces in that.
//! A `{` in a const generic argument outside brackets would mislead [`functions`]; clippy's
//! `too_many_lines` is the second opinion.

/// What the inside of a string or character literal becomes.
pub(crate) const FILLER: char = '~';

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    /// Its name.
    pub(crate) name: String,
    /// The line of `fn`, from 1.
    pub(crate) line: usize,
    /// Lines with code on them between the braces, without blank and comment lines.
    pub(crate) lines: usize,
    /// Whether it is a kernel of Hetra's kernel language.
    pub(crate) kernel: bool,
}

/// The source with comments blanked and literals filled; same lines, same columns.
pub(crate) fn mask(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out: Vec<char> = Vec::with_capacity(chars.len());
    while out.len() < chars.len() {
        let at = out.len();
        let rest = &chars[at..];
        if rest.starts_with(&['/', '/']) {
            fill(&mut out, rest, line_end(rest), ' ');
        } else if rest.starts_with(&['/', '*']) {
            fill(&mut out, rest, block_comment_end(rest), ' ');
        } else if let Some(hashes) = raw_string(&chars, at) {
            let body = 2 + hashes;
            out.extend(&rest[..body]);
            let end = raw_string_end(&rest[body..], hashes);
            fill(&mut out, &rest[body..], end, FILLER);
            let closed = (1 + hashes).min(chars.len() - out.len());
            let from = out.len();
            out.extend(&chars[from..from + closed]);
        } else if rest[0] == '"' {
            out.push('"');
            fill(&mut out, &rest[1..], quoted_end(&rest[1..], '"'), FILLER);
            if out.len() < chars.len() {
                out.push('"');
            }
        } else if let Some(inside) = char_literal(rest) {
            out.push('\'');
            fill(&mut out, &rest[1..], inside, FILLER);
            out.push('\'');
        } else {
            out.push(rest[0]);
        }
    }
    out.into_iter().collect()
}

/// Pushes `count` characters: line breaks as they are, everything else as `with`.
fn fill(out: &mut Vec<char>, from: &[char], count: usize, with: char) {
    out.extend(from[..count].iter().map(|&c| if c == '\n' { c } else { with }));
}

/// How far the line goes, without its line break.
fn line_end(rest: &[char]) -> usize {
    rest.iter().position(|&c| c == '\n').unwrap_or(rest.len())
}

/// How long a block comment is; they nest.
fn block_comment_end(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(&['/', '*']) {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(&['*', '/']) {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The number of `#` when a raw string's `r` is at `at`: `r"`, `br#"`, `cr##"`.
fn raw_string(chars: &[char], at: usize) -> Option<usize> {
    if chars[at] != 'r' {
        return None;
    }
    let prefixed = at > 0 && matches!(chars[at - 1], 'b' | 'c');
    let before = if prefixed { at.checked_sub(2) } else { at.checked_sub(1) };
    if before.is_some_and(|before| is_word(chars[before])) {
        return None;
    }
    let hashes = chars[at + 1..].iter().take_while(|&&c| c == '#').count();
    (chars.get(at + 1 + hashes) == Some(&'"')).then_some(hashes)
}

/// How long the inside of a raw string with that many `#` is.
fn raw_string_end(rest: &[char], hashes: usize) -> usize {
    (0..rest.len())
        .find(|&at| {
            rest[at] == '"'
                && rest.len() > at + hashes
                && rest[at + 1..=at + hashes].iter().all(|&c| c == '#')
        })
        .unwrap_or(rest.len())
}

/// How long the inside of a literal with escapes is, up to its closing `quote`.
fn quoted_end(rest: &[char], quote: char) -> usize {
    let mut at = 0;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    at.min(rest.len())
}

/// The length of a character literal's inside; `None` for a lifetime or anything else.
fn char_literal(rest: &[char]) -> Option<usize> {
    if rest[0] != '\'' {
        return None;
    }
    match rest.get(1)? {
        '\\' => {
            let inside = quoted_end(&rest[1..], '\'');
            (inside + 1 < rest.len()).then_some(inside)
        }
        _ => (rest.get(2) == Some(&'\'')).then_some(1),
    }
}

/// Whether a character can be part of a word.
pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Byte offsets at which `word` stands in `text` with no word character around it.
pub(crate) fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        !text[..at].ends_with(is_word) && !text[at + word.len()..].starts_with(is_word)
    })
}

/// The line, from 1, of a byte offset.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Every function with a body in a masked source, inner ones too.
pub(crate) fn functions(masked: &str) -> Vec<Function> {
    words(masked, "fn").filter_map(|at| function(masked, at)).collect()
}

/// The function whose `fn` is at `at`; `None` for a pointer type, a raw identifier or a
/// declaration without a body.
fn function(masked: &str, at: usize) -> Option<Function> {
    let after = &masked[at + 2..];
    let name: String = after.trim_start().chars().take_while(|&c| is_word(c)).collect();
    if name.is_empty() || !after.starts_with(char::is_whitespace) || masked[..at].ends_with('#') {
        return None;
    }
    let open = body_start(after)?;
    let close = body_end(&after[open..])?;
    let body = &after[open + 1..open + close];
    let lines = body.lines().filter(|line| !line.trim().is_empty()).count();
    // The attribute, and nothing that ends an item, before the name.
    let kernel = masked[..at].rfind("#[kernel").is_some_and(|attribute| {
        let between = &masked[attribute..at];
        !between.starts_with("#[kernel_fn") && !between.contains(['{', ';'])
    });
    Some(Function { name, line: line_of(masked, at), lines, kernel })
}

/// A trait.
pub(crate) struct Trait {
    /// Its name.
    pub(crate) name: String,
    /// The line of `trait`, from 1.
    pub(crate) line: usize,
    /// How many methods it declares, with or without a body.
    pub(crate) methods: usize,
}

/// Every trait in a masked source.
pub(crate) fn traits(masked: &str) -> Vec<Trait> {
    let found = words(masked, "trait").filter_map(|at| {
        let after = &masked[at + 5..];
        let name: String = after.trim_start().chars().take_while(|&c| is_word(c)).collect();
        let open = body_start(after).filter(|_| !name.is_empty())?;
        let body = &after[open..open + body_end(&after[open..])?];
        let methods = words(body, "fn").filter(|&at| {
            let before = &body[..at];
            let outer = before.matches('{').count() == before.matches('}').count() + 1;
            // A function pointer has no name.
            outer && body[at + 2..].trim_start().starts_with(is_word)
        });
        Some(Trait { name, line: line_of(masked, at), methods: methods.count() })
    });
    found.collect()
}

/// Where the `{` of a body is; `None` when a `;` comes first.
fn body_start(signature: &str) -> Option<usize> {
    let mut depth = 0i32;
    for (at, c) in signature.char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            '{' if depth == 0 => return Some(at),
            ';' | '}' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// Where the `}` is that closes the `{` at the start.
fn body_end(body: &str) -> Option<usize> {
    let mut depth = 0i32;
    for (at, c) in body.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_mask(source: &str, expected: &str) {
        assert_eq!(mask(source), expected, "{source}");
    }

    #[test]
    fn comments_become_spaces() {
        check_mask("a // {\nb", "a     \nb");
        check_mask("a/* { /* } */ */b", "a               b");
        check_mask("/* open", "       ");
    }

    #[test]
    fn literals_are_filled() {
        check_mask(r#"f("{ \" }", x)"#, r#"f("~~~~~~", x)"#);
        check_mask("r#\"{\"}\"# b", "r#\"~~~\"# b");
        check_mask("br\"{\\\" b", "br\"~~\" b");
        check_mask("'{' b'\\'' '\\u{7d}'", "'~' b'~~' '~~~~~~'");
        check_mask("\"open", "\"~~~~");
        check_mask("r#\"open", "r#\"~~~~");
    }

    #[test]
    fn lifetimes_and_raw_identifiers_are_code() {
        check_mask("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}");
        check_mask("r#type bar\"x\"", "r#type bar\"~\"");
    }

    #[test]
    fn functions_are_measured_without_blank_and_comment_lines() {
        let source = "fn a() {\n    // why }\n\n    b(\"}\");\n}\n\nfn c(x: [u8; 2]) -> u8;\n\
                      type F = fn(u8) -> u8;\nfn d() { e() }\n";
        let found = functions(&mask(source));
        let expected = [
            Function { name: "a".into(), line: 1, lines: 1, kernel: false },
            Function { name: "d".into(), line: 9, lines: 1, kernel: false },
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn words_stand_alone() {
        assert_eq!(words("unsafe_code unsafe {}", "unsafe").collect::<Vec<_>>(), [12]);
        assert_eq!(line_of("a\nb\nc", 4), 3);
    }
}
