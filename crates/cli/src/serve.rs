//! `hetra serve`

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use hetra_serve::{Moment, Options};

use crate::session::threads;
use crate::show;
use crate::usage::usage;

/// Serve the models of a folder: the Open Inference Protocol over HTTP and gRPC, as Triton has it
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hetra serve --repository models
  hetra serve --repository models --model face --device ort --http-port 9000
  curl localhost:8000/v2/models/face

The folder is laid out as Triton's: `MODEL/1/model.onnx`, and `MODEL/config.pbtxt` where a model is to
have a max_batch_size, dynamic_batching, an instance_group, a version_policy. Fields that mean nothing
here are refused by their names. The parameters `device` and `threads` of a configuration say where a
model runs. A model without a configuration is batched where the first axis of all its inputs and
outputs is the same open one.

A model's queue is bounded: what it cannot take, or cannot do within a request's timeout, is answered
at once with 429 (RESOURCE_EXHAUSTED) and when to come again. Ctrl-C and SIGTERM let requests in
flight end. Metrics are at http://HOST:METRICS_PORT/metrics, under Triton's names.")]
pub(crate) struct Args {
    /// The folder of models
    #[arg(short, long, value_name = "FOLDER")]
    repository: PathBuf,
    /// A model to load at the start (repeatable) [default: all that are there]
    #[arg(short, long = "model", value_name = "NAME")]
    models: Vec<String>,
    /// Refuse requests that load or unload models
    #[arg(long)]
    no_control: bool,
    /// The address to listen on; 0.0.0.0 is every one that the machine has
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: IpAddr,
    /// The port of HTTP; 0: any that is free
    #[arg(long, value_name = "PORT", default_value_t = 8000)]
    http_port: u16,
    /// The port of gRPC; 0: any that is free
    #[arg(long, value_name = "PORT", default_value_t = 8001)]
    grpc_port: u16,
    /// The port of the metrics; 0: any that is free
    #[arg(long, value_name = "PORT", default_value_t = 8002)]
    metrics_port: u16,
    /// The device of models whose configuration names none (see `hetra devices`)
    #[arg(short, long, value_name = "ID", default_value = "cpu")]
    device: String,
    /// Host threads of each model on a device that takes a number [default: one for each core]
    #[arg(long, value_name = "N", value_parser = threads, allow_negative_numbers = true)]
    threads: Option<usize>,
    /// MiB of a request at most, also once it is decompressed
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    max_request: u16,
    /// A file with the token that requests must bring, as `Authorization: Bearer TOKEN`
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Seconds that requests in flight may take when the server ends
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain: u16,
}

fn options(args: &Args) -> Result<Options> {
    let token = match &args.token_file {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            let token = text.trim().to_string();
            if token.is_empty() {
                return Err(usage(format!("{}: no token in it", path.display())));
            }
            Some(token)
        }
        None => None,
    };
    Ok(Options {
        repository: args.repository.clone(),
        models: args.models.clone(),
        control: !args.no_control,
        host: args.host,
        http_port: args.http_port,
        grpc_port: args.grpc_port,
        metrics_port: args.metrics_port,
        device: args.device.clone(),
        threads: args.threads,
        body_max: usize::from(args.max_request) << 20,
        token,
        drain: Duration::from_secs(args.drain.into()),
    })
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let options = options(args)?;
    if !options.host.is_loopback() && options.token.is_none() {
        show::warn(&format!("everybody who reaches {} is answered: no --token-file", options.host));
    }
    hetra_serve::run(options, tell)?;
    Ok(ExitCode::SUCCESS)
}

fn tell(moment: Moment) {
    match moment {
        Moment::Loaded(name, versions) => {
            eprintln!("loaded {name}, version {}", versions.join(", "));
        }
        Moment::NotLoaded(name, reason) => show::warn(&format!("{name} is not served: {reason}")),
        Moment::Listening(http, grpc, metrics) => {
            eprintln!("serving http://{http}, gRPC {grpc}, http://{metrics}/metrics");
        }
        Moment::Ending => eprintln!("ending: requests in flight are finished"),
        _ => {}
    }
}
