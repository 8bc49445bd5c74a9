//! A page to read where none is given: letters of 8 x 8 pixels, enlarged with their edges smoothed.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use font8x8::UnicodeFonts;
use image::{Rgb, RgbImage};

/// What stands on it.
const LINES: [&str; 4] =
    ["Hetra runs every model", "placed by measured cost", "4 parts in 12.5 ms", "read from pixels"];
/// How often a letter is doubled: to 32 x 32 pixels.
const DOUBLED: usize = 2;
const SIDE: u32 = 8 << DOUBLED;
/// Pixels around the lines, and from line to line.
const MARGIN: u32 = 48;
const APART: u32 = 72;

/// Twice the size: a corner takes the colour of two neighbours that agree, if the other two differ
/// (Mazzoleni's Scale2x).
fn doubled(of: &[Vec<bool>]) -> Vec<Vec<bool>> {
    let (high, wide) = (of.len(), of[0].len());
    let mut out = vec![vec![false; 2 * wide]; 2 * high];
    for (y, row) in of.iter().enumerate() {
        for (x, &own) in row.iter().enumerate() {
            let up = if y > 0 { of[y - 1][x] } else { own };
            let down = if y + 1 < high { of[y + 1][x] } else { own };
            let left = if x > 0 { row[x - 1] } else { own };
            let right = if x + 1 < wide { row[x + 1] } else { own };
            let edge = up != down && left != right;
            let corner = |a: bool, b: bool| if edge && a == b { a } else { own };
            out[2 * y][2 * x] = corner(up, left);
            out[2 * y][2 * x + 1] = corner(up, right);
            out[2 * y + 1][2 * x] = corner(down, left);
            out[2 * y + 1][2 * x + 1] = corner(down, right);
        }
    }
    out
}

fn letter(page: &mut RgbImage, letter: char, (left, top): (u32, u32)) {
    let rows = font8x8::BASIC_FONTS.get(letter).unwrap_or_default();
    let bits = |row: u8| (0..8).map(|at| row >> at & 1 == 1).collect();
    let small: Vec<Vec<bool>> = rows.into_iter().map(bits).collect();
    let large = (0..DOUBLED).fold(small, |small, _| doubled(&small));
    for (y, row) in (top..).zip(&large) {
        for (x, _) in (left..).zip(row).filter(|(_, lit)| **lit) {
            page.put_pixel(x, y, Rgb([30, 30, 60]));
        }
    }
}

/// Draws the page, into the folder of temporary files.
pub(super) fn page() -> Result<PathBuf> {
    let longest = LINES.iter().map(|line| line.len() as u32).max().unwrap_or(0);
    let (width, height) = (2 * MARGIN + longest * SIDE, 2 * MARGIN + LINES.len() as u32 * APART);
    let mut page = RgbImage::from_pixel(width, height, Rgb([250, 248, 240]));
    for (line, row) in LINES.iter().zip(0..) {
        for (at, place) in line.chars().zip(0..) {
            letter(&mut page, at, (MARGIN + place * SIDE, MARGIN + row * APART));
        }
    }
    let mut bytes = std::io::Cursor::new(Vec::new());
    page.write_to(&mut bytes, image::ImageFormat::Png)?;
    // A file of ours, whatever else is there.
    let path = std::env::temp_dir().join(format!("hetra-page-{}.png", std::process::id()));
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path);
    let written = file.and_then(|mut file| file.write_all(bytes.get_ref()));
    written.with_context(|| path.display().to_string())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corners_and_diagonals_are_smoothed() {
        let text = |rows: &[Vec<bool>]| -> Vec<String> {
            let row =
                |row: &Vec<bool>| row.iter().map(|&lit| if lit { '#' } else { '.' }).collect();
            rows.iter().map(row).collect()
        };
        let from = |rows: &[&str]| -> Vec<Vec<bool>> {
            rows.iter().map(|row| row.chars().map(|c| c == '#').collect()).collect()
        };
        let square = text(&doubled(&from(&["....", ".##.", ".##.", "...."])));
        assert_eq!(square[2..6], ["...##...", "..####..", "..####..", "...##..."]);
        let diagonal = text(&doubled(&from(&["#..", ".#.", "..#"])));
        // The steps between its pixels are filled.
        assert_eq!(diagonal[1..3], ["#.#...", ".###.."]);
    }
}
