//! Text in pictures: where lines stand, and what a recogniser's columns spell.

use hetra_ir::{Dim, Type};
use hetra_tensor::{DType, Tensor, Value};

use crate::context::EvalCtx;
use crate::def::{Arity, OpDef};
use crate::error::OpError;
use crate::work::per_input_element;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&LINE_BOXES, &CTC_TEXT];

static LINE_BOXES: OpDef = OpDef {
    name: "hetra.LineBoxes",
    doc: "Rectangles around what is above a threshold in a map of probabilities (1, 1, height, \
          width), grown: four corners each, from where reading begins on, and how sure they are; \
          line by line from above, each from the left (differentiable binarization).",
    outputs: Arity::between(1, 2),
    infer: |_| {
        let count = || Dim::Unknown;
        Ok(vec![
            Type::shaped(DType::F32, vec![count(), 4usize.into(), 2usize.into()]),
            Type::shaped(DType::F32, vec![count()]),
        ])
    },
    work: per_input_element,
    eval: line_boxes,
    ..OpDef::DEFAULT
};

static CTC_TEXT: OpDef = OpDef {
    name: "hetra.CtcText",
    doc: "What columns spell (connectionist temporal classification): places of letters (lines, \
          columns) and how sure they are, and the letters, the first of which is the blank. A letter \
          counts where it differs from the one before it. Gives texts, and means of how sure their \
          letters are.",
    inputs: Arity::exactly(3),
    outputs: Arity::between(1, 2),
    infer: |ctx| {
        let lines = ctx.dims(0).and_then(|dims| dims.first().cloned()).unwrap_or(Dim::Unknown);
        let ty = |dtype| Type::shaped(dtype, vec![lines.clone()]);
        Ok(vec![ty(DType::String), ty(DType::F32)])
    },
    work: per_input_element,
    eval: ctc_text,
    ..OpDef::DEFAULT
};

/// Most rectangles that are asked for.
const BOXES_MAX: i64 = 1 << 16;

/// What a node asks for.
struct Form {
    threshold: f32,
    score_min: f32,
    /// Area over perimeter, times this, is what each side is moved outwards by.
    grow: f32,
    /// Sides below this, in pixels, are no line.
    side_min: f32,
    most: usize,
}

impl Form {
    fn of(ctx: &EvalCtx<'_>) -> Result<Form, OpError> {
        let attrs = ctx.attrs();
        let most = attrs.int_or("most", 1000)?;
        if !(1..=BOXES_MAX).contains(&most) {
            return Err(OpError::invalid(format!("most {most}: wanted 1 to {BOXES_MAX}")));
        }
        let grow = attrs.float_or("grow", 1.6)?;
        if !(0.0..=100.0).contains(&grow) {
            return Err(OpError::invalid(format!("grow {grow}: wanted a number from 0 to 100")));
        }
        Ok(Form {
            threshold: attrs.float_or("threshold", 0.3)?,
            score_min: attrs.float_or("score_min", 0.5)?,
            grow,
            side_min: attrs.float_or("side_min", 3.0)?,
            most: most as usize,
        })
    }
}

/// A rectangle: its middle, the direction in which it is read, and its two extents.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rectangle {
    middle: [f32; 2],
    /// Of length 1; the other axis is a quarter turn further, downwards where this is rightwards.
    along: [f32; 2],
    /// Along, and across.
    extents: [f32; 2],
}

/// Lines that are so many times higher than wide are read downwards.
const UPRIGHT: f32 = 1.5;

impl Rectangle {
    /// A place of the rectangle: `at` from -1 to 1 along and across.
    fn place(&self, at: [f32; 2]) -> [f32; 2] {
        let [x, y] = self.along;
        let (u, v) = (at[0] * self.extents[0] / 2.0, at[1] * self.extents[1] / 2.0);
        [self.middle[0] + x * u - y * v, self.middle[1] + y * u + x * v]
    }

    /// The corners, clockwise from where reading begins.
    fn corners(&self) -> [[f32; 2]; 4] {
        [[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]].map(|at| self.place(at))
    }

    /// The same, read from left to right, or downwards where it is much higher than wide.
    fn read(mut self) -> Rectangle {
        // Of four directions the one that is nearest to rightwards.
        if self.along[0].abs() < self.along[1].abs() {
            self.quarter();
        }
        if self.along[0] < 0.0 {
            self.along = self.along.map(|at| -at);
        }
        if self.extents[1] >= UPRIGHT * self.extents[0] {
            self.quarter();
        }
        self
    }

    /// A quarter turn of what counts as along.
    fn quarter(&mut self) {
        self.along = [-self.along[1], self.along[0]];
        self.extents.swap(0, 1);
    }
}

/// Corners of the convex hull of points that are sorted (Andrew's monotone chain).
fn hull(points: &[[f32; 2]]) -> Vec<[f32; 2]> {
    let turn = |a: [f32; 2], b: [f32; 2], c: [f32; 2]| {
        (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
    };
    let half = |points: &mut dyn Iterator<Item = [f32; 2]>| {
        let mut chain: Vec<[f32; 2]> = Vec::new();
        for point in points {
            while chain.len() > 1
                && turn(chain[chain.len() - 2], chain[chain.len() - 1], point) <= 0.0
            {
                chain.pop();
            }
            chain.push(point);
        }
        chain.pop();
        chain
    };
    let mut all = half(&mut points.iter().copied());
    all.extend(half(&mut points.iter().rev().copied()));
    all
}

/// The rectangle of least area around points: one of its sides lies on a side of the hull.
fn around(points: &[[f32; 2]]) -> Option<Rectangle> {
    let hull = hull(points);
    let mut best: Option<(f32, Rectangle)> = None;
    for (index, a) in hull.iter().enumerate() {
        let b = hull[(index + 1) % hull.len()];
        let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
        let length = dx.hypot(dy);
        if length <= 0.0 {
            continue;
        }
        let along = [dx / length, dy / length];
        let (mut least, mut most) = ([f32::INFINITY; 2], [f32::NEG_INFINITY; 2]);
        for p in &hull {
            let at = [p[0] * along[0] + p[1] * along[1], p[1] * along[0] - p[0] * along[1]];
            for axis in 0..2 {
                least[axis] = least[axis].min(at[axis]);
                most[axis] = most[axis].max(at[axis]);
            }
        }
        let extents = [most[0] - least[0], most[1] - least[1]];
        let [u, v] = [(least[0] + most[0]) / 2.0, (least[1] + most[1]) / 2.0];
        let middle = [u * along[0] - v * along[1], u * along[1] + v * along[0]];
        let area = extents[0] * extents[1];
        if best.is_none_or(|(least, _)| area < least) {
            best = Some((area, Rectangle { middle, along, extents }));
        }
    }
    best.map(|(_, rectangle)| rectangle)
}

/// A map of probabilities.
#[derive(Clone, Copy)]
struct Map<'a> {
    numbers: &'a [f32],
    width: usize,
    height: usize,
}

impl Map<'_> {
    /// The ends of what hangs together at a pixel, row by row: sorted corners of its pixels. What
    /// was seen is marked.
    fn ends(&self, from: usize, threshold: f32, seen: &mut [bool]) -> Vec<[f32; 2]> {
        let mut rows = std::collections::BTreeMap::new();
        let mut open = vec![from];
        seen[from] = true;
        while let Some(at) = open.pop() {
            let (x, y) = (at % self.width, at / self.width);
            let row = rows.entry(y).or_insert((x, x));
            *row = (row.0.min(x), row.1.max(x));
            for y in y.saturating_sub(1)..=(y + 1).min(self.height - 1) {
                for x in x.saturating_sub(1)..=(x + 1).min(self.width - 1) {
                    let next = y * self.width + x;
                    if !seen[next] && self.numbers[next] > threshold {
                        seen[next] = true;
                        open.push(next);
                    }
                }
            }
        }
        let corners = |(y, (first, last)): (usize, (usize, usize))| {
            [first, last + 1].into_iter().flat_map(move |x| [[x, y], [x, y + 1]])
        };
        let mut points: Vec<[usize; 2]> = rows.into_iter().flat_map(corners).collect();
        points.sort_unstable();
        points.dedup();
        points.into_iter().map(|point| point.map(|at| at as f32)).collect()
    }

    /// The mean of the map in a rectangle.
    fn mean(&self, rectangle: &Rectangle) -> f32 {
        let corners = rectangle.corners();
        let range = |axis: usize, extent: usize| {
            let of = corners.map(|corner| corner[axis]);
            let least = of.iter().copied().fold(f32::INFINITY, f32::min).floor().max(0.0);
            let most = of.iter().copied().fold(f32::NEG_INFINITY, f32::max).ceil().max(0.0);
            least as usize..(most as usize).min(extent)
        };
        let (mut sum, mut count) = (0f64, 0usize);
        for y in range(1, self.height) {
            for x in range(0, self.width) {
                let (dx, dy) =
                    (x as f32 + 0.5 - rectangle.middle[0], y as f32 + 0.5 - rectangle.middle[1]);
                let [ax, ay] = rectangle.along;
                let apart = [dx * ax + dy * ay, dy * ax - dx * ay];
                if (0..2).all(|axis| apart[axis].abs() <= rectangle.extents[axis] / 2.0) {
                    sum += f64::from(self.numbers[y * self.width + x]);
                    count += 1;
                }
            }
        }
        if count == 0 { 0.0 } else { (sum / count as f64) as f32 }
    }

    fn lines(&self, form: &Form) -> Vec<(Rectangle, f32)> {
        let mut seen = vec![false; self.numbers.len()];
        let mut found = Vec::new();
        for at in 0..self.numbers.len() {
            if seen[at]
                || !matches!(
                    self.numbers[at].partial_cmp(&form.threshold),
                    Some(std::cmp::Ordering::Greater)
                )
            {
                continue;
            }
            let Some(mut line) = around(&self.ends(at, form.threshold, &mut seen)) else {
                continue;
            };
            let [w, h] = line.extents;
            if w.min(h) < form.side_min {
                continue;
            }
            let sure = self.mean(&line);
            // Not a number is not sure.
            if sure.partial_cmp(&form.score_min).is_none_or(std::cmp::Ordering::is_lt) {
                continue;
            }
            let out = w * h * form.grow / (2.0 * (w + h));
            line.extents = [w + 2.0 * out, h + 2.0 * out];
            found.push((line.read(), sure));
            if found.len() == form.most {
                break;
            }
        }
        in_order(found)
    }
}

/// Rectangles as they are read: those whose middles are at about one height are a line.
fn in_order(mut found: Vec<(Rectangle, f32)>) -> Vec<(Rectangle, f32)> {
    let middle = |(line, _): &(Rectangle, f32), axis: usize| line.middle[axis];
    found.sort_by(|a, b| middle(a, 1).total_cmp(&middle(b, 1)));
    let mut ordered = Vec::new();
    let mut rest = &found[..];
    while let Some(first) = rest.first() {
        let near = first.0.extents[0].min(first.0.extents[1]) / 2.0;
        let end = rest.iter().position(|line| middle(line, 1) > middle(first, 1) + near);
        let (row, others) = rest.split_at(end.unwrap_or(rest.len()));
        let mut row = row.to_vec();
        row.sort_by(|a, b| middle(a, 0).total_cmp(&middle(b, 0)));
        ordered.extend(row);
        rest = others;
    }
    ordered
}

fn line_boxes(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let form = Form::of(ctx)?;
    let tensor = ctx.tensor(0)?;
    let &[1, 1, height, width] = tensor.shape() else {
        return Err(OpError::input(
            0,
            "a map [1, 1, height, width]",
            format!("{:?}", tensor.shape()),
        ));
    };
    let lines = Map { numbers: tensor.as_slice::<f32>()?, width, height }.lines(&form);
    let corners: Vec<f32> = lines.iter().flat_map(|(line, _)| line.corners()).flatten().collect();
    let sure: Vec<f32> = lines.iter().map(|(_, sure)| *sure).collect();
    let count = lines.len();
    Ok(vec![
        Tensor::from_slice(&[count, 4, 2], &corners)?.into(),
        Tensor::from_slice(&[count], &sure)?.into(),
    ])
}

fn ctc_text(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (places, sure, letters) = (ctx.tensor(0)?, ctx.tensor(1)?, ctx.tensor(2)?);
    let &[lines, columns] = places.shape() else {
        return Err(OpError::input(0, "places [lines, columns]", format!("{:?}", places.shape())));
    };
    if sure.shape() != places.shape() {
        return Err(OpError::input(1, "one for each place", format!("{:?}", sure.shape())));
    }
    let (all, sure, letters) =
        (places.as_slice::<i64>()?, sure.as_slice::<f32>()?, letters.as_strings()?);
    let (mut texts, mut means) = (Vec::with_capacity(lines), Vec::with_capacity(lines));
    for line in 0..lines {
        let (mut text, mut sum, mut count, mut before) = (String::new(), 0f32, 0u32, 0);
        for at in line * columns..(line + 1) * columns {
            let place = all[at];
            if place != 0 && place != before {
                let letter = usize::try_from(place).ok().and_then(|place| letters.get(place));
                text.push_str(letter.ok_or_else(|| {
                    let wanted = format!("places below {}", letters.len());
                    OpError::invalid(format!("{wanted} are wanted; there is {place}"))
                })?);
                sum += sure[at];
                count += 1;
            }
            before = place;
        }
        texts.push(text);
        means.push(if count == 0 { 0.0 } else { sum / count as f32 });
    }
    Ok(vec![
        Tensor::from_strings(&[lines], texts)?.into(),
        Tensor::from_slice(&[lines], &means)?.into(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{node, run};

    /// A map with a rectangle of 0.9 in it: middle, direction in degrees, extents.
    fn drawn(rectangles: &[([f32; 2], f32, [f32; 2])]) -> Tensor {
        let (h, w) = (80, 160);
        let mut numbers = vec![0.1f32; h * w];
        for &(middle, degrees, extents) in rectangles {
            let (sin, cos) = degrees.to_radians().sin_cos();
            for (at, number) in numbers.iter_mut().enumerate() {
                let (dx, dy) =
                    ((at % w) as f32 + 0.5 - middle[0], (at / w) as f32 + 0.5 - middle[1]);
                let (u, v) = (dx * cos + dy * sin, dy * cos - dx * sin);
                if u.abs() < extents[0] / 2.0 && v.abs() < extents[1] / 2.0 {
                    *number = 0.9;
                }
            }
        }
        Tensor::from_slice(&[1, 1, h, w], &numbers).unwrap()
    }

    fn boxes(map: Tensor, grow: f32) -> Vec<Vec<f32>> {
        let node = node("hetra.LineBoxes", 1).with("grow", grow);
        let out = run(node, &[Some(map)]).unwrap();
        out[0].as_slice::<f32>().unwrap().chunks_exact(8).map(<[f32]>::to_vec).collect()
    }

    fn near(got: &[f32], wanted: &[f32], off: f32) {
        assert_eq!(got.len(), wanted.len());
        assert!(got.iter().zip(wanted).all(|(a, b)| (a - b).abs() <= off), "{got:?} {wanted:?}");
    }

    #[test]
    fn lines_are_found_grown_and_in_order() {
        let upright = |x: f32, y: f32| ([x, y], 0.0, [40.0, 10.0]);
        let found =
            boxes(drawn(&[upright(110.0, 22.0), upright(40.0, 60.0), upright(40.0, 20.0)]), 0.0);
        assert_eq!(found.len(), 3);
        near(&found[0], &[20.0, 15.0, 60.0, 15.0, 60.0, 25.0, 20.0, 25.0], 0.01);
        assert_eq!((found[1][0], found[2][1]), (90.0, 55.0));
        // By 40 * 10 * 1.5 / 100 on each side.
        let grown = boxes(drawn(&[upright(80.0, 40.0)]), 1.5);
        near(&grown[0], &[54.0, 29.0, 106.0, 29.0, 106.0, 51.0, 54.0, 51.0], 0.01);
    }

    #[test]
    fn turned_lines_are_read_in_their_direction() {
        let found = boxes(drawn(&[([80.0, 40.0], 20.0, [60.0, 16.0])]), 0.0);
        let (sin, cos) = 20f32.to_radians().sin_cos();
        let begin = [80.0 - 30.0 * cos + 8.0 * sin, 40.0 - 30.0 * sin - 8.0 * cos];
        near(&found[0][..2], &begin, 1.5);
        // Much higher than wide: downwards, from the right.
        let found = boxes(drawn(&[([80.0, 40.0], 0.0, [10.0, 40.0])]), 0.0);
        near(&found[0], &[85.0, 20.0, 85.0, 60.0, 75.0, 60.0, 75.0, 20.0], 0.01);
    }

    #[test]
    fn what_is_small_or_unsure_is_no_line() {
        assert!(boxes(drawn(&[([80.0, 40.0], 0.0, [40.0, 2.0])]), 0.0).is_empty());
        assert!(boxes(drawn(&[]), 1.0).is_empty());
        let node = node("hetra.LineBoxes", 1).with("score_min", 0.95f32);
        let out = run(node, &[Some(drawn(&[([80.0, 40.0], 0.0, [40.0, 20.0])]))]).unwrap();
        assert_eq!(out[0].shape(), [0, 4, 2]);
        let nan = Tensor::from_slice(&[1, 1, 2, 2], &[f32::NAN; 4]).unwrap();
        assert!(boxes(nan, 1.0).is_empty());
        let mut hole = drawn(&[([80.0, 40.0], 0.0, [40.0, 20.0])]);
        hole.as_mut_slice::<f32>().unwrap()[40 * 160 + 80] = f32::NAN;
        assert!(boxes(hole, 1.0).is_empty());
        let wild = crate::case::node("hetra.LineBoxes", 1).with("grow", f32::NAN);
        assert!(run(wild, &[Some(drawn(&[]))]).is_err());
    }

    #[test]
    fn letters_that_stay_count_once() {
        let letters = ["", "a", "b", " "].map(str::to_string).to_vec();
        let letters = Tensor::from_strings(&[4], letters).unwrap();
        let places = Tensor::from_slice(&[2, 6], &[0i64, 1, 1, 0, 1, 2, 0, 0, 0, 0, 0, 0]).unwrap();
        let sure = [0.9f32, 0.8, 0.1, 0.9, 0.6, 0.4, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
        let sure = Tensor::from_slice(&[2, 6], &sure).unwrap();
        let ctc = |places: &Tensor| {
            let inputs = [places, &sure, &letters].map(|tensor| Some(tensor.clone()));
            run(node("hetra.CtcText", 3), &inputs)
        };
        let out = ctc(&places).unwrap();
        assert_eq!(out[0].as_strings().unwrap(), ["aab", ""]);
        let wrong = Tensor::from_slice(&[2, 6], &[9i64; 12]).unwrap();
        assert!(ctc(&wrong).unwrap_err().to_string().contains("below 4"));
    }
}
