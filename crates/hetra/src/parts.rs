//! Which parts of a model had better work on integers.
//!
//! A product by itself is seldom faster on integers: its input has to be quantised, its output made
//! real again. So what is timed are parts, runs of products one after another.

use std::collections::BTreeSet;
use std::time::Duration;

use hetra_ir::NodeId;

use crate::budget::{Cases, ROUNDS_TIME, Search, error_on, in_turns, times_ns};
use crate::error::Error;
use crate::int8::{Calibrated, Unfused};
use crate::precision::{Int8Report, Verdict};
use crate::session::Session;

/// Most parts, and the time that each is measured for.
const PARTS_MAX: usize = 8;
const PART_TIME: Duration = Duration::from_secs(1);

/// A session with the products on integers that gain time, as far as they keep within the budget,
/// and its error.
type Chosen = Option<(Session, f64)>;

/// Tries all products, then parts: the ones that cost least accuracy for their gain first.
pub(crate) fn choose(
    f32: &Session,
    unfused: &Unfused,
    cases: &Cases<'_>,
    max_error: f64,
) -> Result<(Chosen, Int8Report), Error> {
    let calibrated = Calibrated::of(f32, unfused, cases.iter().map(|(inputs, _)| *inputs))?;
    let products = &calibrated.products;
    let mut report = Int8Report {
        verdict: Verdict::NoProducts,
        error_of_all: None,
        products: products.len(),
        parts: 1,
        faster: 0,
        quantised: Vec::new(),
        trials: 0,
        times_ns: None,
    };
    let (Some((first, _)), false) = (cases.first(), products.is_empty()) else {
        return Ok((None, report));
    };
    let times = |session: &Session, time: Duration| in_turns(time, (f32, session), first);
    let all: BTreeSet<NodeId> = products.iter().copied().collect();
    let whole = calibrated.session(&all)?;
    let error = error_on(&whole, cases)?;
    (report.error_of_all, report.trials) = (Some(error), 1);
    let taken = times(&whole, ROUNDS_TIME)?;
    report.times_ns = Some(times_ns(&taken));
    if error <= max_error && taken.wins {
        (report.verdict, report.faster) = (Verdict::Lowered, 1);
        report.quantised = calibrated.names(&all).into_iter().collect();
        return Ok((Some((whole, error)), report));
    }
    drop(whole);
    let mut parts = Vec::new();
    for part in products.chunks(products.len().div_ceil(PARTS_MAX)) {
        report.parts = parts.len() + 1;
        let session = calibrated.session(&part.iter().copied().collect())?;
        let taken = times(&session, PART_TIME)?;
        let gain = (taken.default_seconds - taken.candidate_seconds).max(1e-9);
        let error = error_on(&session, cases)?;
        parts.push((error / gain, taken.wins, part));
    }
    parts.retain(|(_, faster, _)| *faster);
    parts.sort_by(|a, b| a.0.total_cmp(&b.0));
    report.faster = parts.len();
    report.verdict = Verdict::NoneFaster;
    if parts.is_empty() {
        return Ok((None, report));
    }
    let order: Vec<NodeId> = parts.iter().flat_map(|(.., part)| part.iter().copied()).collect();
    let make = |nodes: &BTreeSet<NodeId>| calibrated.session(nodes);
    let mut search = Search::new(&make, cases, max_error);
    search.fit(&order)?;
    report.trials += report.parts + search.trials;
    report.verdict = Verdict::OverBudget;
    let kept = std::mem::take(&mut search.kept);
    let Some((session, error)) = search.best else { return Ok((None, report)) };
    let taken = times(&session, ROUNDS_TIME)?;
    report.times_ns = Some(times_ns(&taken));
    report.verdict = Verdict::NotFaster;
    if !taken.wins {
        return Ok((None, report));
    }
    report.verdict = Verdict::Lowered;
    report.quantised = calibrated.names(&kept).into_iter().collect();
    Ok((Some((session, error)), report))
}
