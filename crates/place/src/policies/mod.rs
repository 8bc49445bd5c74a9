//! The policies, a row each.

mod chain;
mod exact;
mod fill;
mod list;
mod pipeline;
mod search;
mod single;

use crate::anneal::Budget;
use crate::bound::Bound;
use crate::goal::Goal;
use crate::problem::PlaceError;
use crate::schedule::Placement;
use crate::table::Table;

/// A way to choose devices.
pub struct Policy {
    /// What `--policy` takes.
    pub name: &'static str,
    /// One line on it.
    pub doc: &'static str,
    /// How it goes about it.
    pub kind: PolicyKind,
}

/// How a policy goes about it.
pub enum PolicyKind {
    /// By a rule, at once.
    Rule(Rule),
    /// From the best of the rules on, over all there is, where there is not too much.
    Exact,
    /// From the best of the others on, as long as it may.
    Search,
}

/// A rule; it gives nothing where it finds nothing that fits.
pub struct Rule(fn(&Table<'_>, &Goal) -> Option<Placement>);

/// All of them, fast ones first.
pub static POLICIES: &[Policy] = &[
    Policy {
        name: "host",
        doc: "everything that it can do on the first device, the host's processor",
        kind: PolicyKind::Rule(Rule(single::host)),
    },
    Policy {
        name: "single",
        doc: "as much as possible on one device, the best one; the rest on the host",
        kind: PolicyKind::Rule(Rule(single::best)),
    },
    Policy {
        name: "fill",
        doc: "in order, on the fastest device until its memory is full, then on the next",
        kind: PolicyKind::Rule(Rule(fill::fill)),
    },
    Policy {
        name: "heft",
        doc: "HEFT: by upward rank, each where it ends first (Topcuoglu et al., 2002)",
        kind: PolicyKind::Rule(Rule(list::heft)),
    },
    Policy {
        name: "peft",
        doc: "PEFT: as HEFT, looking ahead by a table of optimistic costs (Arabnejad, Barbosa, 2014)",
        kind: PolicyKind::Rule(Rule(list::peft)),
    },
    Policy {
        name: "chain",
        doc: "dynamic programming over paths: exact for a chain of tasks without bounds",
        kind: PolicyKind::Rule(Rule(chain::chain)),
    },
    Policy {
        name: "pipeline",
        doc: "for runs that overlap: a stretch of the tasks for each device, the busiest least so",
        kind: PolicyKind::Rule(Rule(pipeline::pipeline)),
    },
    Policy {
        name: "exact",
        doc: "branch and bound: the best there is, for up to 40 tasks on up to 4 devices",
        kind: PolicyKind::Exact,
    },
    Policy {
        name: "search",
        doc: "the best of all others, improved by simulated annealing as long as it may",
        kind: PolicyKind::Search,
    },
];

/// A placement, by whom, and what it comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The policy.
    pub policy: &'static str,
    /// What it chose.
    pub placement: Placement,
    /// What that comes to.
    pub metrics: crate::Metrics,
    /// By the goal: the less, the better.
    pub score: f64,
}

/// What the policies found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// One of each policy that found one, the best first.
    pub candidates: Vec<Candidate>,
    /// What no placement is below.
    pub bound: Bound,
}

impl Found {
    /// How much worse the best placement is than any could be at most, in parts of the bound; none
    /// where nothing bounds it.
    pub fn gap(&self) -> Option<f64> {
        let best = self.candidates.first()?;
        (self.bound.score > 0.0).then(|| best.score / self.bound.score - 1.0)
    }
}

/// The placement of each policy that `wanted` names (all where it is empty) and that finds one, the
/// best first. What improves others begins from the best of what the rules found, wanted or not, so
/// that it is never worse than they.
///
/// # Errors
/// When the problem is malformed, or nothing fits.
pub fn place(
    problem: &crate::Problem,
    goal: &Goal,
    wanted: &[&str],
    budget: &Budget<'_>,
) -> Result<Found, PlaceError> {
    let table = Table::new(problem)?;
    let mut bound = crate::bound(problem, goal)?;
    let mut found: Vec<Candidate> = Vec::new();
    let asked = |name: &str| wanted.is_empty() || wanted.contains(&name);
    for policy in POLICIES {
        let placement = match &policy.kind {
            PolicyKind::Rule(rule) => rule.0(&table, goal),
            _ if !asked(policy.name) => None,
            PolicyKind::Exact => {
                let start = found.first().map(|best| &best.placement);
                let exact = start.and_then(|start| exact::exact(&table, goal, start, budget));
                let best = exact.as_ref().and_then(|exact| exact.placement.clone());
                let best = best.or_else(|| start.filter(|_| exact.is_some()).cloned());
                if let (Some(best), true) = (&best, exact.is_some_and(|exact| exact.proven)) {
                    let score = goal.score(&crate::measure(problem, best));
                    bound = Bound { score, by: "exact" };
                }
                best
            }
            PolicyKind::Search if bound.by == "exact" => None,
            PolicyKind::Search => {
                let starts: Vec<&Placement> = found.iter().map(|best| &best.placement).collect();
                search::search(&table, goal, &starts, budget)
            }
        };
        let Some(placement) = placement else { continue };
        debug_assert_eq!(crate::schedule::fault(problem, &placement), None, "{}", policy.name);
        found.push(judge(problem, goal, policy.name, placement));
        sort(&mut found);
    }
    let any = !found.is_empty();
    found.retain(|candidate| asked(candidate.policy));
    if any && found.is_empty() {
        return Err(PlaceError::NotApplicable(wanted.join(", ")));
    }
    if found.is_empty() { Err(PlaceError::Memory) } else { Ok(Found { candidates: found, bound }) }
}

fn judge(
    problem: &crate::Problem,
    goal: &Goal,
    policy: &'static str,
    placement: Placement,
) -> Candidate {
    let metrics = crate::measure(problem, &placement);
    let score = goal.score(&metrics);
    Candidate { policy, placement, metrics, score }
}

/// The best first; of equal ones the one that was there before, which is the simpler one.
fn sort(found: &mut [Candidate]) {
    found.sort_by(|a, b| a.score.total_cmp(&b.score));
}
