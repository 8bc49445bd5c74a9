//! Whether a JPEG file is whole: decoders fill what is missing with grey, and say nothing.

/// Whether the markers of a JPEG file lead to its end. Bytes behind the end do no harm.
pub(crate) fn is_whole(bytes: &[u8]) -> bool {
    matches!(Walk::default().on(bytes), Step::End(_))
}

/// What a walk comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The file ends before this byte.
    End(usize),
    /// It goes on behind what is there.
    More,
    /// There is no marker where one must be.
    Broken,
}

/// A walk from marker to marker, which goes on where it stopped when more bytes are there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk {
    at: usize,
    /// Whether it is in coded data.
    coded: bool,
}

impl Default for Walk {
    fn default() -> Walk {
        // Behind the marker that a file begins with.
        Walk { at: 2, coded: false }
    }
}

const END: u8 = 0xD9;
const SCAN: u8 = 0xDA;

impl Walk {
    /// Goes on, `bytes` being all of them from the beginning.
    pub(crate) fn on(&mut self, bytes: &[u8]) -> Step {
        loop {
            if self.coded {
                // It ends at the first marker that is no restart. A zero stands behind each 0xFF of
                // the data.
                let rest = bytes.get(self.at..).unwrap_or_default();
                let ends =
                    |pair: &[u8]| pair[0] == 0xFF && !matches!(pair[1], 0x00 | 0xD0..=0xD7 | 0xFF);
                let Some(found) = rest.windows(2).position(ends) else {
                    self.at = self.at.max(bytes.len().saturating_sub(1));
                    return Step::More;
                };
                self.at += found;
                self.coded = false;
            }
            let marker = match bytes.get(self.at..self.at + 2) {
                Some(&[0xFF, marker]) => marker,
                Some(_) => return Step::Broken,
                None => return Step::More,
            };
            match marker {
                END => return Step::End(self.at + 2),
                // A marker may be preceded by any number of these.
                0xFF => self.at += 1,
                0x01 | 0xD0..=0xD7 => self.at += 2,
                _ => {
                    let Some(&[high, low]) = bytes.get(self.at + 2..self.at + 4) else {
                        return Step::More;
                    };
                    self.at += 2 + usize::from(u16::from_be_bytes([high, low]));
                    self.coded = marker == SCAN;
                }
            }
        }
    }
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
