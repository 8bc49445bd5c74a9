//! Protobuf's text format, as data: `name: value`, `name { .. }`, lists in brackets, comments.
//!
//! What the fields mean is the reader's to know. A field that stands once is a value; one that is
//! repeated is a list.

use serde_json::{Map, Number, Value};

/// Where a text is wrong.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("line {line}: {text}")]
pub(crate) struct TextError {
    line: usize,
    text: String,
}

/// Messages within messages.
const DEPTH_MAX: usize = 32;

/// Reads a message.
pub(crate) fn parse(text: &str) -> Result<Value, TextError> {
    let mut reader = Reader { text, at: 0 };
    let message = reader.message(None, 0)?;
    Ok(Value::Object(message))
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn error(&self, text: impl Into<String>) -> TextError {
        let line = self.text[..self.at].matches('\n').count() + 1;
        TextError { line, text: text.into() }
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    /// The next character that is no space or comment.
    fn peek(&mut self) -> Option<char> {
        loop {
            let rest = self.rest();
            let next = rest.chars().next()?;
            if next == '#' {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if next.is_whitespace() {
                self.at += next.len_utf8();
            } else {
                return Some(next);
            }
        }
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += if found { wanted.len_utf8() } else { 0 };
        found
    }

    fn word(&mut self) -> Result<&str, TextError> {
        self.peek();
        let is_word = |char: char| char.is_ascii_alphanumeric() || "_.+-".contains(char);
        let rest = self.rest();
        let length = rest.find(|char| !is_word(char)).unwrap_or(rest.len());
        if length == 0 {
            let found = rest.chars().next().map_or("the end".into(), |char| format!("`{char}`"));
            return Err(self.error(format!("wanted a name or a value, found {found}")));
        }
        let from = self.at;
        self.at += length;
        Ok(&self.text[from..self.at])
    }

    /// Fields up to a closing character, or to the end.
    fn message(
        &mut self,
        close: Option<char>,
        depth: usize,
    ) -> Result<Map<String, Value>, TextError> {
        if depth > DEPTH_MAX {
            return Err(self.error("messages are nested too deeply"));
        }
        let mut fields = Map::new();
        loop {
            match (self.peek(), close) {
                (None, None) => return Ok(fields),
                (None, Some(close)) => return Err(self.error(format!("`{close}` is missing"))),
                (Some(next), Some(close)) if next == close => {
                    self.take(close);
                    return Ok(fields);
                }
                _ => {}
            }
            let name = self.word()?.to_string();
            let colon = self.take(':');
            let opens = matches!(self.peek(), Some('{' | '<' | '['));
            if !colon && !opens {
                return Err(self.error(format!("`:` is missing after `{name}`")));
            }
            let value = self.value(depth)?;
            add(&mut fields, name, value);
            let _ = self.take(',') || self.take(';');
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, TextError> {
        match self.peek() {
            Some('{') => {
                self.take('{');
                self.message(Some('}'), depth + 1).map(Value::Object)
            }
            Some('<') => {
                self.take('<');
                self.message(Some('>'), depth + 1).map(Value::Object)
            }
            Some('[') => self.list(depth),
            Some('"' | '\'') => self.string().map(Value::String),
            _ => {
                let word = self.word()?;
                Ok(scalar(word))
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, TextError> {
        if depth > DEPTH_MAX {
            return Err(self.error("lists are nested too deeply"));
        }
        self.take('[');
        let mut items = Vec::new();
        while !self.take(']') {
            items.push(self.value(depth + 1)?);
            if !self.take(',') && self.peek() != Some(']') {
                return Err(self.error("wanted `,` or `]`"));
            }
        }
        Ok(Value::Array(items))
    }

    /// Strings that follow each other are one.
    fn string(&mut self) -> Result<String, TextError> {
        let mut text = String::new();
        while let Some(quote @ ('"' | '\'')) = self.peek() {
            self.take(quote);
            loop {
                let Some(next) = self.rest().chars().next().filter(|&char| char != '\n') else {
                    return Err(self.error("a string has no end"));
                };
                self.at += next.len_utf8();
                match next {
                    _ if next == quote => break,
                    '\\' => text.push(self.escaped()?),
                    _ => text.push(next),
                }
            }
        }
        Ok(text)
    }

    fn escaped(&mut self) -> Result<char, TextError> {
        let Some(next) = self.rest().chars().next() else {
            return Err(self.error("a string has no end"));
        };
        self.at += next.len_utf8();
        match next {
            'n' => Ok('\n'),
            't' => Ok('\t'),
            'r' => Ok('\r'),
            '\\' | '\'' | '"' | '?' => Ok(next),
            _ => Err(self.error(format!("`\\{next}` in a string is not known here"))),
        }
    }
}

/// A name, a number or a truth value.
fn scalar(word: &str) -> Value {
    match word {
        "true" | "True" | "t" => return Value::Bool(true),
        "false" | "False" | "f" => return Value::Bool(false),
        _ => {}
    }
    if let Ok(number) = word.parse::<i64>() {
        return number.into();
    }
    if let Ok(number) = word.parse::<u64>() {
        return number.into();
    }
    let float = word.parse::<f64>().ok().and_then(Number::from_f64);
    float.map_or_else(|| Value::String(word.to_string()), Value::Number)
}

/// Adds a field; one that is there already becomes a list.
fn add(fields: &mut Map<String, Value>, name: String, value: Value) {
    let Some(before) = fields.get_mut(&name) else {
        fields.insert(name, value);
        return;
    };
    let mut list = match before.take() {
        Value::Array(list) => list,
        one => vec![one],
    };
    match value {
        Value::Array(more) => list.extend(more),
        one => list.push(one),
    }
    *before = Value::Array(list);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn messages_are_read() {
        let text = "
            # a model
            name: \"a\" 'b'
            max_batch_size: 8
            input [ { name: \"x\" dims: [ -1, 3 ] }, { name: \"y\", dims: 2, dims: 4 } ]
            dynamic_batching { }
            parameters { key: \"k\" value: { string_value: \"q\\\"\\n\" } }
            parameters < key: \"l\"; share: 0.5 on: true kind: KIND_CPU >";
        let wanted = json!({
            "name": "ab",
            "max_batch_size": 8,
            "input": [{"name": "x", "dims": [-1, 3]}, {"name": "y", "dims": [2, 4]}],
            "dynamic_batching": {},
            "parameters": [
                {"key": "k", "value": {"string_value": "q\"\n"}},
                {"key": "l", "share": 0.5, "on": true, "kind": "KIND_CPU"},
            ],
        });
        assert_eq!(parse(text), Ok(wanted));
        assert_eq!(parse(" # nothing"), Ok(json!({})));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let error = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(error("a: 1\nb 2"), "line 2: `:` is missing after `b`");
        assert_eq!(error("a {\n b: 1"), "line 2: `}` is missing");
        assert_eq!(error("a: \"x\ny\""), "line 1: a string has no end");
        assert_eq!(error("a: [1 2]"), "line 1: wanted `,` or `]`");
        assert_eq!(error("a: }"), "line 1: wanted a name or a value, found `}`");
        assert_eq!(error("a: \"\\q\""), "line 1: `\\q` in a string is not known here");
        assert!(error(&"a {".repeat(99)).contains("too deeply"));
        assert!(error(&format!("a: {}", "[".repeat(99))).contains("too deeply"));
    }
}
