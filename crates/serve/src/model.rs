//! A model that is loaded: requests wait in its queue, its threads run them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hetra::{DType, Outputs, Session, Tensor, Value};
use tokio::sync::oneshot;

use crate::config::{self, Config, QueuePolicy};
use crate::error::{Kind, Refusal};
use crate::queue::{Next, Queue, Rules, Waiting};
use crate::stats::{Stats, Times};
use crate::tensors;

/// Named tensors.
pub(crate) type Named = Vec<(String, Tensor)>;

/// How a model is opened where its configuration does not say it.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    pub(crate) device: String,
    pub(crate) threads: Option<usize>,
}

struct Job {
    inputs: Named,
    reply: oneshot::Sender<Result<Named, Refusal>>,
}

struct Shared {
    queue: Queue<Job>,
    /// No more requests are taken; the threads end when none waits.
    closing: bool,
}

/// A version of a model.
pub(crate) struct Model {
    pub(crate) name: String,
    pub(crate) version: u64,
    pub(crate) config: Config,
    /// Whether the model says a shape, of each of the configuration's inputs.
    has_shape: Vec<bool>,
    session: Session,
    shared: Mutex<Shared>,
    wake: Condvar,
    stats: Mutex<Stats>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a request asks of the queue.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Urgency {
    /// 1 is the most urgent; 0 is the model's usual one.
    pub(crate) priority: u64,
    /// After this nobody wants the result.
    pub(crate) timeout: Option<Duration>,
}

impl Model {
    /// Compiles a version, runs it once on values that mean nothing, and starts its threads.
    pub(crate) fn load(
        name: &str,
        version: u64,
        file: &Path,
        config: Config,
        opening: &Opening,
    ) -> Result<Arc<Model>, String> {
        let device = config.parameter("device").unwrap_or(&opening.device).to_string();
        let threads = match config.parameter("threads") {
            Some(text) => {
                let count = text.parse().ok().filter(|&count| count > 0);
                Some(count.ok_or("the parameter `threads`: wanted 1 or more")?)
            }
            None => opening.threads,
        };
        let instances = config.instances();
        let mut builder = Session::builder().model_file(file).device(&device).runs_max(instances);
        if let Some(threads) = threads {
            builder = builder.threads(threads);
        }
        let session = builder.build().map_err(|error| error.to_string())?;
        let config = config.completed(name, &session).map_err(|error| error.to_string())?;
        let has_shape = session.inputs().iter().map(|port| port.ty.dims().is_some()).collect();
        let queue = Queue::new(rules(&config));
        let model = Arc::new(Model {
            name: name.to_string(),
            version,
            config,
            has_shape,
            session,
            shared: Mutex::new(Shared { queue, closing: false }),
            wake: Condvar::new(),
            stats: Mutex::default(),
            threads: Mutex::default(),
        });
        model.warm_up();
        for instance in 0..instances {
            let own = model.clone();
            let builder = std::thread::Builder::new().name(format!("{name}-{instance}"));
            match builder.spawn(move || own.work()) {
                Ok(thread) => lock(&model.threads).push(thread),
                Err(error) => {
                    model.close();
                    return Err(error.to_string());
                }
            }
        }
        Ok(model)
    }

    /// Runs on inputs that mean nothing. Axes that are open are 1; where that does not fit a model
    /// nothing is lost: it is run for what runs leave behind.
    fn warm_up(&self) {
        let ports = self.session.inputs().into_iter().filter(|port| !port.has_default);
        let made = ports.map(|port| Some((port.name, hetra::made_up(&port.ty, &|_| 1, 1)?)));
        let Some(inputs) = made.collect::<Option<Vec<(String, Value)>>>() else { return };
        // The first run makes what later ones find: it tells nothing of them.
        for is_first in [true, false] {
            let from = Instant::now();
            if catch_unwind(AssertUnwindSafe(|| self.session.run(inputs.clone()).is_ok()))
                .unwrap_or(false)
                && !is_first
            {
                lock(&self.shared).queue.curve.add(1, from.elapsed());
            }
        }
    }

    /// The extents of inputs or outputs with those of a batch, as metadata tell them.
    pub(crate) fn ports(&self, inputs: bool) -> Vec<(String, DType, Vec<i64>)> {
        let ports = if inputs { self.session.inputs() } else { self.session.outputs() };
        let port = |port: hetra::Port| {
            let extents = config::extents(&port).unwrap_or_default();
            Some((port.name.clone(), port.ty.dtype()?, extents))
        };
        ports.into_iter().filter_map(port).collect()
    }

    /// What it has done.
    pub(crate) fn stats(&self) -> Stats {
        lock(&self.stats).clone()
    }

    /// Requests that wait.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.shared).queue.len()
    }

    fn batches(&self) -> bool {
        self.config.max_batch_size > 0
    }

    /// Refuses inputs that the model does not have, or that are given twice.
    pub(crate) fn knows<'a>(&self, names: impl Iterator<Item = &'a str>) -> Result<(), Refusal> {
        let mut given: Vec<&str> = Vec::new();
        for name in names {
            if !self.config.input.iter().any(|one| one.name == name) {
                let known: Vec<&str> = self.config.input.iter().map(|one| &*one.name).collect();
                let text = format!("no input `{name}`; there are {}", known.join(", "));
                return Err(self.invalid(&text));
            }
            if given.contains(&name) {
                return Err(self.invalid(&format!("the input `{name}` is given twice")));
            }
            given.push(name);
        }
        Ok(())
    }

    /// Refuses inputs that do not fit, of which [`Model::knows`] the names; how many rows they
    /// have, 1 where the model has none.
    fn check(&self, inputs: &Named) -> Result<usize, Refusal> {
        let mut rows = None;
        for (known, &has_shape) in self.config.input.iter().zip(&self.has_shape) {
            let name = &known.name;
            let Some((_, tensor)) = inputs.iter().find(|(other, _)| other == name) else {
                continue;
            };
            let (dtype, shape) = (tensor.dtype(), tensor.shape());
            if crate::dtypes::config_name(dtype) != Some(&*known.data_type) {
                let text = format!("the input `{name}` is {}, not {dtype:?}", known.data_type);
                return Err(self.invalid(&text));
            }
            let batch = usize::from(self.batches());
            let fits = |(&has, &wanted): (&usize, &i64)| wanted < 0 || has as i64 == wanted;
            let inner = shape.get(batch..).unwrap_or_default();
            if has_shape
                && (shape.len() != known.dims.len() + batch
                    || !inner.iter().zip(&known.dims).all(fits))
            {
                let first = if self.batches() { "[rows]+" } else { "" };
                let text = format!("the input `{name}` has {first}{:?}, not {shape:?}", known.dims);
                return Err(self.invalid(&text));
            }
            if !self.batches() {
                continue;
            }
            let own = shape.first().copied().unwrap_or(0);
            if own != *rows.get_or_insert(own) {
                return Err(self.invalid("the inputs have different numbers of rows"));
            }
            if !(1..=self.config.max_batch_size as usize).contains(&own) {
                let text = format!("{own} rows; wanted 1 to {}", self.config.max_batch_size);
                return Err(self.invalid(&text));
            }
        }
        let is_missing = |one: &&config::Tensor| {
            one.optional != Some(true) && !inputs.iter().any(|(name, _)| *name == one.name)
        };
        if let Some(missing) = self.config.input.iter().find(is_missing) {
            return Err(self.invalid(&format!("the input `{}` is missing", missing.name)));
        }
        Ok(rows.unwrap_or(1))
    }

    fn invalid(&self, text: &str) -> Refusal {
        Refusal::invalid(format!("model `{}`: {text}", self.name))
    }

    /// Waits until the request has run; [`Model::knows`] the names of its inputs.
    pub(crate) async fn infer(&self, inputs: Named, urgency: Urgency) -> Result<Named, Refusal> {
        let rows = self.check(&inputs)?;
        let level = self.level(urgency.priority)?;
        let policy = self.config.policy(level as u64 + 1);
        let since = Instant::now();
        let timeout = timeout(&policy, urgency.timeout);
        let delays = policy.timeout_action == config::TimeoutAction::Delay;
        let (reply, result) = oneshot::channel();
        let deadline = timeout.and_then(|timeout| since.checked_add(timeout));
        let kind = self.config.dynamic_batching.as_ref().map(|_| kind(&inputs));
        let job = Job { inputs, reply };
        self.push(level, Waiting { item: job, rows, kind, since, deadline, delays })?;
        let result = match deadline.filter(|_| !delays) {
            Some(deadline) => {
                // Dropping the receiver gives the place in the queue back.
                let late = || Refusal::new(Kind::Late, format!("`{}`: not in time", self.name));
                tokio::time::timeout_at(deadline.into(), result).await.map_err(|_| late())
            }
            None => Ok(result.await),
        };
        match result {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => {
                Err(Refusal::new(Kind::Unavailable, format!("`{}` was unloaded", self.name)))
            }
            Err(late) => {
                lock(&self.stats).shed += 1;
                Err(late)
            }
        }
    }

    fn level(&self, priority: u64) -> Result<usize, Refusal> {
        let batching = self.config.dynamic_batching.as_ref();
        let (levels, usual) =
            batching.map_or((0, 0), |one| (one.priority_levels, one.default_priority_level));
        match priority {
            0 => Ok(usual.saturating_sub(1) as usize),
            // Where there are no levels all requests are as urgent as each other.
            _ if levels == 0 => Ok(0),
            _ if priority > levels => {
                Err(self.invalid(&format!("priority {priority}; there are {levels} levels")))
            }
            _ => Ok(priority as usize - 1),
        }
    }

    /// Adds a request to the queue; sheds it where it cannot be done in time.
    fn push(&self, level: usize, one: Waiting<Job>) -> Result<(), Refusal> {
        let mut shared = lock(&self.shared);
        if shared.closing {
            return Err(Refusal::new(Kind::Unavailable, format!("`{}` is unloaded", self.name)));
        }
        let instances = self.config.instances();
        // Some may wait for clients that have gone: they take no place, and no time.
        self.sift(&mut shared.queue, one.since);
        let backlog = Duration::from_secs_f64(shared.queue.backlog_s(level, instances));
        let deadline = one.deadline.filter(|_| !one.delays);
        let refused = match deadline {
            Some(deadline) if backlog > deadline.saturating_duration_since(one.since) => {
                Some("what waits already takes longer than the request may")
            }
            _ => shared.queue.push(level, one).is_err().then_some("too many requests wait"),
        };
        drop(shared);
        match refused {
            Some(text) => {
                lock(&self.stats).shed += 1;
                Err(Refusal::overloaded(format!("model `{}`: {text}", self.name), backlog))
            }
            None => {
                self.wake.notify_one();
                Ok(())
            }
        }
    }

    /// Takes out requests that are too late, or whose client has gone.
    fn sift(&self, queue: &mut Queue<Job>, now: Instant) {
        for over in queue.sift(now, |job| job.reply.is_closed()) {
            let late = Refusal::new(Kind::Late, format!("`{}`: not in time", self.name));
            let _ = over.item.reply.send(Err(late));
        }
    }

    /// Takes no more requests, does those that wait, and ends the threads.
    pub(crate) fn close(&self) {
        let mut shared = lock(&self.shared);
        shared.closing = true;
        shared.queue.hurry();
        drop(shared);
        self.wake.notify_all();
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            let _ = thread.join();
        }
    }

    /// The requests that run next; none when the model is closed.
    fn next(&self) -> Option<Vec<Waiting<Job>>> {
        let mut shared = lock(&self.shared);
        loop {
            let now = Instant::now();
            self.sift(&mut shared.queue, now);
            match shared.queue.next(now) {
                Next::Run(batch) => return Some(batch),
                Next::Idle if shared.closing => return None,
                Next::Idle => {
                    let woken = self.wake.wait(shared);
                    shared = woken.unwrap_or_else(PoisonError::into_inner);
                }
                Next::Until(at) => {
                    let limit = at.saturating_duration_since(now);
                    let woken = self.wake.wait_timeout(shared, limit);
                    shared = woken.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    fn work(&self) {
        while let Some(batch) = self.next() {
            // Others may go on with what is left.
            self.wake.notify_one();
            let started = Instant::now();
            let mut times = Times::default();
            let rows = batch.iter().map(|one| one.rows).sum::<usize>();
            let together = self.attempt(&batch, &mut times);
            let is_good = together.is_ok();
            let answers: Vec<Result<Named, Refusal>> = match together {
                Ok(answers) => answers.into_iter().map(Ok).collect(),
                // One's values are no other's fault.
                Err(_) if batch.len() > 1 => {
                    let alone = |one: &Waiting<Job>| {
                        let mut answers = self.attempt(std::slice::from_ref(one), &mut times)?;
                        Ok(answers.pop().unwrap_or_default())
                    };
                    batch.iter().map(alone).collect()
                }
                Err(refusal) => vec![Err(refusal)],
            };
            let mut stats = lock(&self.stats);
            if is_good {
                stats.ran(rows, times);
            }
            for (one, answer) in batch.into_iter().zip(answers) {
                match answer.is_ok() {
                    true => stats.answered(started - one.since, times),
                    false => stats.failed(one.since.elapsed()),
                }
                let _ = one.item.reply.send(answer);
            }
            drop(stats);
            if is_good {
                lock(&self.shared).queue.curve.add(rows, started.elapsed());
            }
        }
    }

    /// As [`Model::run`]; a panic in the model is a failure of the run.
    fn attempt(&self, batch: &[Waiting<Job>], times: &mut Times) -> Result<Vec<Named>, Refusal> {
        let ran = catch_unwind(AssertUnwindSafe(|| self.run(batch, times)));
        let failed = || Refusal::new(Kind::Failed, format!("model `{}` failed", self.name));
        ran.unwrap_or_else(|_| Err(failed()))
    }

    /// Runs requests together; the outputs of each.
    fn run(&self, batch: &[Waiting<Job>], times: &mut Times) -> Result<Vec<Named>, Refusal> {
        let from = Instant::now();
        let [first, ..] = batch else { return Ok(Vec::new()) };
        let inputs = if batch.len() == 1 { first.item.inputs.clone() } else { joined(batch)? };
        let prepared = Instant::now();
        times.input = prepared - from;
        let outputs = self.session.run(inputs);
        let outputs = outputs.map_err(|error| {
            Refusal::new(Kind::Failed, format!("model `{}`: {error}", self.name))
        })?;
        let ran = Instant::now();
        times.infer = ran - prepared;
        let answers = self.split(batch, outputs)?;
        times.output = ran.elapsed();
        Ok(answers)
    }

    fn split(&self, batch: &[Waiting<Job>], outputs: Outputs) -> Result<Vec<Named>, Refusal> {
        let mut answers = vec![Named::new(); batch.len()];
        let all: usize = batch.iter().map(|one| one.rows).sum();
        for (name, value) in outputs.iter() {
            let Some(tensor) = value.as_tensor() else {
                let text = format!("model `{}`: the output `{name}` is no tensor", self.name);
                return Err(Refusal::new(Kind::Failed, text));
            };
            if let [answer] = &mut answers[..] {
                answer.push((name.to_string(), tensor.clone()));
                continue;
            }
            if tensor.shape().first() != Some(&all) {
                let text = format!(
                    "model `{}`: the output `{name}` of {all} rows is {:?}: its rows are not of \
                     their own, so that max_batch_size must be 0",
                    self.name,
                    tensor.shape()
                );
                return Err(Refusal::new(Kind::Failed, text));
            }
            let mut from = 0;
            for (answer, one) in answers.iter_mut().zip(batch) {
                answer.push((name.to_string(), tensors::rows(tensor, from, one.rows)?));
                from += one.rows;
            }
        }
        Ok(answers)
    }
}

/// The inputs of requests as those of one run.
fn joined(batch: &[Waiting<Job>]) -> Result<Named, Refusal> {
    let mut joined = Named::new();
    for (name, _) in &batch[0].item.inputs {
        let part = |one: &Waiting<Job>| {
            one.item
                .inputs
                .iter()
                .find(|(other, _)| other == name)
                .map(|(_, tensor)| tensor.clone())
        };
        let parts: Vec<Tensor> = batch.iter().filter_map(part).collect();
        joined.push((name.clone(), tensors::join(&parts.iter().collect::<Vec<_>>())?));
    }
    Ok(joined)
}

fn rules(config: &Config) -> Rules {
    let batching = config.dynamic_batching.as_ref();
    let levels = batching.map_or(1, |one| one.priority_levels.max(1));
    let most = |level| match config.policy(level).max_queue_size {
        0 => config::QUEUE_MAX as usize,
        most => most as usize,
    };
    let preferred = batching.iter().flat_map(|one| &one.preferred_batch_size);
    let delay = batching.map_or(0, |one| one.max_queue_delay_microseconds);
    Rules {
        most: (1..=levels).map(most).collect(),
        batch_max: batching.map_or(0, |_| config.max_batch_size as usize),
        preferred: preferred.map(|&size| size as usize).collect(),
        delay: Duration::from_micros(delay),
    }
}

fn timeout(policy: &QueuePolicy, asked: Option<Duration>) -> Option<Duration> {
    let usual = match policy.default_timeout_microseconds {
        0 => None,
        micros => Some(Duration::from_micros(micros)),
    };
    match asked.filter(|_| policy.allow_timeout_override) {
        // A client may ask for less than the policy's, not for more.
        Some(asked) => Some(usual.map_or(asked, |usual| usual.min(asked))),
        None => usual,
    }
}

/// Requests whose inputs have the same names, types and shapes but for their rows may run together.
fn kind(inputs: &Named) -> u64 {
    let mut sorted: Vec<&(String, Tensor)> = inputs.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let mut hasher = DefaultHasher::new();
    for (name, tensor) in sorted {
        let rest = tensor.shape().get(1..);
        (name, tensor.dtype(), rest).hash(&mut hasher);
    }
    hasher.finish()
}
