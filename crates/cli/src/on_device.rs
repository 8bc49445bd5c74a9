//! Which nodes of a model the kernels of a device do, and which stop it from running there whole.

use std::collections::BTreeMap;

use anyhow::Result;
use hetra::{Session, Stop};
use serde::Serialize;
use serde_json::json;

use crate::show;
use crate::usage::or_usage;

/// What `hetra inspect --device` says of a device.
pub(crate) struct OnDevice {
    id: String,
    name: String,
    nodes: usize,
    stops: Vec<Row>,
}

/// Nodes of one operator that another device does.
#[derive(Serialize)]
struct Row {
    op: String,
    /// What does them instead.
    by: String,
    nodes: usize,
    /// The first of them.
    first: String,
}

impl OnDevice {
    /// Compiles a model for a device, as a session would.
    pub(crate) fn of(model: hetra_onnx::Model, device: &str) -> Result<OnDevice> {
        let session = Session::builder().model(model).device(device).build().map_err(or_usage)?;
        let (stops, nodes) = session.stops();
        let info = session.device();
        Ok(OnDevice { id: info.id.clone(), name: info.name.clone(), nodes, stops: rows(stops) })
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        json!({"id": self.id, "name": self.name, "nodes": self.nodes, "stops": self.stops})
    }

    pub(crate) fn print(&self) {
        let stopped: usize = self.stops.iter().map(|row| row.nodes).sum();
        let nodes = show::plural(self.nodes, "node");
        println!("\non {} ({})", self.id, self.name);
        if stopped == 0 {
            println!(
                "  all of {nodes} after optimisation are done by its kernels, as far as it shows before \
             a run"
            );
            return;
        }
        println!(
            "  {stopped} of {nodes} after optimisation are not done by its kernels; --no-fallback \
             stops there"
        );
        let mut table = show::table(&["operator", "nodes", "done by", "first"], &[1]);
        for row in &self.stops {
            let by = if row.by == "reference" { "the reference, slow" } else { &row.by };
            table.add_row([&row.op, &row.nodes.to_string(), by, &show::short(&row.first)]);
        }
        println!("{table}");
    }
}

fn rows(stops: Vec<Stop>) -> Vec<Row> {
    let mut rows: BTreeMap<(String, String), Row> = BTreeMap::new();
    for Stop { node, op, by } in stops {
        let new = || Row { op: op.clone(), by: by.clone(), nodes: 0, first: node };
        rows.entry((op.clone(), by.clone())).or_insert_with(new).nodes += 1;
    }
    let mut rows: Vec<Row> = rows.into_values().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.nodes));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_are_counted_by_operator() {
        let stop = |node: &str, op: &str| Stop {
            node: node.to_string(),
            op: op.to_string(),
            by: "reference".to_string(),
        };
        let rows = rows(vec![stop("a", "Loop"), stop("b", "GRU"), stop("c", "GRU")]);
        let told: Vec<_> =
            rows.iter().map(|row| (&row.op[..], row.nodes, &row.first[..])).collect();
        assert_eq!(told, [("GRU", 2, "b"), ("Loop", 1, "a")]);
    }
}
