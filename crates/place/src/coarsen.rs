//! Nodes joined to as few tasks as are worth placing.

use std::collections::{BTreeMap, BTreeSet};

/// A directed graph of nodes with weights; each stands behind those that it reads from.
#[derive(Clone, Debug, Default)]
pub struct Fine {
    /// The weight of each node: its time.
    pub weight: Vec<f64>,
    /// Who reads what of whom: maker, reader, size. Several between two nodes add up.
    pub edges: Vec<(usize, usize, f64)>,
    /// Nodes with different numbers are in no task together; by node, or empty.
    pub kinds: Vec<usize>,
    /// Edges between makers and readers that devices run as one kernel: they are joined before all
    /// others, whatever they weigh, where they may be.
    pub fused: Vec<(usize, usize)>,
}

/// The task of each node. Tasks are numbered so that each stands behind those that it reads from;
/// no way leads out of a task and into it again. There are at most about `tasks_max`, each of
/// about that share of the weight at least: light ones are joined to the neighbour that they share
/// most with. Branches that are heavy enough stay apart.
///
/// Two neighbours may be joined where one has no other reader, or the other no other maker: then
/// there is no way between them but the direct one.
pub fn coarsen(fine: &Fine, tasks_max: usize) -> Vec<usize> {
    let mut merged = Merged::new(fine);
    merged.fuse(&fine.fused);
    let least = fine.weight.iter().sum::<f64>() / (2.0 * tasks_max.max(1) as f64);
    loop {
        let many = merged.alive.len() > tasks_max.max(1);
        // The lightest first, of equal ones the first.
        let mut order: Vec<usize> = merged.alive.iter().copied().collect();
        order.sort_by(|&a, &b| merged.weight[a].total_cmp(&merged.weight[b]).then(a.cmp(&b)));
        let pair = |chains: bool| {
            let light = |&&task: &&usize| many || merged.weight[task] < least;
            let mut light = order.iter().take_while(light);
            light.find_map(|&task| Some((task, merged.neighbour(task, chains)?)))
        };
        // To join a maker with one of its readers makes the other ones wait: only if it must be.
        let any = || if many { pair(false) } else { None };
        let Some((task, other)) = pair(true).or_else(any) else { break };
        merged.join(task, other);
    }
    merged.numbered()
}

struct Merged {
    weight: Vec<f64>,
    makers: Vec<BTreeMap<usize, f64>>,
    readers: Vec<BTreeMap<usize, f64>>,
    alive: BTreeSet<usize>,
    kinds: Vec<usize>,
    /// Into which a node was joined; itself where it was not.
    into: Vec<usize>,
}

impl Merged {
    fn new(fine: &Fine) -> Merged {
        let count = fine.weight.len();
        let mut merged = Merged {
            weight: fine.weight.clone(),
            makers: vec![BTreeMap::new(); count],
            readers: vec![BTreeMap::new(); count],
            alive: (0..count).collect(),
            kinds: if fine.kinds.is_empty() { vec![0; count] } else { fine.kinds.clone() },
            into: (0..count).collect(),
        };
        for &(from, to, size) in &fine.edges {
            *merged.makers[to].entry(from).or_default() += size;
            *merged.readers[from].entry(to).or_default() += size;
        }
        merged
    }

    /// Joins those that are fused, until no more of them may be.
    fn fuse(&mut self, pairs: &[(usize, usize)]) {
        debug_assert!(pairs.iter().all(|(from, to)| self.readers[*from].contains_key(to)));
        let mut left = pairs.to_vec();
        loop {
            let count = left.len();
            left.retain(|&(from, to)| {
                let (from, to) = (self.root(from), self.root(to));
                let joins = from != to && self.may(from, to, false);
                if joins {
                    self.join(to, from);
                }
                from != to && !joins
            });
            if left.len() == count {
                return;
            }
        }
    }

    /// The task that a node is in now.
    fn root(&self, mut node: usize) -> usize {
        while self.into[node] != node {
            node = self.into[node];
        }
        node
    }

    /// Whether a maker and its reader may be joined; of `chains` only where there is no other
    /// reader and no other maker.
    fn may(&self, from: usize, to: usize, chains: bool) -> bool {
        let (reader, maker) = (self.readers[from].len() == 1, self.makers[to].len() == 1);
        let joins = if chains { reader && maker } else { reader || maker };
        joins && self.kinds[from] == self.kinds[to]
    }

    /// The neighbour that a task may be joined with and shares most with, the lighter one of two;
    /// of `chains` only one that has no other reader and for which there is no other maker.
    fn neighbour(&self, task: usize, chains: bool) -> Option<usize> {
        let makers = self.makers[task].iter().filter(|&(&from, _)| self.may(from, task, chains));
        let readers = self.readers[task].iter().filter(|&(&to, _)| self.may(task, to, chains));
        let all = makers.chain(readers).map(|(&other, &size)| (other, size));
        let best = all.max_by(|a, b| {
            a.1.total_cmp(&b.1)
                .then(self.weight[b.0].total_cmp(&self.weight[a.0]))
                .then(b.0.cmp(&a.0))
        });
        best.map(|(other, _)| other)
    }

    fn join(&mut self, gone: usize, into: usize) {
        self.alive.remove(&gone);
        self.into[gone] = into;
        self.weight[into] += self.weight[gone];
        for (from, size) in std::mem::take(&mut self.makers[gone]) {
            self.readers[from].remove(&gone);
            if from != into {
                *self.makers[into].entry(from).or_default() += size;
                *self.readers[from].entry(into).or_default() += size;
            }
        }
        for (to, size) in std::mem::take(&mut self.readers[gone]) {
            self.makers[to].remove(&gone);
            if to != into {
                *self.readers[into].entry(to).or_default() += size;
                *self.makers[to].entry(into).or_default() += size;
            }
        }
    }

    /// Numbers the tasks that are left, each behind its makers, else in the order of first nodes.
    fn numbered(&self) -> Vec<usize> {
        let root = |node: usize| self.root(node);
        let mut first = BTreeMap::new();
        for node in 0..self.into.len() {
            first.entry(root(node)).or_insert(node);
        }
        let mut waits: BTreeMap<usize, usize> =
            self.alive.iter().map(|&task| (task, self.makers[task].len())).collect();
        let mut ready: BTreeSet<(usize, usize)> = waits
            .iter()
            .filter(|&(_, &waits)| waits == 0)
            .map(|(&task, _)| (first[&task], task))
            .collect();
        let mut number = BTreeMap::new();
        while let Some((_, task)) = ready.pop_first() {
            number.insert(task, number.len());
            for to in self.readers[task].keys() {
                let left = waits.entry(*to).or_default();
                *left -= 1;
                if *left == 0 {
                    ready.insert((first[to], *to));
                }
            }
        }
        (0..self.into.len()).map(|node| number[&root(node)]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stem, two heavy branches of two nodes each, what joins them, and a light tail.
    fn branches() -> Fine {
        Fine {
            weight: vec![1.0, 10.0, 10.0, 10.0, 10.0, 1.0, 0.1],
            edges: vec![
                (0, 1, 5.0),
                (0, 3, 5.0),
                (1, 2, 5.0),
                (3, 4, 5.0),
                (2, 5, 5.0),
                (4, 5, 5.0),
                (5, 6, 1.0),
            ],
            ..Fine::default()
        }
    }

    #[test]
    fn branches_stay_apart_and_light_nodes_join() {
        assert_eq!(coarsen(&branches(), 7), [0, 1, 2, 3, 4, 5, 5]);
        assert_eq!(coarsen(&branches(), 4), [0, 1, 1, 2, 2, 3, 3]);
        assert_eq!(coarsen(&branches(), 1), [0; 7]);
        let apart = Fine { kinds: vec![0, 0, 0, 0, 0, 0, 1], ..branches() };
        assert_eq!(coarsen(&apart, 1), [0, 0, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn what_is_fused_stays_together() {
        // Weights would join the tail to what is before it; the stem is a kernel with one branch.
        let fused = Fine { fused: vec![(0, 1), (4, 5)], ..branches() };
        // A stem with other readers, and a maker that is not the only one, are joined all the same
        // where no circle comes of it.
        assert_eq!(coarsen(&fused, 7), [0, 0, 1, 2, 3, 3, 3]);
        let kept = Fine { kinds: vec![1, 0, 0, 0, 0, 0, 0], ..fused };
        assert_eq!(coarsen(&kept, 7)[..2], [0, 1]);
        // Both ends of a diamond would make a circle through what is between them.
        let edges = vec![(0, 1, 1.0), (1, 2, 1.0), (0, 2, 1.0)];
        let round = Fine { weight: vec![1.0; 3], edges, fused: vec![(0, 2)], ..Fine::default() };
        assert_eq!(coarsen(&round, 3), [0, 1, 2]);
    }

    #[test]
    fn tasks_are_in_order_and_in_no_circle() {
        // Every layer reads from all of the one before.
        let mut fine = Fine { weight: vec![1.0; 24], ..Fine::default() };
        for node in 4..24 {
            (node / 4 * 4 - 4..node / 4 * 4).for_each(|from| fine.edges.push((from, node, 1.0)));
        }
        for tasks in 1..24 {
            let task = coarsen(&fine, tasks);
            assert!(fine.edges.iter().all(|&(from, to, _)| task[from] <= task[to]));
        }
    }
}
