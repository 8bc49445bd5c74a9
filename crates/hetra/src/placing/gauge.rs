//! What runs of plans take, in seconds, joules and dollars.

use hetra_cost::dollars_per_hour;
use hetra_exec::Seat;
use hetra_machine::{DeviceSpec, Machine};

use crate::error::Error;
use crate::placing::accept::Sample;
use crate::placing::goal::{Figures, PlanGoal};
use crate::placing::measure::{Ready, Spent};
use crate::placing::meter::Meter;

/// Seconds of runs that overlap, for one sample: what fills and drains a pipeline is little of it.
const STREAM_S: f64 = 0.3;
/// Runs behind each other that one sample of a comparison is the median of.
const RUNS_OF_ONE: usize = 3;
/// Runs of one device that overlap, at least: it is measured with as many as the mix beside it.
pub(super) const SINGLE_TOGETHER: usize = 2;

/// What a device draws and costs, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    /// Watts while it does nothing, and while it works.
    pub(super) watts: Option<(f64, f64)>,
    /// US dollars for a second.
    pub(super) dollars_s: Option<f64>,
}

impl Rates {
    fn of(spec: &DeviceSpec) -> Rates {
        let value = |figure: &Option<hetra_machine::Figure>| figure.as_ref().map(|f| f.value);
        let watts = value(&spec.power.max).map(|max| (value(&spec.power.idle).unwrap_or(0.0), max));
        Rates { watts, dollars_s: dollars_per_hour(&spec.price).map(|dollars| dollars / 3600.0) }
    }
}

/// Measures runs by the devices of a plan.
pub(super) struct Gauge {
    /// Of each device.
    pub(super) rates: Vec<Rates>,
    ids: Vec<String>,
    /// Whether the host's processor does the device's work.
    on_host: Vec<bool>,
    /// Measures what the host's processor draws, and devices that count it.
    meter: Meter,
    pub(super) goal: PlanGoal,
    /// Whether joules and dollars are asked for.
    pub(super) counts: bool,
    /// Whether runs that overlap are measured.
    pub(super) streams: bool,
}

impl Gauge {
    /// `machine` says what devices draw and cost that are there.
    pub(super) fn new(
        seats: &[Seat],
        machine: Option<&Machine>,
        goal: PlanGoal,
        (counts, streams): (bool, bool),
    ) -> Gauge {
        let rates = |seat: &Seat| {
            let info = seat.device.info();
            // What the machine file says of it, by its whole id or without its options, goes before
            // what a description does.
            let id = crate::placing::units::inner(&info.id);
            let bare = id.split('?').next().unwrap_or_default();
            let said = [info.id.as_str(), id, bare].into_iter();
            let said = said.filter_map(|id| machine?.devices.get(id)).next().cloned();
            let described = hetra_device_sim::described(id).ok();
            let spec = match (said, described) {
                (Some(said), Some(described)) => Some(said.over(&described)),
                (said, described) => said.or(described),
            };
            spec.map(|spec| Rates::of(&spec)).unwrap_or_default()
        };
        Gauge {
            rates: seats.iter().map(rates).collect(),
            ids: seats.iter().map(|seat| seat.device.info().id.clone()).collect(),
            on_host: seats
                .iter()
                .map(|seat| crate::placing::units::on_host(seat.device.info()))
                .collect(),
            meter: Meter::open(seats.iter().map(|seat| seat.device.info())),
            goal,
            counts,
            streams: streams || goal.overlaps(),
        }
    }

    /// Watts of a device that runs the whole model, for placements that are not run: those of its
    /// counter, where nothing else says them. `of_all` is what was drawn while it did, by all
    /// devices.
    pub(super) fn learn(&mut self, device: usize, ready: &Ready, of_all: f64) -> Option<f64> {
        if self.rates[device].watts.is_some() {
            return None;
        }
        let mut used = vec![false; self.ids.len()];
        used[device] = true;
        let watts = match self.meter.has(device) {
            // A run that fails says so where its results count.
            true => self.meter.watts(&used, &mut || ready.run().map(drop)).ok()?.devices[device],
            false => Some(of_all).filter(|_| self.on_host[device]),
        };
        let watts = watts.filter(|watts| watts.is_finite())?;
        self.rates[device].watts = Some((0.0, watts));
        Some(watts)
    }

    /// Whether what a device draws is known: by its figures, a counter of its own, or one of the
    /// host.
    pub(super) fn knows_power(&self, device: usize) -> bool {
        let by_host = self.on_host[device] && self.meter.has_host();
        self.rates[device].watts.is_some() || self.meter.has(device) || by_host
    }

    /// What runs take: one by itself, `latency_s` where that is measured already, and, where runs
    /// overlap, `together` at a time.
    pub(super) fn figures(
        &self,
        ready: &Ready,
        together: usize,
        latency_s: f64,
    ) -> Result<Figures, Error> {
        let mut alone = ready.spent()?;
        if !ready.is_simulated() {
            // To write down what each device does takes time, too: busy times are in proportion.
            let scale = latency_s / alone.total_s.max(f64::MIN_POSITIVE);
            alone.busy_s.values_mut().for_each(|busy| *busy *= scale);
            alone.total_s = latency_s;
        }
        let interval_s = match self.streams {
            true => self.interval(ready, together, alone.total_s)?,
            false => alone.total_s,
        };
        let mut figures =
            Figures { latency_s: alone.total_s, interval_s, joules: None, dollars: None };
        if self.counts {
            let time = if self.goal.overlaps() { interval_s } else { alone.total_s };
            let used: Vec<bool> = self.used(&alone);
            figures.joules = self.joules(ready, &alone, &used, time)?;
            figures.dollars = self.dollars(&used, time);
        }
        Ok(figures)
    }

    /// The devices that worked; the host's is there in any case.
    fn used(&self, spent: &Spent) -> Vec<bool> {
        let worked = |(index, id): (usize, &String)| index == 0 || spent.busy_s.contains_key(id);
        self.ids.iter().enumerate().map(worked).collect()
    }

    fn joules(
        &self,
        ready: &Ready,
        spent: &Spent,
        used: &[bool],
        time: f64,
    ) -> Result<Option<f64>, Error> {
        let mut sum = 0.0;
        // While the host computes for a described device its counters say nothing of the plan.
        let metered = match ready.is_simulated() {
            true => None,
            false => Some(self.meter.watts(used, &mut || ready.run().map(drop))?),
        };
        let host = metered.as_ref().and_then(|drawn| drawn.host);
        // The host's processor is metered once, whatever devices it plays.
        sum += host.map_or(0.0, |watts| watts * time);
        for (device, id) in self.ids.iter().enumerate().filter(|(device, _)| used[*device]) {
            if host.is_some() && self.on_host[device] {
                continue;
            }
            if let Some(watts) = metered.as_ref().and_then(|drawn| drawn.devices[device]) {
                sum += watts * time;
                continue;
            }
            let Some((idle, max)) = self.rates[device].watts else { return Ok(None) };
            let busy = spent.busy_s.get(id).copied().unwrap_or(0.0);
            sum += match spent.joules.get(id) {
                Some(joules) => {
                    let link = spent.link_joules.get(id).copied().unwrap_or(0.0);
                    joules + link + idle * (time - busy).max(0.0)
                }
                None => idle * time + (max - idle) * busy.min(time),
            };
        }
        Ok(Some(sum))
    }

    /// What devices cost for so long.
    pub(super) fn dollars(&self, used: &[bool], time: f64) -> Option<f64> {
        let of = |(rates, used): (&Rates, &bool)| used.then_some(rates.dollars_s);
        let all: Option<f64> = self.rates.iter().zip(used).filter_map(of).sum();
        all.map(|dollars_s| dollars_s * time)
    }

    /// One sample of what the goal makes small; `alone` is about the time of one run, `host` what
    /// the host takes.
    pub(super) fn score(
        &self,
        ready: &Ready,
        together: usize,
        alone: f64,
        host: &Figures,
    ) -> Result<f64, Error> {
        if !self.goal.is_time() {
            let seconds = (0..RUNS_OF_ONE).map(|_| ready.seconds());
            let seconds = Sample::of(seconds.collect::<Result<_, _>>()?).median;
            return Ok(self.goal.score(&self.figures(ready, together, seconds)?, host));
        }
        match self.goal.overlaps() {
            true => self.interval(ready, together, alone),
            false => {
                // What ran before has other threads awake and other data in the caches.
                ready.run()?;
                let runs = (0..RUNS_OF_ONE).map(|_| ready.seconds());
                Ok(Sample::of(runs.collect::<Result<_, _>>()?).median)
            }
        }
    }

    /// Seconds between two results, of runs one behind the other, two or `together` at a time: the
    /// least.
    fn interval(&self, ready: &Ready, together: usize, alone: f64) -> Result<f64, Error> {
        let runs = ((STREAM_S / alone.max(1e-6)) as usize).clamp(8 * together, 512);
        let mut least = ready.overlapped(1, runs)?;
        for together in [SINGLE_TOGETHER, together] {
            least = least.min(ready.overlapped(together, runs)?);
        }
        Ok(least)
    }
}
