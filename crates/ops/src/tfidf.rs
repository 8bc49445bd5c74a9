//! TfIdfVectorizer: counts n-grams of a pool in sequences of tokens.

use std::collections::HashMap;
use std::hash::Hash;

use hetra_ir::{Attrs, Dim, Type};
use hetra_tensor::{DType, Tensor, Value, to_i64};

use crate::context::{EvalCtx, InferCtx};
use crate::def::{OpDef, onnx};
use crate::error::OpError;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&TF_IDF_VECTORIZER];

static TF_IDF_VECTORIZER: OpDef = OpDef {
    name: "TfIdfVectorizer",
    doc: "Counts the n-grams of a pool, with skips, and weighs them.",
    onnx: &[onnx("", "TfIdfVectorizer", 9)],
    infer: infer_vectorizer,
    eval: eval_vectorizer,
    ..OpDef::DEFAULT
};

/// One more than the largest place that an n-gram counts at.
fn columns(attrs: &Attrs) -> Result<usize, OpError> {
    let indexes = attrs.ints("ngram_indexes")?;
    if indexes.iter().any(|index| *index < 0) {
        return Err(OpError::invalid("`ngram_indexes` has a negative entry"));
    }
    let last = indexes.iter().copied().max().unwrap_or(-1);
    usize::try_from(last.saturating_add(1)).map_err(|_| OpError::invalid("`ngram_indexes`"))
}

fn infer_vectorizer(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let columns = Dim::Known(columns(ctx.attrs())?);
    let dims = match ctx.dims(0) {
        None => None,
        Some([] | [_]) => Some(vec![columns]),
        Some([rows, _]) => Some(vec![rows.clone(), columns]),
        Some(_) => return Err(OpError::input(0, "rank 1 or 2", "a higher rank")),
    };
    Ok(vec![InferCtx::make(Some(DType::F32), dims)])
}

/// A tree of tokens: the path to a node is an n-gram or the beginning of one.
struct Pool<K> {
    next: HashMap<(usize, K), usize>,
    /// By node, the position of its n-gram in the pool's order, if the path is one.
    gram: Vec<Option<usize>>,
}

impl<K: Copy + Eq + Hash> Pool<K> {
    fn new(attrs: &Attrs, tokens: &[K], lengths: (usize, usize)) -> Result<Pool<K>, OpError> {
        let counts = attrs.ints("ngram_counts")?;
        let fault = || OpError::invalid("`ngram_counts` does not fit the pool");
        let mut pool = Pool { next: HashMap::new(), gram: vec![None] };
        let mut gram = 0;
        for (index, start) in counts.iter().enumerate() {
            let size = index + 1;
            let start = usize::try_from(*start).map_err(|_| fault())?;
            let end = counts.get(size).map_or(Ok(tokens.len()), |&end| usize::try_from(end));
            let part = tokens.get(start..end.map_err(|_| fault())?).ok_or_else(fault)?;
            for path in part.chunks_exact(size) {
                if size >= lengths.0 && size <= lengths.1 {
                    let node = path.iter().fold(0, |node, token| pool.grow(node, *token));
                    pool.gram[node] = Some(gram);
                }
                gram += 1;
            }
        }
        Ok(pool)
    }

    fn grow(&mut self, node: usize, token: K) -> usize {
        let fresh = self.gram.len();
        let next = *self.next.entry((node, token)).or_insert(fresh);
        if next == fresh {
            self.gram.push(None);
        }
        next
    }

    /// Calls `found` with each n-gram in a row of tokens.
    fn search(&self, row: &[K], skips: usize, lengths: (usize, usize), found: &mut [f64]) {
        for distance in 1..=skips + 1 {
            // Single tokens know no distance: they count once.
            let least = if distance > 1 { lengths.0.max(2) } else { lengths.0 };
            // Farther apart than the row is long, no two tokens are left.
            if distance > 1 && distance >= row.len() {
                return;
            }
            for start in 0..row.len() {
                let mut node = 0;
                for (size, token) in (1..=lengths.1).zip(row[start..].iter().step_by(distance)) {
                    let Some(&next) = self.next.get(&(node, *token)) else { break };
                    node = next;
                    if let Some(gram) = self.gram[node]
                        && size >= least
                    {
                        found[gram] += 1.0;
                    }
                }
            }
        }
    }
}

fn eval_vectorizer(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let x = ctx.tensor(0)?;
    if x.dtype() == DType::String {
        let pool: Vec<&str> =
            ctx.attrs().strs("pool_strings")?.iter().map(String::as_str).collect();
        let tokens: Vec<&str> = x.as_strings()?.iter().map(String::as_str).collect();
        return vectorize(ctx, x, &tokens, &pool);
    }
    if !x.dtype().is_int() {
        return Err(OpError::input(0, "integers or strings", x.describe()));
    }
    vectorize(ctx, x, &to_i64(x)?, ctx.attrs().ints("pool_int64s")?)
}

fn vectorize<K: Copy + Eq + Hash>(
    ctx: &EvalCtx<'_>,
    x: &Tensor,
    tokens: &[K],
    pool: &[K],
) -> Result<Vec<Value>, OpError> {
    let attrs = ctx.attrs();
    let size = |name: &str| {
        usize::try_from(*attrs.int(name)?).map_err(|_| OpError::invalid(format!("`{name}` < 0")))
    };
    let lengths = (size("min_gram_length")?, size("max_gram_length")?);
    let skips = size("max_skip_count")?;
    let grams = Pool::new(attrs, pool, lengths)?;
    let (indexes, columns) = (attrs.ints("ngram_indexes")?, columns(attrs)?);
    let weights = attrs.floats_opt("weights")?;
    if weights.is_some_and(|weights| weights.len() < columns) {
        return Err(OpError::invalid("`weights` is shorter than the output"));
    }
    let mode = attrs.str("mode")?.as_str();
    let weigh = |column: usize, count: f64| {
        let weight = weights.map_or(1.0, |weights| weights[column]);
        match mode {
            "TF" => count as f32,
            "IDF" if count > 0.0 => weight,
            "IDF" => 0.0,
            _ => weight * count as f32,
        }
    };
    if !["TF", "IDF", "TFIDF"].contains(&mode) {
        return Err(OpError::invalid(format!("`mode` is `{mode}`")));
    }
    let (shape, row) = match *x.shape() {
        [] => (vec![columns], 1),
        [length] => (vec![columns], length),
        [rows, length] => (vec![rows, columns], length),
        _ => return Err(OpError::input(0, "rank 1 or 2", x.describe())),
    };
    let mut out = Tensor::zeros(DType::F32, &shape)?;
    let rows = out.as_mut_slice::<f32>()?.chunks_exact_mut(columns.max(1));
    for (index, slots) in rows.enumerate() {
        let mut found = vec![0.0; grams.gram.len().max(indexes.len())];
        let row = &tokens[index * row..(index + 1) * row];
        grams.search(row, skips, lengths, &mut found);
        let mut counts = vec![0.0; columns];
        for (place, count) in indexes.iter().zip(&found) {
            // Not negative and below `columns`, which is one more than the largest.
            counts[*place as usize] += count;
        }
        for (column, slot) in slots.iter_mut().enumerate() {
            *slot = weigh(column, counts[column]);
        }
    }
    Ok(vec![out.into()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Case, check};

    fn case() -> Case {
        Case::new("TfIdfVectorizer")
            .attr("mode", "TF")
            .attr("min_gram_length", 2i64)
            .attr("max_gram_length", 2i64)
            .attr("max_skip_count", 0i64)
            .attr("ngram_counts", vec![0i64, 4])
            .attr("ngram_indexes", vec![0i64, 1, 2, 3, 4, 5, 6])
            .attr("pool_int64s", vec![2i64, 3, 5, 4, 5, 6, 7, 8, 6, 7])
    }

    #[test]
    fn counts_with_and_without_skips() {
        let x = Tensor::vector(&[1i32, 1, 3, 3, 3, 7, 8, 6, 7, 5, 6, 8]);
        let zeros = [0.0; 4];
        let tail = |a: f64, b: f64, c: f64| [&zeros[..], &[a, b, c]].concat();
        check(&case().with_input(0, &x), 0, &[7], &tail(1.0, 1.0, 1.0));
        let skips = case().attr("max_skip_count", 5i64).with_input(0, &x);
        check(&skips, 0, &[7], &tail(1.0, 3.0, 1.0));
        let singles = skips.attr("min_gram_length", 1i64);
        check(&singles, 0, &[7], &[0.0, 3.0, 1.0, 0.0, 1.0, 3.0, 1.0]);
        let twice = x.reshape(&[2, 6]).unwrap();
        let wanted = [tail(0.0, 0.0, 0.0), tail(1.0, 0.0, 1.0)].concat();
        check(&case().with_input(0, &twice), 0, &[2, 7], &wanted);
    }

    #[test]
    fn wrong_attributes_are_errors() {
        let x = Tensor::vector(&[1i32, 1]);
        let with = |name: &str, value: Vec<i64>| case().attr(name, value).with_input(0, &x).eval();
        assert!(with("ngram_counts", vec![0, 40]).is_err());
        assert!(with("ngram_counts", vec![5, 4]).is_err());
        assert!(with("ngram_indexes", vec![-1]).is_err());
        assert!(with("ngram_indexes", vec![0]).is_ok());
        assert!(with("ngram_indexes", vec![i64::MAX]).is_err());
        let skips = case().attr("max_skip_count", i64::MAX - 1).with_input(0, &x);
        assert!(skips.eval().is_ok());
    }
}
