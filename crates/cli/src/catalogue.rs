//! `hetra devices --catalogue`

use std::process::ExitCode;

use anyhow::Result;
use hetra::DeviceSpec;

use crate::show;

/// Lists what is described, with the figures that times follow from.
pub(crate) fn run(json: bool) -> Result<ExitCode> {
    if json {
        let all: std::collections::BTreeMap<&str, &DeviceSpec> =
            hetra::catalogue().devices().collect();
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(ExitCode::SUCCESS);
    }
    let head = ["device", "kind", "what", "TOP/s", "GB/s", "memory", "watts", "link", "figures"];
    let mut table = show::table(&head, &[4, 5, 6]);
    for (id, spec) in hetra::catalogue().devices() {
        let number = |figure: &Option<hetra::Figure>, scale: f64| {
            figure.as_ref().map_or(String::new(), |figure| short(figure.value / scale))
        };
        let peaks = spec.peak.iter().map(|(name, figure)| {
            let tera = short(figure.value / 1e12);
            format!("{name} {tera}")
        });
        let memory = spec.memory.bytes.as_ref().map(|figure| show::bytes(figure.value as u64));
        table.add_row([
            id.to_string(),
            spec.kind.map_or(String::new(), |kind| kind.to_string()),
            spec.name.clone(),
            peaks.collect::<Vec<_>>().join(", "),
            number(&spec.memory.bandwidth, 1e9),
            memory.unwrap_or_default(),
            number(&spec.power.max, 1.0),
            spec.host_link.clone().unwrap_or_default(),
            if spec.is_calibrated() { "calibrated" } else { "published" }.to_string(),
        ]);
    }
    println!("{table}");
    println!(
        "sim:ID runs on one by a model of it: `hetra plan model.onnx -d cpu,sim:l4`; --json gives \
         the source of every figure"
    );
    Ok(ExitCode::SUCCESS)
}

/// Three digits.
fn short(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value >= 0.1 => format!("{value:.2}"),
        value => format!("{value:.4}"),
    }
}
