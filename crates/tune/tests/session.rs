//! From a search that is cut off to what the next session uses.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use hetra_device::{Knob, Schedule, Space, Task};
use hetra_tune::store::{Choice, DeviceKey, Measured, Store};
use hetra_tune::{Budget, End, Options, Outcome, Pairs, Progress, Rule, search};

fn space() -> Space {
    let knob = |name, choices: &'static [i64], default| Knob::new(name, choices, default).unwrap();
    let knobs = vec![
        knob("mr", &[1, 2, 4, 6, 8], 1),
        knob("nr", &[1, 2, 3, 4], 1),
        knob("kc", &[64, 128, 256, 512, 1024], 64),
    ];
    Space::new(knobs).unwrap()
}

/// A time with one optimum inside the space, at `mr=6 nr=2 kc=256`.
fn seconds(schedule: &Schedule) -> Result<f64, String> {
    let get = |name| schedule.get(name).map(|value| value as f64).ok_or("no such knob");
    let (mr, nr, kc) = (get("mr")?, get("nr")?, get("kc")?);
    let far = (mr - 6.0).abs() / 3.0 + (nr - 2.0).abs() / 2.0 + (kc / 256.0).log2().abs() / 2.0;
    Ok(1e-3 * (1.0 + far))
}

#[test]
fn a_search_that_is_cut_off_goes_on_and_the_next_session_has_its_choice() {
    let folder = std::env::temp_dir().join(format!("hetra-session-{}", std::process::id()));
    let path = folder.join("tuned.sqlite");
    let text = |text: &str| text.to_string();
    let device = DeviceKey { device: text("A CPU"), driver: text("cpu 1"), version: text("0.1") };
    let (space, task) = (space(), Task::new("MatMul f32 8x8 t2", Vec::new()).unwrap());
    let measured = Cell::new(0);

    // Every measurement is in the store before the next one begins.
    let tune = |stop_at: usize| -> Outcome {
        let mut store = Store::open(&path).unwrap();
        let prior = store.rows(&device, task.key(), 1000).unwrap();
        let stop = AtomicBool::new(false);
        let mut keep = |progress: &Progress<'_>| {
            let result = progress.trial.result.clone();
            let row = Measured { result, spread: 0.0, samples: 1, at: measured.get() };
            store.record(&device, &task, &progress.trial.schedule, &row).unwrap();
            stop.store(progress.trials >= stop_at, Ordering::Relaxed);
        };
        let mut measure = |schedule: &Schedule| {
            measured.set(measured.get() + 1);
            seconds(schedule)
        };
        let budget = Budget { stop: Some(&stop), ..Budget::default() };
        let options = Options::default();
        search(&space, &task, &prior, &options, budget, &mut measure, &mut keep).unwrap()
    };
    let first = tune(25);
    assert_eq!((first.end, measured.get()), (End::Stopped, 25));
    let second = tune(usize::MAX);
    assert_eq!(second.ranked.len() as i64 + 1, measured.get(), "the default alone is, twice");
    assert_eq!(second.best.0.to_string(), "kc=256 mr=6 nr=2");

    let (default, schedule) = (second.default.0, second.best.0.clone());
    let pairs = Pairs { least: 9, most: 9, until: Instant::now(), stop: None };
    let pairs = pairs.measure(&mut || seconds(&default), &mut || seconds(&schedule)).unwrap();
    let verdict = Rule::default().judge(&pairs);
    assert!(verdict.wins && verdict.pairs == 9, "{verdict:?}");
    let (seconds, default_seconds) = (verdict.candidate_seconds, verdict.default_seconds);
    let choice = Choice { schedule, seconds, default_seconds, at: 1, finished: true };
    Store::open(&path).unwrap().choose(&device, &task, &choice).unwrap();

    // The next session reads once and asks nobody.
    let table = Store::open_to_read(&path).unwrap().unwrap().table(&device).unwrap();
    assert_eq!(table.get(task.key()), Some(&second.best.0));
    std::fs::remove_dir_all(&folder).unwrap();
}
