//! Patterns over values, written as algebra: `x() * (op("Erf", [x() / SQRT_2]) + 1.0) * 0.5`.
//!
//! A pattern matches the value that it computes. Sums match in either order. A product matches a
//! whole tree of `Mul`, `Div`, `Reciprocal` and small powers in any order, with all scalar factors
//! gathered into one, so that one pattern covers every way to write `x * y / 2`. The same name
//! matches the same value wherever it stands.

use std::ops::{Add, Div, Mul, Sub};

use hetra_ir::ValueId;
use hetra_tensor::DType;

use crate::editor::Editor;

/// Most factors of a product that are tried in every order.
const FACTORS_MAX: usize = 5;

/// What a value must be.
#[derive(Clone, Debug)]
pub(crate) enum Pat {
    /// Any value, under a name.
    Any(&'static str),
    /// A constant of one float, under a name.
    Scalar(&'static str),
    /// A constant of one float that is about this number.
    Num(f64),
    /// The first output of this operator, with these first inputs; further inputs are not looked
    /// at: a rule that cares names the node with [`Pat::Node`].
    Op(&'static str, Vec<Pat>),
    /// The node that makes what matches, under a name.
    Node(&'static str, Box<Pat>),
    /// An `Add`, in either order.
    Sum(Box<Pat>, Box<Pat>),
    /// Factors in any order, and the product of all scalar ones.
    Product(Vec<Pat>, f64),
    /// Only as a factor: one over what matches.
    Inverse(Box<Pat>),
}

/// Any value, under a name.
pub(crate) fn any(name: &'static str) -> Pat {
    Pat::Any(name)
}

/// The value that a rule is about.
pub(crate) fn x() -> Pat {
    any("x")
}

/// A constant of one float, under a name.
pub(crate) fn scalar(name: &'static str) -> Pat {
    Pat::Scalar(name)
}

/// An operator by name and first inputs.
pub(crate) fn op<const N: usize>(name: &'static str, inputs: [Pat; N]) -> Pat {
    Pat::Op(name, inputs.to_vec())
}

/// One over something, as a factor.
pub(crate) fn inverse(pat: Pat) -> Pat {
    Pat::Inverse(Box::new(pat))
}

impl Pat {
    /// Gives the node that makes this a name.
    pub(crate) fn node(self, name: &'static str) -> Pat {
        Pat::Node(name, Box::new(self))
    }
}

impl Add for Pat {
    type Output = Pat;
    fn add(self, other: Pat) -> Pat {
        Pat::Sum(Box::new(self), Box::new(other))
    }
}

impl Add<f64> for Pat {
    type Output = Pat;
    fn add(self, other: f64) -> Pat {
        self + Pat::Num(other)
    }
}

impl Sub for Pat {
    type Output = Pat;
    fn sub(self, other: Pat) -> Pat {
        op("Sub", [self, other])
    }
}

impl Mul for Pat {
    type Output = Pat;
    fn mul(self, other: Pat) -> Pat {
        let parts = |pat| match pat {
            Pat::Product(factors, scale) => (factors, scale),
            pat => (vec![pat], 1.0),
        };
        let ((mut factors, a), (more, b)) = (parts(self), parts(other));
        factors.extend(more);
        Pat::Product(factors, a * b)
    }
}

impl Mul<f64> for Pat {
    type Output = Pat;
    fn mul(self, scale: f64) -> Pat {
        self * Pat::Product(vec![], scale)
    }
}

impl Div<f64> for Pat {
    type Output = Pat;
    fn div(self, scale: f64) -> Pat {
        self * (1.0 / scale)
    }
}

/// How a pattern matched.
#[derive(Clone, Debug, Default)]
pub(crate) struct Match {
    values: Vec<(&'static str, ValueId)>,
    named: Vec<(&'static str, usize)>,
    /// All nodes of the pattern, the root among them.
    pub(crate) nodes: Vec<usize>,
}

impl Match {
    /// The value of this name. The rule knows that its pattern has it.
    pub(crate) fn value(&self, name: &str) -> ValueId {
        let found = self.values.iter().find(|(known, _)| *known == name);
        found.expect("a name of the pattern").1
    }

    /// The node of this name. The rule knows that its pattern has it.
    pub(crate) fn node(&self, name: &str) -> usize {
        self.named.iter().find(|(known, _)| *known == name).expect("a name of the pattern").1
    }

    fn bind(&mut self, name: &'static str, value: ValueId) -> bool {
        match self.values.iter().find(|(known, _)| *known == name) {
            Some((_, bound)) => *bound == value,
            None => {
                self.values.push((name, value));
                true
            }
        }
    }
}

/// A factor of a product, perhaps below the line.
#[derive(Clone, Copy)]
struct Factor {
    value: ValueId,
    inverted: bool,
}

#[derive(Default)]
struct Factors {
    list: Vec<Factor>,
    scale: f64,
    nodes: Vec<usize>,
}

impl Editor<'_> {
    /// Matches a pattern on the first output of the node at `root`, whose other outputs nobody
    /// reads.
    pub(crate) fn find(&self, root: usize, pat: &Pat) -> Option<Match> {
        let value = self.sole_output(root)?;
        let found = self.matches(value, pat, Match::default())?;
        found.nodes.contains(&root).then_some(found)
    }

    /// Matches a pattern of which nothing but the root is read outside; else reports why not.
    pub(crate) fn find_closed(&mut self, root: usize, pat: &Pat, what: &str) -> Option<Match> {
        let found = self.find(root, pat)?;
        match self.leak(root, &found.nodes) {
            None => Some(found),
            Some(why) => {
                self.miss(root, &format!("{what}: {why}"));
                None
            }
        }
    }

    /// A value of these nodes, the root's aside, that something else reads too.
    pub(crate) fn leak(&self, root: usize, nodes: &[usize]) -> Option<String> {
        let inner = nodes.iter().filter(|&&at| at != root);
        for value in inner.flat_map(|&at| self.node(at).defs()) {
            let name = &self.graph().value(value).name;
            if self.is_output(value) {
                return Some(format!("`{name}` is a graph output"));
            }
            if let Some(&other) = self.users(value).iter().find(|user| !nodes.contains(user)) {
                return Some(format!("`{name}` is also used by {}", self.label(other)));
            }
        }
        None
    }

    fn matches(&self, value: ValueId, pat: &Pat, mut so_far: Match) -> Option<Match> {
        match pat {
            Pat::Any(name) => so_far.bind(name, value).then_some(so_far),
            Pat::Scalar(name) => {
                let tensor = self.constant(value)?;
                let fits = tensor.len() == 1 && tensor.dtype().is_float();
                (fits && so_far.bind(name, value)).then_some(so_far)
            }
            Pat::Num(number) => self.is_about(value, *number).then_some(so_far),
            Pat::Op(name, inputs) => {
                let at = self.made_by(value, name)?;
                if self.node(at).output(0) != Some(value) {
                    return None;
                }
                so_far.nodes.push(at);
                inputs.iter().enumerate().try_fold(so_far, |so_far, (index, pat)| {
                    self.matches(self.input(at, index)?, pat, so_far)
                })
            }
            Pat::Node(name, pat) => {
                so_far.named.push((name, self.producer(value)?));
                self.matches(value, pat, so_far)
            }
            Pat::Sum(left, right) => {
                let at = self.made_by(value, "Add")?;
                so_far.nodes.push(at);
                let (a, b) = (self.input(at, 0)?, self.input(at, 1)?);
                let ordered = |a, b| {
                    let half = self.matches(a, left, so_far.clone())?;
                    self.matches(b, right, half)
                };
                ordered(a, b).or_else(|| ordered(b, a))
            }
            Pat::Product(pats, scale) => {
                let mut found = Factors { scale: 1.0, ..Factors::default() };
                self.factors(Factor { value, inverted: false }, true, &mut found);
                let fits = found.list.len() == pats.len()
                    && pats.len() <= FACTORS_MAX
                    && close(found.scale, *scale, self.tolerance(value));
                so_far.nodes.extend(&found.nodes);
                if fits { self.assign(&found.list, pats, so_far) } else { None }
            }
            Pat::Inverse(_) => None,
        }
    }

    /// Gives each pattern a factor of its own.
    fn assign(&self, factors: &[Factor], pats: &[Pat], so_far: Match) -> Option<Match> {
        let Some((pat, rest)) = pats.split_first() else { return Some(so_far) };
        for index in 0..factors.len() {
            let factor = factors[index];
            let (inner, inverted) = match pat {
                Pat::Inverse(inner) => (&**inner, true),
                pat => (pat, false),
            };
            if factor.inverted != inverted {
                continue;
            }
            let Some(found) = self.matches(factor.value, inner, so_far.clone()) else { continue };
            let mut left = factors.to_vec();
            left.remove(index);
            if let Some(found) = self.assign(&left, rest, found) {
                return Some(found);
            }
        }
        None
    }

    /// The scale and the other factor of a value, when it is one value times numbers.
    pub(crate) fn scaled(&self, value: ValueId) -> (ValueId, f64, Vec<usize>) {
        let mut found = Factors { scale: 1.0, ..Factors::default() };
        self.factors(Factor { value, inverted: false }, false, &mut found);
        match found.list[..] {
            [Factor { value, inverted: false }] => (value, found.scale, found.nodes),
            _ => (value, 1.0, vec![]),
        }
    }

    /// Takes a tree of products apart, down to values that something else reads too.
    fn factors(&self, factor: Factor, root: bool, into: &mut Factors) {
        let Factor { value, inverted } = factor;
        let single = root || self.only_user(value).is_some();
        let at = self.producer(value).filter(|_| single && self.is_float(value));
        let Some(at) = at.filter(|_| into.list.len() <= FACTORS_MAX) else {
            return into.list.push(factor);
        };
        let node = self.node(at);
        let (Some(a), b) = (node.input(0), node.input(1)) else { return into.list.push(factor) };
        let part = |value, below| Factor { value, inverted: inverted != below };
        let by = |scale: f64| if inverted { 1.0 / scale } else { scale };
        match (node.op.as_str(), b) {
            ("Mul", Some(b)) => match (self.scalar(a, b), self.scalar(b, a)) {
                (_, Some(scale)) => self.rescale(at, part(a, false), by(scale), into),
                (Some(scale), _) => self.rescale(at, part(b, false), by(scale), into),
                _ => {
                    into.nodes.push(at);
                    self.factors(part(a, false), false, into);
                    self.factors(part(b, false), false, into);
                }
            },
            ("Div", Some(b)) => match (self.scalar(a, b), self.scalar(b, a)) {
                (_, Some(scale)) => self.rescale(at, part(a, false), by(1.0 / scale), into),
                (Some(scale), _) => self.rescale(at, part(b, true), by(scale), into),
                _ => {
                    into.nodes.push(at);
                    self.factors(part(a, false), false, into);
                    self.factors(part(b, true), false, into);
                }
            },
            ("Neg", _) => self.rescale(at, part(a, false), -1.0, into),
            ("Reciprocal", _) => self.rescale(at, part(a, true), 1.0, into),
            ("Pow", Some(b)) => match self.scalar(b, a) {
                Some(power @ (2.0 | 3.0)) => {
                    into.nodes.push(at);
                    into.list.extend(vec![part(a, false); power as usize]);
                }
                _ => into.list.push(factor),
            },
            _ => into.list.push(factor),
        }
    }

    fn rescale(&self, at: usize, rest: Factor, by: f64, into: &mut Factors) {
        into.nodes.push(at);
        into.scale *= by;
        self.factors(rest, false, into);
    }

    /// How far numbers may lie apart: those of a file are rounded to its dtype.
    fn tolerance(&self, value: ValueId) -> f64 {
        match self.dtype(value) {
            Some(DType::F32 | DType::F64) => 1e-5,
            _ => 4e-3,
        }
    }

    /// Whether a value is a constant of one float that is about this number.
    pub(crate) fn is_about(&self, value: ValueId, number: f64) -> bool {
        match self.constant(value) {
            Some(tensor) if tensor.len() == 1 && tensor.dtype().is_float() => {
                let found = hetra_tensor::to_f64(tensor).unwrap_or_default();
                close(found.first().copied().unwrap_or(f64::NAN), number, self.tolerance(value))
            }
            _ => false,
        }
    }
}

fn close(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * b.abs()
}
