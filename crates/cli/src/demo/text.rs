//! A page to read where none is given: letters of 8 x 8 pixels, drawn large.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use image::{Rgb, RgbImage};

use crate::annotate;

/// What stands on it.
const LINES: [&str; 4] = [
    "Hetra: one model, every chip",
    "measured, placed, checked",
    "4 devices, 12.5 ms, 0.3 J",
    "read by PP-OCRv4",
];
/// Pixels of a letter's place, and between lines.
const SIZE: i64 = 3;
const APART: i64 = 64;

/// Draws the page, into the folder of temporary files.
pub(super) fn page() -> Result<PathBuf> {
    let mut page = RgbImage::from_pixel(760, 320, Rgb([250, 248, 240]));
    for (line, row) in LINES.iter().zip(0..) {
        annotate::letters(&mut page, line, (40, 40 + row * APART), SIZE, Rgb([30, 30, 60]));
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
