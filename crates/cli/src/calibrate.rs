//! `hetra calibrate`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use hetra::placing;
use hetra::{CALIBRATE_STEPS, Calibrated, DriverState, HostThreads, Machine, Seat};

use crate::session::threads;
use crate::show;
use crate::usage::{or_usage, usage};

/// Measure what the devices of this machine reach, into a machine file
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hetra calibrate
  hetra calibrate -d cpu,openvino -o box.toml
  hetra plan model.onnx --goal energy --machine machine.toml
  hetra bench model.onnx -d 'sim:cpu?machine=machine.toml'

Times products, convolutions, sums and copies on each device, and fits to them what a kernel takes to
begin and which part of the device's peaks kernels reach. What the file already says and nobody
measures stays in it: power, price. Add these by hand where you know them:
  [device.cpu]
  power.max = { value = 28, source = \"data sheet\" }
  price.per_hour_usd = { value = 0.05, source = \"our bill\", date = \"2026-11\" }")]
pub(crate) struct Args {
    /// Devices to measure (see `hetra devices`), with commas between them [default: all that are
    /// found]
    #[arg(short, long, value_name = "IDS", value_delimiter = ',')]
    device: Vec<String>,
    /// Host threads of each device that takes a number [default: one for each core]
    #[arg(long, value_name = "N", value_parser = threads, allow_negative_numbers = true)]
    threads: Option<usize>,
    /// The file to write
    #[arg(short, long, default_value = "machine.toml", value_name = "FILE")]
    output: PathBuf,
    /// Print the file instead of writing it
    #[arg(long)]
    stdout: bool,
    /// Run so many small networks of random sizes on each device as well (about 2 a second), and
    /// keep what they take: `hetra plan --predict` learns from it
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = learned)]
    learn: usize,
}

/// The networks are the same each time.
const SEED: u64 = 1;
/// Most networks to learn from.
const LEARN_MAX: usize = 10_000;

fn learned(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|&number| number <= LEARN_MAX);
    number.ok_or_else(|| format!("wanted a number from 0 to {LEARN_MAX}"))
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut machine = match args.output.exists() {
        true => Machine::read(&args.output)?,
        false => Machine { name: "this machine".to_string(), ..Machine::default() },
    };
    let folder = args.output.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !args.stdout && !folder.is_dir()) {
        return Err(usage(format!("there is no folder {}", folder.display())));
    }
    let ids: Vec<String> = match args.device.is_empty() {
        false => args.device.clone(),
        true => {
            let found = hetra::devices().into_iter();
            let found = found.filter(|found| found.state == DriverState::Found);
            found.map(|found| found.info.id).collect()
        }
    };
    let store = hetra::store_path().filter(|_| args.learn > 0);
    if args.learn > 0 && store.is_none() {
        return Err(usage(
            "`--learn`: HETRA_STORE is off: there is nowhere to keep what is learned",
        ));
    }
    let steps = CALIBRATE_STEPS + args.learn;
    let bar = show::progress((ids.len() * steps) as u64, "calibrate");
    let mut all = Vec::new();
    for (index, id) in ids.iter().enumerate() {
        let threads = HostThreads { count: args.threads, pin: false };
        let device = hetra::open(id, threads).map_err(or_usage)?;
        if device.info().simulated.is_some() {
            return Err(usage(format!("{id} is only described: there is nothing to measure")));
        }
        let seat = Seat::from(device);
        let measured = hetra::calibrate(&seat, &mut |moment| {
            bar.set_position((index * steps + moment.done) as u64);
            bar.set_message(moment.what.clone());
        });
        all.push(measured.with_context(|| id.clone())?);
        if let Some(store) = &store {
            bar.set_message(format!("{id}: small networks"));
            let done = placing::practice(&seat, args.learn, SEED, &mut |done| {
                bar.set_position((index * steps + CALIBRATE_STEPS + done) as u64);
            });
            let done = done.with_context(|| id.clone())?;
            show::note(&format!(
                "{id}: {} of {} networks ran, and are kept",
                done.len(),
                args.learn
            ));
            placing::keep_costs(store, &seat, done)?;
        }
    }
    bar.finish_and_clear();
    if !args.stdout {
        print_table(&all);
    }
    all.into_iter().for_each(|measured| measured.into_machine(&mut machine));
    let text = machine.print()?;
    if args.stdout {
        print!("{text}");
        return Ok(ExitCode::SUCCESS);
    }
    let name = || args.output.display().to_string();
    std::fs::write(&args.output, text).with_context(name)?;
    println!("written to {}", name());
    Ok(ExitCode::SUCCESS)
}

fn print_table(all: &[Calibrated]) {
    let head = ["device", "GFLOP/s", "reached", "GB/s", "reached", "to begin", "copies in, out"];
    let head: Vec<&str> = head.into_iter().chain(["graphs", "off by"]).collect();
    let mut table = show::table(&head, &[1, 2, 3, 4, 5, 6, 7, 8]);
    for device in all {
        let spec = &device.spec;
        let value = |figure: &Option<hetra::Figure>| figure.as_ref().map_or(0.0, |f| f.value);
        let peak = spec.peak.get("f32").map_or(0.0, |figure| figure.value);
        let share = |part: f64| format!("{:.0} %", part * 100.0);
        let copies = device.link.as_ref().map_or("none".to_string(), |link| {
            let back = link.back.as_ref().map_or(0.0, |back| back.bandwidth.value);
            format!("{:.1}, {:.1} GB/s", link.bandwidth.value / 1e9, back / 1e9)
        });
        table.add_row([
            device.id.clone(),
            format!("{:.1}", peak / 1e9),
            share(value(&spec.efficiency.compute)),
            format!("{:.1}", value(&spec.memory.bandwidth) / 1e9),
            share(value(&spec.efficiency.memory)),
            format!("{:.1} us", value(&spec.launch_us)),
            copies,
            device.points.to_string(),
            share(device.error),
        ]);
    }
    println!("{table}");
    println!("off by: the median error of the fitted times of those graphs");
}
