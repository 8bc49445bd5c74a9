//! Strings: StringNormalizer, StringConcat, StringSplit, RegexFullMatch.

use std::collections::HashSet;

use hetra_ir::{Dim, Type};
use hetra_tensor::{DType, Tensor, Value, bytes_max};
use regex::RegexBuilder;

use crate::context::{EvalCtx, InferCtx, infer_broadcast, same_shape};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::elementwise::{Accepts, walk2};
use crate::error::OpError;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] =
    &[&STRING_NORMALIZER, &STRING_CONCAT, &STRING_SPLIT, &REGEX_FULL_MATCH];

static STRING_NORMALIZER: OpDef = OpDef {
    name: "StringNormalizer",
    doc: "Drops stop words and changes case.",
    onnx: &[onnx("", "StringNormalizer", 10)],
    infer: infer_normalizer,
    eval: eval_normalizer,
    ..OpDef::DEFAULT
};

static STRING_CONCAT: OpDef = OpDef {
    name: "StringConcat",
    doc: "Joins two strings, with broadcasting.",
    onnx: &[onnx("", "StringConcat", 20)],
    inputs: Arity::exactly(2),
    infer: |ctx| {
        Accepts::Strings.check(ctx, 0)?;
        Accepts::Strings.check(ctx, 1)?;
        infer_broadcast(ctx)
    },
    eval: eval_concat,
    ..OpDef::DEFAULT
};

static STRING_SPLIT: OpDef = OpDef {
    name: "StringSplit",
    doc: "Splits strings at a delimiter or white space, padded with empty strings.",
    onnx: &[onnx("", "StringSplit", 20)],
    outputs: Arity::exactly(2),
    infer: infer_split,
    eval: eval_split,
    ..OpDef::DEFAULT
};

static REGEX_FULL_MATCH: OpDef = OpDef {
    name: "RegexFullMatch",
    doc: "Whether a regular expression matches the whole string.",
    onnx: &[onnx("", "RegexFullMatch", 20)],
    kind: Kind::Opaque,
    infer: |ctx| {
        Accepts::Strings.check(ctx, 0)?;
        same_shape(ctx, DType::Bool)
    },
    eval: eval_regex,
    ..OpDef::DEFAULT
};

fn infer_normalizer(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    Accepts::Strings.check(ctx, 0)?;
    let drops = ctx.attrs().strs_opt("stopwords")?.is_some_and(|words| !words.is_empty());
    let words = |words: &Dim| match words {
        // Nothing left is one empty string.
        Dim::Known(count) if !drops => Dim::Known((*count).max(1)),
        _ => Dim::Unknown,
    };
    let dims = match ctx.dims(0) {
        None => None,
        Some([count]) => Some(vec![words(count)]),
        Some([_, count]) => Some(vec![Dim::Known(1), words(count)]),
        Some(_) => return Err(OpError::input(0, "a vector or one row", "another rank")),
    };
    Ok(vec![InferCtx::make(Some(DType::String), dims)])
}

fn eval_normalizer(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let x = ctx.tensor(0)?;
    if !matches!(x.shape(), [_] | [1, _]) {
        return Err(OpError::input(0, "a vector or one row", x.describe()));
    }
    let change: fn(&str) -> String = match ctx.attrs().str_or("case_change_action", "NONE")? {
        "LOWER" => str::to_lowercase,
        "UPPER" => str::to_uppercase,
        "NONE" => str::to_string,
        other => return Err(OpError::invalid(format!("`case_change_action` is `{other}`"))),
    };
    // Words that differ in case only are one word, unless case counts.
    let case_counts = ctx.attrs().flag_or("is_case_sensitive", false)?;
    let key = if case_counts { str::to_string } else { str::to_lowercase };
    let stops: HashSet<String> =
        ctx.attrs().strs_opt("stopwords")?.into_iter().flatten().map(|word| key(word)).collect();
    let kept = x.as_strings()?.iter().filter(|word| !stops.contains(&key(word)));
    let mut words: Vec<String> = kept.map(|word| change(word)).collect();
    if words.is_empty() {
        words.push(String::new());
    }
    let mut shape = x.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = words.len();
    }
    Ok(vec![Tensor::from_strings(&shape, words)?.into()])
}

fn eval_concat(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (a, b) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let (shape, walk) = walk2(a, b)?;
    // Checks the count; the text is checked on the way.
    let count = Tensor::zeros(DType::String, &shape)?.len();
    let (left, right) = (a.as_strings()?, b.as_strings()?);
    let (len, [left_step, right_step]) = walk.run();
    let mut joined = Vec::with_capacity(count);
    let mut bytes = 0usize;
    walk.for_each_run(|[i, j]| {
        for k in 0..len {
            let (x, y) = (&left[i + k * left_step], &right[j + k * right_step]);
            bytes = bytes.saturating_add(x.len() + y.len());
            if bytes <= bytes_max() {
                joined.push(format!("{x}{y}"));
            }
        }
    });
    if joined.len() != count {
        return Err(OpError::invalid("the text is too large"));
    }
    Ok(vec![Tensor::from_strings(&shape, joined)?.into()])
}

fn infer_split(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    Accepts::Strings.check(ctx, 0)?;
    let dims = ctx.dims(0).map(<[Dim]>::to_vec);
    let parts = dims.clone().map(|mut dims| {
        let empty = dims.contains(&Dim::Known(0));
        dims.push(if empty { Dim::Known(0) } else { Dim::Unknown });
        dims
    });
    let mut types =
        vec![InferCtx::make(Some(DType::String), parts), InferCtx::make(Some(DType::I64), dims)];
    types.truncate(ctx.node.outputs.len());
    Ok(types)
}

/// The parts of a text. White space, when there is no delimiter, counts as one however long and
/// is not kept at the ends; after `limit` splits the rest stays whole.
fn parts<'a>(text: &'a str, delimiter: &str, limit: usize) -> Vec<&'a str> {
    if !delimiter.is_empty() {
        return text.splitn(limit.saturating_add(1), delimiter).collect();
    }
    let mut parts = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(char::is_whitespace).filter(|_| parts.len() < limit);
        let (part, after) = rest.split_at(end.unwrap_or(rest.len()));
        parts.push(part);
        rest = after.trim_start();
    }
    parts
}

fn eval_split(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let x = ctx.tensor(0)?;
    let delimiter = ctx.attrs().str_or("delimiter", "")?;
    let limit = ctx.attrs().int_or("maxsplit", -1)?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let texts = x.as_strings()?;
    let split: Vec<Vec<&str>> = texts.iter().map(|t| parts(t, delimiter, limit)).collect();
    let most = split.iter().map(Vec::len).max().unwrap_or(0);
    let mut shape = x.shape().to_vec();
    shape.push(most);
    // Checks the count: one long text pads all others.
    Tensor::zeros(DType::String, &shape)?;
    let counts: Vec<i64> = split.iter().map(|parts| parts.len() as i64).collect();
    let padded = |parts: Vec<&str>| -> Vec<String> {
        let pad = most - parts.len();
        let empty = std::iter::repeat_n(String::new(), pad);
        parts.into_iter().map(str::to_string).chain(empty).collect()
    };
    let words: Vec<String> = split.into_iter().flat_map(padded).collect();
    let mut outputs = vec![
        Tensor::from_strings(&shape, words)?.into(),
        Tensor::from_slice(x.shape(), &counts)?.into(),
    ];
    outputs.truncate(ctx.node.outputs.len().max(1));
    Ok(outputs)
}

/// Bytes that a compiled expression and its cache may take.
const REGEX_BYTES_MAX: usize = 1 << 20;

fn eval_regex(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let x = ctx.tensor(0)?;
    let pattern = ctx.attrs().str("pattern")?;
    let fault = |error: regex::Error| OpError::invalid(format!("`pattern`: {error}"));
    // Compiled alone first: brackets that do not match could undo the group around it.
    let build = |pattern: &str| {
        let mut builder = RegexBuilder::new(pattern);
        builder.size_limit(REGEX_BYTES_MAX).dfa_size_limit(REGEX_BYTES_MAX).build()
    };
    build(pattern).map_err(fault)?;
    let whole = build(&format!(r"\A(?:{pattern})\z")).map_err(fault)?;
    let matches: Vec<bool> = x.as_strings()?.iter().map(|text| whole.is_match(text)).collect();
    Ok(vec![Tensor::from_bools(x.shape(), &matches)?.into()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Case, check, outputs};
    use hetra_ir::Node;

    fn strings(shape: &[usize], values: &[&str]) -> Tensor {
        let values = values.iter().map(ToString::to_string).collect();
        Tensor::from_strings(shape, values).unwrap()
    }

    fn texts(node: &Node, inputs: &[Tensor], shape: &[usize], wanted: &[&str]) {
        let outputs = outputs(node, inputs).unwrap();
        assert_eq!(outputs[0].shape(), shape);
        assert_eq!(outputs[0].as_strings().unwrap(), wanted);
    }

    #[test]
    fn normalizer() {
        let x = [strings(&[1, 3], &["Monday", "Tuesday", "monday"])];
        let node = |stops: &[&str]| {
            let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
            Node::new("StringNormalizer", &[], &[]).with("stopwords", stops)
        };
        texts(&node(&["monday"]), &x, &[1, 1], &["Tuesday"]);
        let upper = node(&["monday"]).with("is_case_sensitive", 1i64);
        let upper = upper.with("case_change_action", "UPPER");
        texts(&upper, &x, &[1, 2], &["MONDAY", "TUESDAY"]);
        texts(&node(&["monday", "TUESDAY"]), &x, &[1, 1], &[""]);
        assert!(outputs(&node(&[]), &[strings(&[2, 1], &["a", "b"])]).is_err());
    }

    #[test]
    fn concat_and_match() {
        let pair = [strings(&[2, 1], &["a", "b"]), strings(&[2], &["x", "é"])];
        let wanted = ["ax", "aé", "bx", "bé"];
        texts(&Node::new("StringConcat", &[], &[]), &pair, &[2, 2], &wanted);
        let x = strings(&[4], &["abc", "abcd", "a\nc", ""]);
        let matches = Case::new("RegexFullMatch").tensor(&x);
        check(&matches.attr("pattern", "ab|abc|"), 0, &[4], &[1.0, 0.0, 0.0, 1.0]);
        for pattern in ["a)(b", "(", r"(?:\w{1000}){1000}"] {
            assert!(matches.attr("pattern", pattern).eval().is_err());
        }
    }

    #[test]
    fn split() {
        let split = |text, delimiter, limit| parts(text, delimiter, limit);
        assert_eq!(split("a,,b", ",", 9), ["a", "", "b"]);
        assert_eq!(split("a,b,c", ",", 1), ["a", "b,c"]);
        assert_eq!(split("  a \t b  c ", "", 1), ["a", "b  c "]);
        assert_eq!(split("  a b ", "", 9), ["a", "b"]);
        assert!(split("  ", "", 9).is_empty());
        assert_eq!(split("", ",", 9), [""]);
        let node = Node::new("StringSplit", &[], &[]);
        texts(&node, &[strings(&[2], &["a b", "c"])], &[2, 2], &["a", "b", "c", ""]);
        texts(&node, &[strings(&[0, 3], &[])], &[0, 3, 0], &[]);
    }
}
