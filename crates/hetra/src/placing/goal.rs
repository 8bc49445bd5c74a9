//! What plans are compared by.

use serde::{Deserialize, Serialize};

use crate::placing::file::PlanError;

/// What is to be made small: a weighted sum. Where it has more than one term, each is counted in
/// parts of what the model takes on the host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlanGoal {
    /// Weight of the time of one run.
    pub latency: f64,
    /// Weight of the time between two results of runs that overlap.
    pub throughput: f64,
    /// Weight of the energy of a run.
    pub energy: f64,
    /// Weight of the money of a run.
    pub cost: f64,
}

/// The terms of goals, and what they mean.
pub const GOALS: [(&str, &str); 4] = [
    ("latency", "the time of one run"),
    ("throughput", "the time between two results, when runs overlap"),
    ("energy", "the joules of a run, of all devices of the plan"),
    ("cost", "the dollars of a run: what the devices of the plan cost for its time"),
];

impl Default for PlanGoal {
    fn default() -> PlanGoal {
        PlanGoal::LATENCY
    }
}

impl PlanGoal {
    const NOTHING: PlanGoal = PlanGoal { latency: 0.0, throughput: 0.0, energy: 0.0, cost: 0.0 };
    /// The time of one run.
    pub const LATENCY: PlanGoal = PlanGoal { latency: 1.0, ..PlanGoal::NOTHING };
    /// The time between two results of runs that overlap.
    pub const THROUGHPUT: PlanGoal = PlanGoal { throughput: 1.0, ..PlanGoal::NOTHING };
    /// The energy of a run.
    pub const ENERGY: PlanGoal = PlanGoal { energy: 1.0, ..PlanGoal::NOTHING };
    /// The money of a run.
    pub const COST: PlanGoal = PlanGoal { cost: 1.0, ..PlanGoal::NOTHING };

    /// Reads `latency`, or a sum such as `latency=1,energy=0.5`.
    ///
    /// # Errors
    /// A term that is none, or a weight that is no positive number.
    pub fn parse(text: &str) -> Result<PlanGoal, String> {
        let mut goal = PlanGoal::NOTHING;
        for term in text.split(',') {
            let (name, weight) = term.split_once('=').unwrap_or((term, "1"));
            let of = weight.parse().ok().filter(|weight: &f64| weight.is_finite() && *weight > 0.0);
            let of = of.ok_or_else(|| format!("{term}: wanted a weight such as {name}=0.5"))?;
            let place = match name {
                "latency" => &mut goal.latency,
                "throughput" => &mut goal.throughput,
                "energy" => &mut goal.energy,
                "cost" => &mut goal.cost,
                _ => {
                    let known = GOALS.map(|(name, _)| name).join(", ");
                    return Err(format!("there is no goal `{name}`; there are {known}"));
                }
            };
            *place = of;
        }
        Ok(goal)
    }

    /// Its terms with their weights.
    fn terms(&self) -> [(&'static str, f64); 4] {
        let weights = [self.latency, self.throughput, self.energy, self.cost];
        std::array::from_fn(|at| (GOALS[at].0, weights[at]))
    }

    /// Whether it has one term.
    pub(super) fn is_pure(&self) -> bool {
        self.terms().iter().filter(|(_, weight)| *weight > 0.0).count() == 1
    }

    /// As it is written.
    pub fn name(&self) -> String {
        let terms = self.terms().into_iter().filter(|(_, weight)| *weight > 0.0);
        let text = |(name, weight): (&str, f64)| match self.is_pure() {
            true => name.to_string(),
            false => format!("{name}={weight}"),
        };
        terms.map(text).collect::<Vec<_>>().join(",")
    }

    /// Whether it is about runs that overlap.
    pub(super) fn overlaps(&self) -> bool {
        self.throughput > 0.0
    }

    /// Whether it is about time alone, of one kind.
    pub(super) fn is_time(&self) -> bool {
        self.is_pure() && (self.latency > 0.0 || self.throughput > 0.0)
    }

    /// What its scores are in: `s`, `J`, `USD`, or, for a sum, `of the host's`.
    pub fn unit(&self) -> &'static str {
        match (self.is_pure(), self.energy > 0.0, self.cost > 0.0) {
            (true, true, _) => "J",
            (true, _, true) => "USD",
            (true, ..) => "s",
            _ => "of the host's",
        }
    }

    /// What is made small; `host` is what the host takes.
    pub(super) fn score(&self, figures: &Figures, host: &Figures) -> f64 {
        let term = |weight: f64, got: f64, of: f64| match (weight > 0.0, self.is_pure()) {
            (false, _) => 0.0,
            (true, true) => got,
            (true, false) => weight * got / of.max(f64::MIN_POSITIVE),
        };
        let known = |figure: Option<f64>| figure.unwrap_or(f64::INFINITY);
        term(self.latency, figures.latency_s, host.latency_s)
            + term(self.throughput, figures.interval_s, host.interval_s)
            + term(self.energy, known(figures.joules), host.joules.unwrap_or(1.0))
            + term(self.cost, known(figures.dollars), host.dollars.unwrap_or(1.0))
    }
}

/// What a run of a plan takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    /// Seconds of a run by itself.
    pub latency_s: f64,
    /// Seconds between two results of runs that overlap; those of a run by itself where they were
    /// not asked for.
    pub interval_s: f64,
    /// Joules of all devices of the plan; none where the power of one is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules: Option<f64>,
    /// US dollars of all devices of the plan; none where the price of one is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dollars: Option<f64>,
}

/// What a plan must keep to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PlanBounds {
    /// Seconds of a run by itself.
    pub latency_s: Option<f64>,
    /// Runs in a second, at least, when they overlap.
    pub per_second: Option<f64>,
    /// Watts, in the mean over a run.
    pub watts: Option<f64>,
    /// Joules of a run.
    pub joules: Option<f64>,
    /// US dollars of a run.
    pub dollars: Option<f64>,
}

impl PlanBounds {
    /// Whether the power of devices is asked for.
    pub(super) fn needs_energy(&self) -> bool {
        self.watts.is_some() || self.joules.is_some()
    }

    /// Whether there is none.
    pub(super) fn is_none(&self) -> bool {
        *self == PlanBounds::default()
    }

    /// The bounds that these figures are past, in words.
    pub(super) fn broken(&self, figures: &Figures, overlaps: bool) -> Vec<String> {
        let ms = |seconds: f64| format!("{:.3} ms", seconds * 1e3);
        let over = |what: &str, got: f64, most: Option<f64>, text: &dyn Fn(f64) -> String| {
            let most = most.filter(|&most| got > most)?;
            Some(format!("{what} {} of {} allowed", text(got), text(most)))
        };
        let time = if overlaps { figures.interval_s } else { figures.latency_s };
        let known = |figure: Option<f64>| figure.unwrap_or(f64::INFINITY);
        let per_second = 1.0 / figures.interval_s.max(f64::MIN_POSITIVE);
        let short = self.per_second.filter(|&least| per_second < least);
        let broken = [
            over("latency", figures.latency_s, self.latency_s, &ms),
            short.map(|least| format!("{per_second:.1} of {least:.1} runs a second wanted")),
            over("power", known(figures.joules) / time, self.watts, &|w| format!("{w:.3} W")),
            over("energy", known(figures.joules), self.joules, &|j| format!("{j:.6} J")),
            over("cost", known(figures.dollars), self.dollars, &|d| format!("{d:.3e} USD")),
        ];
        broken.into_iter().flatten().collect()
    }

    /// # Errors
    /// A bound that nothing can keep.
    pub(super) fn check(&self) -> Result<(), PlanError> {
        let all =
            [self.latency_s, self.per_second, self.watts, self.joules, self.dollars].into_iter();
        match all.flatten().find(|bound| !bound.is_finite() || *bound <= 0.0) {
            Some(bound) => Err(PlanError::Bound(bound)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_read_and_written() {
        let goal = |text: &str| PlanGoal::parse(text).unwrap();
        assert_eq!(goal("latency"), PlanGoal::LATENCY);
        assert_eq!(goal("energy").name(), "energy");
        assert_eq!(goal("latency=1,energy=0.5").name(), "latency=1,energy=0.5");
        assert_eq!(PlanGoal::parse("speed").unwrap_err().matches("throughput").count(), 1);
        ["latency=-1", "latency=x", "", "latency=inf"]
            .iter()
            .for_each(|text| assert!(PlanGoal::parse(text).is_err(), "{text}"));
    }

    #[test]
    fn sums_are_in_parts_of_the_hosts() {
        let of = |latency_s, joules| Figures {
            latency_s,
            interval_s: latency_s,
            joules: Some(joules),
            dollars: None,
        };
        let (host, other) = (of(2.0, 10.0), of(1.0, 20.0));
        assert_eq!(PlanGoal::LATENCY.score(&other, &host), 1.0);
        assert_eq!(PlanGoal::ENERGY.score(&other, &host), 20.0);
        let sum = PlanGoal::parse("latency,energy=0.5").unwrap();
        assert_eq!((sum.score(&host, &host), sum.score(&other, &host)), (1.5, 1.5));
        assert_eq!(PlanGoal::COST.score(&other, &host), f64::INFINITY);
    }

    #[test]
    fn broken_bounds_are_named() {
        let figures =
            Figures { latency_s: 0.01, interval_s: 0.005, joules: Some(0.2), dollars: None };
        let bounds = PlanBounds { latency_s: Some(0.02), ..PlanBounds::default() };
        assert!(bounds.broken(&figures, false).is_empty());
        let bounds = PlanBounds {
            latency_s: Some(0.005),
            per_second: Some(300.0),
            watts: Some(15.0),
            joules: Some(1.0),
            dollars: Some(1.0),
        };
        let broken = bounds.broken(&figures, false);
        assert_eq!(broken.len(), 4, "{broken:?}");
        assert_eq!(broken[0], "latency 10.000 ms of 5.000 ms allowed");
        assert_eq!(broken[2], "power 20.000 W of 15.000 W allowed");
        assert!(PlanBounds { watts: Some(-1.0), ..PlanBounds::default() }.check().is_err());
    }
}
