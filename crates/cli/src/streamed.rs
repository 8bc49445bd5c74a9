//! Pictures of a stream through a pipeline, told in their order as they are done.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use hetra::Session;
use image::RgbImage;

use crate::pipeline::{Done, How, Times, Took, on_image};
use crate::stream::Pictures;
use crate::{annotate, images, show};

/// Most times that are kept: the statistics are of the last ones.
const TIMES_MAX: usize = 100_000;
/// Pictures that are done, for each job, before one that came before them is.
const AHEAD: usize = 4;

type Worked = Result<(Done, Option<RgbImage>)>;

/// What came of pictures.
struct Told<'a> {
    args: &'a How,
    /// How many are told.
    next: usize,
    /// Those that are done before one that came before them.
    waiting: BTreeMap<usize, Worked>,
    times: VecDeque<Took>,
    faults: usize,
    /// Whether no other picture is to be begun.
    stopped: bool,
}

impl Told<'_> {
    fn give(&mut self, index: usize, done: Worked) -> Result<()> {
        self.waiting.insert(index, done);
        while let Some(done) = self.waiting.remove(&self.next) {
            self.next += 1;
            match done {
                Ok((done, picture)) => self.tell(&done, picture)?,
                Err(error) => {
                    self.faults += 1;
                    show::warn(&format!("picture {}: {}", self.next, show::explain(&error)));
                }
            }
        }
        Ok(())
    }

    fn tell(&mut self, done: &Done, picture: Option<RgbImage>) -> Result<()> {
        if self.args.json {
            println!("{}", done.json());
        } else {
            println!("{}", done.name);
            annotate::print(&done.outputs);
        }
        if let (Some(folder), Some(picture)) = (&self.args.draw, picture) {
            // Their names differ.
            let mut drawn: Vec<PathBuf> = Vec::new();
            annotate::draw(picture, Path::new(&done.name), &done.outputs, folder, &mut drawn)?;
        }
        if self.times.len() == TIMES_MAX {
            self.times.pop_front();
        }
        self.times.push_back(done.took);
        Ok(())
    }
}

/// What the jobs share.
struct Shared<'a, R> {
    session: &'a Session,
    /// How many were read, and the rest.
    pictures: Mutex<(usize, Pictures<R>)>,
    told: Mutex<Told<'a>>,
    went_on: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whatever ends a job, no other one waits for it.
struct Stops<'a, 'b, R>(&'a Shared<'b, R>, bool);

impl<R> Drop for Stops<'_, '_, R> {
    fn drop(&mut self) {
        if self.1 {
            lock(&self.0.told).stopped = true;
        }
        self.0.went_on.notify_all();
    }
}

impl<R: std::io::Read> Shared<'_, R> {
    /// The next picture, when it is not too far ahead of what is told.
    fn take(&self) -> Result<Option<(usize, Vec<u8>)>> {
        let mut pictures = lock(&self.pictures);
        let mut told = lock(&self.told);
        while !told.stopped && pictures.0 >= told.next + AHEAD * told.args.jobs {
            told = self.went_on.wait(told).unwrap_or_else(PoisonError::into_inner);
        }
        if told.stopped {
            return Ok(None);
        }
        drop(told);
        let next = pictures.1.next().with_context(|| format!("picture {}", pictures.0 + 1))?;
        let Some(file) = next else { return Ok(None) };
        pictures.0 += 1;
        Ok(Some((pictures.0 - 1, file)))
    }

    fn work(&self) -> Result<()> {
        let mut stops = Stops(self, true);
        let drawn = lock(&self.told).args.draw.is_some();
        while let Some((index, file)) = self.take()? {
            let done = worked(self.session, index + 1, &file, drawn);
            lock(&self.told).give(index, done)?;
            self.went_on.notify_all();
        }
        stops.1 = false;
        Ok(())
    }
}

/// Works through pictures as they come in.
pub(crate) fn run(session: &Session, label: &str, args: &How) -> Result<ExitCode> {
    if let Some(folder) = &args.draw {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    if session.is_simulated() {
        show::note("a device is only described: the times of runs are modelled");
    }
    let begun = Instant::now();
    let told = Told {
        args,
        next: 0,
        waiting: BTreeMap::new(),
        times: VecDeque::new(),
        faults: 0,
        stopped: false,
    };
    let shared = Shared {
        session,
        pictures: Mutex::new((0, Pictures::new(std::io::stdin()))),
        told: Mutex::new(told),
        went_on: Condvar::new(),
    };
    let ended = std::thread::scope(|scope| {
        let others: Vec<_> = (1..args.jobs).map(|_| scope.spawn(|| shared.work())).collect();
        let own = shared.work();
        let lost = || Err(anyhow!("a job panicked"));
        let joined = others.into_iter().map(|other| other.join().unwrap_or_else(|_| lost()));
        joined.fold(own, Result::and)
    });
    ended?;
    let told = shared.told.into_inner().unwrap_or_else(PoisonError::into_inner);
    let count = told.next - told.faults;
    ensure!(count > 0, "no picture of the stream could be used");
    if !args.json {
        println!("{label} on {}", show::on(session));
        Times::of(told.times.into_iter()).print();
        println!("{:.1} pictures a second", count as f64 / begun.elapsed().as_secs_f64());
    }
    Ok(if told.faults == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A picture, with its pixels where they are drawn into.
fn worked(session: &Session, number: usize, file: &[u8], kept: bool) -> Worked {
    let begun = Instant::now();
    let image = images::pixels_in(file)?;
    let decode_ms = begun.elapsed().as_secs_f64() * 1e3;
    let picture = kept.then(|| {
        let (height, width) = (image.shape()[0] as u32, image.shape()[1] as u32);
        RgbImage::from_raw(width, height, image.as_slice::<u8>().ok()?.to_vec())
    });
    let done = on_image(session, format!("picture-{number:06}"), image, decode_ms)?;
    Ok((done, picture.flatten()))
}
