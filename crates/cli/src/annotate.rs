//! What a pipeline found, on paper and in the picture.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use font8x8::UnicodeFonts;
use hetra::{DType, Outputs, Tensor};
use image::{Rgb, RgbImage};
use serde_json::json;

use crate::show;

/// Colours of boxes, by place.
const COLOURS: [[u8; 3]; 6] =
    [[9, 105, 218], [188, 76, 0], [26, 127, 55], [130, 80, 223], [191, 57, 137], [154, 103, 0]];
/// Most rows that are shown, and numbers of one.
const ROWS_MAX: usize = 30;
const NUMBERS_MAX: usize = 8;

/// A tensor as JSON: its shape, and its elements in a row.
pub(crate) fn json_of(tensor: &Tensor) -> serde_json::Value {
    let values = match tensor.dtype() {
        DType::String => json!(tensor.as_strings().unwrap_or_default()),
        _ => json!(hetra_tensor::to_f64(tensor).unwrap_or_default()),
    };
    json!({"shape": tensor.shape(), "values": values})
}

/// Outputs that have a row for each of what was found, as one table.
pub(crate) fn print(outputs: &Outputs) {
    let tensors: Vec<(&str, &Tensor)> =
        outputs.iter().filter_map(|(name, value)| Some((name, value.as_tensor()?))).collect();
    let rows = tensors.iter().filter_map(|(_, tensor)| tensor.shape().first().copied()).max();
    let rows = rows.unwrap_or(0);
    if rows == 0 {
        println!("nothing found");
        return;
    }
    let mut columns: Vec<_> =
        tensors.iter().filter(|(_, tensor)| tensor.shape().first() == Some(&rows)).collect();
    // Names and single numbers first.
    columns.sort_by_key(|(_, tensor)| (tensor.dtype() != DType::String, tensor.len()));
    let said = |row: usize| says(&tensors, row);
    let head: Vec<&str> =
        std::iter::once("#").chain(columns.iter().map(|(name, _)| *name)).collect();
    let mut table = show::table(&head, &[0]);
    for row in (0..rows).filter(|&row| said(row)).take(ROWS_MAX) {
        let cells = columns.iter().map(|(_, tensor)| cell(tensor, row, rows));
        table.add_row(std::iter::once(row.to_string()).chain(cells).collect::<Vec<_>>());
    }
    println!("{table}");
    let shown = (0..rows).filter(|&row| said(row)).count();
    if shown > ROWS_MAX {
        println!("and {} more", shown - ROWS_MAX);
    }
    if shown < rows {
        println!("and {} of which nothing is said", rows - shown);
    }
}

/// Whether a row has a name, or there are none: what a recogniser is not sure of has an empty one.
fn says(tensors: &[(&str, &Tensor)], row: usize) -> bool {
    let names = tensors.iter().find(|(name, _)| *name == "names");
    let names = names.and_then(|(_, names)| names.as_strings().ok());
    names.and_then(|names| names.get(row)).is_none_or(|name| !name.is_empty())
}

fn cell(tensor: &Tensor, row: usize, rows: usize) -> String {
    let width = tensor.len() / rows.max(1);
    if let Ok(texts) = tensor.as_strings() {
        return texts[row * width..][..width].join(" ");
    }
    let numbers = hetra_tensor::to_f64(tensor).unwrap_or_default();
    let own = &numbers[row * width..][..width];
    let shown = own.iter().take(NUMBERS_MAX).map(|number| match tensor.dtype().is_int() {
        true => format!("{number:.0}"),
        // Places in a picture need no more.
        false if number.abs() >= 100.0 => format!("{number:.0}"),
        false => format!("{number:.3}"),
    });
    let shown: Vec<String> = shown.collect();
    let more = if width > NUMBERS_MAX { ", .." } else { "" };
    format!("{}{more}", shown.join(", "))
}

/// Writes a picture, called as `path` is, with what was found in it.
/// `drawn` are the files that this command has written.
pub(crate) fn draw(
    mut picture: RgbImage,
    path: &Path,
    outputs: &Outputs,
    folder: &Path,
    drawn: &mut Vec<PathBuf>,
) -> Result<()> {
    let tensor = |name: &str| outputs.get(name).and_then(|value| value.as_tensor());
    let numbers = |name: &str| -> Vec<f32> {
        let tensor = tensor(name).and_then(|tensor| hetra_tensor::to_f64(tensor).ok());
        tensor.unwrap_or_default().into_iter().map(|number| number as f32).collect()
    };
    let (boxes, points, scores) = (numbers("boxes"), numbers("points"), numbers("scores"));
    let turned = numbers("corners");
    let names = tensor("names").and_then(|names| names.as_strings().ok()).unwrap_or_default();
    let count = boxes.len() / 4;
    let thick = (picture.width().max(picture.height()) / 400).max(1) as i64;
    for (index, corners) in boxes.chunks_exact(4).enumerate() {
        if names.get(index).is_some_and(String::is_empty) {
            continue;
        }
        let colour = Rgb(COLOURS[index % COLOURS.len()]);
        // What is far outside, or is no number, is at the border.
        let (w, h) = (picture.width() as f32, picture.height() as f32);
        let near = |at: f32, most: f32| at.clamp(-1.0, most + 1.0) as i64;
        let (left, top) = (near(corners[0], w), near(corners[1], h));
        let (right, bottom) = (near(corners[2], w), near(corners[3], h));
        // What is turned has corners of its own.
        let own = turned
            .get(index * 8..index * 8 + 8)
            .map(|own| [0, 2, 4, 6].map(|at| (near(own[at], w), near(own[at + 1], h))));
        let upright = [(left, top), (right, top), (right, bottom), (left, bottom)];
        let outline = own.unwrap_or(upright);
        for (side, from) in outline.iter().enumerate() {
            line(&mut picture, *from, outline[(side + 1) % 4], thick, colour);
        }
        let each = points.len().checked_div(count).unwrap_or(0);
        for point in points[index * each..][..each].chunks_exact(2) {
            let (x, y) = (near(point[0], w), near(point[1], h));
            for (dx, dy) in (-thick..=thick).flat_map(|dx| (-thick..=thick).map(move |dy| (dx, dy)))
            {
                put(&mut picture, x + dx, y + dy, colour);
            }
        }
        let name = names.get(index).map_or("", |name| name.as_str());
        let score = scores.get(index).map_or(String::new(), |score| format!("{score:.2}"));
        let label = [name, &score].join(" ").trim().to_string();
        // As large as it goes without leaving the box on the right, and readable.
        let fits = (right - left) / (8 * label.chars().count().max(1) as i64);
        let size = fits.clamp(1, thick.max(2));
        write(&mut picture, &label, (left, top - 9 * size), size, colour);
    }
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    // Pictures of one name in several folders stay apart.
    let free = |count: usize| match count {
        0 => folder.join(format!("{name}.png")),
        count => folder.join(format!("{name}-{count}.png")),
    };
    let to = (0..).map(free).find(|path| !drawn.contains(path)).unwrap_or_default();
    drawn.push(to.clone());
    picture.save(&to).with_context(|| to.display().to_string())
}

fn put(picture: &mut RgbImage, x: i64, y: i64, colour: Rgb<u8>) {
    if let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y))
        && x < picture.width()
        && y < picture.height()
    {
        picture.put_pixel(x, y, colour);
    }
}

/// A straight line, drawn as squares.
fn line(picture: &mut RgbImage, from: (i64, i64), to: (i64, i64), thick: i64, colour: Rgb<u8>) {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    // Both ends are at the picture's border at most.
    let steps = dx.abs().max(dy.abs()).max(1);
    for step in 0..=steps {
        let (x, y) = (from.0 + dx * step / steps, from.1 + dy * step / steps);
        for (dx, dy) in (0..thick).flat_map(|dx| (0..thick).map(move |dy| (dx, dy))) {
            put(picture, x + dx - thick / 2, y + dy - thick / 2, colour);
        }
    }
}

/// Writes a line of text on a plate of a colour.
fn write(picture: &mut RgbImage, text: &str, (x, y): (i64, i64), size: i64, colour: Rgb<u8>) {
    // Not above the picture.
    let y = y.max(0);
    let width = text.chars().count() as i64 * 8 * size;
    for (dx, dy) in (0..8 * size).flat_map(|dy| (0..width).map(move |dx| (dx, dy))) {
        put(picture, x + dx, y + dy, colour);
    }
    letters(picture, text, (x, y), size, Rgb([255; 3]));
}

/// Draws the letters of a line, each 8 places wide, each of `size` pixels.
fn letters(picture: &mut RgbImage, text: &str, (x, y): (i64, i64), size: i64, ink: Rgb<u8>) {
    for (index, letter) in text.chars().enumerate() {
        let rows = font8x8::BASIC_FONTS.get(letter).or_else(|| font8x8::LATIN_FONTS.get(letter));
        let rows = rows.unwrap_or([0, 0x7e, 0x42, 0x42, 0x42, 0x42, 0x7e, 0]);
        for (place, inner) in (0..8 * size).flat_map(|row| (0..8 * size).map(move |at| (row, at))) {
            if rows[(place / size) as usize] >> (inner / size) & 1 == 1 {
                put(picture, x + index as i64 * 8 * size + inner, y + place, ink);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_outside_is_not_drawn() {
        let mut picture = RgbImage::new(20, 20);
        write(&mut picture, "Aé?", (-4, -3), 1, Rgb([1, 2, 3]));
        put(&mut picture, 20, 5, Rgb([9; 3]));
        assert!(picture.pixels().any(|pixel| *pixel == Rgb([255; 3])));
        assert!(picture.pixels().all(|pixel| *pixel != Rgb([9; 3])));
    }
}
