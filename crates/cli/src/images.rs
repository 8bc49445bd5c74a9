//! From a picture file to an input tensor.

use std::io::Cursor;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail, ensure};
use hetra::Type;
use hetra_tensor::{DType, Tensor};
use image::imageops::FilterType;
use image::{DynamicImage, Rgb, RgbImage};

use crate::jpeg;

/// What `--preprocess` takes; also its help text.
pub(crate) const HELP: &str = "\
Steps for pictures, separated by commas, done in the order written: \
resize=N (short side to N) or resize=HxW; crop=HxW (from the middle); \
letterbox=HxW (keep the aspect, pad with grey 114). Then, wherever they stand: \
color=rgb|bgr|gray, scale=F (pixel 0..255 times F; default 1/255, or 1 for an integer input), \
mean=A:B:C and std=A:B:C (after scaling), layout=nchw|nhwc. Default: resize to the input's height \
and width, 0..1 (0..255 for an integer input), layout as the input's shape says. \
Example: resize=256,crop=224x224,mean=0.485:0.456:0.406,std=0.229:0.224:0.225";

/// One geometric step.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    ShortSide(u32),
    Resize(u32, u32),
    Crop(u32, u32),
    Letterbox(u32, u32),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Color {
    Rgb,
    Bgr,
    Gray,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Layout {
    Nchw,
    Nhwc,
}

/// How a picture becomes a tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Preprocess {
    steps: Vec<Step>,
    color: Option<Color>,
    layout: Option<Layout>,
    scale: Option<f32>,
    mean: Vec<f32>,
    std: Vec<f32>,
}

impl Default for Preprocess {
    fn default() -> Preprocess {
        Preprocess {
            steps: Vec::new(),
            color: None,
            layout: None,
            scale: None,
            mean: vec![0.0],
            std: vec![1.0],
        }
    }
}

/// Largest side that a step may ask for.
const SIDE_MAX: u32 = 16_384;

fn side(text: &str) -> Result<u32> {
    let side: u32 = text.trim().parse().map_err(|_| anyhow!("`{text}` is not a size"))?;
    ensure!((1..=SIDE_MAX).contains(&side), "{side} is not a size from 1 to {SIDE_MAX}");
    Ok(side)
}

fn sides(text: &str) -> Result<(u32, u32)> {
    match text.split_once('x') {
        Some((height, width)) => Ok((side(height)?, side(width)?)),
        None => side(text).map(|side| (side, side)),
    }
}

fn floats(text: &str) -> Result<Vec<f32>> {
    text.split(':').map(number).collect()
}

fn number(text: &str) -> Result<f32> {
    let parse = |t: &str| t.trim().parse::<f32>().map_err(|_| anyhow!("`{t}` is not a number"));
    match text.split_once('/') {
        Some((a, b)) => Ok(parse(a)? / parse(b)?),
        None => parse(text),
    }
}

impl FromStr for Preprocess {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Preprocess> {
        let mut spec = Preprocess::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (key, value) =
                part.split_once('=').with_context(|| format!("`{part}`: wanted key=value"))?;
            match key {
                "resize" if !value.contains('x') => spec.steps.push(Step::ShortSide(side(value)?)),
                "resize" => sides(value).map(|(h, w)| spec.steps.push(Step::Resize(h, w)))?,
                "crop" => sides(value).map(|(h, w)| spec.steps.push(Step::Crop(h, w)))?,
                "letterbox" => sides(value).map(|(h, w)| spec.steps.push(Step::Letterbox(h, w)))?,
                "color" => {
                    spec.color = Some(match value {
                        "rgb" => Color::Rgb,
                        "bgr" => Color::Bgr,
                        "gray" | "grey" => Color::Gray,
                        _ => bail!("color={value}: wanted rgb, bgr or gray"),
                    });
                }
                "layout" => {
                    spec.layout = Some(match value {
                        "nchw" | "chw" => Layout::Nchw,
                        "nhwc" | "hwc" => Layout::Nhwc,
                        _ => bail!("layout={value}: wanted nchw or nhwc"),
                    });
                }
                "scale" => spec.scale = Some(number(value)?),
                "mean" => spec.mean = floats(value)?,
                "std" => spec.std = floats(value)?,
                _ => bail!(
                    "`{key}` is not a preprocessing step; there are resize, crop, letterbox, \
                     color, scale, mean, std and layout"
                ),
            }
        }
        ensure!(spec.std.iter().all(|std| *std != 0.0), "std: must not be 0");
        for (key, values) in [("mean", &spec.mean), ("std", &spec.std)] {
            ensure!(matches!(values.len(), 1 | 3), "{key}: wanted one number or three");
        }
        Ok(spec)
    }
}

/// What an input's type tells of the pictures it takes.
struct Wanted {
    layout: Layout,
    channels: Option<usize>,
    height: Option<u32>,
    width: Option<u32>,
}

fn wanted(ty: &Type) -> Result<Wanted> {
    let dims = ty.dims().filter(|dims| matches!(dims.len(), 3 | 4));
    let dims =
        dims.with_context(|| format!("a picture needs an input of rank 3 or 4, not {ty}"))?;
    let known: Vec<Option<usize>> = dims[dims.len() - 3..].iter().map(hetra::Dim::known).collect();
    let channels = |extent: Option<usize>| matches!(extent, Some(1 | 3));
    let pixel = |extent: Option<usize>| extent.and_then(|extent| u32::try_from(extent).ok());
    if !channels(known[0]) && channels(known[2]) {
        let (height, width) = (pixel(known[0]), pixel(known[1]));
        return Ok(Wanted { layout: Layout::Nhwc, channels: known[2], height, width });
    }
    let (height, width) = (pixel(known[1]), pixel(known[2]));
    Ok(Wanted { layout: Layout::Nchw, channels: known[0], height, width })
}

/// A picture as an input.
pub(crate) struct Picture {
    pub(crate) tensor: Tensor,
    /// Nothing said how large it should be: not the input, nor the user.
    pub(crate) kept_size: bool,
    /// Height and width of the file.
    pub(crate) size: [u32; 2],
}

/// Reads and decodes a file.
fn decode(path: &Path) -> Result<DynamicImage> {
    decode_bytes(&std::fs::read(path)?)
}

fn decode_bytes(bytes: &[u8]) -> Result<DynamicImage> {
    let reader = image::ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    let cut = reader.format() == Some(image::ImageFormat::Jpeg) && !jpeg::is_whole(bytes);
    ensure!(!cut, "the file is cut off: its picture has no end");
    ensure!(reader.format().is_some(), "it is neither PNG nor JPEG");
    Ok(reader.decode()?)
}

/// The pixels of a file: u8, height, width, 3 channels, red first.
pub(crate) fn pixels(path: &Path) -> Result<Tensor> {
    pixels_of(decode(path)?)
}

/// The same of the bytes of a file.
pub(crate) fn pixels_in(bytes: &[u8]) -> Result<Tensor> {
    pixels_of(decode_bytes(bytes)?)
}

fn pixels_of(picture: DynamicImage) -> Result<Tensor> {
    let picture = picture.into_rgb8();
    let (width, height) = picture.dimensions();
    Ok(Tensor::from_slice(&[height as usize, width as usize, 3], picture.as_raw())?)
}

/// Reads a picture for an input of this type.
pub(crate) fn load(path: &Path, spec: Option<&Preprocess>, ty: &Type) -> Result<Picture> {
    // What takes pixels as they are.
    if let (None, Some(DType::U8), Some([_, _, channels])) = (spec, ty.dtype(), ty.dims())
        && channels.known() == Some(3)
    {
        let tensor = pixels(path)?;
        let size = [tensor.shape()[0] as u32, tensor.shape()[1] as u32];
        return Ok(Picture { tensor, kept_size: false, size });
    }
    let picture = decode(path)?;
    let spec = spec.cloned().unwrap_or_default();
    let wanted = wanted(ty)?;
    Ok(Picture {
        tensor: to_tensor(&picture, &spec, ty)?,
        kept_size: spec.steps.is_empty() && (wanted.height.is_none() || wanted.width.is_none()),
        size: [picture.height(), picture.width()],
    })
}

fn to_tensor(picture: &DynamicImage, spec: &Preprocess, ty: &Type) -> Result<Tensor> {
    let Wanted { layout, channels, height, width } = wanted(ty)?;
    let mut steps = spec.steps.clone();
    if steps.is_empty()
        && let (Some(height), Some(width)) = (height, width)
    {
        steps.push(Step::Resize(height, width));
    }
    let mut picture = picture.to_rgb8();
    for step in steps {
        picture = apply(&picture, step)?;
    }
    let color = spec.color.unwrap_or(if channels == Some(1) { Color::Gray } else { Color::Rgb });
    let (height, width) = (picture.height() as usize, picture.width() as usize);
    let depth = if color == Color::Gray { 1 } else { 3 };
    let layout = spec.layout.unwrap_or(layout);
    let dtype = ty.dtype().unwrap_or(DType::F32);
    let scale = spec.scale.unwrap_or(if dtype.is_int() { 1.0 } else { 1.0 / 255.0 });
    let mut values = vec![0.0f32; depth * height * width];
    for (x, y, pixel) in picture.enumerate_pixels() {
        let Rgb([r, g, b]) = *pixel;
        let luma = 0.299 * f32::from(r) + 0.587 * f32::from(g) + 0.114 * f32::from(b);
        let sample = match color {
            Color::Rgb => [f32::from(r), f32::from(g), f32::from(b)],
            Color::Bgr => [f32::from(b), f32::from(g), f32::from(r)],
            Color::Gray => [luma; 3],
        };
        let (x, y) = (x as usize, y as usize);
        for (channel, value) in sample.iter().take(depth).enumerate() {
            let mean = spec.mean[channel % spec.mean.len()];
            let std = spec.std[channel % spec.std.len()];
            let index = match layout {
                Layout::Nchw => (channel * height + y) * width + x,
                Layout::Nhwc => (y * width + x) * depth + channel,
            };
            values[index] = (value * scale - mean) / std;
        }
    }
    let shape = match layout {
        Layout::Nchw => [1, depth, height, width],
        Layout::Nhwc => [1, height, width, depth],
    };
    // Without an axis for the batch the input takes the one picture.
    let shape = &shape[4 - ty.dims().map_or(4, <[hetra::Dim]>::len)..];
    if dtype.is_int() {
        to_integers(&mut values, dtype)?;
    }
    let tensor = Tensor::from_slice(shape, &values)?;
    Ok(hetra_tensor::cast(&tensor, dtype, true, hetra_tensor::Rounding::NearestEven)?)
}

/// Rounds to the nearest whole numbers, which must be there in `dtype`.
fn to_integers(values: &mut [f32], dtype: DType) -> Result<()> {
    values.iter_mut().for_each(|value| *value = value.round_ties_even());
    let (low, high) = dtype.int_range().unwrap_or_default();
    // As floats: the bounds of the widest types are no f32, but far from any pixel.
    let fits = |value: &&f32| !(low as f32..=high as f32).contains(*value);
    match values.iter().find(fits) {
        Some(value) => bail!(
            "a pixel becomes {value}, which does not fit {dtype}: from {low} to {high} (scale=F \
             and mean=A, as in --preprocess mean=128, move it)"
        ),
        None => Ok(()),
    }
}

fn apply(picture: &RgbImage, step: Step) -> Result<RgbImage> {
    let (width, height) = picture.dimensions();
    ensure!(width > 0 && height > 0, "the picture is empty");
    let resize = |h: u32, w: u32| image::imageops::resize(picture, w, h, FilterType::Triangle);
    Ok(match step {
        Step::Resize(h, w) => resize(h, w),
        Step::ShortSide(short) => {
            // What torchvision does: the long side is rounded down.
            let side = |side: u32| {
                let long = u64::from(short) * u64::from(side) / u64::from(width.min(height));
                u32::try_from(long).unwrap_or(SIDE_MAX).clamp(1, SIDE_MAX)
            };
            resize(side(height), side(width))
        }
        Step::Crop(h, w) => {
            ensure!(w <= width && h <= height, "crop={h}x{w}: the picture is {height}x{width}");
            let (x, y) = ((width - w) / 2, (height - h) / 2);
            image::imageops::crop_imm(picture, x, y, w, h).to_image()
        }
        Step::Letterbox(h, w) => {
            let scale = (f64::from(w) / f64::from(width)).min(f64::from(h) / f64::from(height));
            let inner_w = ((f64::from(width) * scale).round() as u32).clamp(1, w);
            let inner_h = ((f64::from(height) * scale).round() as u32).clamp(1, h);
            let inner = resize(inner_h, inner_w);
            let mut canvas = RgbImage::from_pixel(w, h, Rgb([114; 3]));
            let (x, y) = (i64::from((w - inner_w) / 2), i64::from((h - inner_h) / 2));
            image::imageops::replace(&mut canvas, &inner, x, y);
            canvas
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_parse_and_refuse() {
        let spec: Preprocess =
            "resize=256,crop=224x224,mean=0.5,std=0.5,color=bgr".parse().unwrap();
        assert_eq!(spec.steps, [Step::ShortSide(256), Step::Crop(224, 224)]);
        for bad in
            ["resize=0", "crop=axb", "colour=rgb", "scale", "color=blue", "std=0", "mean=1:2"]
        {
            assert!(bad.parse::<Preprocess>().is_err(), "{bad}");
        }
    }

    #[test]
    fn layouts_and_channels_follow_the_input() {
        let picture = DynamicImage::ImageRgb8(RgbImage::from_pixel(4, 2, Rgb([255, 0, 51])));
        let nchw = Type::tensor(DType::F32, &[1, 3, 2, 2]);
        let tensor = to_tensor(&picture, &Preprocess::default(), &nchw).unwrap();
        assert_eq!(tensor.shape(), [1, 3, 2, 2]);
        let blue = &tensor.as_slice::<f32>().unwrap()[8..];
        assert!(blue.len() == 4 && blue.iter().all(|v| (v - 0.2).abs() < 1e-6), "{blue:?}");
        let nhwc = Type::tensor(DType::F32, &[1, 2, 4, 3]);
        let spec: Preprocess = "color=bgr,scale=1".parse().unwrap();
        let tensor = to_tensor(&picture, &spec, &nhwc).unwrap();
        assert_eq!(tensor.as_slice::<f32>().unwrap()[..3], [51.0, 0.0, 255.0]);
        let boxed: Preprocess = "letterbox=4x4,scale=1,color=gray".parse().unwrap();
        let gray = to_tensor(&picture, &boxed, &Type::ranked(DType::F32, 4)).unwrap();
        assert_eq!(gray.shape(), [1, 1, 4, 4]);
        assert!((gray.as_slice::<f32>().unwrap()[0] - 114.0).abs() < 0.1);
    }

    #[test]
    fn integer_inputs_take_pixels_as_they_are() {
        let picture = DynamicImage::ImageRgb8(RgbImage::from_pixel(2, 2, Rgb([255, 0, 51])));
        let read = |dtype, spec: &str| {
            let ty = Type::tensor(dtype, &[1, 3, 2, 2]);
            let tensor = to_tensor(&picture, &spec.parse().unwrap(), &ty);
            let values = tensor.map(|tensor| hetra_tensor::to_f64(&tensor).unwrap());
            values.map(|v| [v[0], v[4], v[8]]).map_err(|error| error.to_string())
        };
        for dtype in [DType::U8, DType::I32, DType::I64, DType::U16] {
            assert_eq!(read(dtype, ""), Ok([255.0, 0.0, 51.0]), "{dtype}");
        }
        assert_eq!(read(DType::I8, "mean=128"), Ok([127.0, -128.0, -77.0]));
        assert_eq!(read(DType::U8, "scale=1/255"), Ok([1.0, 0.0, 0.0]));
        assert!(read(DType::I8, "").unwrap_err().contains("255, which does not fit i8"));
        assert!(read(DType::U8, "mean=1").unwrap_err().contains("-1, which does not fit u8"));
    }

    #[test]
    fn an_input_may_have_no_batch() {
        let picture = DynamicImage::ImageRgb8(RgbImage::from_pixel(4, 2, Rgb([255, 0, 51])));
        for shape in [[3, 2, 4], [2, 4, 3]] {
            let ty = Type::tensor(DType::U8, &shape);
            let tensor = to_tensor(&picture, &Preprocess::default(), &ty).unwrap();
            assert_eq!(tensor.shape(), shape);
            let blue = if shape[0] == 3 { 16 } else { 2 };
            assert_eq!(tensor.as_slice::<u8>().unwrap()[blue], 51);
        }
        let flat = Type::ranked(DType::F32, 2);
        assert!(to_tensor(&picture, &Preprocess::default(), &flat).is_err());
    }

    #[test]
    fn the_long_side_is_rounded_down() {
        let size = |width, height| {
            let picture = RgbImage::new(width, height);
            apply(&picture, Step::ShortSide(256)).unwrap().dimensions()
        };
        assert_eq!(size(640, 427), (383, 256));
        assert_eq!(size(427, 640), (256, 383));
        assert_eq!(size(100_000, 1), (SIDE_MAX, 256));
    }
}
