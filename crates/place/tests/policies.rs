//! What must hold of any problem: placements are possible, no policy that improves is worse than
//! what it begins with, exact is exact, and bounds bound.

use hetra_place::{
    Budget, Candidate, Device, Goal, Line, PlaceError, Problem, Task, Unit, Value, bound, fault,
    loads, measure, place, schedule,
};
use proptest::prelude::*;

const STEPS: Budget<'static> = Budget { steps: 3000, spent: None, seed: 7 };

fn line() -> impl Strategy<Value = Line> {
    (0u8..3, 0u8..4).prop_map(|(latency, per_byte)| Line {
        latency: f64::from(latency) * 2.0,
        per_byte: f64::from(per_byte) / 2.0,
    })
}

prop_compose! {
    fn device(units: usize)(
        unit in 0..units,
        memory_max in prop::option::weighted(0.4, 5u8..40),
        into in line(),
        out in line(),
        copies_occupy: bool,
        half_duplex: bool,
        rate in 0u8..5,
    ) -> Device {
        Device {
            name: "d".to_string(),
            unit,
            memory_max: memory_max.map(f64::from),
            into,
            out,
            copies_occupy,
            half_duplex,
            rate: f64::from(rate),
        }
    }
}

/// A problem that the first device can do whole.
fn problem(tasks_max: usize) -> impl Strategy<Value = Problem> {
    let units = prop::collection::vec(1usize..4, 1..4);
    let sizes = (units, 1..4usize, 1..tasks_max);
    sizes.prop_flat_map(|(slots, devices, tasks)| {
        let devices = prop::collection::vec(device(slots.len()), devices);
        let task =
            (prop::collection::vec(prop::option::weighted(0.8, 1u8..30), 3), 0u8..10, any::<u8>());
        let tasks = prop::collection::vec(task, tasks);
        let values = prop::collection::vec((any::<u16>(), any::<[u16; 3]>(), 0u8..20), 0..30);
        (devices, tasks, values).prop_map(move |(mut devices, tasks, values)| {
            devices[0].memory_max = None;
            let count = tasks.len();
            let task = |(index, (times, memory, group)): (usize, (Vec<Option<u8>>, u8, u8))| {
                let mut times: Vec<Option<f64>> =
                    times.iter().take(devices.len()).map(|time| time.map(f64::from)).collect();
                times[0] = times[0].or(Some(40.0));
                let group = (group < 80).then_some(u32::from(group % 3));
                Task { name: format!("t{index}"), times, memory: f64::from(memory), group }
            };
            let value = |(from, to, bytes): (u16, [u16; 3], u8)| {
                let from = usize::from(from) % count;
                let mut to: Vec<usize> = to.iter().map(|&to| usize::from(to) % count).collect();
                to.retain(|&to| to > from);
                to.sort_unstable();
                to.dedup();
                Value { from, to, bytes: f64::from(bytes) }
            };
            Problem {
                units: slots.iter().map(|&slots| Unit { name: "u".to_string(), slots }).collect(),
                devices: devices.clone(),
                tasks: tasks.into_iter().enumerate().map(task).collect(),
                values: values.into_iter().map(value).collect(),
            }
        })
    })
}

fn goals() -> impl Strategy<Value = Goal> {
    let weights = (0u8..3, 0u8..3, 0u8..3, prop::option::of(10u8..90));
    weights.prop_map(|(latency, load, spent, most)| Goal {
        latency: f64::from(latency),
        load: f64::from(load) + f64::from(u8::from(latency + load + spent == 0)),
        spent: f64::from(spent),
        makespan_max: most.map(f64::from),
        ..Goal::LATENCY
    })
}

/// Runs after one another what a schedule says, and checks that each waits for what it reads and
/// that no slot does two things at once.
fn check_schedule(problem: &Problem, candidate: &Candidate) {
    let placement = &candidate.placement;
    assert_eq!(fault(problem, placement), None, "{}", candidate.policy);
    let made = schedule(problem, placement);
    for value in &problem.values {
        for &to in &value.to {
            let (from_device, device) = (placement.device[value.from], placement.device[to]);
            let copy = problem.copy_time(value.bytes, from_device, device);
            assert!(made.start[to] >= made.finish[value.from] + copy);
        }
    }
    for one in 0..problem.tasks.len() {
        let place = |task: usize| (problem.devices[placement.device[task]].unit, made.slot[task]);
        for other in 0..one {
            let apart =
                made.finish[one] <= made.start[other] || made.finish[other] <= made.start[one];
            assert!(apart || place(one) != place(other), "{one} and {other} at once");
        }
    }
    assert_eq!(candidate.metrics.makespan, made.makespan());
    let most = loads(problem, &placement.device).into_iter().fold(0.0, f64::max);
    assert_eq!(candidate.metrics.load, most);
}

/// Every way to place a problem of few tasks, each in all orders that there are.
fn all_makespans(problem: &Problem) -> (f64, f64) {
    fn orders(problem: &Problem, order: &mut Vec<usize>, device: &[usize], best: &mut f64) {
        if order.len() == problem.tasks.len() {
            let placement =
                hetra_place::Placement { device: device.to_vec(), order: order.clone() };
            if fault(problem, &placement).is_none() {
                *best = best.min(schedule(problem, &placement).makespan());
            }
            return;
        }
        for task in 0..problem.tasks.len() {
            let mut reads = problem.values.iter().filter(|value| value.to.contains(&task));
            if !order.contains(&task) && reads.all(|value| order.contains(&value.from)) {
                order.push(task);
                orders(problem, order, device, best);
                order.pop();
            }
        }
    }
    let (devices, tasks) = (problem.devices.len(), problem.tasks.len());
    let (mut makespan, mut load) = (f64::INFINITY, f64::INFINITY);
    for code in 0..devices.pow(tasks as u32) {
        let device: Vec<usize> =
            (0..tasks).map(|task| code / devices.pow(task as u32) % devices).collect();
        let order: Vec<usize> = (0..tasks).collect();
        let placement = hetra_place::Placement { device: device.clone(), order };
        if fault(problem, &placement).is_none() {
            load = load.min(measure(problem, &placement).load);
            orders(problem, &mut Vec::new(), &device, &mut makespan);
        }
    }
    (makespan, load)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn placements_are_possible_and_none_that_improves_is_worse(
        problem in problem(24),
        goal in goals(),
    ) {
        let found = match place(&problem, &goal, &[], &STEPS) {
            Ok(found) => found,
            Err(PlaceError::NoDevice { .. } | PlaceError::Memory) => return Ok(()),
            Err(error) => panic!("{error}"),
        };
        found.candidates.iter().for_each(|candidate| check_schedule(&problem, candidate));
        let best = found.candidates[0].score;
        let again = place(&problem, &goal, &[], &STEPS);
        prop_assert_eq!(again.as_ref(), Ok(&found));
        if let Ok(alone) = place(&problem, &goal, &["search"], &STEPS) {
            let rules = ["host", "single", "fill", "heft", "peft", "chain", "pipeline"];
            for rule in found.candidates.iter().filter(|found| rules.contains(&found.policy)) {
                prop_assert!(alone.candidates[0].score <= rule.score);
            }
        }
        // Below what it says nothing is, by whatever policy.
        prop_assert!(found.bound.score <= best * (1.0 + 1e-6) + 1e-9);
    }

    #[test]
    fn small_problems_are_solved(problem in problem(5)) {
        let (makespan, load) = all_makespans(&problem);
        for (goal, least) in [(Goal::LATENCY, makespan), (Goal::THROUGHPUT, load)] {
            let Ok(found) = place(&problem, &goal, &[], &STEPS) else { continue };
            prop_assert_eq!(found.bound.by, "exact");
            let best = found.candidates[0].score;
            prop_assert!((best - least).abs() <= 1e-6 * (1.0 + least), "{} for {}", best, least);
            let before = bound(&problem, &goal).unwrap().score;
            prop_assert!(before <= least * (1.0 + 1e-6) + 1e-9, "{} above {}", before, least);
        }
    }
}

fn chain(length: usize) -> Problem {
    // Two devices, the second fast and far away; each fifth task runs on the first only.
    let task = |index: usize| Task {
        name: format!("t{index}"),
        times: vec![Some(10.0), (index % 5 != 4).then_some(2.0)],
        memory: 0.0,
        group: None,
    };
    let far = Line { latency: 3.0, per_byte: 1.0 };
    let device = |unit: usize, line: Line| Device {
        name: format!("d{unit}"),
        unit,
        memory_max: None,
        into: line,
        out: line,
        copies_occupy: false,
        half_duplex: false,
        rate: 1.0,
    };
    Problem {
        units: (0..2).map(|_| Unit { name: "u".to_string(), slots: 1 }).collect(),
        devices: vec![device(0, Line::default()), device(1, far)],
        tasks: (0..length).map(task).collect(),
        values: (1..length).map(|to| Value { from: to - 1, to: vec![to], bytes: 1.0 }).collect(),
    }
}

#[test]
fn a_chain_is_solved_by_dynamic_programming() {
    let problem = chain(60);
    let found = place(&problem, &Goal::LATENCY, &["chain"], &STEPS).unwrap();
    let path = bound(&problem, &Goal::LATENCY).unwrap();
    assert_eq!((found.candidates[0].score, path.by), (path.score, "path"));
    assert!(found.gap().unwrap().abs() < 1e-12);
}

#[test]
fn goals_weigh_and_bound() {
    let problem = chain(20);
    let time = place(&problem, &Goal::LATENCY, &[], &STEPS).unwrap();
    // On the fast device time costs tenfold: what is spent is least on the slow one.
    let mut dear = problem.clone();
    dear.devices[1].rate = 10.0;
    let spend = Goal { latency: 0.0, spent: 1.0, ..Goal::LATENCY };
    let cheap = place(&dear, &spend, &[], &STEPS).unwrap();
    assert_eq!(cheap.candidates[0].metrics.spent, 200.0);
    assert!(time.candidates[0].metrics.makespan < cheap.candidates[0].metrics.makespan);
    let limit = time.candidates[0].metrics.makespan * 1.2;
    let both = Goal { makespan_max: Some(limit), ..spend };
    let kept = place(&dear, &both, &[], &STEPS).unwrap();
    let metrics = &kept.candidates[0].metrics;
    assert_eq!(both.broken(metrics), []);
    assert!(metrics.spent > 200.0 && metrics.makespan <= limit);
    let never = Goal { makespan_max: Some(1.0), ..spend };
    let broken = never.broken(&place(&dear, &never, &[], &STEPS).unwrap().candidates[0].metrics);
    assert_eq!(broken[0].0, "latency");
}

#[test]
fn faults_are_said() {
    let mut problem = chain(3);
    problem.tasks[1].times = vec![None, None];
    let error = place(&problem, &Goal::LATENCY, &[], &STEPS).unwrap_err();
    assert_eq!(error.to_string(), "no device runs task `t1`");
    let mut problem = chain(3);
    problem.tasks.iter_mut().for_each(|task| (task.group, task.memory) = (Some(1), 4.0));
    problem.tasks[1].times[0] = None;
    problem.tasks[2].times = vec![Some(1.0), None];
    let error = place(&problem, &Goal::LATENCY, &[], &STEPS).unwrap_err();
    assert_eq!(error.to_string(), "no device runs task `t0` together with its group");
    let mut problem = chain(3);
    problem.devices.iter_mut().for_each(|device| device.memory_max = Some(5.0));
    problem.tasks.iter_mut().for_each(|task| task.memory = 4.0);
    let error = place(&problem, &Goal::LATENCY, &[], &STEPS).unwrap_err();
    assert_eq!(error.to_string(), "no placement was found that fits the memory of the devices");
}
