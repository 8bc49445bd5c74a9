//! Pictures one behind the other, as a camera or a film gives them.

use std::io::{self, Read};

use crate::jpeg::{Step, Walk};

/// Most bytes of a picture.
const PICTURE_MAX: usize = 256 << 20;
/// Most bytes that are read at one time.
const BLOCK: usize = 64 << 10;

/// The pictures of a stream of JPEG or PNG files.
pub(crate) struct Pictures<R> {
    from: R,
    held: Vec<u8>,
    block: Vec<u8>,
}

impl<R: Read> Pictures<R> {
    pub(crate) fn new(from: R) -> Pictures<R> {
        Pictures { from, held: Vec::new(), block: vec![0; BLOCK] }
    }

    /// The file of the next picture, as soon as its last byte is there; none at the end.
    ///
    /// # Errors
    /// What is no picture, one without an end, or what the stream says.
    pub(crate) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut file = File::default();
        loop {
            if let Some(end) = file.end(&self.held)? {
                let rest = self.held.split_off(end);
                return Ok(Some(std::mem::replace(&mut self.held, rest)));
            }
            if self.held.len() > PICTURE_MAX {
                return Err(bad(format!("a picture of more than {PICTURE_MAX} bytes")));
            }
            match self.from.read(&mut self.block) {
                Ok(0) if self.held.is_empty() => return Ok(None),
                Ok(0) => return Err(bad("the stream ends within a picture".to_string())),
                Ok(read) => self.held.extend(&self.block[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn bad(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// What PNG files begin with.
const PNG: [u8; 8] = [0x89, b'P', b'N', b'G', 0x0D, 0x0A, 0x1A, 0x0A];
/// What JPEG files begin with.
const JPEG: [u8; 2] = [0xFF, 0xD8];

/// A file that comes in, and how far it was looked through.
struct File {
    jpeg: Walk,
    /// Where the next chunk of a PNG file begins.
    chunk: usize,
}

impl Default for File {
    fn default() -> File {
        File { jpeg: Walk::default(), chunk: PNG.len() }
    }
}

impl File {
    /// Where the picture ends that bytes begin with; none where it goes on.
    fn end(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let begins = |with: &[u8]| bytes.iter().zip(with).all(|(a, b)| a == b);
        if begins(&JPEG) {
            return match self.jpeg.on(bytes) {
                Step::End(end) => Ok(Some(end)),
                Step::More => Ok(None),
                Step::Broken => Err(bad("a JPEG file without a marker where one must be".into())),
            };
        }
        if begins(&PNG) {
            return Ok(self.png_end(bytes));
        }
        Err(bad("neither PNG nor JPEG is in the stream".to_string()))
    }

    /// Behind the last chunk: each is a length, a name, its data and a checksum.
    fn png_end(&mut self, bytes: &[u8]) -> Option<usize> {
        loop {
            let head = bytes.get(self.chunk..self.chunk + 8)?;
            let length = u32::from_be_bytes(head[..4].try_into().ok()?);
            let next = self.chunk.checked_add(12)?.checked_add(length as usize)?;
            if &head[4..] == b"IEND" {
                return (next <= bytes.len()).then_some(next);
            }
            self.chunk = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use image::{ImageFormat, Rgb, RgbImage};

    use super::*;

    fn file(side: u32, format: ImageFormat) -> Vec<u8> {
        let picture = RgbImage::from_fn(side, side, |x, y| Rgb([x as u8, y as u8, (x * y) as u8]));
        let mut file = io::Cursor::new(Vec::new());
        picture.write_to(&mut file, format).unwrap();
        file.into_inner()
    }

    /// Gives a byte at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let one = out.len().min(1);
            self.0.read(&mut out[..one])
        }
    }

    #[test]
    fn pictures_are_told_apart() {
        let files = [
            file(300, ImageFormat::Jpeg),
            file(40, ImageFormat::Png),
            file(8, ImageFormat::Jpeg),
            file(500, ImageFormat::Png),
        ];
        let all = files.concat();
        let mut pictures = Pictures::new(Slow(&all));
        for file in &files {
            assert_eq!(pictures.next().unwrap().as_ref(), Some(file));
        }
        assert_eq!(pictures.next().unwrap(), None);
    }

    #[test]
    fn what_is_cut_or_none_is_told() {
        let whole = file(40, ImageFormat::Png);
        let cut = Pictures::new(&whole[..whole.len() - 1]).next().unwrap_err();
        assert!(cut.to_string().contains("within a picture"), "{cut}");
        let none = Pictures::new(&b"GIF89a"[..]).next().unwrap_err();
        assert!(none.to_string().contains("neither PNG nor JPEG"), "{none}");
        assert_eq!(Pictures::new(&b""[..]).next().unwrap(), None);
        let broken = Pictures::new(&[0xFF, 0xD8, 1, 2, 3][..]).next().unwrap_err();
        assert!(broken.to_string().contains("without a marker"), "{broken}");
    }
}
