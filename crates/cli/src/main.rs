//! The `hetra` command: one file per verb, all options declared beside what they do.
//!
//! Results go to stdout, logs and progress to stderr; the exit code is 0 only on success, 2
//! when the command line is at fault.
#![allow(clippy::print_stdout, reason = "stdout is this program's product")]
#![allow(clippy::print_stderr, reason = "progress and errors go to stderr")]

mod annotate;
mod bench;
mod calibrate;
mod catalogue;
mod classes;
mod compare;
mod completions;
mod conformance;
mod demo;
mod devices;
mod difference;
mod docs;
mod generate;
mod group;
mod images;
mod inputs;
mod inspect;
mod jpeg;
mod literal;
mod model;
mod npy;
mod on_device;
mod pipeline;
mod plan;
mod plan_show;
mod probe;
mod profile;
mod recorded;
mod run;
mod serve;
mod session;
mod show;

mod statistics;
mod stream;
mod streamed;
mod together;
mod tune;
mod usage;
mod values;
mod worker;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// One model, every chip: run neural networks (ONNX), and see what happened and why.
#[derive(Parser)]
#[command(
    name = "hetra",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  hetra demo
  hetra inspect model.onnx
  hetra run model.onnx -i cat.jpg --labels classes.txt
  hetra bench model.onnx -t 5 --json
  hetra plan model.onnx -o plan.json

Exit codes: 0 success, 1 something failed or differed, 2 the command line is at fault.
Environment: NO_COLOR=1 switches colours off; HETRA_CPU=avx2|portable holds the kernels back;
HETRA_STORE names the file of what was tuned, HETRA_KERNEL_CACHE the folder of compiled kernels, and
HETRA_PLANS that of plans, or they are off."
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Devices(devices::Args),
    Inspect(inspect::Args),
    Run(run::Args),
    Compare(compare::Args),
    Plan(plan::Args),
    Group(group::Args),
    Calibrate(calibrate::Args),
    Pipeline(pipeline::Args),
    Serve(serve::Args),
    Bench(bench::Args),
    Tune(tune::Args),
    Conformance(conformance::Args),
    Demo(demo::Args),
    Completions(completions::Args),
    #[command(hide = true)]
    DocsOps(docs::Args),
    #[command(hide = true)]
    ConformanceWorker(worker::Args),
    #[command(hide = true)]
    ProbeDriver(probe::Args),
}

/// When the reader of stdout has gone, as `head` does, the program ends quietly with the status
/// that a shell gives to SIGPIPE, instead of a panic.
fn end_with_the_reader() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let gone = |text: &str| {
            text.starts_with("failed printing to std")
                && (text.contains("Broken pipe") || text.contains("os error 232"))
        };
        if info.payload_as_str().is_some_and(gone) {
            std::process::exit(141);
        }
        usual(info);
    }));
}

fn main() -> ExitCode {
    end_with_the_reader();
    let verb = match Cli::try_parse() {
        Ok(cli) => cli.verb,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    probe::by_this_program();
    // Others have no such option.
    let bounded = matches!(verb, Verb::Run(_) | Verb::Compare(_) | Verb::Bench(_) | Verb::Tune(_));
    let result = match verb {
        Verb::Devices(args) => devices::run(&args),
        Verb::Inspect(args) => inspect::run(&args),
        Verb::Run(args) => run::run(&args),
        Verb::Compare(args) => compare::run(&args),
        Verb::Plan(args) => plan::run(&args),
        Verb::Group(args) => group::run(&args),
        Verb::Calibrate(args) => calibrate::run(&args),
        Verb::Pipeline(args) => pipeline::run(&args),
        Verb::Serve(args) => serve::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Tune(args) => tune::run(&args),
        Verb::Conformance(args) => conformance::run(&args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Completions(args) => completions::run(&args, Cli::command()),
        Verb::DocsOps(args) => docs::run(&args),
        Verb::ConformanceWorker(args) => worker::run(&args),
        Verb::ProbeDriver(args) => probe::run(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            let text = show::explain(&error);
            eprintln!("{} {text}", console::style("error:").red().bold().for_stderr());
            if bounded && usage::is_over_bytes(&error) {
                eprintln!("hint: --max-bytes sets the limit");
            }
            if usage::is_usage(&error) { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}
