//! What moves elements and computes nothing: one kernel walks its input and its output by strides.

use hetra_device::Part;
use hetra_ir::Node;
use hetra_kernel::{Scalar, f16, kernel};
use hetra_ops::{SliceForm, resolve_axis};
use hetra_tensor::{Shape, broadcast, strides_of};
use smallvec::{SmallVec, smallvec};

use crate::context::{A, Gpu, Outcome, Run, Stop};
use crate::program::Work;
use crate::stored::Stored;
use crate::table::{Form, Row};

pub(crate) const ROWS: &[Row] = &[
    row(&["Transpose"], |_, _, node| work(node, transpose)),
    row(&["Slice"], |_, _, node| work(node, slice)),
    row(&["Split"], |_, _, node| work(node, split)),
    row(&["Concat"], |_, _, node| work(node, concat)),
    row(&["Expand"], |_, _, node| work(node, expand)),
    row(&["Tile"], |_, _, node| work(node, tile)),
    row(&["DepthToSpace"], |_, _, node| work(node, depth_to_space)),
    row(&["SpaceToDepth"], |_, _, node| work(node, space_to_depth)),
    row(&["Gather"], |_, _, node| work(node, gather)),
    row(&["GatherND"], |_, _, node| work(node, gather_nd)),
    row(&["GatherElements"], |_, _, node| work(node, gather_elements)),
    Row {
        takes: |form| !form.is_f16(0) && takes(form),
        ..row(&["Trilu"], |_, _, node| work(node, triangle))
    },
];

const fn row(
    ops: &'static [&'static str],
    compile: fn(&Gpu, &Part<'_>, &Node) -> Option<Work>,
) -> Row {
    Row { ops, kernel: "move", on_device: &[0], takes, compile }
}

/// Whether a device holds elements of the dtype.
fn takes(form: &Form<'_>) -> bool {
    form.ty(0).dtype().is_none_or(|dtype| form.gpu.scalar(dtype).is_some())
}

fn work(node: &Node, run: fn(&Run<'_, '_>, &Node) -> Outcome) -> Option<Work> {
    let node = node.clone();
    Some(Box::new(move |at| run(at, &node)))
}

/// Most elements that an item copies.
const ITEM_ELEMENTS: usize = 1024;

/// Most axes of a walk.
const AXES: usize = 6;

/// A kernel that copies elements: where the walk is along each axis says where both are. Steps may
/// be negative: they wrap. An item has up to `each` elements of the innermost axis, which has `e0`.
macro_rules! copies {
    ($name:ident of $element:ident) => {
        #[kernel(group = [64])]
        fn $name(
            n: u32,
            each: u32,
            parts: u32,
            e0: u32,
            e1: u32,
            e2: u32,
            e3: u32,
            e4: u32,
            from: u32,
            x0: u32,
            x1: u32,
            x2: u32,
            x3: u32,
            x4: u32,
            x5: u32,
            to: u32,
            y0: u32,
            y1: u32,
            y2: u32,
            y3: u32,
            y4: u32,
            y5: u32,
            x: &[$element],
            y: &mut [$element],
        ) {
            let mut i = global_id(0);
            if i >= n {
                return;
            }
            let mut source = from;
            let mut target = to;
            let a = (i % parts) * each;
            i /= parts;
            let b = i % e1;
            i /= e1;
            let c = i % e2;
            i /= e2;
            let d = i % e3;
            i /= e3;
            let e = i % e4;
            i /= e4;
            source += a * x0 + b * x1 + c * x2 + d * x3 + e * x4 + i * x5;
            target += a * y0 + b * y1 + c * y2 + d * y3 + e * y4 + i * y5;
            let count = each.min(e0 - a);
            if x0 == 1 && y0 == 1 {
                for k in 0..count {
                    y[target + k] = x[source + k];
                }
            } else {
                for k in 0..count {
                    y[target + k * y0] = x[source + k * x0];
                }
            }
        }
    };
}

copies!(copy_words of u32);
copies!(copy_halves of f16);

/// Rows picked by index.
macro_rules! gathers {
    ($name:ident of $element:ident) => {
        #[kernel(group = [64])]
        fn $name(
            n: u32,
            inner: u32,
            picked: u32,
            extent: u32,
            indices: &[i32],
            x: &[$element],
            y: &mut [$element],
        ) {
            let i = global_id(0);
            if i >= n {
                return;
            }
            let rest = i % inner;
            let row = i / inner;
            let index = indices[row % picked];
            let place = if index < 0 { (index + (extent as i32)) as u32 } else { index as u32 };
            y[i] = x[((row / picked) * extent + place) * inner + rest];
        }
    };
}

gathers!(gather_words of u32);
gathers!(gather_halves of f16);

/// One triangle of each matrix: elements on one side of a diagonal, which is `shift` right of the
/// main one; zeros elsewhere.
#[kernel(group = [64])]
fn triangle_words(
    n: u32,
    rows: u32,
    columns: u32,
    upper: u32,
    shift: i32,
    x: &[u32],
    y: &mut [u32],
) {
    let i = global_id(0);
    if i >= n {
        return;
    }
    let column = (i % columns) as i32;
    let edge = ((i / columns) % rows) as i32 + shift;
    let kept = if upper != 0 { column >= edge } else { column <= edge };
    let value = x[i];
    y[i] = if kept { value } else { 0 };
}

/// A walk over extents, outermost first, with the steps of both sides in elements.
struct Walk {
    extents: Vec<usize>,
    from: usize,
    source: Vec<isize>,
    to: usize,
    target: Vec<isize>,
}

impl Walk {
    /// Axes that are one in both, as one.
    fn merged(&self) -> Vec<(usize, isize, isize)> {
        let mut axes: Vec<(usize, isize, isize)> = Vec::new();
        for axis in (0..self.extents.len()).rev().filter(|&axis| self.extents[axis] != 1) {
            let (extent, x, y) = (self.extents[axis], self.source[axis], self.target[axis]);
            match axes.last_mut() {
                Some((inner, inner_x, inner_y))
                    if x == *inner_x * *inner as isize && y == *inner_y * *inner as isize =>
                {
                    *inner *= extent;
                }
                _ => axes.push((extent, x, y)),
            }
        }
        axes
    }
}

fn signed(strides: &[usize]) -> Vec<isize> {
    strides.iter().map(|&stride| stride as isize).collect()
}

/// Copies along a walk.
fn copy(run: &Run<'_, '_>, x: &Stored, out: &Stored, walk: &Walk) -> Result<(), Stop> {
    let count: usize = walk.extents.iter().product();
    if count == 0 {
        return Ok(());
    }
    let mut axes = walk.merged();
    if axes.len() > AXES {
        return Err(Stop::Host);
    }
    axes.resize(AXES, (1, 0, 0));
    // Steps below zero wrap, as the kernel's sums do.
    let word = |step: isize| A::U(step as i32 as u32 as usize);
    // Items beside each other had better read what lies side by side, where they run at once; else
    // an item had better go along itself.
    let each = if run.gpu.limits().lanes > 1 { axes[0].0.min(ITEM_ELEMENTS) } else { 1 };
    let parts = axes[0].0.div_ceil(each);
    let items = count / axes[0].0 * parts;
    let mut args: SmallVec<[A<'_>; 32]> = smallvec![A::U(items), A::U(each), A::U(parts)];
    args.extend(axes[..AXES - 1].iter().map(|axis| A::U(axis.0)));
    args.push(A::U(walk.from));
    args.extend(axes.iter().map(|axis| word(axis.1)));
    args.push(A::U(walk.to));
    args.extend(axes.iter().map(|axis| word(axis.2)));
    args.extend([A::W(x), A::W(out)]);
    let kernel = match x.scalar {
        Scalar::F16 => run.gpu.kernel("copy_halves", || copy_halves::with(&[]))?,
        _ => run.gpu.kernel("copy_words", || copy_words::with(&[]))?,
    };
    run.gpu.line(&kernel, items, &args)
}

/// A new tensor whose elements are walked densely while the input is walked by these steps.
fn picked(
    run: &Run<'_, '_>,
    x: &Stored,
    shape: &[usize],
    (extents, from, source): (Vec<usize>, usize, Vec<isize>),
) -> Outcome {
    let out = run.gpu.room(x.dtype, shape)?;
    let target = signed(&strides_of(&extents));
    copy(run, x, &out, &Walk { extents, from, source, to: 0, target })?;
    Ok(smallvec![out])
}

fn transpose(run: &Run<'_, '_>, node: &Node) -> Outcome {
    let x = run.input(0)?;
    let rank = x.shape.len();
    let perm: Vec<usize> = match node.attrs.ints_opt("perm")? {
        Some(perm) => perm.iter().filter_map(|&axis| usize::try_from(axis).ok()).collect(),
        None => (0..rank).rev().collect(),
    };
    let mut sorted = perm.clone();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(0..rank) {
        return Err(Stop::Host);
    }
    Ok(smallvec![permuted(run, &x, &perm)?])
}

/// The tensor with its axes in another order.
pub(crate) fn permuted(run: &Run<'_, '_>, x: &Stored, perm: &[usize]) -> Result<Stored, Stop> {
    let strides = strides_of(&x.shape);
    let shape: Vec<usize> = perm.iter().map(|&axis| x.shape[axis]).collect();
    let source = perm.iter().map(|&axis| strides[axis] as isize).collect();
    let mut moved = picked(run, x, &shape, (shape.clone(), 0, source))?;
    moved.pop().ok_or(Stop::Host)
}

fn slice(run: &Run<'_, '_>, _: &Node) -> Outcome {
    for index in 1..run.call.inputs.len() {
        run.on_host(index)?;
    }
    let x = run.input(0)?;
    let SliceForm { offset, shape, strides } = SliceForm::resolve(&run.call.context())?;
    picked(run, &x, &shape, (shape.clone(), offset, strides))
}

fn split(run: &Run<'_, '_>, node: &Node) -> Outcome {
    let x = run.input(0)?;
    let axis = resolve_axis(node.attrs.int_or("axis", 0)?, x.shape.len())?;
    let (extent, count) = (x.shape[axis], node.outputs.len());
    let lengths: Vec<usize> = match run.numbers(1)? {
        Some(given) => given.into_iter().filter_map(|n| usize::try_from(n).ok()).collect(),
        None if count > 0 && extent.is_multiple_of(count) => vec![extent / count; count],
        None => return Err(Stop::Host),
    };
    if lengths.len() != count || lengths.iter().sum::<usize>() != extent {
        return Err(Stop::Host);
    }
    let strides = strides_of(&x.shape);
    let mut from = 0;
    let mut parts = SmallVec::new();
    for length in lengths {
        let mut shape: Vec<usize> = x.shape.to_vec();
        shape[axis] = length;
        parts.extend(picked(run, &x, &shape, (shape.clone(), from, signed(&strides)))?);
        from += length * strides[axis];
    }
    Ok(parts)
}

fn concat(run: &Run<'_, '_>, node: &Node) -> Outcome {
    let parts = (0..node.inputs.len()).map(|i| run.input(i)).collect::<Result<Vec<_>, _>>()?;
    let first = parts.first().ok_or(Stop::Host)?;
    let axis = resolve_axis(*node.attrs.int("axis")?, first.shape.len())?;
    let mut shape: Shape = first.shape.clone();
    shape[axis] = parts.iter().map(|part| part.shape.get(axis).copied().unwrap_or(0)).sum();
    let fits = |part: &Stored| {
        let same = |at: usize| at == axis || part.shape[at] == shape[at];
        part.dtype == first.dtype && part.shape.len() == shape.len() && (0..shape.len()).all(same)
    };
    if !parts.iter().all(fits) {
        return Err(Stop::Host);
    }
    let out = run.gpu.room(first.dtype, &shape)?;
    let strides = strides_of(&shape);
    let mut to = 0;
    for part in &parts {
        let extents = part.shape.to_vec();
        let (source, target) = (signed(&strides_of(&part.shape)), signed(&strides));
        copy(run, part, &out, &Walk { extents, from: 0, source, to, target })?;
        to += part.shape[axis] * strides[axis];
    }
    Ok(smallvec![out])
}

/// Extents that an input lists.
fn extents(run: &Run<'_, '_>, index: usize) -> Result<Vec<usize>, Stop> {
    let listed = run.numbers(index)?.ok_or(Stop::Host)?;
    listed.into_iter().map(|n| usize::try_from(n).map_err(|_| Stop::Host)).collect()
}

fn expand(run: &Run<'_, '_>, _: &Node) -> Outcome {
    let x = run.input(0)?;
    let shape = broadcast(&x.shape, &extents(run, 1)?)?;
    let (strides, lead) = (strides_of(&x.shape), shape.len() - x.shape.len());
    let step = |axis: usize| match axis.checked_sub(lead) {
        Some(own) if x.shape[own] != 1 => strides[own] as isize,
        _ => 0,
    };
    let source = (0..shape.len()).map(step).collect();
    picked(run, &x, &shape, (shape.to_vec(), 0, source))
}

fn tile(run: &Run<'_, '_>, _: &Node) -> Outcome {
    let (x, counts) = (run.input(0)?, extents(run, 1)?);
    if counts.len() != x.shape.len() {
        return Err(Stop::Host);
    }
    let strides = strides_of(&x.shape);
    let (mut shape, mut walk, mut source) = (Vec::new(), Vec::new(), Vec::new());
    for (axis, &count) in counts.iter().enumerate() {
        shape.push(x.shape[axis].checked_mul(count).ok_or(Stop::Host)?);
        walk.extend([count, x.shape[axis]]);
        source.extend([0, strides[axis] as isize]);
    }
    picked(run, &x, &shape, (walk, 0, source))
}

fn depth_to_space(run: &Run<'_, '_>, node: &Node) -> Outcome {
    let x = run.input(0)?;
    let block = usize::try_from(*node.attrs.int("blocksize")?).map_err(|_| Stop::Host)?;
    let &[images, channels, height, width] = &x.shape[..] else { return Err(Stop::Host) };
    if block == 0 || !channels.is_multiple_of(block * block) {
        return Err(Stop::Host);
    }
    let depth = channels / (block * block);
    let plane = (height * width) as isize;
    let (depth_step, block_step) = match node.attrs.str_or("mode", "DCR")? {
        "DCR" => (plane, plane * depth as isize),
        _ => (plane * (block * block) as isize, plane),
    };
    let shape = [images, depth, height * block, width * block];
    let walk = vec![images, depth, height, block, width, block];
    let source = vec![
        plane * channels as isize,
        depth_step,
        width as isize,
        block_step * block as isize,
        1,
        block_step,
    ];
    picked(run, &x, &shape, (walk, 0, source))
}

fn space_to_depth(run: &Run<'_, '_>, node: &Node) -> Outcome {
    let x = run.input(0)?;
    let block = usize::try_from(*node.attrs.int("blocksize")?).map_err(|_| Stop::Host)?;
    let &[images, channels, height, width] = &x.shape[..] else { return Err(Stop::Host) };
    if block == 0 || !height.is_multiple_of(block) || !width.is_multiple_of(block) {
        return Err(Stop::Host);
    }
    let (rows, columns) = (height / block, width / block);
    let shape = [images, channels * block * block, rows, columns];
    let walk = vec![images, block, block, channels, rows, columns];
    let line = width as isize;
    let plane = line * height as isize;
    let (image, of_block) = (plane * channels as isize, line * block as isize);
    picked(run, &x, &shape, (walk, 0, vec![image, line, 1, plane, of_block, block as isize]))
}

/// The element at each place, but at another index along an axis: by its place among all.
fn gather_elements(run: &Run<'_, '_>, node: &Node) -> Outcome {
    let x = run.input(0)?;
    let axis = resolve_axis(node.attrs.int_or("axis", 0)?, x.shape.len())?;
    let shape: Shape = run.call.tensor(1)?.shape().into();
    let inside = |at: usize| at == axis || shape[at] <= x.shape[at];
    if shape.len() != x.shape.len() || !(0..shape.len()).all(inside) {
        return Err(Stop::Host);
    }
    let mut indices = run.numbers(1)?.ok_or(Stop::Host)?;
    let (strides, extent) = (strides_of(&x.shape), x.shape[axis] as i64);
    let own = strides_of(&shape);
    for (at, index) in indices.iter_mut().enumerate() {
        let chosen = if *index < 0 { *index + extent } else { *index };
        if chosen < 0 || chosen >= extent {
            return Err(Stop::Host);
        }
        let along = |other: usize| if other == axis { 0 } else { at / own[other] % shape[other] };
        let place: usize = (0..shape.len()).map(|other| along(other) * strides[other]).sum();
        *index = place as i64 + chosen * strides[axis] as i64;
    }
    pick(run, &x, &indices, (x.count(), 1), &shape)
}

fn triangle(run: &Run<'_, '_>, node: &Node) -> Outcome {
    let (x, shift) = (run.input(0)?, run.numbers(1)?);
    let shift = shift.and_then(|shift| shift.first().copied()).unwrap_or(0);
    let upper = node.attrs.flag_or("upper", true)?;
    let &[.., rows, columns] = &x.shape[..] else { return Err(Stop::Host) };
    if x.count() == 0 {
        return Err(Stop::Host);
    }
    // No diagonal lies further away than the matrix is wide or high.
    let most = (rows + columns) as i64;
    let shift = shift.clamp(-most, most) as i32;
    let out = run.gpu.room(x.dtype, &x.shape)?;
    let kernel = run.gpu.kernel("triangle_words", || triangle_words::with(&[]))?;
    let sizes = [x.count(), rows, columns, usize::from(upper)].map(A::U);
    let mut args: SmallVec<[A<'_>; 8]> = sizes.into_iter().collect();
    args.extend([A::I(shift), A::W(&x), A::W(&out)]);
    run.gpu.line(&kernel, x.count(), &args)?;
    Ok(smallvec![out.clone()])
}

fn gather(run: &Run<'_, '_>, node: &Node) -> Outcome {
    let x = run.input(0)?;
    let axis = resolve_axis(node.attrs.int_or("axis", 0)?, x.shape.len())?;
    let extent = x.shape[axis];
    // Which indices there are is looked at before: a kernel has no way to refuse one.
    let given = run.call.tensor(1)?;
    let indices = run.numbers(1)?.ok_or(Stop::Host)?;
    let inside = |&index: &i64| index >= -(extent as i64) && index < extent as i64;
    if !indices.iter().all(inside) {
        return Err(Stop::Host);
    }
    let mut shape: Shape = x.shape[..axis].into();
    shape.extend_from_slice(given.shape());
    shape.extend_from_slice(&x.shape[axis + 1..]);
    let inner: usize = x.shape[axis + 1..].iter().product();
    pick(run, &x, &indices, (extent, inner), &shape)
}

/// Blocks by tuples of indices: by their places among all blocks.
fn gather_nd(run: &Run<'_, '_>, node: &Node) -> Outcome {
    let x = run.input(0)?;
    let given = run.call.tensor(1)?;
    let batch = usize::try_from(node.attrs.int_or("batch_dims", 0)?).map_err(|_| Stop::Host)?;
    let Some((&width, outer)) = given.shape().split_last() else { return Err(Stop::Host) };
    let fits = batch <= outer.len() && batch + width <= x.shape.len();
    if !fits || outer[..batch] != x.shape[..batch] || width == 0 {
        return Err(Stop::Host);
    }
    let indices = run.numbers(1)?.ok_or(Stop::Host)?;
    let extents = &x.shape[batch..batch + width];
    let blocks: usize = extents.iter().product();
    let tuples: usize = outer[batch..].iter().product();
    let mut places: Vec<i64> = Vec::with_capacity(indices.len() / width);
    for (at, tuple) in indices.chunks_exact(width).enumerate() {
        let mut place = 0;
        for (&index, &extent) in tuple.iter().zip(extents) {
            let own = if index < 0 { index + extent as i64 } else { index };
            if own < 0 || own >= extent as i64 {
                return Err(Stop::Host);
            }
            place = place * extent + own as usize;
        }
        places.push((at / tuples.max(1) * blocks + place) as i64);
    }
    let mut shape: Shape = outer.into();
    shape.extend_from_slice(&x.shape[batch + width..]);
    let inner: usize = x.shape[batch + width..].iter().product();
    let extent: usize = x.shape[..batch + width].iter().product();
    pick(run, &x, &places, (extent, inner), &shape)
}

/// Blocks of `inner` elements, of `extent` of them, by indices that are inside.
fn pick(
    run: &Run<'_, '_>,
    x: &Stored,
    indices: &[i64],
    (extent, inner): (usize, usize),
    shape: &[usize],
) -> Outcome {
    if extent > i32::MAX as usize {
        return Err(Stop::Host);
    }
    let words: Vec<u8> = indices.iter().flat_map(|&index| (index as i32).to_le_bytes()).collect();
    let memory = run.gpu.filled(&words).map_err(hetra_tensor::TensorError::from)?;
    let picks = Stored {
        memory,
        from: 0,
        scalar: Scalar::I32,
        dtype: hetra_tensor::DType::I32,
        shape: smallvec![indices.len()],
    };
    let out = run.gpu.room(x.dtype, shape)?;
    let count = out.count();
    if count > 0 {
        let kernel = match x.scalar {
            Scalar::F16 => run.gpu.kernel("gather_halves", || gather_halves::with(&[]))?,
            _ => run.gpu.kernel("gather_words", || gather_words::with(&[]))?,
        };
        let sizes = [count, inner, indices.len(), extent].map(A::U);
        let mut args: SmallVec<[A<'_>; 8]> = sizes.into_iter().collect();
        args.extend([A::M(&picks), A::W(x), A::W(&out)]);
        run.gpu.line(&kernel, count, &args)?;
    }
    Ok(smallvec![out])
}
