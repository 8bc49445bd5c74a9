//! Costs of parts of models: kept from one plan to the next, and learned from others.

use std::path::PathBuf;
use std::time::Duration;

use crate::places;
use hetra::placing::{self, CostSource, Costing, PlanFile, PlanOptions};
use hetra::{Seat, Tensor, Value, import_file};

/// A store of one test.
struct Kept(PathBuf);

impl Kept {
    fn new(test: &str) -> Kept {
        let name = format!("hetra-costs-{test}-{}.sqlite", std::process::id());
        Kept(std::env::temp_dir().join(name))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn cpu() -> Seat {
    hetra::open("cpu", Some(1)).expect("a device").into()
}

fn plan(store: &Kept, costing: Costing) -> PlanFile {
    let graph = import_file(places::digits(), &Default::default()).expect("the model").graph;
    let inputs = [Value::from(Tensor::from_slice(&[1, 1, 8, 8], &[0.5f32; 64]).unwrap())];
    let options = PlanOptions {
        costing,
        store: Some(store.0.clone()),
        tasks_max: 4,
        compare: Duration::from_millis(10),
        ..PlanOptions::default()
    };
    placing::plan(&graph, &[cpu()], &inputs, &options, &mut |_| {}).expect("a plan")
}

fn sources(plan: &PlanFile) -> Vec<CostSource> {
    plan.tasks.iter().flat_map(|task| task.from.values().copied()).collect()
}

#[test]
fn what_was_measured_is_not_measured_again() {
    let store = Kept::new("kept");
    let first = plan(&store, Costing::Known);
    assert!(!first.tasks.is_empty());
    assert!(sources(&first).iter().all(|source| *source == CostSource::Measured));
    let seconds = |plan: &PlanFile| -> Vec<f64> {
        plan.tasks.iter().flat_map(|task| task.seconds.values().copied()).collect()
    };
    // Times that varied much are not kept, and other tests run beside this one: it comes to that
    // after a few plans.
    let mut before = first;
    let kept = (0..10).any(|_| {
        let next = plan(&store, Costing::Known);
        let all = sources(&next).iter().all(|source| *source == CostSource::Kept);
        let same = all && seconds(&next) == seconds(&before);
        before = next;
        same
    });
    assert!(kept, "{:?}", sources(&before));
    // Anew where that is asked for.
    let third = plan(&store, Costing::Measure);
    assert!(sources(&third).iter().all(|source| *source == CostSource::Measured));
}

#[test]
fn what_nobody_measured_is_learned_from_others() {
    let store = Kept::new("learned");
    // Nothing was learned yet: it is measured all the same, and kept.
    let nothing = plan(&Kept::new("nothing"), Costing::Predict);
    assert!(sources(&nothing).iter().all(|source| *source == CostSource::Measured));
    let practised = placing::practice(&cpu(), 24, 3, &mut |_| {}).expect("networks");
    assert_eq!(practised.len(), 24);
    assert!(practised.iter().all(|one| one.seconds > 0.0 && one.parts.len() > 1));
    placing::keep_costs(&store.0, &cpu(), practised).expect("a store");
    let predicted = plan(&store, Costing::Predict);
    assert!(sources(&predicted).iter().all(|source| *source == CostSource::Learned));
    assert!(predicted.tasks.iter().all(|task| task.seconds.values().all(|&s| s > 0.0 && s < 1.0)));
}

#[test]
fn a_store_that_is_none_is_told_and_passed_over() {
    let store = Kept::new("none");
    std::fs::write(&store.0, "not a database, but long enough to look at".repeat(100)).unwrap();
    let plan = plan(&store, Costing::Known);
    assert!(sources(&plan).iter().all(|source| *source == CostSource::Measured));
    let told = plan.warnings.iter().any(|warning| warning.contains("no cost is kept"));
    assert!(told && plan.refused.is_empty(), "{:?}", plan.warnings);
}
