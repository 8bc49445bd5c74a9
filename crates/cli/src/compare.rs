//! `hetra compare`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use comfy_table::{Cell, Color};
use serde_json::json;

use crate::difference::difference;
use crate::inputs::Given;
use crate::recorded;
use crate::session::{Target, TunedArgs};
use crate::show;
use crate::usage::tolerance;

/// Run a model on recorded inputs and compare with recorded outputs
///
/// An element may differ by `atol * scale + rtol * |wanted|`, where scale is the largest
/// magnitude in the wanted output, and at least 1. Exits 1 when any element differs by more.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hetra compare model.onnx --data test_data_set_0
  hetra compare model.onnx --data test_data_set_0 --rtol 1e-2 --json")]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    schedules: TunedArgs,
    /// Folder with input_N.pb and output_N.pb (ONNX test layout)
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Relative tolerance
    #[arg(long, default_value_t = 1e-3, value_name = "R", value_parser = tolerance,
          allow_negative_numbers = true)]
    rtol: f64,
    /// Absolute tolerance, for outputs of magnitude 1
    #[arg(long, default_value_t = 1e-4, value_name = "A", value_parser = tolerance,
          allow_negative_numbers = true)]
    atol: f64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let session = args.target.open(&Given::Folder(&args.data), args.schedules.tuned())?;
    let inputs = recorded::inputs(&session, &args.data)?;
    let session = args.target.settle_precision(session, &inputs, &[])?;
    let wanted = recorded::outputs(&session, &args.data)?;
    anyhow::ensure!(!wanted.is_empty(), "{}: no output_N.pb", args.data.display());
    let outputs = session.run(inputs).with_context(|| args.target.model.display().to_string())?;
    let mut table =
        show::table(&["output", "type", "largest error", "of tolerance", "verdict"], &[2, 3]);
    let mut rows = Vec::new();
    let mut passed = true;
    for (index, want) in wanted.iter().enumerate() {
        let (name, got) = outputs
            .iter()
            .nth(index)
            .with_context(|| format!("the model has no output {index}"))?;
        let (ok, error, share, note) = match difference(got, want, args.rtol, args.atol) {
            Ok(d) if d.over == 0 => (true, d.max_abs, d.worst, String::new()),
            Ok(d) => {
                let (at, x, y) = d.at.unwrap_or_default();
                let (x, y) = (show::exact(x), show::exact(y));
                let note = format!(
                    "{} of {} elements, worst at {at}: got {x}, wanted {y}",
                    d.over, d.count
                );
                (false, d.max_abs, d.worst, note)
            }
            Err(reason) => (false, f64::INFINITY, f64::INFINITY, reason),
        };
        passed &= ok;
        let verdict = if ok {
            Cell::new("ok").fg(Color::Green)
        } else {
            Cell::new(format!("differs: {note}")).fg(Color::Red)
        };
        let or_dash = |text: String| if error.is_finite() { text } else { "-".to_string() };
        table.add_row([
            Cell::new(name),
            Cell::new(got.describe()),
            Cell::new(or_dash(format!("{error:.3e}"))),
            Cell::new(or_dash(format!("{:.1} %", share * 100.0))),
            verdict,
        ]);
        rows.push(json!({"output": name, "max_error": error, "of_tolerance": share, "passed": ok,
            "note": note}));
    }
    if args.json {
        let precision = args.target.precision_json(&session);
        println!("{}", json!({"passed": passed, "outputs": rows, "precision": precision}));
    } else {
        println!("{table}");
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
