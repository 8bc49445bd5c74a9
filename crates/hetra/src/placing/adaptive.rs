//! A plan that is made anew when runs do not take what they should.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use hetra_exec::Seat;
use hetra_ir::Graph;
use hetra_tensor::Value;

use crate::error::Error;
use crate::outputs::Outputs;
use crate::placing::costs::Costing;
use crate::placing::file::PlanFile;
use crate::placing::planner::{PlanOptions, plan};
use crate::placing::watch::{Drift, Watch};
use crate::session::Session;

/// Between two plans lies so much time at least; twice as much each time that the new one is the
/// old one, up to a limit.
const PAUSE_MIN: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// Most plans that are told of.
const TOLD_MAX: usize = 1000;

/// A plan that was made because runs drifted.
#[derive(Clone, Debug)]
pub struct Replan {
    /// Since the session was made.
    pub at: Duration,
    /// What it was made for.
    pub drift: Drift,
    /// The plan before, by its devices.
    pub from: String,
    /// The plan behind, or why there is none.
    pub to: Result<String, String>,
}

/// A session by a plan that is watched: where the median of its runs leaves what was measured when
/// it was planned by 15 %, it is planned anew beside the runs, and those that come then take the
/// new plan. Runs that overlap with others are not counted: they wait for each other.
pub struct Adaptive {
    shared: Arc<Shared>,
}

struct Shared {
    graph: Graph,
    seats: Vec<Seat>,
    inputs: Vec<Value>,
    options: PlanOptions,
    current: RwLock<Arc<Planned>>,
    running: AtomicUsize,
    begun_runs: AtomicUsize,
    planning: AtomicBool,
    begun: Instant,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    replans: Vec<Replan>,
    last: Option<Instant>,
    pause: Duration,
}

/// A plan, and what runs by it.
struct Planned {
    plan: PlanFile,
    session: Session,
    watch: Watch,
}

impl Planned {
    fn new(graph: &Graph, seats: &[Seat], plan: PlanFile) -> Result<Planned, Error> {
        let builder = Session::builder().graph(graph.clone()).plan(plan.clone());
        let session = builder.seats(seats.to_vec()).build()?;
        let row = plan.considered.iter().find(|row| row.name == plan.chosen);
        let measured = row.and_then(|row| row.figures).map(|figures| figures.latency_s);
        let watch = Watch::new(measured.unwrap_or(plan.predicted_s));
        Ok(Planned { plan, session, watch })
    }

    /// The devices that it uses.
    fn name(&self) -> String {
        let used: std::collections::BTreeSet<&str> =
            self.plan.parts.iter().map(|part| part.device.as_str()).collect();
        used.into_iter().collect::<Vec<_>>().join(" + ")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Adaptive {
    /// Plans a model on devices that are open, for inputs like these, in the order of the graph's.
    ///
    /// # Errors
    /// As [`plan`].
    pub fn new(
        graph: Graph,
        seats: Vec<Seat>,
        inputs: Vec<Value>,
        options: PlanOptions,
    ) -> Result<Adaptive, Error> {
        let made = plan(&graph, &seats, &inputs, &options, &mut |_| {})?;
        let current = RwLock::new(Arc::new(Planned::new(&graph, &seats, made)?));
        let told = Mutex::new(Told { pause: PAUSE_MIN, ..Told::default() });
        let (running, begun_runs) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let planning = AtomicBool::new(false);
        let begun = Instant::now();
        let shared = Shared {
            graph,
            seats,
            inputs,
            options,
            current,
            running,
            begun_runs,
            planning,
            begun,
            told,
        };
        Ok(Adaptive { shared: Arc::new(shared) })
    }

    /// The plan that runs go by now.
    pub fn plan(&self) -> PlanFile {
        self.shared.current().plan.clone()
    }

    /// The session of the plan that runs go by now.
    pub fn session(&self) -> Session {
        self.shared.current().session.clone()
    }

    /// The plans that were made because runs drifted, a thousand at most.
    pub fn replans(&self) -> Vec<Replan> {
        lock(&self.shared.told).replans.clone()
    }

    /// Whether a plan is being made.
    pub fn is_planning(&self) -> bool {
        self.shared.planning.load(Ordering::Acquire)
    }

    /// As [`Session::run`].
    ///
    /// # Errors
    /// As there.
    pub fn run<N, V>(&self, inputs: impl IntoIterator<Item = (N, V)>) -> Result<Outputs, Error>
    where
        N: AsRef<str>,
        V: Into<Value>,
    {
        let planned = self.shared.current();
        let alone = self.shared.running.fetch_add(1, Ordering::AcqRel) == 0;
        let number = self.shared.begun_runs.fetch_add(1, Ordering::AcqRel);
        let begun = Instant::now();
        let outputs = planned.session.run(inputs);
        let seconds = begun.elapsed().as_secs_f64();
        // None was there when it began, and none has begun since.
        let still = self.shared.begun_runs.load(Ordering::Acquire) == number + 1;
        self.shared.running.fetch_sub(1, Ordering::AcqRel);
        // While a plan is made, devices do other things as well.
        if outputs.is_ok()
            && alone
            && still
            && !self.is_planning()
            && !planned.session.is_simulated()
            && let Some(drift) = planned.watch.saw(seconds)
        {
            self.shared.drifted(&planned, drift);
        }
        outputs
    }
}

impl Shared {
    fn current(&self) -> Arc<Planned> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Plans anew beside the runs, if it is time for that.
    fn drifted(self: &Arc<Shared>, planned: &Planned, drift: Drift) {
        let told = lock(&self.told);
        let early = told.last.is_some_and(|last| last.elapsed() < told.pause);
        drop(told);
        if early || self.planning.swap(true, Ordering::AcqRel) {
            // The drift is told again, if it is still there.
            planned.watch.forget();
            return;
        }
        let shared = self.clone();
        let work = move || shared.replan(drift);
        if std::thread::Builder::new().name("hetra plan".to_string()).spawn(work).is_err() {
            planned.watch.forget();
            self.planning.store(false, Ordering::Release);
        }
    }

    fn replan(&self, drift: Drift) {
        let _ends = Planning(self);
        let before = self.current();
        // What was measured before the drift says nothing any more.
        let options = PlanOptions { costing: Costing::Measure, ..self.options.clone() };
        let made = plan(&self.graph, &self.seats, &self.inputs, &options, &mut |_| {});
        let made = made.and_then(|made| Planned::new(&self.graph, &self.seats, made));
        let to = match made {
            Ok(planned) => {
                let (name, planned) = (planned.name(), Arc::new(planned));
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = planned;
                Ok(name)
            }
            Err(error) => {
                before.watch.forget();
                Err(error.to_string())
            }
        };
        let mut told = lock(&self.told);
        let same = to.as_ref().is_ok_and(|to| *to == before.name());
        told.pause = if same { (told.pause * 2).min(PAUSE_MAX) } else { PAUSE_MIN };
        told.last = Some(Instant::now());
        if told.replans.len() < TOLD_MAX {
            told.replans.push(Replan { at: self.begun.elapsed(), drift, from: before.name(), to });
        }
    }
}

/// A plan is being made until this is dropped, also where a device's library panics.
struct Planning<'a>(&'a Shared);

impl Drop for Planning<'_> {
    fn drop(&mut self) {
        self.0.planning.store(false, Ordering::Release);
    }
}
