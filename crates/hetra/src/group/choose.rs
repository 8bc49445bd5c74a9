//! Which model goes to which device.

/// Most assignments that are looked at; beyond, models are assigned one after the other.
const ALL_MAX: usize = 100_000;

/// What models take on devices.
pub(super) struct Load<'a> {
    /// By model and device; none where it is not assigned there.
    pub(super) seconds: &'a [Vec<Option<f64>>],
    /// How often each model runs in a round.
    pub(super) weights: &'a [u32],
    /// Whether the host's processor does the work of a device.
    pub(super) host: &'a [bool],
}

/// A device for each model.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Assignment {
    pub(super) device: Vec<usize>,
    /// Seconds of a round that the busiest unit is busy.
    pub(super) busiest_s: f64,
}

impl Load<'_> {
    /// Seconds that the busiest unit is busy; all devices of the host's processor are one.
    fn busiest(&self, device: &[usize]) -> Option<f64> {
        let (mut own, mut host) = (vec![0.0; self.host.len()], 0.0);
        for (model, &device) in device.iter().enumerate() {
            let seconds = self.seconds[model][device]? * f64::from(self.weights[model]);
            let unit = if self.host[device] { &mut host } else { &mut own[device] };
            *unit += seconds;
        }
        Some(own.into_iter().fold(host, f64::max))
    }

    /// The models one after the other, the longest first, each to where it adds the least.
    fn greedy(&self) -> Option<Vec<usize>> {
        let least = |model: usize| {
            let seconds = self.seconds[model].iter().flatten().copied();
            seconds.fold(f64::INFINITY, f64::min) * f64::from(self.weights[model])
        };
        let mut order: Vec<usize> = (0..self.seconds.len()).collect();
        order.sort_by(|&a, &b| least(b).total_cmp(&least(a)));
        let mut device: Vec<Option<usize>> = vec![None; order.len()];
        for model in order {
            let busiest = |at: usize| {
                let mut tried = device.clone();
                tried[model] = Some(at);
                self.partial(&tried)
            };
            let may = (0..self.host.len()).filter(|&at| self.seconds[model][at].is_some());
            device[model] = may.min_by(|&a, &b| busiest(a).total_cmp(&busiest(b)));
        }
        device.into_iter().collect()
    }

    fn partial(&self, device: &[Option<usize>]) -> f64 {
        let (mut own, mut host) = (vec![0.0; self.host.len()], 0.0);
        for (model, device) in device.iter().enumerate() {
            let Some(at) = *device else { continue };
            let seconds = self.seconds[model][at].unwrap_or(f64::INFINITY);
            let unit = if self.host[at] { &mut host } else { &mut own[at] };
            *unit += seconds * f64::from(self.weights[model]);
        }
        own.into_iter().fold(host, f64::max)
    }
}

/// The assignments that promise the most, the best first, and `also`.
pub(super) fn assignments(load: &Load<'_>, most: usize, also: &[usize]) -> Vec<Assignment> {
    let made = |device: Vec<usize>| {
        let busiest_s = load.busiest(&device)?;
        Some(Assignment { device, busiest_s })
    };
    let (models, devices) = (load.seconds.len(), load.host.len());
    let count = u32::try_from(models).ok().and_then(|models| devices.checked_pow(models));
    let mut all: Vec<Assignment> = match count.filter(|&count| count <= ALL_MAX) {
        Some(count) => {
            let digits = |mut number: usize| -> Vec<usize> {
                let mut digit = || {
                    let digit = number % devices;
                    number /= devices;
                    digit
                };
                (0..models).map(|_| digit()).collect()
            };
            (0..count).map(digits).filter_map(made).collect()
        }
        None => load.greedy().into_iter().filter_map(made).collect(),
    };
    all.sort_by(|a, b| a.busiest_s.total_cmp(&b.busiest_s));
    all.truncate(most);
    if !all.iter().any(|assignment| assignment.device == also) {
        all.extend(made(also.to_vec()));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_slower_by_itself_may_be_better_together() {
        // Both are fastest on the host; together one of them goes to the other device.
        let seconds = [vec![Some(4.0), Some(5.0)], vec![Some(3.0), Some(9.0)]];
        let load = Load { seconds: &seconds, weights: &[1, 1], host: &[true, false] };
        let found = assignments(&load, 2, &[0, 0]);
        assert_eq!(found[0], Assignment { device: vec![1, 0], busiest_s: 5.0 });
        assert_eq!(found.len(), 2);
        assert_eq!(found[1], Assignment { device: vec![0, 0], busiest_s: 7.0 });
        // One that runs often counts as often.
        let load = Load { weights: &[1, 4], ..load };
        assert_eq!(assignments(&load, 1, &[1, 0])[0].device, [1, 0]);
    }

    #[test]
    fn devices_of_the_host_are_one() {
        let seconds = [vec![Some(4.0), Some(4.1)], vec![Some(3.0), Some(3.1)]];
        let load = Load { seconds: &seconds, weights: &[1, 1], host: &[true, true] };
        assert_eq!(assignments(&load, 1, &[0, 0])[0].device, [0, 0]);
    }

    #[test]
    fn many_models_are_assigned_one_by_one() {
        let seconds: Vec<Vec<Option<f64>>> =
            (0..20).map(|at| vec![Some(1.0 + at as f64), None, Some(1.5)]).collect();
        let load = Load { seconds: &seconds, weights: &[1; 20], host: &[true, false, false] };
        let found = assignments(&load, 3, &[0; 20]);
        // All of them on the last device would take 30.
        assert!(found[0].busiest_s < 30.0, "{found:?}");
        assert!(found[0].device.iter().all(|&device| device != 1));
    }
}
