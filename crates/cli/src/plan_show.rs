//! Plans, for people.

use std::path::Path;

use hetra::placing::{
    Certificate, Considered, CostSource, Figures, Frontier, PlanFile, PlanGoal, PlanTask,
};

use crate::show;

fn millis(seconds: f64) -> String {
    show::millis(seconds * 1e3)
}

/// A figure in the unit of a goal.
fn figure(value: f64, unit: &str) -> String {
    match unit {
        "s" => millis(value),
        "J" => energy(value),
        "USD" => dollars(value),
        _ => format!("{value:.3}"),
    }
}

fn energy(joules: f64) -> String {
    match joules {
        joules if joules < 1e-3 => format!("{:.1} uJ", joules * 1e6),
        joules if joules < 1.0 => format!("{:.2} mJ", joules * 1e3),
        joules => format!("{joules:.2} J"),
    }
}

/// Of a million runs, as one of them is next to nothing.
fn dollars(dollars: f64) -> String {
    format!("{:.4} USD/M", dollars * 1e6)
}

pub(crate) fn print(path: &Path, plan: &PlanFile, explain: bool) {
    println!("{} for {}: {}", path.display(), plan.goal, chosen(plan));
    let unit = PlanGoal::parse(&plan.goal).map_or("", |goal| goal.unit());
    let figures = |row: &Considered| row.figures.unwrap_or_default();
    let powered = plan.considered.iter().any(|row| figures(row).joules.is_some());
    let priced = plan.considered.iter().any(|row| figures(row).dollars.is_some());
    let timed = unit != "s" || powered || priced;
    let mut head = vec!["plan", "by", "predicted", "measured"];
    head.extend(timed.then_some("latency"));
    head.extend(powered.then_some("energy"));
    head.extend(priced.then_some("cost"));
    head.push("error");
    let mut table = show::table(&head, &(2..head.len()).collect::<Vec<_>>());
    for row in &plan.considered {
        let mark = if row.name == plan.chosen { "* " } else { "  " };
        let ran = |value: f64| match row.modelled {
            true => format!("{} modelled", figure(value, unit)),
            false => figure(value, unit),
        };
        let mut cells = vec![
            format!("{mark}{}", row.name),
            row.policy.clone().unwrap_or_else(|| "itself".to_string()),
            row.predicted.map_or("unavailable".to_string(), |value| figure(value, unit)),
            row.measured.map_or("not run".to_string(), ran),
        ];
        let known = |value: Option<f64>, text: &dyn Fn(f64) -> String| {
            value.map_or("unavailable".to_string(), text)
        };
        cells.extend(timed.then(|| known(row.figures.map(|f| f.latency_s), &millis)));
        cells.extend(powered.then(|| known(figures(row).joules, &energy)));
        cells.extend(priced.then(|| known(figures(row).dollars, &dollars)));
        cells.push(row.error.map_or(String::new(), |error| format!("{error:.1e}")));
        table.add_row(cells);
    }
    println!("\n{table}");
    if plan.parts.len() > 1 {
        let mut table = show::table(&["part", "device", "nodes", "from", "to", "because"], &[0, 2]);
        for (index, part) in plan.parts.iter().enumerate() {
            let nodes: u32 = part.nodes.iter().map(|(from, to)| to - from).sum();
            table.add_row([
                index.to_string(),
                part.device.clone(),
                nodes.to_string(),
                show::short(&part.first),
                show::short(&part.last),
                part.cause.clone(),
            ]);
        }
        println!("\n{table}");
    }
    if explain {
        print_tasks(plan);
    }
    for refused in &plan.refused {
        println!("not used: {}: {}", refused.name, refused.reason);
    }
    for (device, spread) in &plan.learned_spread {
        println!(
            "costs of {device} are learned where they were not measured: half of them were off by {:.0} % or more",
            spread * 100.0
        );
    }
    plan.warnings.iter().for_each(|text| show::warn(text));
    if let Some(bound) = &plan.bound {
        let (score, by) = (figure(bound.score, unit), &bound.by);
        println!("by what the tasks took, no placement is below {score} ({by})");
    }
    print_frontier(&plan.frontier);
    plan.certificate.iter().for_each(|certificate| println!("{}", sentence(certificate)));
}

fn print_frontier(frontier: &[Frontier]) {
    if frontier.is_empty() {
        return;
    }
    println!("\nnone of these is better than another in every respect, by what the tasks took:");
    let head = ["devices", "latency", "a second, overlapping", "energy", "cost"];
    let mut table = show::table(&head, &[1, 2, 3, 4]);
    for plan in frontier {
        let Figures { latency_s, interval_s, joules, dollars: cost } = plan.figures;
        let unknown = || "unavailable".to_string();
        table.add_row([
            plan.devices.join(" + "),
            millis(latency_s),
            format!("{:.1}", 1.0 / interval_s.max(1e-12)),
            joules.map_or_else(unknown, energy),
            cost.map_or_else(unknown, dollars),
        ]);
    }
    println!("{table}");
}

/// What was chosen, in words.
fn chosen(plan: &PlanFile) -> String {
    let used: std::collections::BTreeSet<&str> =
        plan.parts.iter().map(|part| part.device.as_str()).collect();
    let used: Vec<&str> = used.into_iter().collect();
    match used.len() {
        1 => format!("all of it on {}", used[0]),
        _ => format!("{} parts on {}", plan.parts.len(), used.join(", ")),
    }
}

fn sentence(certificate: &Certificate) -> String {
    let Certificate { plan, single, pairs, ratio, faster, winner, unit, .. } = certificate;
    let how = if certificate.modelled { "modelled" } else { "measured" };
    format!(
        "{how} in {pairs} pairs, {faster} of them won: {plan} {}, {single} {}, ratio {:.3} \
         ({:.3} to {:.3}): {winner}",
        figure(certificate.of_plan.median, unit),
        figure(certificate.of_single.median, unit),
        ratio.median,
        ratio.lower,
        ratio.upper
    )
}

fn print_tasks(plan: &PlanFile) {
    let mut devices: Vec<&str> = Vec::new();
    for task in &plan.tasks {
        let left = task.left.iter().map(|left| left.device.as_str());
        for device in task.seconds.keys().map(String::as_str).chain(left) {
            if !devices.contains(&device) {
                devices.push(device);
            }
        }
    }
    devices.sort_unstable();
    let head: Vec<&str> = ["task", "nodes"].into_iter().chain(devices.iter().copied()).collect();
    let numbers: Vec<usize> = (1..head.len()).collect();
    let mut table = show::table(&head, &numbers);
    for task in &plan.tasks {
        let cell = |device: &&str| {
            let Some(&seconds) = task.seconds.get(*device) else { return "-".to_string() };
            let mark = if task.device == **device { "* " } else { "" };
            let source = match task.from.get(*device) {
                Some(CostSource::Learned) => " learned",
                Some(CostSource::Kept) => " kept",
                Some(CostSource::Modelled) => " modelled",
                Some(CostSource::Measured) | None => "",
            };
            format!("{mark}{}{source}", millis(seconds))
        };
        let cells = devices.iter().map(cell);
        let row = [show::short(&task.first), task.nodes.to_string()].into_iter().chain(cells);
        table.add_row(row.collect::<Vec<_>>());
    }
    println!("\n{table}");
    let reason = |task: &PlanTask| {
        let first = show::short(&task.first);
        let left = task.left.iter();
        left.map(|left| format!("  {first} on {}: {}", left.device, left.reason))
            .collect::<Vec<_>>()
    };
    let mut reasons: Vec<String> = plan.tasks.iter().flat_map(reason).collect();
    reasons.dedup();
    reasons.iter().for_each(|reason| println!("{reason}"));
}
