//! Puts nodes after the nodes that feed them.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet};

use crate::gradient;
use crate::proto::{AttributeProto, GraphProto, NodeProto};

/// The order to import `nodes` in: that of the file as far as the data flow allows.
///
/// # Errors
/// The index of a node on a cycle.
pub(crate) fn order(nodes: &[NodeProto]) -> Result<Vec<usize>, usize> {
    let mut producers: HashMap<&str, usize> = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            // A second definition is an error that the import finds.
            producers.entry(name.as_str()).or_insert(index);
        }
    }
    let mut feeds: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    let mut waits: Vec<usize> = vec![0; nodes.len()];
    let mut sorted = true;
    for (index, node) in nodes.iter().enumerate() {
        let mut reads = HashSet::new();
        node_reads(node, &mut reads);
        let sources = reads.iter().filter_map(|name| producers.get(name).copied());
        for source in sources.collect::<BTreeSet<usize>>() {
            feeds[source].push(index);
            waits[index] += 1;
            sorted &= source < index;
        }
    }
    if sorted {
        return Ok((0..nodes.len()).collect());
    }
    let ready = waits.iter().enumerate().filter(|(_, waits)| **waits == 0);
    let mut ready: BinaryHeap<Reverse<usize>> = ready.map(|(index, _)| Reverse(index)).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse(index)) = ready.pop() {
        order.push(index);
        for &next in &feeds[index] {
            waits[next] -= 1;
            if waits[next] == 0 {
                ready.push(Reverse(next));
            }
        }
    }
    match order.len() == nodes.len() {
        true => Ok(order),
        false => Err(on_cycle(&feeds, &waits)),
    }
}

/// A node on a cycle, among those that still wait: walking back from one of them along nodes that
/// wait comes round.
fn on_cycle(feeds: &[Vec<usize>], waits: &[usize]) -> usize {
    let mut source_of: HashMap<usize, usize> = HashMap::new();
    for (source, targets) in feeds.iter().enumerate().filter(|(index, _)| waits[*index] > 0) {
        for target in targets {
            source_of.entry(*target).or_insert(source);
        }
    }
    let mut at = waits.iter().position(|waits| *waits > 0).unwrap_or(0);
    let mut seen = HashSet::new();
    while seen.insert(at) {
        match source_of.get(&at) {
            Some(source) => at = *source,
            None => break,
        }
    }
    at
}

/// Every name that a node reads, those that its bodies take from outside included.
fn node_reads<'a>(node: &'a NodeProto, reads: &mut HashSet<&'a str>) {
    reads.extend(node.input.iter().map(String::as_str).filter(|name| !name.is_empty()));
    reads.extend(gradient::named(node));
    for body in node.attribute.iter().flat_map(bodies) {
        reads.extend(free_names(body));
    }
}

pub(crate) fn bodies(attribute: &AttributeProto) -> impl Iterator<Item = &GraphProto> {
    attribute.g.iter().chain(&attribute.graphs)
}

/// What a body reads and does not define.
fn free_names(body: &GraphProto) -> HashSet<&str> {
    let mut reads = HashSet::new();
    for node in &body.node {
        node_reads(node, &mut reads);
    }
    reads.extend(body.output.iter().map(|output| output.name.as_str()));
    let inputs = body.input.iter().map(|input| input.name.as_str());
    let dense = body.initializer.iter().map(|tensor| tensor.name.as_str());
    let sparse = body.sparse_initializer.iter().filter_map(|tensor| tensor.values.as_ref());
    let outputs = body.node.iter().flat_map(|node| &node.output).map(String::as_str);
    for name in inputs.chain(dense).chain(sparse.map(|values| values.name.as_str())).chain(outputs)
    {
        reads.remove(name);
    }
    reads
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(inputs: &[&str], outputs: &[&str]) -> NodeProto {
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        NodeProto { input: names(inputs), output: names(outputs), ..NodeProto::default() }
    }

    #[test]
    fn nodes_follow_their_sources_and_keep_the_files_order() {
        let (a, b, c) = (node(&["x"], &["a"]), node(&["a"], &["b"]), node(&["b", "x"], &["c"]));
        assert_eq!(order(&[a.clone(), b.clone(), c.clone()]), Ok(vec![0, 1, 2]));
        assert_eq!(order(&[c, b, a]), Ok(vec![2, 1, 0]));
        assert_eq!(
            order(&[node(&["y"], &["z"]), node(&["x"], &["y"]), node(&[], &["w"])]),
            Ok(vec![1, 0, 2])
        );
    }

    #[test]
    fn a_cycle_is_named_by_a_node_on_it() {
        let nodes = [node(&["b"], &["tail"]), node(&["b"], &["a"]), node(&["a"], &["b"])];
        assert!(matches!(order(&nodes), Err(1 | 2)));
        assert_eq!(order(&[node(&["a"], &["a"])]), Err(0));
    }
}
