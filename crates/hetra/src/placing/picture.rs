//! Plans as pictures: Graphviz, SVG, a page of HTML with a time line.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::placing::file::{PlanFile, PlanPart, PlanTask};

/// Colours of devices, in the order in which a plan names them: told apart by people who see few
/// colours, too.
const COLOURS: [&str; 8] =
    ["#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#9a6700", "#0a7ea4", "#57606a"];
/// Pixels of a task in the picture, and between two.
const BOX: (f64, f64) = (190.0, 58.0);
const GAP: (f64, f64) = (26.0, 46.0);
const MARGIN: f64 = 16.0;
/// Most tasks in one row.
const ROW_MAX: usize = 6;
/// Pixels of the time line, and of a device in it.
const LINE_W: f64 = 900.0;
const LINE_H: f64 = 34.0;

impl PlanFile {
    /// The devices of its tasks, each once.
    fn used(&self) -> Vec<&str> {
        let steps = self.timeline.iter().map(|step| step.device.as_str());
        let tasks = self.tasks.iter().map(|task| task.device.as_str());
        let mut used: Vec<&str> = self.devices.iter().map(|device| device.id.as_str()).collect();
        for device in tasks.chain(steps) {
            if !used.contains(&device) {
                used.push(device);
            }
        }
        used
    }

    fn colour(&self, device: &str) -> &'static str {
        let at = self.used().iter().position(|used| *used == device).unwrap_or(0);
        COLOURS[at % COLOURS.len()]
    }

    /// The tasks for Graphviz: `dot -Tsvg`.
    pub fn to_dot(&self) -> String {
        let mut text =
            String::from("digraph plan {\n  node [shape=box, style=filled, fontcolor=white];\n");
        for (index, task) in self.tasks.iter().enumerate() {
            let colour = self.colour(&task.device);
            let lines = self.label(task).map(|line| escaped(&line, Form::Dot));
            let label = lines.join("\\n");
            let _ = writeln!(text, "  t{index} [label=\"{label}\", fillcolor=\"{colour}\"];");
        }
        for (index, task) in self.tasks.iter().enumerate() {
            for (from, bytes) in &task.reads {
                let wide = if self.tasks[*from].device == task.device { 1 } else { 3 };
                let bytes = size(*bytes);
                let _ =
                    writeln!(text, "  t{from} -> t{index} [label=\"{bytes}\", penwidth={wide}];");
            }
        }
        text + "}\n"
    }

    /// What stands in the box of a task.
    fn label(&self, task: &PlanTask) -> [String; 3] {
        let time = task.seconds.get(&task.device).map_or(String::new(), |&seconds| ms(seconds));
        [
            format!("{} ({} nodes)", short(&task.first), task.nodes),
            task.device.clone(),
            format!("{time}, {:.1} MFLOP", task.ops / 1e6),
        ]
    }

    /// The tasks as a picture: each below those that it reads of, coloured by device.
    pub fn to_svg(&self) -> String {
        let places = places(&self.tasks);
        let right = places.iter().map(|place| place.0).fold(0.0, f64::max) + BOX.0 + MARGIN;
        let bottom = places.iter().map(|place| place.1).fold(0.0, f64::max) + BOX.1 + MARGIN;
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {right:.0} {bottom:.0}\" \
             width=\"{right:.0}\" height=\"{bottom:.0}\" font-family=\"system-ui, sans-serif\" \
             font-size=\"11\" role=\"img\" aria-label=\"Tasks of the plan and their devices\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
        );
        for (index, task) in self.tasks.iter().enumerate() {
            for &(from, bytes) in &task.reads {
                let ((x0, y0), (x1, y1)) = (places[from], places[index]);
                let (x0, y0, x1) = (x0 + BOX.0 / 2.0, y0 + BOX.1, x1 + BOX.0 / 2.0);
                let crosses = self.tasks[from].device != task.device;
                let (colour, wide) = if crosses { ("#cf222e", 2.5) } else { ("#8c959f", 1.2) };
                let _ = writeln!(
                    text,
                    "<path d=\"M{x0:.1} {y0:.1} C{x0:.1} {:.1} {x1:.1} {:.1} {x1:.1} {y1:.1}\" \
                     fill=\"none\" stroke=\"{colour}\" stroke-width=\"{wide}\"><title>{}</title></path>",
                    y0 + GAP.1 / 2.0,
                    y1 - GAP.1 / 2.0,
                    size(bytes)
                );
            }
        }
        for (task, (x, y)) in self.tasks.iter().zip(&places) {
            let _ = writeln!(
                text,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{}\" height=\"{}\" rx=\"6\" fill=\"{}\"/>",
                BOX.0,
                BOX.1,
                self.colour(&task.device)
            );
            for (row, line) in self.label(task).iter().enumerate() {
                let _ = writeln!(
                    text,
                    "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"#ffffff\">{}</text>",
                    x + 9.0,
                    y + 17.0 + 16.0 * row as f64,
                    escaped(line, Form::Xml)
                );
            }
        }
        text + "</svg>\n"
    }

    /// The time line of one run of the chosen plan.
    fn timeline_svg(&self) -> String {
        let used: BTreeSet<&str> = self.timeline.iter().map(|step| step.device.as_str()).collect();
        let end = self.timeline.iter().map(|step| step.start_s + step.seconds).fold(1e-9, f64::max);
        let height = LINE_H * used.len() as f64 + 30.0;
        let left = 170.0;
        let mut text = format!(
            "<svg viewBox=\"0 0 {:.0} {height:.0}\" width=\"100%\" font-size=\"11\" role=\"img\" \
             aria-label=\"One run, device by device\">\n",
            LINE_W + left
        );
        for (row, device) in used.iter().enumerate() {
            let y = LINE_H * row as f64;
            let name = escaped(device, Form::Xml);
            let _ = writeln!(text, "<text x=\"0\" y=\"{:.1}\">{name}</text>", y + 20.0);
            for step in self.timeline.iter().filter(|step| step.device == **device) {
                let how = if step.modelled { "modelled" } else { "measured" };
                let _ = writeln!(
                    text,
                    "<rect x=\"{:.2}\" y=\"{:.1}\" width=\"{:.2}\" height=\"{:.1}\" fill=\"{}\" \
                     stroke=\"#ffffff\" stroke-width=\"0.5\"><title>{}: {} {how}, from {}</title></rect>",
                    left + step.start_s / end * LINE_W,
                    y + 5.0,
                    (step.seconds / end * LINE_W).max(0.8),
                    LINE_H - 10.0,
                    self.colour(device),
                    escaped(&step.name, Form::Xml),
                    ms(step.seconds),
                    ms(step.start_s)
                );
            }
        }
        for tick in 0..=4 {
            let x = left + LINE_W * f64::from(tick) / 4.0;
            let anchor = if tick == 4 { "end" } else { "middle" };
            let _ = writeln!(
                text,
                "<line x1=\"{x:.1}\" y1=\"0\" x2=\"{x:.1}\" y2=\"{:.1}\" stroke=\"#d0d7de\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\" fill=\"#57606a\">{}</text>",
                height - 26.0,
                height - 10.0,
                ms(end * f64::from(tick) / 4.0)
            );
        }
        text + "</svg>\n"
    }

    /// One page that needs nothing else: what was considered, where parts are and why, a time line,
    /// the graph.
    pub fn to_html(&self, model: &str) -> String {
        let title = format!("{} for {}", escaped(model, Form::Xml), escaped(&self.goal, Form::Xml));
        let mut text = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<style>{STYLE}</style></head>\n\
             <body><h1>{title}</h1>\n"
        );
        let on: BTreeSet<&str> = self.parts.iter().map(|part| part.device.as_str()).collect();
        let on: Vec<String> = on.into_iter().map(|device| escaped(device, Form::Xml)).collect();
        let _ = writeln!(
            text,
            "<p>Chosen: <b>{}</b>, on {}. A run should take {} by what its tasks took.</p>",
            escaped(&self.chosen, Form::Xml),
            on.join(", "),
            ms(self.predicted_s)
        );
        if let Some(certificate) = &self.certificate {
            let how = if certificate.modelled { "Modelled" } else { "Measured" };
            let _ = writeln!(
                text,
                "<p>{how} in {} pairs of runs in turn, {} of them won: {} over {} is <b>{:.3}</b> \
                 ({:.3} to {:.3}), so {} is taken.</p>",
                certificate.pairs,
                certificate.faster,
                escaped(&certificate.plan, Form::Xml),
                escaped(&certificate.single, Form::Xml),
                certificate.ratio.median,
                certificate.ratio.lower,
                certificate.ratio.upper,
                escaped(&certificate.winner, Form::Xml)
            );
        }
        text += &self.considered_table();
        text += "<h2>One run</h2>\n";
        text += &self.timeline_svg();
        text += "<h2>Parts</h2>\n";
        text += &self.parts_table();
        text += "<h2>Tasks</h2>\n<p>Red lines cross from one device to another.</p>\n";
        text += &self.to_svg();
        if !self.refused.is_empty() {
            text += "<h2>Not used</h2>\n<ul>\n";
            for refused in &self.refused {
                let name = escaped(&refused.name, Form::Xml);
                let _ = writeln!(text, "<li>{name}: {}</li>", escaped(&refused.reason, Form::Xml));
            }
            text += "</ul>\n";
        }
        text + "</body></html>\n"
    }

    fn considered_table(&self) -> String {
        let head = ["plan", "by", "latency", "between two results", "energy", "cost", "error", ""];
        let row = |row: &crate::placing::file::Considered| {
            let figures = row.figures;
            let seconds = |of: Option<f64>| of.map_or("not run".to_string(), ms);
            let known = |of: Option<f64>, unit: &str| {
                of.map_or("unavailable".to_string(), |value| format!("{value:.3e} {unit}"))
            };
            vec![
                row.name.clone(),
                row.policy.clone().unwrap_or_else(|| "itself".to_string()),
                seconds(figures.map(|figures| figures.latency_s)),
                seconds(figures.map(|figures| figures.interval_s)),
                known(figures.and_then(|figures| figures.joules), "J"),
                known(figures.and_then(|figures| figures.dollars), "USD"),
                row.error.map_or(String::new(), |error| format!("{error:.1e}")),
                if row.modelled { "modelled" } else { "measured" }.to_string(),
            ]
        };
        table(&head, self.considered.iter().map(row))
    }

    fn parts_table(&self) -> String {
        let head =
            ["device", "nodes", "from", "to", "predicted", "energy", "copies in", "copies out"];
        let head: Vec<&str> =
            head.into_iter().chain(["because", "what keeps others away"]).collect();
        let row = |part: &PlanPart| {
            let copies = |copies: crate::placing::file::Copies| {
                format!("{} of {}, {}", copies.values, size(copies.bytes), ms(copies.seconds))
            };
            let blocked = part.blocked.iter().map(|blocked| {
                let gain = ms(blocked.gain_s);
                format!(
                    "{}: {} ({}); would save {gain}",
                    blocked.device, blocked.by, blocked.reason
                )
            });
            vec![
                part.device.clone(),
                part.nodes.iter().map(|(from, to)| to - from).sum::<u32>().to_string(),
                part.first.clone(),
                part.last.clone(),
                part.predicted_s.map_or(String::new(), ms),
                part.joules.map_or("unavailable".to_string(), |joules| format!("{joules:.2e} J")),
                copies(part.copies_in),
                copies(part.copies_out),
                part.cause.clone(),
                blocked.collect::<Vec<_>>().join("; "),
            ]
        };
        table(&head, self.parts.iter().map(row))
    }
}

const STYLE: &str = "body{font-family:system-ui,sans-serif;font-size:14px;margin:2em auto;\
    max-width:75em;padding:0 1em;color:#1f2328}table{border-collapse:collapse;margin:1em 0}\
    td,th{border:1px solid #d0d7de;padding:.3em .6em;text-align:left;vertical-align:top}\
    th{background:#f6f8fa}svg{max-width:100%;height:auto}";

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut text = String::from("<table><tr>");
    text.extend(head.iter().map(|name| format!("<th>{name}</th>")));
    text += "</tr>\n";
    for row in rows {
        text += "<tr>";
        text.extend(row.iter().map(|cell| format!("<td>{}</td>", escaped(cell, Form::Xml))));
        text += "</tr>\n";
    }
    text + "</table>\n"
}

/// Where the box of each task is: a row below those that it reads of; rows that are too long are
/// broken.
fn places(tasks: &[PlanTask]) -> Vec<(f64, f64)> {
    let mut depth = vec![0usize; tasks.len()];
    for (index, task) in tasks.iter().enumerate() {
        let above = task.reads.iter().filter(|(from, _)| *from < index);
        depth[index] = above.map(|(from, _)| depth[*from] + 1).max().unwrap_or(0);
    }
    let mut rows: Vec<Vec<usize>> = Vec::new();
    for level in 0..=depth.iter().copied().max().unwrap_or(0) {
        let of_level: Vec<usize> = (0..tasks.len()).filter(|&task| depth[task] == level).collect();
        rows.extend(of_level.chunks(ROW_MAX).map(<[usize]>::to_vec));
    }
    let widest = rows.iter().map(Vec::len).max().unwrap_or(1) as f64;
    let mut places = vec![(0.0, 0.0); tasks.len()];
    for (row, of_row) in rows.iter().enumerate() {
        let begin = (widest - of_row.len() as f64) * (BOX.0 + GAP.0) / 2.0;
        for (column, &task) in of_row.iter().enumerate() {
            let x = MARGIN + begin + column as f64 * (BOX.0 + GAP.0);
            places[task] = (x, MARGIN + row as f64 * (BOX.1 + GAP.1));
        }
    }
    places
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Dot,
    Xml,
}

/// Text in which nothing means anything to the form around it.
fn escaped(text: &str, form: Form) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match (form, letter) {
            (Form::Dot, '"') => safe.push_str("\\\""),
            (Form::Dot, '\\') => safe.push_str("\\\\"),
            (Form::Xml, '&') => safe.push_str("&amp;"),
            (Form::Xml, '<') => safe.push_str("&lt;"),
            (Form::Xml, '>') => safe.push_str("&gt;"),
            (Form::Xml, '"') => safe.push_str("&quot;"),
            // Of control characters none is allowed in XML but these.
            (_, letter) if letter.is_control() && !"\n\t".contains(letter) => safe.push('?'),
            (_, letter) => safe.push(letter),
        }
    }
    safe
}

fn ms(seconds: f64) -> String {
    match seconds {
        seconds if seconds >= 1e-3 => format!("{:.2} ms", seconds * 1e3),
        seconds => format!("{:.1} us", seconds * 1e6),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        bytes if bytes >= 1 << 20 => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
        bytes if bytes >= 1 << 10 => format!("{:.1} KiB", bytes as f64 / f64::from(1 << 10)),
        bytes => format!("{bytes} B"),
    }
}

/// The end of a long name: what tells it from others.
fn short(name: &str) -> String {
    let count = name.chars().count();
    match count > 20 {
        true => format!("..{}", name.chars().skip(count - 18).collect::<String>()),
        false => name.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::placing::file::PlanStep;

    fn plan() -> PlanFile {
        let task = |first: &str, device: &str, reads: Vec<(usize, u64)>| PlanTask {
            first: first.to_string(),
            nodes: 2,
            ops: 1e6,
            out_bytes: 10,
            seconds: BTreeMap::from([(device.to_string(), 1e-3)]),
            from: Default::default(),
            left: Vec::new(),
            device: device.to_string(),
            reads,
        };
        let mut plan = crate::placing::file::sample(vec![("cpu", vec![(0, 1)])]);
        plan.tasks = vec![
            task("a<b>\"", "cpu", vec![]),
            task("b", "ort", vec![(0, 4096)]),
            task("c", "cpu", vec![(0, 8), (1, 5 << 20)]),
        ];
        let step = |device: &str, start_s: f64| PlanStep {
            device: device.to_string(),
            name: "s & t".to_string(),
            start_s,
            seconds: 1e-3,
            modelled: device == "ort",
        };
        plan.timeline = vec![step("cpu", 0.0), step("ort", 1e-3)];
        plan
    }

    #[test]
    fn every_task_and_edge_is_drawn() {
        let (plan, dot) = (plan(), plan().to_dot());
        assert_eq!((dot.matches("label=").count(), dot.matches("->").count()), (6, 3));
        assert!(dot.contains("a<b>\\\"") && dot.contains("5.0 MiB"));
        let svg = plan.to_svg();
        assert_eq!((svg.matches("<rect x").count(), svg.matches("<path").count()), (3, 3));
        // Two edges cross from one device to another.
        assert_eq!(svg.matches("#cf222e").count(), 2);
        assert!(svg.contains("a&lt;b&gt;&quot;") && !svg.contains("a<b>"));
    }

    #[test]
    fn a_page_holds_everything_and_asks_for_nothing() {
        let html = plan().to_html("m<odel>.onnx");
        for part in ["m&lt;odel&gt;.onnx", "One run", "Parts", "Tasks", "modelled", "s &amp; t"] {
            assert!(html.contains(part), "{part}");
        }
        // The name of SVG is no address that is asked.
        let named = html.replace("http://www.w3.org/2000/svg", "");
        assert!(!named.contains("http") && !named.contains("<script"));
    }

    #[test]
    fn tasks_stand_below_those_they_read() {
        let places = places(&plan().tasks);
        assert!(places[0].1 < places[1].1 && places[1].1 < places[2].1);
    }
}
