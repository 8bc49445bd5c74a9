//! Whether a JPEG file is whole: decoders fill what is missing with grey, and say nothing.

/// Whether the markers of a JPEG file lead to its end. Bytes behind the end do no harm.
pub(crate) fn is_whole(bytes: &[u8]) -> bool {
    let mut at = 2;
    while let Some(&[0xFF, marker]) = bytes.get(at..at + 2) {
        at = match marker {
            END => return true,
            // A marker may be preceded by any number of these.
            0xFF => at + 1,
            0x01 | 0xD0..=0xD7 => at + 2,
            _ => {
                let Some(&[high, low]) = bytes.get(at + 2..at + 4) else { return false };
                let next = at + 2 + usize::from(u16::from_be_bytes([high, low]));
                if marker == SCAN { behind_scan(bytes, next) } else { next }
            }
        };
    }
    false
}

const END: u8 = 0xD9;
const SCAN: u8 = 0xDA;

/// Where the coded data that begins at `start` ends: at the first marker that is no restart. In
/// the data a zero stands behind each 0xFF.
fn behind_scan(bytes: &[u8], start: usize) -> usize {
    let rest = bytes.get(start..).unwrap_or_default();
    let ends = |pair: &[u8]| pair[0] == 0xFF && !matches!(pair[1], 0x00 | 0xD0..=0xD7 | 0xFF);
    rest.windows(2).position(ends).map_or(bytes.len(), |at| start + at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{ImageFormat, Rgb, RgbImage};

    #[test]
    fn every_cut_is_noticed() {
        let picture = RgbImage::from_fn(40, 24, |x, y| Rgb([x as u8 * 6, y as u8 * 9, 77]));
        let mut file = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut file, ImageFormat::Jpeg).unwrap();
        let mut bytes = file.into_inner();
        for cut in 0..bytes.len() {
            assert!(!is_whole(&bytes[..cut]), "{cut}");
        }
        assert!(is_whole(&bytes));
        bytes.extend([1, 2, 3]);
        assert!(is_whole(&bytes));
    }
}
