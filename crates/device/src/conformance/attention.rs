//! Cases of attention operators in their layouts, with masks and caches.

use hetra_ir::Node;
use hetra_tensor::{DType, Tensor};

use super::Case;
use super::random::{Argument, Random, live, node, weight};

/// No input here.
const NONE: Argument = (None, false);

struct Extents {
    batch: usize,
    heads: usize,
    tokens: usize,
    keys: usize,
    past: usize,
    width: usize,
}

impl Extents {
    fn pick(random: &Random) -> Extents {
        Extents {
            batch: random.pick(&[1, 2]),
            heads: random.pick(&[1, 2, 3]),
            tokens: random.pick(&[1, 3, 9]),
            keys: random.pick(&[1, 4, 11]),
            past: random.pick(&[0, 1, 5]),
            width: random.pick(&[1, 4, 8]),
        }
    }

    /// A past of keys or values.
    fn cache(&self, random: &Random, heads: usize) -> Argument {
        live(random.floats(&[self.batch, heads, self.past, self.width]))
    }
}

/// Attention of ai.onnx by tokens, with shared heads and a past, causal, under truth values.
pub(super) fn by_tokens(random: &Random, cases: &mut Vec<Case>) {
    let at = Extents::pick(random);
    let (heads, share) = (at.heads, random.pick(&[1, 2]));
    let columns = heads * at.width;
    let attention = node("Attention")
        .with("q_num_heads", (heads * share) as i64)
        .with("kv_num_heads", heads as i64);
    let queries = live(random.floats(&[at.batch, at.tokens, columns * share]));
    let keys = |tokens: usize| live(random.floats(&[at.batch, tokens, columns]));
    let mut numbers = random.floats(&[at.tokens, at.keys]);
    if let Ok(numbers) = numbers.as_mut_slice::<f32>() {
        numbers.iter_mut().for_each(|number| *number = number.clamp(0.0, 1.0).ceil());
    }
    let open: Vec<bool> = match numbers.as_slice::<f32>() {
        Ok(numbers) => numbers.iter().map(|number| *number > 0.0).collect(),
        Err(_) => Vec::new(),
    };
    let mask = Tensor::from_bools(&[at.tokens, at.keys], &open).map_or(NONE, live);
    let arguments = vec![queries.clone(), keys(at.keys), keys(at.keys), mask];
    cases.push(Case::new("Attention of truth values", attention.clone(), arguments, 1));
    let causal = attention.with("is_causal", 1i64);
    let square = vec![queries.clone(), keys(at.tokens), keys(at.tokens)];
    cases.push(Case::new("Attention, causal", causal.clone(), square.clone(), 1));
    let past = [NONE, at.cache(random, heads), at.cache(random, heads)];
    let arguments = square.into_iter().chain(past).collect();
    cases.push(Case::new("Attention with a past", causal, arguments, 3));
}

/// Attention of ai.onnx by heads, over more keys than devices take at a time, whose scores grow;
/// under numbers that close some keys, all of one query, and none of another that are all as low.
pub(super) fn by_heads(random: &Random, cases: &mut Vec<Case>) {
    let (heads, share) = (random.pick(&[1, 2]), random.pick(&[1, 2]));
    let (tokens, keys, width) =
        (random.pick(&[3, 33]), random.pick(&[31, 70]), random.pick(&[8, 64, 80]));
    let queries = live(random.floats(&[2, heads * share, tokens, width]));
    let mut growing = random.floats(&[2, heads, keys, width]);
    if let Ok(numbers) = growing.as_mut_slice::<f32>() {
        for (i, number) in numbers.iter_mut().enumerate() {
            *number *= 0.2 + ((i / width) % keys) as f32 / keys as f32;
        }
    }
    let values = live(random.floats(&[2, heads, keys, random.pick(&[width, 7])]));
    let mut mask = random.floats(&[tokens, keys]);
    if let Ok(numbers) = mask.as_mut_slice::<f32>() {
        for (i, number) in numbers.iter_mut().enumerate() {
            *number = match i / keys {
                0 => f32::NEG_INFINITY,
                1 => f32::MIN,
                _ if *number < -0.5 => f32::NEG_INFINITY,
                _ => *number,
            };
        }
    }
    let arguments = vec![queries, live(growing), values];
    cases.push(Case::new("Attention by heads", node("Attention"), arguments.clone(), 1));
    let arguments = arguments.into_iter().chain([live(mask)]).collect();
    cases.push(Case::new("Attention under numbers", node("Attention"), arguments, 1));
}

/// A mask for com.microsoft in one of its forms, for queries of their own and past keys.
fn padding(random: &Random, [batch, queries, keys]: [usize; 3]) -> Argument {
    let ends = |least: usize| least as i32 + random.below(keys + 1 - least) as i32;
    let bits = |count: usize| (0..count).map(|_| random.below(3).min(1) as i32).collect();
    let (shape, values): (Vec<usize>, Vec<i32>) = match random.below(4) {
        0 => return NONE,
        1 => (vec![batch], (0..batch).map(|_| ends(1)).collect()),
        2 => (vec![batch, keys], bits(batch * keys)),
        _ => (vec![batch, queries, keys], bits(batch * queries * keys)),
    };
    Tensor::from_slice(&shape, &values).map_or(NONE, live)
}

/// MultiHeadAttention of com.microsoft.
pub(super) fn multi_head(random: &Random, cases: &mut Vec<Case>) {
    let op = "com.microsoft.MultiHeadAttention";
    let at = Extents::pick(random);
    let Extents { batch, heads, tokens, keys, past, width } = at;
    let columns = heads * width;
    let multi_head = node(op).with("num_heads", heads as i64);
    let flat = |tokens: usize| live(random.floats(&[batch, tokens, columns]));
    let bias = || weight(random.floats(&[3 * columns]));
    let added = live(random.floats(&[random.pick(&[1, batch]), heads, tokens, keys]));
    let arguments = vec![
        flat(tokens),
        flat(keys),
        flat(keys),
        bias(),
        padding(random, [batch, tokens, keys]),
        added,
    ];
    let scaled = multi_head.clone().with("scale", 0.6f32);
    cases.push(Case::new(op, scaled, arguments, 1));
    let packed = live(random.floats(&[batch, tokens, heads, 3, width]));
    let causal = multi_head.clone().with("unidirectional", 1i64);
    let name = "MultiHeadAttention, packed";
    cases.push(Case::new(name, causal.clone(), vec![packed, NONE, NONE, bias()], 1));
    let pairs = live(random.floats(&[batch, keys, heads, 2, width]));
    let name = "MultiHeadAttention, packed keys";
    cases.push(Case::new(name, multi_head.clone(), vec![flat(tokens), pairs], 1));
    let apart = |v_width: usize| live(random.floats(&[batch, heads, keys, v_width]));
    let arguments = vec![flat(tokens), apart(width), apart(width + 1), bias()];
    let name = "MultiHeadAttention to another sequence";
    cases.push(Case::new(name, multi_head, arguments, 3));
    let padding = padding(random, [batch, tokens, past + tokens]);
    let arguments = vec![
        flat(tokens),
        flat(tokens),
        flat(tokens),
        bias(),
        padding,
        NONE,
        at.cache(random, heads),
        at.cache(random, heads),
    ];
    cases.push(Case::new("MultiHeadAttention with a past", causal, arguments, 3));
}

/// Attention and QAttention of com.microsoft.
pub(super) fn projected(random: &Random, cases: &mut Vec<Case>) {
    let Extents { batch, heads, tokens, past, width, .. } = Extents::pick(random);
    let (inner, columns) = (random.pick(&[1, 6, 20]), 3 * heads * width);
    let attrs = |op: &str| -> Node {
        let attention = node(op).with("num_heads", heads as i64);
        attention.with("unidirectional", random.below(2) as i64)
    };
    let cache = live(random.floats(&[2, batch, heads, past, width]));
    let padding = || padding(random, [batch, tokens, past + tokens]);
    let bias = weight(random.floats(&[columns]));
    let op = "com.microsoft.Attention";
    let weights = (Some(random.floats(&[inner, columns])), random.below(2) == 1);
    let x = live(random.floats(&[batch, tokens, inner]));
    let arguments = vec![x.clone(), weights, bias.clone(), padding(), cache.clone()];
    cases.push(Case::new("Attention of com.microsoft", attrs(op), arguments, 2));
    let weights = weight(random.floats(&[inner, columns]));
    let added = live(random.floats(&[1, heads, tokens, tokens]));
    let arguments = vec![x, weights, bias.clone(), NONE, NONE, added];
    cases.push(Case::new("Attention of com.microsoft, biased", attrs(op), arguments, 1));
    let op = "com.microsoft.QAttention";
    let scale = |value: f32| weight(Tensor::scalar(value));
    let arguments = vec![
        live(random.tensor(DType::I8, &[batch, tokens, inner])),
        weight(random.tensor(DType::I8, &[inner, columns])),
        bias,
        scale(0.01),
        scale(0.02),
        padding(),
        weight(random.tensor(DType::I8, &[])),
        weight(random.tensor(DType::I8, &[])),
        cache,
    ];
    cases.push(Case::new(op, attrs(op), arguments, 2));
}

/// Rotary embeddings by heads and by tokens, with positions and an offset.
pub(super) fn rotaries(random: &Random, cases: &mut Vec<Case>) {
    let Extents { batch, heads, tokens, .. } = Extents::pick(random);
    let (half, more, lines) = (random.pick(&[1, 4, 16]), random.pick(&[0, 3]), tokens + 3);
    let width = 2 * half + more;
    let by_heads = random.below(2) == 1;
    let x = match by_heads {
        true => random.floats(&[batch, heads, tokens, width]),
        false => random.floats(&[batch, tokens, heads * width]),
    };
    let ids: Vec<i64> = (0..batch * tokens).map(|_| random.below(lines) as i64).collect();
    let ids = Tensor::from_slice(&[batch, tokens], &ids).map_or(NONE, live);
    let offset = live(Tensor::vector(&[random.below(3) as i64]));
    let table = || weight(random.floats(&[lines, half]));
    let attrs = |op: &str| {
        let rotary = node(op).with("interleaved", random.below(2) as i64);
        rotary.with("num_heads", heads as i64).with("rotary_embedding_dim", 2 * half as i64)
    };
    let op = "RotaryEmbedding";
    let arguments = vec![live(x.clone()), table(), table(), ids.clone()];
    cases.push(Case::new(op, attrs(op), arguments, 1));
    let op = "com.microsoft.RotaryEmbedding";
    for positions in [ids, offset] {
        let arguments = vec![live(x.clone()), positions, table(), table()];
        cases.push(Case::new(op, attrs(op), arguments, 1));
    }
}

/// GroupQueryAttention: prompts, and tokens after caches of different lengths.
pub(super) fn grouped(random: &Random, cases: &mut Vec<Case>) {
    let op = "com.microsoft.GroupQueryAttention";
    let Extents { batch, heads, tokens, .. } = Extents::pick(random);
    let (kv_heads, width, past) = (heads, 2 * random.pick(&[1, 4]), random.pick(&[4, 9]));
    let heads = kv_heads * random.pick(&[1, 2]);
    let flat = |heads: usize| live(random.floats(&[batch, tokens, heads * width]));
    let attrs = || {
        let grouped = node(op).with("num_heads", heads as i64).with("do_rotary", 1i64);
        let grouped = grouped.with("rotary_interleaved", random.below(2) as i64);
        grouped.with("kv_num_heads", kv_heads as i64)
    };
    let table = || weight(random.floats(&[past + tokens, width / 2]));
    let scalar = |value: usize| live(Tensor::scalar(value as i32));
    let lasts = |last: &dyn Fn() -> usize| {
        let lasts: Vec<i32> = (0..batch).map(|_| last() as i32).collect();
        live(Tensor::vector(&lasts))
    };
    let packed = flat(heads + 2 * kv_heads);
    let whole = lasts(&|| tokens - 1);
    let arguments = vec![packed, NONE, NONE, NONE, NONE, whole, scalar(tokens), table(), table()];
    cases.push(Case::new("GroupQueryAttention of a prompt", attrs(), arguments, 3));
    let cache = || live(random.floats(&[batch, kv_heads, past, width]));
    let arguments = vec![
        flat(heads),
        flat(kv_heads),
        flat(kv_heads),
        cache(),
        cache(),
        lasts(&|| tokens - 1 + random.below(past + 1)),
        scalar(past + tokens),
        table(),
        table(),
    ];
    cases.push(Case::new("GroupQueryAttention with a past", attrs(), arguments, 3));
}

/// EmbedLayerNormalization, with and without segments, positions and a mask.
pub(super) fn embeddings(random: &Random, cases: &mut Vec<Case>) {
    let (batch, tokens, hidden) =
        (random.pick(&[1, 2]), random.pick(&[1, 5]), random.pick(&[4, 19, 64]));
    let ids = |rows: usize, batch: usize| {
        let ids: Vec<i32> = (0..batch * tokens).map(|_| random.below(rows) as i32).collect();
        Tensor::from_slice(&[batch, tokens], &ids).map_or(NONE, live)
    };
    let table = |rows: usize| weight(random.floats(&[rows, hidden]));
    let row = || weight(random.floats(&[hidden]));
    let (words, places) = (ids(9, batch), ids(6, 1));
    let mut arguments = vec![words.clone(), ids(2, batch), table(9), table(6), table(2)];
    arguments.extend([row(), row(), ids(2, batch), places]);
    let op = "com.microsoft.EmbedLayerNormalization";
    cases.push(Case::new(op, node(op).with("epsilon", 1e-3f32), arguments, 3));
    let arguments = vec![words, NONE, table(9), table(6), NONE, row(), row()];
    cases.push(Case::new("EmbedLayerNormalization of words", node(op), arguments, 1));
}
