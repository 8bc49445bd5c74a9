//! Who waits for a model, and which of them run together. No clock or thread is here: time comes
//! in.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A request in a queue.
#[derive(Debug)]
pub(crate) struct Waiting<T> {
    pub(crate) item: T,
    /// Its part of a batch, at least 1.
    pub(crate) rows: usize,
    /// Requests of the same kind may run together; one of none runs alone.
    pub(crate) kind: Option<u64>,
    pub(crate) since: Instant,
    /// After this nobody wants the result.
    pub(crate) deadline: Option<Instant>,
    /// Whether it goes behind all others when its time is over, instead of being refused.
    pub(crate) delays: bool,
}

/// What bounds a queue.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// Requests that may wait, for each priority level, the most urgent first.
    pub(crate) most: Vec<usize>,
    /// Rows of one run; 0 where requests do not run together.
    pub(crate) batch_max: usize,
    /// Sizes that are run at once.
    pub(crate) preferred: Vec<usize>,
    /// How long a request may wait for others.
    pub(crate) delay: Duration,
}

/// What is to be done now.
#[derive(Debug)]
pub(crate) enum Next<T> {
    /// Run these together.
    Run(Vec<Waiting<T>>),
    /// Look again then, or when something comes.
    Until(Instant),
    /// Nothing waits.
    Idle,
}

/// How long runs of so many rows take, as measured: the recent mean of each size.
#[derive(Clone, Debug, Default)]
pub(crate) struct Curve {
    seconds: Vec<Option<f64>>,
}

impl Curve {
    /// A run of so many rows took so long.
    pub(crate) fn add(&mut self, rows: usize, took: Duration) {
        const NEW: f64 = 0.2;
        const ROWS_MAX: usize = 4096;
        if rows > ROWS_MAX {
            return;
        }
        if self.seconds.len() <= rows {
            self.seconds.resize(rows + 1, None);
        }
        let (slot, took) = (&mut self.seconds[rows], took.as_secs_f64());
        *slot = Some(slot.map_or(took, |before| before + NEW * (took - before)));
    }

    /// What a run of so many rows should take: measured, or between the sizes that were; beyond
    /// them in proportion. None before the first run.
    pub(crate) fn seconds(&self, rows: usize) -> Option<f64> {
        let known = |at: usize| self.seconds.get(at).copied().flatten();
        if let Some(took) = known(rows) {
            return Some(took);
        }
        let below = (0..rows.min(self.seconds.len())).rev().find_map(|at| Some((at, known(at)?)));
        let above = (rows..self.seconds.len()).find_map(|at| Some((at, known(at)?)));
        match (below, above) {
            (Some((low, least)), Some((high, most))) => {
                Some(least + (most - least) * (rows - low) as f64 / (high - low) as f64)
            }
            (Some((low, took)), None) => Some(took * rows as f64 / low.max(1) as f64),
            // A smaller run takes no longer.
            (None, above) => above.map(|(_, took)| took),
        }
    }
}

/// Requests that wait, by priority level.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    rules: Rules,
    levels: Vec<VecDeque<Waiting<T>>>,
    /// Those whose time was over, where that does not refuse them.
    late: VecDeque<Waiting<T>>,
    pub(crate) curve: Curve,
}

impl<T> Queue<T> {
    pub(crate) fn new(rules: Rules) -> Queue<T> {
        let levels = rules.most.iter().map(|_| VecDeque::new()).collect();
        Queue { rules, levels, late: VecDeque::new(), curve: Curve::default() }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.levels.iter().map(VecDeque::len).sum::<usize>() + self.late.len()
    }

    /// Seconds until so many instances have done what waits and runs before a new request of a
    /// level; 0 before the first run.
    pub(crate) fn backlog_s(&self, level: usize, instances: usize) -> f64 {
        let full = self.rules.batch_max.max(1);
        let rows: usize = self.levels.iter().take(level + 1).flatten().map(|one| one.rows).sum();
        let runs = rows.div_ceil(full).div_ceil(instances.max(1)) as f64;
        runs * self.curve.seconds(rows.min(full).max(1)).unwrap_or(0.0)
    }

    /// Adds a request of a level.
    ///
    /// # Errors
    /// The request, where the level is full.
    pub(crate) fn push(&mut self, level: usize, one: Waiting<T>) -> Result<(), Waiting<T>> {
        let level = level.min(self.levels.len() - 1);
        if self.levels[level].len() >= self.rules.most[level] {
            return Err(one);
        }
        self.levels[level].push_back(one);
        Ok(())
    }

    /// Takes out requests that nobody wants any more, by `is_gone` or because their time is over.
    pub(crate) fn sift(&mut self, now: Instant, is_gone: impl Fn(&T) -> bool) -> Vec<Waiting<T>> {
        let mut out = Vec::new();
        self.late.retain(|one| !is_gone(&one.item));
        for level in &mut self.levels {
            let is_over = |one: &Waiting<T>| one.deadline.is_some_and(|deadline| deadline <= now);
            if !level.iter().any(|one| is_over(one) || is_gone(&one.item)) {
                continue;
            }
            for one in std::mem::take(level) {
                if is_gone(&one.item) {
                    continue;
                } else if !is_over(&one) {
                    level.push_back(one);
                } else if one.delays {
                    self.late.push_back(Waiting { deadline: None, ..one });
                } else {
                    out.push(one);
                }
            }
        }
        out
    }

    /// Which requests run next: the oldest of the most urgent level, and those behind it that may
    /// run with it. Fewer where all together would take longer than one of them may; and none yet
    /// where more may come within the delay.
    pub(crate) fn next(&mut self, now: Instant) -> Next<T> {
        let lanes = self.levels.iter().chain([&self.late]);
        let Some(lane) = lanes.map(VecDeque::len).position(|length| length > 0) else {
            return Next::Idle;
        };
        let lane = if lane < self.levels.len() { &mut self.levels[lane] } else { &mut self.late };
        let first = &lane[0];
        let (kind, most) = (first.kind, self.rules.batch_max);
        let mut size = Batch { rows: first.rows, count: 1, deadline: first.deadline };
        if kind.is_some() && most > 0 {
            // Only those right behind it: a request does not overtake another one.
            for one in lane.iter().skip(1).take_while(|one| one.kind == kind) {
                let more = size.with(one);
                if more.rows > most || !more.is_in_time(&self.curve, now) {
                    break;
                }
                size = more;
            }
            let is_full = size.rows >= most || lane.len() > size.count;
            let is_preferred = self.rules.preferred.contains(&size.rows);
            let last = first.since + self.rules.delay;
            let until = size.latest(&self.curve).map_or(last, |latest| latest.min(last));
            if !is_full && !is_preferred && until > now {
                return Next::Until(until);
            }
            // Of what has come in vain for more, the largest preferred size that is there.
            if !is_full && !is_preferred {
                size = self
                    .rules
                    .preferred
                    .iter()
                    .filter_map(|&rows| prefix(lane, rows))
                    .filter(|one| one.rows < size.rows)
                    .max_by_key(|one| one.rows)
                    .unwrap_or(size);
            }
        }
        Next::Run(lane.drain(..size.count).collect())
    }

    /// Nothing more comes: nobody waits for others any more.
    pub(crate) fn hurry(&mut self) {
        self.rules.delay = Duration::ZERO;
    }
}

/// The first requests that have exactly so many rows.
fn prefix<T>(lane: &VecDeque<Waiting<T>>, rows: usize) -> Option<Batch> {
    let mut size = Batch { rows: 0, count: 0, deadline: None };
    for one in lane.iter().take_while(|one| one.kind == lane[0].kind) {
        size = size.with(one);
        if size.rows >= rows {
            break;
        }
    }
    (size.rows == rows).then_some(size)
}

/// Requests that may run together.
#[derive(Clone, Copy)]
struct Batch {
    rows: usize,
    count: usize,
    deadline: Option<Instant>,
}

impl Batch {
    fn with<T>(self, one: &Waiting<T>) -> Batch {
        let deadline = match (self.deadline, one.deadline) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Batch { rows: self.rows + one.rows, count: self.count + 1, deadline }
    }

    fn is_in_time(&self, curve: &Curve, now: Instant) -> bool {
        self.latest(curve).is_none_or(|latest| latest >= now)
    }

    /// When it must start, with as much time again as it should take: half of all runs take
    /// longer than usual.
    fn latest(&self, curve: &Curve) -> Option<Instant> {
        let took = Duration::from_secs_f64(2.0 * curve.seconds(self.rows).unwrap_or(0.0));
        // Where there is no time at all any more, it starts at once.
        self.deadline.map(|deadline| deadline.checked_sub(took).unwrap_or(deadline))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn rules() -> Rules {
        Rules { most: vec![2, 8], batch_max: 4, preferred: Vec::new(), delay: Duration::ZERO }
    }

    fn waiting(item: u32, rows: usize, since: Instant) -> Waiting<u32> {
        Waiting { item, rows, kind: Some(0), since, deadline: None, delays: false }
    }

    fn run(queue: &mut Queue<u32>, now: Instant) -> Vec<u32> {
        match queue.next(now) {
            Next::Run(batch) => batch.into_iter().map(|one| one.item).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn requests_run_together_in_their_order() {
        let (mut queue, now) = (Queue::new(rules()), Instant::now());
        for item in 0..3 {
            queue.push(1, waiting(item, 1, now)).unwrap();
        }
        queue.push(1, Waiting { kind: Some(7), ..waiting(3, 1, now) }).unwrap();
        queue.push(1, waiting(4, 3, now)).unwrap();
        queue.push(1, waiting(5, 2, now)).unwrap();
        queue.push(0, Waiting { kind: None, ..waiting(6, 1, now) }).unwrap();
        queue.push(0, Waiting { kind: None, ..waiting(7, 1, now) }).unwrap();
        // The urgent ones first, alone; of another kind, or too many: those are the next run's.
        let runs: Vec<Vec<u32>> = (0..6).map(|_| run(&mut queue, now)).collect();
        assert_eq!(runs, [vec![6], vec![7], vec![0, 1, 2], vec![3], vec![4], vec![5]]);
        assert!(matches!(queue.next(now), Next::Idle));
    }

    #[test]
    fn a_level_is_bounded() {
        let (mut queue, now) = (Queue::new(rules()), Instant::now());
        queue.push(0, waiting(0, 1, now)).unwrap();
        queue.push(0, waiting(1, 1, now)).unwrap();
        assert_eq!(queue.push(0, waiting(2, 1, now)).unwrap_err().item, 2);
        queue.push(1, waiting(3, 1, now)).unwrap();
        assert_eq!(queue.len(), 3);
    }

    #[test]
    fn a_delay_waits_for_more_but_not_for_what_is_preferred() {
        let delay = 5 * MS;
        let mut queue = Queue::new(Rules { preferred: vec![2], delay, ..rules() });
        let now = Instant::now();
        queue.push(1, waiting(0, 1, now)).unwrap();
        assert!(matches!(queue.next(now), Next::Until(at) if at == now + delay));
        queue.push(1, waiting(1, 1, now)).unwrap();
        assert_eq!(run(&mut queue, now), [0, 1]);
        for item in 2..5 {
            queue.push(1, waiting(item, 1, now)).unwrap();
        }
        assert!(matches!(queue.next(now), Next::Until(_)));
        assert_eq!(run(&mut queue, now + delay), [2, 3]);
        assert!(matches!(queue.next(now), Next::Until(_)));
        queue.hurry();
        assert_eq!(run(&mut queue, now), [4]);
    }

    #[test]
    fn batches_are_as_large_as_deadlines_allow() {
        let (mut queue, now) = (Queue::new(Rules { delay: 50 * MS, ..rules() }), Instant::now());
        queue.curve.add(1, 5 * MS);
        queue.curve.add(3, 15 * MS);
        for item in 0..3 {
            let deadline = Some(now + 25 * MS);
            queue.push(1, Waiting { deadline, ..waiting(item, 1, now) }).unwrap();
        }
        // Two take 10 ms, three 15, and as much is left again: three would be too late.
        assert_eq!(run(&mut queue, now), [0, 1]);
        assert!(matches!(queue.next(now), Next::Until(at) if at == now + 15 * MS));
        assert_eq!(run(&mut queue, now + 15 * MS), [2]);
    }

    #[test]
    fn what_nobody_wants_is_taken_out() {
        let (mut queue, now) = (Queue::new(rules()), Instant::now());
        let deadline = Some(now + MS);
        queue.push(1, Waiting { deadline, ..waiting(0, 1, now) }).unwrap();
        queue.push(1, Waiting { deadline, delays: true, ..waiting(1, 1, now) }).unwrap();
        queue.push(1, waiting(2, 1, now)).unwrap();
        queue.push(1, waiting(3, 1, now)).unwrap();
        assert!(queue.sift(now, |_| false).is_empty());
        let over = queue.sift(now + MS, |item| *item == 3);
        assert_eq!(over.iter().map(|one| one.item).collect::<Vec<_>>(), [0]);
        assert_eq!((run(&mut queue, now), run(&mut queue, now)), (vec![2], vec![1]));
    }

    #[test]
    fn the_curve_goes_through_what_was_measured() {
        let mut curve = Curve::default();
        assert_eq!(curve.seconds(1), None);
        curve.add(2, 20 * MS);
        curve.add(4, 30 * MS);
        let all: Vec<f64> = [1, 2, 3, 4, 8].map(|rows| curve.seconds(rows).unwrap()).to_vec();
        assert_eq!(all, [0.02, 0.02, 0.025, 0.03, 0.06]);
        curve.add(2, 30 * MS);
        assert!((curve.seconds(2).unwrap() - 0.022).abs() < 1e-9);
    }

    #[test]
    fn a_backlog_counts_runs() {
        let (mut queue, now) = (Queue::new(rules()), Instant::now());
        queue.curve.add(4, 20 * MS);
        for item in 0..8 {
            queue.push(1, waiting(item, 1, now)).unwrap();
        }
        assert_eq!((queue.backlog_s(1, 1), queue.backlog_s(1, 2)), (0.04, 0.02));
        // They are no more urgent than what comes to the first level.
        assert_eq!(queue.backlog_s(0, 1), 0.0);
    }
}
