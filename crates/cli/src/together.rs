//! `hetra bench --sessions N`: sessions of a model at one time, beside one after the other.

use std::time::{Duration, Instant};

use anyhow::Result;
use hetra::{Session, Value};
use serde::Serialize;

use crate::show;

/// Turns of both; the middle ratio is told.
const ROUNDS: usize = 5;

/// Throughput of some sessions, in inferences per second.
#[derive(Serialize)]
pub(crate) struct Together {
    sessions: usize,
    /// One session at a time, each with all threads.
    one_by_one: f64,
    /// All at one time, each from a thread of its own.
    at_once: f64,
    /// Of both within a round, the median of the rounds.
    ratio: f64,
}

/// Measures so many sessions, which share weights and programs, for about `seconds`.
pub(crate) fn measure(
    session: &Session,
    inputs: &[(String, Value)],
    sessions: usize,
    seconds: f64,
) -> Result<Together> {
    let mut all = vec![session.clone()];
    all.resize_with(sessions, || session.another());
    for session in &all {
        session.warm_up(inputs.to_vec(), 2)?;
    }
    let slice = Duration::from_secs_f64(seconds / (2 * ROUNDS) as f64);
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let mut alone = 0.0;
        for session in &all {
            alone += rate(session, inputs, slice / sessions as u32)? / sessions as f64;
        }
        rounds.push((alone, at_once(&all, inputs, slice)?));
    }
    let middle = |of: &dyn Fn(&(f64, f64)) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[ROUNDS / 2]
    };
    Ok(Together {
        sessions,
        one_by_one: middle(&|round| round.0),
        at_once: middle(&|round| round.1),
        ratio: middle(&|round| round.1 / round.0),
    })
}

/// Inferences per second of one session.
fn rate(session: &Session, inputs: &[(String, Value)], length: Duration) -> Result<f64> {
    let (begun, mut runs) = (Instant::now(), 0.0);
    while runs == 0.0 || begun.elapsed() < length {
        drop(session.run(inputs.to_vec())?);
        runs += 1.0;
    }
    Ok(runs / begun.elapsed().as_secs_f64())
}

/// The sum of all rates at one time.
fn at_once(all: &[Session], inputs: &[(String, Value)], length: Duration) -> Result<f64> {
    std::thread::scope(|scope| {
        let start = |session| scope.spawn(move || rate(session, inputs, length));
        let threads: Vec<_> = all.iter().map(start).collect();
        let mut sum = 0.0;
        for thread in threads {
            let rate = thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a run panicked")));
            sum += rate?;
        }
        Ok(sum)
    })
}

impl Together {
    pub(crate) fn print(&self) {
        let Together { sessions, one_by_one, at_once, ratio } = self;
        let sessions = show::plural(*sessions, "session");
        println!("{sessions} one by one: {one_by_one:.1} per second; at once: {at_once:.1}");
        println!("at once / one by one: {ratio:.2} (median of pairs)");
    }
}
