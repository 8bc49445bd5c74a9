//! Attention of ai.onnx, where the items of a group share memory, as on GPUs: scores are never in
//! the device's memory. Tiles of keys come one after the other, and what was summed before is
//! rescaled where a greater score comes (M. Milakov, N. Gimelshein, Online normalizer calculation
//! for softmax, 2018; T. Dao et al., FlashAttention, 2022).

use hetra_device::LaunchLimits;
use hetra_ir::Dim;
use hetra_kernel::kernel;
use hetra_ops::AttentionForm;
use hetra_tensor::{DType, Shape};
use smallvec::{SmallVec, smallvec};

use crate::context::{A, Gpu, Outcome, Run, Stop};
use crate::math::is_nan;
use crate::stored::Stored;
use crate::table::{Form, Row};

pub(crate) const ROWS: &[Row] = &[Row {
    ops: &["Attention"],
    kernel: "attention",
    on_device: &[0, 1, 2, 3],
    takes,
    compile: |_, _, node| {
        let form = AttentionForm::of(&node.attrs).ok()?;
        Some(Box::new(move |run| attention(run, &form)))
    },
}];

/// Widths of keys and values that a group has memory for.
const WIDTH_MAX: usize = 128;

fn takes(form: &Form<'_>) -> bool {
    let node = form.node;
    // A past, lengths without padding and more outputs are the host's.
    let rare = (4..7).any(|index| node.input(index).is_some())
        || (1..4).any(|index| node.output(index).is_some());
    let plain = AttentionForm::of(&node.attrs).is_ok_and(|form| form.softcap == 0.0);
    let width = |index: usize| match form.ty(index).dims() {
        Some([_, _, _, Dim::Known(width)]) => *width,
        _ => 1,
    };
    let fits = (0..3).all(|index| width(index) <= WIDTH_MAX && form.is_f32(index));
    let mask = form.ty(3).dtype().is_none_or(|dtype| matches!(dtype, DType::F32 | DType::Bool));
    let limits = form.gpu.limits();
    !rare && plain && fits && mask && limits.cheap_barriers && tile(limits, [1, 1]).is_some()
}

/// A group has `TILE` queries of a head and sees as many keys at a time; eight items have two
/// queries. `W` and `V` are the widths of keys and values; `KEYS` is `TILE / 8`, `COLUMNS` is the
/// eighth of `V`, rounded up.
#[kernel(group = [GROUP])]
fn attend<
    const W: usize,
    const V: usize,
    const TILE: usize,
    const GROUP: usize,
    const KEYS: usize,
    const COLUMNS: usize,
>(
    queries: u32,
    keys: u32,
    share: u32,
    q_batch: u32,
    q_head: u32,
    q_token: u32,
    k_batch: u32,
    k_head: u32,
    k_token: u32,
    v_batch: u32,
    v_head: u32,
    v_token: u32,
    y_batch: u32,
    y_head: u32,
    y_token: u32,
    scale: f32,
    causal: u32,
    mask_keys: u32,
    mask_batch: u32,
    mask_head: u32,
    mask_query: u32,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    mask: &[f32],
    y: &mut [f32],
) {
    let tile_q = shared::<[[f32; W]; TILE]>();
    let tile_k = shared::<[[f32; W]; TILE]>();
    let tile_v = shared::<[[f32; V]; TILE]>();
    let scores = shared::<[[f32; TILE]; TILE]>();
    let item = local_id(0);
    let lane = item % 8;
    let pair = (item / 8) * 2;
    let first = group_id(0) * TILE;
    let head = group_id(1);
    let batch = group_id(2);
    let q_at = batch * q_batch + head * q_head;
    let k_at = batch * k_batch + (head / share) * k_head;
    let v_at = batch * v_batch + (head / share) * v_head;
    let mask_at = batch * mask_batch + head * mask_head;
    for e in (item..TILE * W).step_by(GROUP) {
        let query = first + e / W;
        let mut value = 0.0;
        if query < queries {
            value = q[q_at + query * q_token + e % W] * scale;
        }
        tile_q[e / W][e % W] = value;
    }
    let closed = f32::NEG_INFINITY;
    let mut most = [closed; 2];
    let mut total = [0.0; 2];
    let mut sums = [[0.0; COLUMNS]; 2];
    let mut dots = [[0.0; KEYS]; 2];
    for from in (0..keys).step_by(TILE) {
        for e in (item..TILE * W).step_by(GROUP) {
            let key = from + e / W;
            let mut value = 0.0;
            if key < keys {
                value = k[k_at + key * k_token + e % W];
            }
            tile_k[e / W][e % W] = value;
        }
        for e in (item..TILE * V).step_by(GROUP) {
            let key = from + e / V;
            let mut value = 0.0;
            if key < keys {
                value = v[v_at + key * v_token + e % V];
            }
            tile_v[e / V][e % V] = value;
        }
        barrier();
        for r in 0..2 {
            for j in 0..KEYS {
                dots[r][j] = 0.0;
            }
        }
        for i in 0..W {
            for j in 0..KEYS {
                let key = tile_k[lane + j * 8][i];
                for r in 0..2 {
                    dots[r][j] += tile_q[pair + r][i] * key;
                }
            }
        }
        for r in 0..2 {
            for j in 0..KEYS {
                let query = first + pair + r;
                let key = from + lane + j * 8;
                let mut score = closed;
                if key < keys && query < queries && (causal == 0 || key <= query) {
                    score = dots[r][j];
                    if mask_keys != 0 {
                        let mut more = closed;
                        if key < mask_keys {
                            more = mask[mask_at + query * mask_query + key];
                        }
                        score += more;
                    }
                }
                scores[pair + r][lane + j * 8] = score;
            }
        }
        barrier();
        for r in 0..2 {
            let mut top = most[r];
            for j in 0..TILE {
                let score = scores[pair + r][j];
                top = if score > top { score } else { top };
            }
            // Of two infinities nothing is left.
            let mut factor = 1.0;
            if top > most[r] {
                factor = (most[r] - top).exp();
            }
            most[r] = top;
            total[r] *= factor;
            for i in 0..COLUMNS {
                sums[r][i] *= factor;
            }
        }
        for j in 0..TILE {
            for r in 0..2 {
                let score = scores[pair + r][j];
                let mut weight = 0.0;
                if is_nan(score) {
                    weight = score;
                } else if score > closed {
                    weight = (score - most[r]).exp();
                }
                total[r] += weight;
                for i in 0..COLUMNS {
                    let column = lane + i * 8;
                    if column < V {
                        sums[r][i] += weight * tile_v[j][column];
                    }
                }
            }
        }
        barrier();
    }
    for r in 0..2 {
        let query = first + pair + r;
        // A query that sees no key has zeros.
        let seen = total[r] > 0.0 || is_nan(total[r]);
        let factor = if seen { 1.0 / total[r] } else { 0.0 };
        for i in 0..COLUMNS {
            let column = lane + i * 8;
            if query < queries && column < V {
                y[batch * y_batch + head * y_head + query * y_token + column] = sums[r][i] * factor;
            }
        }
    }
}

/// A mask of truth values as one to add.
#[kernel(group = [64])]
fn opened(count: u32, open: &[bool], y: &mut [f32]) {
    let at = global_id(0);
    if at < count {
        y[at] = if open[at] { 0.0 } else { f32::NEG_INFINITY };
    }
}

/// Queries of a group: as many as there is shared memory for.
fn tile(limits: &LaunchLimits, [width, v_width]: [usize; 2]) -> Option<usize> {
    let fits = |tile: &usize| {
        let floats = tile * (2 * width + v_width + tile);
        floats * 4 <= limits.shared_bytes_max && 4 * tile <= limits.group_items_max as usize
    };
    [32, 16, 8].into_iter().find(fits)
}

/// Queries, keys, values or results in memory: extents, and elements from one to the next.
struct Side {
    batch: usize,
    heads: usize,
    tokens: usize,
    width: usize,
    steps: [usize; 3],
}

impl Side {
    fn of(shape: &[usize], heads: Option<usize>) -> Option<Side> {
        match *shape {
            [batch, heads, tokens, width] => {
                let steps = [heads * tokens * width, tokens * width, width];
                Some(Side { batch, heads, tokens, width, steps })
            }
            [batch, tokens, all] => {
                let heads = heads.filter(|&heads| heads > 0 && all.is_multiple_of(heads))?;
                let width = all / heads;
                Some(Side { batch, heads, tokens, width, steps: [tokens * all, width, all] })
            }
            _ => None,
        }
    }

    fn steps<'a>(&self) -> impl Iterator<Item = A<'a>> {
        self.steps.into_iter().map(A::U)
    }
}

/// A mask on the device, its keys, and its steps along batch, heads and queries.
struct Mask {
    numbers: Stored,
    keys: usize,
    steps: [usize; 3],
}

impl Mask {
    fn of(gpu: &Gpu, mask: Stored, q: &Side, keys: usize) -> Result<Mask, Stop> {
        let (&last, outer) = mask.shape.split_last().ok_or(Stop::Host)?;
        let extents = [q.batch, q.heads, q.tokens];
        if outer.len() > 3 || last > keys || last == 0 {
            return Err(Stop::Host);
        }
        let (mut steps, mut step) = ([0; 3], last);
        for (axis, &extent) in outer.iter().enumerate().rev() {
            let place = axis + 3 - outer.len();
            if extent == extents[place] {
                steps[place] = step;
            } else if extent != 1 {
                return Err(Stop::Host);
            }
            step = step.saturating_mul(extent);
        }
        let numbers = match mask.dtype {
            DType::F32 => mask,
            DType::Bool => {
                let to = gpu.room(DType::F32, &mask.shape)?;
                let kernel = gpu.kernel("opened", || opened::with(&[]))?;
                gpu.line(&kernel, to.count(), &[A::U(to.count()), A::M(&mask), A::M(&to)])?;
                to
            }
            _ => return Err(Stop::Host),
        };
        Ok(Mask { numbers, keys: last, steps })
    }
}

fn attention(run: &Run<'_, '_>, form: &AttentionForm) -> Outcome {
    let (q_of, k_of, v_of) = (run.input(0)?, run.input(1)?, run.input(2)?);
    if [&q_of, &k_of, &v_of].iter().any(|of| of.dtype != DType::F32) {
        return Err(Stop::Host);
    }
    let q = Side::of(&q_of.shape, form.heads).ok_or(Stop::Host)?;
    let k = Side::of(&k_of.shape, form.kv_heads).ok_or(Stop::Host)?;
    let v = Side::of(&v_of.shape, form.kv_heads).ok_or(Stop::Host)?;
    // What does not belong together is refused by the reference, with its words.
    let together = [q.batch, q.width] == [k.batch, k.width]
        && [v.batch, v.heads, v.tokens] == [k.batch, k.heads, k.tokens]
        && k.heads > 0
        && q.heads.is_multiple_of(k.heads)
        && [q.batch, q.heads, q.tokens, k.tokens, q.width, v.width].iter().all(|&n| n > 0);
    if !together || q.width > WIDTH_MAX || v.width > WIDTH_MAX {
        return Err(Stop::Host);
    }
    let tile = tile(run.gpu.limits(), [q.width, v.width]).ok_or(Stop::Host)?;
    let shape: Shape = match q_of.shape.len() {
        3 => smallvec![q.batch, q.tokens, q.heads * v.width],
        _ => smallvec![q.batch, q.heads, q.tokens, v.width],
    };
    let out = run.gpu.room(DType::F32, &shape)?;
    let y = Side::of(&shape, Some(q.heads)).ok_or(Stop::Host)?;
    let mask = run.optional(3)?.map(|mask| Mask::of(run.gpu, mask, &q, k.tokens)).transpose()?;
    let scale = form.scale.unwrap_or(1.0 / (q.width as f32).sqrt());
    let mut args: SmallVec<[A<'_>; 32]> =
        smallvec![A::U(q.tokens), A::U(k.tokens), A::U(q.heads / k.heads)];
    args.extend(q.steps().chain(k.steps()).chain(v.steps()).chain(y.steps()));
    args.extend([A::F(scale), A::U(usize::from(form.causal))]);
    let (mask_keys, steps) = mask.as_ref().map_or((0, [0; 3]), |mask| (mask.keys, mask.steps));
    args.push(A::U(mask_keys));
    args.extend(steps.map(A::U));
    let numbers = mask.as_ref().map_or(&q_of, |mask| &mask.numbers);
    args.extend([&q_of, &k_of, &v_of, numbers, &out].map(A::M));
    let own = [q.width, v.width, tile, 4 * tile, tile / 8, v.width.div_ceil(8)].map(|n| n as u32);
    let kernel = run.gpu.kernel(&format!("attend {own:?}"), || attend::with(&own))?;
    run.gpu.launch(&kernel, [q.tokens.div_ceil(tile), q.heads, q.batch], &args)?;
    drop(args);
    Ok(smallvec![out])
}

#[cfg(test)]
mod tests {
    use hetra_kernel::SHARED_BYTES_MAX;

    use super::*;
    use crate::cut::tests::limits;

    #[test]
    fn a_kernel_for_every_width_is_accepted() {
        for shared_bytes_max in [16 << 10, SHARED_BYTES_MAX] {
            let limits = LaunchLimits { shared_bytes_max, ..limits() };
            for width in 1..=WIDTH_MAX {
                let tile = tile(&limits, [width, width]).unwrap();
                let own = [width, width, tile, 4 * tile, tile / 8, width.div_ceil(8)];
                let kernel = attend::with(&own.map(|n| n as u32)).unwrap();
                assert!(kernel.shared_bytes() <= shared_bytes_max, "{width}");
            }
        }
    }
}
