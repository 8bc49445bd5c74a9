//! Search spaces: which numbers the knobs of a kernel may have. A kernel declares its space
//! beside its code.
//!
//! A schedule of a space is also a *point*, a number from 0 to the size: its digits, of mixed
//! radix, say which choice each knob has, the last knob's fastest. Searches walk over points.

use std::borrow::Cow;

use crate::random::Random;
use crate::schedule::{KNOBS_MAX, Schedule, ScheduleError, check_name};

/// Most choices of a knob.
const CHOICES_MAX: usize = 1024;

/// Most schedules of a space.
const SPACE_SIZE_MAX: u64 = 1 << 48;

/// Why something is no search space.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what each field is")]
pub enum SpaceError {
    #[error(transparent)]
    Name(#[from] ScheduleError),
    #[error("knob `{name}` has {count} choices: wanted 1 to {}", CHOICES_MAX)]
    Choices { name: String, count: usize },
    #[error("knob `{name}` has the choice {value} twice")]
    Twice { name: String, value: i64 },
    #[error("knob `{name}`: its default {value} is none of its choices")]
    Default { name: String, value: i64 },
    #[error("two knobs are called `{name}`")]
    Knobs { name: String },
    #[error("a space has at most {} knobs and 2^48 schedules", KNOBS_MAX)]
    Large,
}

/// One knob: a name, the numbers that it may have, and the one that it has when nobody tuned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knob {
    name: Cow<'static, str>,
    choices: Cow<'static, [i64]>,
    default: usize,
}

impl Knob {
    /// A knob. Choices that are like each other should stand side by side: a search tries
    /// neighbours.
    ///
    /// # Errors
    /// When the name is none, choices are missing, too many or not distinct, or the default is
    /// not among them.
    pub fn new(
        name: impl Into<Cow<'static, str>>,
        choices: impl Into<Cow<'static, [i64]>>,
        default: i64,
    ) -> Result<Knob, SpaceError> {
        let (name, choices) = (name.into(), choices.into());
        check_name(&name)?;
        if choices.is_empty() || choices.len() > CHOICES_MAX {
            return Err(SpaceError::Choices { name: name.into_owned(), count: choices.len() });
        }
        let mut sorted = choices.to_vec();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(SpaceError::Twice { name: name.into_owned(), value: pair[0] });
        }
        match choices.iter().position(|&choice| choice == default) {
            Some(default) => Ok(Knob { name, choices, default }),
            None => Err(SpaceError::Default { name: name.into_owned(), value: default }),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The numbers that it may have.
    pub fn choices(&self) -> &[i64] {
        &self.choices
    }

    /// The number that it has when nobody tuned.
    pub fn default_choice(&self) -> i64 {
        self.choices[self.default]
    }
}

/// All schedules that a kernel takes for a task: every combination of its knobs' choices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    knobs: Vec<Knob>,
    size: u64,
}

impl Space {
    /// A space of these knobs. Without a knob it holds one schedule, the empty one.
    ///
    /// # Errors
    /// When names are not distinct or the space is too large.
    pub fn new(knobs: Vec<Knob>) -> Result<Space, SpaceError> {
        if knobs.len() > KNOBS_MAX {
            return Err(SpaceError::Large);
        }
        for (index, knob) in knobs.iter().enumerate() {
            if knobs[..index].iter().any(|other| other.name == knob.name) {
                return Err(SpaceError::Knobs { name: knob.name.to_string() });
            }
        }
        let times = |size: u64, knob: &Knob| {
            size.checked_mul(knob.choices.len() as u64).filter(|&size| size <= SPACE_SIZE_MAX)
        };
        let size = knobs.iter().try_fold(1, times).ok_or(SpaceError::Large)?;
        Ok(Space { knobs, size })
    }

    /// The knobs, in the order of a point's digits.
    pub fn knobs(&self) -> &[Knob] {
        &self.knobs
    }

    /// How many schedules there are; at least 1.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The schedule at a point; `None` past the end.
    pub fn nth(&self, point: u64) -> Option<Schedule> {
        let values = (point < self.size).then(|| self.values(point))?;
        let with =
            |schedule: Schedule, (knob, value): (&Knob, i64)| schedule.with(&knob.name, value).ok();
        self.knobs.iter().zip(values).try_fold(Schedule::new(), with)
    }

    /// The numbers of the knobs at a point (of the remainder by the size, past the end).
    pub fn values(&self, point: u64) -> Vec<i64> {
        let digits = self.digits(point);
        self.knobs.iter().zip(digits).map(|(knob, digit)| knob.choices[digit]).collect()
    }

    /// The point of a schedule; `None` when it is not of this space.
    pub fn point(&self, schedule: &Schedule) -> Option<u64> {
        if schedule.len() != self.knobs.len() {
            return None;
        }
        self.knobs.iter().try_fold(0, |point, knob| {
            let value = schedule.get(&knob.name)?;
            let digit = knob.choices.iter().position(|&choice| choice == value)?;
            Some(point * knob.choices.len() as u64 + digit as u64)
        })
    }

    /// Whether a schedule is of this space.
    pub fn contains(&self, schedule: &Schedule) -> bool {
        self.point(schedule).is_some()
    }

    /// The point of the schedule that stands when nobody tuned.
    pub fn default_point(&self) -> u64 {
        let digits: Vec<usize> = self.knobs.iter().map(|knob| knob.default).collect();
        self.join(&digits)
    }

    /// Any point.
    pub fn random(&self, random: &mut Random) -> u64 {
        random.below(self.size)
    }

    /// Points that are spread out: of `count` points (some may be equal), each choice of a knob is
    /// in about as many as every other (a Latin hypercube: McKay, Beckman and Conover, 1979).
    pub fn spread(&self, count: usize, random: &mut Random) -> Vec<u64> {
        let mut points = vec![0; count];
        for knob in &self.knobs {
            let choices = knob.choices.len();
            // Where there are fewer points than choices, which ones are left out is chance, too.
            let offset = random.unit();
            let digit = |at: usize| ((at as f64 + offset) * choices as f64 / count as f64) as usize;
            let mut digits: Vec<usize> = (0..count).map(|at| digit(at).min(choices - 1)).collect();
            random.shuffle(&mut digits);
            for (point, digit) in points.iter_mut().zip(digits) {
                *point = *point * choices as u64 + digit as u64;
            }
        }
        points
    }

    /// The points one step away: one knob at the choice before or after.
    pub fn neighbours(&self, point: u64) -> Vec<u64> {
        let digits = self.digits(point);
        let mut all = Vec::with_capacity(2 * digits.len());
        for (index, knob) in self.knobs.iter().enumerate() {
            let digit = digits[index];
            let after = Some(digit + 1).filter(|&digit| digit < knob.choices.len());
            for digit in digit.checked_sub(1).into_iter().chain(after) {
                let mut near = digits.clone();
                near[index] = digit;
                all.push(self.join(&near));
            }
        }
        all
    }

    /// A point with one knob, sometimes two or more, at another choice; the same point only where
    /// the space has no other.
    pub fn mutate(&self, point: u64, random: &mut Random) -> u64 {
        let mut digits = self.digits(point);
        let open: Vec<usize> =
            (0..digits.len()).filter(|&index| self.knobs[index].choices.len() > 1).collect();
        let mut left = open.clone();
        while !left.is_empty() {
            let index = left.swap_remove(random.index(left.len()));
            // A shift by 1 to count - 1 places never comes back to where it was.
            let count = self.knobs[index].choices.len();
            digits[index] = (digits[index] + 1 + random.index(count - 1)) % count;
            if !random.chance(0.4) {
                break;
            }
        }
        self.join(&digits)
    }

    /// A point that has each knob from one of two.
    pub fn crossover(&self, a: u64, b: u64, random: &mut Random) -> u64 {
        let pairs = self.digits(a).into_iter().zip(self.digits(b));
        let digits: Vec<usize> =
            pairs.map(|(a, b)| if random.chance(0.5) { a } else { b }).collect();
        self.join(&digits)
    }

    fn digits(&self, point: u64) -> Vec<usize> {
        let mut rest = point;
        let mut digits = vec![0; self.knobs.len()];
        for (digit, knob) in digits.iter_mut().zip(&self.knobs).rev() {
            let count = knob.choices.len() as u64;
            *digit = (rest % count) as usize;
            rest /= count;
        }
        digits
    }

    fn join(&self, digits: &[usize]) -> u64 {
        let pairs = self.knobs.iter().zip(digits);
        pairs.fold(0, |point, (knob, &digit)| point * knob.choices.len() as u64 + digit as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> Space {
        let knobs = [
            Knob::new("mr", &[2, 4, 6][..], 6),
            Knob::new("nr", vec![1, 2], 1),
            Knob::new("kc", &[64, 128, 256, 512][..], 256),
        ];
        Space::new(knobs.into_iter().collect::<Result<_, _>>().unwrap()).unwrap()
    }

    #[test]
    fn points_and_schedules_are_the_same() {
        let space = space();
        assert_eq!(space.size(), 24);
        let texts: Vec<String> =
            (0..24).map(|point| space.nth(point).unwrap().to_string()).collect();
        assert_eq!(texts[0], "kc=64 mr=2 nr=1");
        assert_eq!(texts[5], "kc=128 mr=2 nr=2");
        for (point, text) in texts.iter().enumerate() {
            assert_eq!(space.point(&text.parse().unwrap()), Some(point as u64));
        }
        assert_eq!(space.nth(24), None);
        let default = space.nth(space.default_point()).unwrap();
        assert_eq!(default.to_string(), "kc=256 mr=6 nr=1");
        for other in ["", "mr=2 nr=1", "mr=3 nr=1 kc=64", "mr=2 nr=1 kx=64", "kc=64 mr=2 nr=1 z=1"]
        {
            assert!(!space.contains(&other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn moves_stay_inside() {
        let space = space();
        let mut random = Random::new(1);
        let mut seen = std::collections::BTreeSet::new();
        for point in 0..space.size() {
            let changed = |other: u64| {
                let (a, b) = (space.digits(point), space.digits(other));
                a.iter().zip(&b).filter(|(a, b)| a != b).count()
            };
            for near in space.neighbours(point) {
                assert_eq!(changed(near), 1);
            }
            for _ in 0..20 {
                let other = space.mutate(point, &mut random);
                assert!(other < space.size() && other != point);
                let child = space.crossover(point, other, &mut random);
                assert!(changed(child) <= changed(other));
                seen.insert(space.random(&mut random));
            }
        }
        assert_eq!(space.neighbours(0).len(), 3);
        assert_eq!(seen.len(), 24);
    }

    #[test]
    fn a_spread_has_every_choice_equally_often() {
        let space = space();
        for seed in 0..20 {
            let points = space.spread(12, &mut Random::new(seed));
            for (knob, column) in space.knobs().iter().zip(0..) {
                for choice in knob.choices() {
                    let has = |&&point: &&u64| space.values(point)[column] == *choice;
                    let count = points.iter().filter(has).count();
                    assert_eq!(count, 12 / knob.choices().len(), "{} {choice}", knob.name());
                }
            }
        }
        assert!(space.spread(0, &mut Random::new(1)).is_empty());
    }

    #[test]
    fn a_space_of_one_has_no_moves() {
        let one = Space::new(vec![Knob::new("mr", &[4][..], 4).unwrap()]).unwrap();
        assert_eq!(one.mutate(0, &mut Random::new(1)), 0);
        assert!(one.neighbours(0).is_empty());
        let none = Space::new(Vec::new()).unwrap();
        assert_eq!((none.size(), none.nth(0)), (1, Some(Schedule::new())));
        assert_eq!(none.point(&Schedule::new()), Some(0));
    }

    #[test]
    fn what_is_no_space_is_refused() {
        let name = || "mr".to_string();
        let knob = |choices: Vec<i64>, default| Knob::new("mr", choices, default);
        assert_eq!(knob(vec![], 1), Err(SpaceError::Choices { name: name(), count: 0 }));
        assert!(knob((0..1025).collect(), 1).is_err());
        assert_eq!(knob(vec![1, 2, 1], 1), Err(SpaceError::Twice { name: name(), value: 1 }));
        assert_eq!(knob(vec![1, 2], 3), Err(SpaceError::Default { name: name(), value: 3 }));
        assert!(matches!(Knob::new("M R", vec![1], 1), Err(SpaceError::Name(_))));
        let one = knob(vec![1], 1).unwrap();
        assert_eq!(Space::new(vec![one.clone(), one]), Err(SpaceError::Knobs { name: name() }));
        let wide = |count: usize| {
            let knob = |i| Knob::new(format!("k{i}"), (0..1024).collect::<Vec<_>>(), 0).unwrap();
            Space::new((0..count).map(knob).collect())
        };
        assert_eq!(wide(4).unwrap().size(), 1 << 40);
        assert_eq!(wide(5), Err(SpaceError::Large));
        assert_eq!(wide(KNOBS_MAX + 1), Err(SpaceError::Large));
    }
}
