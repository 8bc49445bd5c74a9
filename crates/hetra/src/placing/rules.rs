//! Which devices each node may be on.

use hetra_ir::Graph;

use crate::placing::file::PlanError;
use crate::placing::pattern::matches;

/// Most devices that a plan is made for.
pub(super) const DEVICES_MAX: usize = 64;

/// The devices of each node, as bits.
pub(super) struct Rules(Vec<u64>);

impl Rules {
    /// `pins` say where nodes are, the first that fits; `exclusions` where they are not. Both are
    /// patterns of labels or operators, and a device.
    ///
    /// # Errors
    /// A device that is none, a pattern that nothing fits, or a node that is left without a device.
    pub(super) fn of(
        graph: &Graph,
        devices: &[&str],
        pins: &[(String, String)],
        exclusions: &[(String, String)],
    ) -> Result<Rules, PlanError> {
        let mut allowed = vec![u64::MAX; graph.nodes.len()];
        let mut pinned = vec![false; graph.nodes.len()];
        for (pattern, id) in pins {
            let (device, nodes) = fitting(graph, devices, "--pin", pattern, id)?;
            for node in nodes {
                if !std::mem::replace(&mut pinned[node], true) {
                    allowed[node] = 1 << device;
                }
            }
        }
        for (pattern, id) in exclusions {
            let (device, nodes) = fitting(graph, devices, "--exclude", pattern, id)?;
            for node in nodes {
                allowed[node] &= !(1 << device);
                if allowed[node] & mask(devices.len()) == 0 {
                    return Err(PlanError::Pin {
                        option: "--exclude",
                        pattern: pattern.clone(),
                        device: id.clone(),
                        reason: format!("`{}` has no device left", graph.nodes[node].label(graph)),
                    });
                }
            }
        }
        allowed.iter_mut().for_each(|bits| *bits &= mask(devices.len()));
        Ok(Rules(allowed))
    }

    /// Whether a node may be on a device.
    pub(super) fn allows(&self, node: usize, device: usize) -> bool {
        self.0[node] >> device & 1 == 1
    }

    /// Whether all nodes may.
    pub(super) fn allow_all(&self, device: usize) -> bool {
        (0..self.0.len()).all(|node| self.allows(node, device))
    }

    /// A number for each node; nodes with the same devices have the same.
    pub(super) fn kinds(&self) -> Vec<usize> {
        let mut known: Vec<u64> = Vec::new();
        let mut kind = |bits: &u64| {
            known.iter().position(|other| other == bits).unwrap_or_else(|| {
                known.push(*bits);
                known.len() - 1
            })
        };
        self.0.iter().map(&mut kind).collect()
    }
}

fn mask(devices: usize) -> u64 {
    if devices >= DEVICES_MAX { u64::MAX } else { (1 << devices) - 1 }
}

/// The device of a rule, and the nodes that fit its pattern.
fn fitting(
    graph: &Graph,
    devices: &[&str],
    option: &'static str,
    pattern: &str,
    id: &str,
) -> Result<(usize, Vec<usize>), PlanError> {
    let fault = |reason: String| {
        let (pattern, device) = (pattern.to_string(), id.to_string());
        PlanError::Pin { option, pattern, device, reason }
    };
    let device = devices.iter().position(|known| *known == id);
    let device = device.ok_or_else(|| {
        fault(format!("the plan has no such device; it has {}", devices.join(", ")))
    })?;
    let fits =
        |node: &hetra_ir::Node| matches(pattern, &node.label(graph)) || matches(pattern, &node.op);
    let nodes = graph.nodes.iter().enumerate().filter(|(_, node)| fits(node));
    let nodes: Vec<usize> = nodes.map(|(index, _)| index).collect();
    if nodes.is_empty() {
        let some: Vec<String> = graph.nodes.iter().take(5).map(|node| node.label(graph)).collect();
        return Err(fault(format!(
            "no node or operator is called so; nodes are {}, ..",
            some.join(", ")
        )));
    }
    Ok((device, nodes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph() -> Graph {
        let text = "graph \"g\" (%x: f32[2]) {
            %a = Relu(%x)
            %b = Sqrt(%a)
            return (%b)
        }";
        hetra_ir::parse(text).unwrap()
    }

    fn rules(pins: &[(&str, &str)], exclusions: &[(&str, &str)]) -> Result<Rules, String> {
        let owned = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
        };
        let (pins, exclusions) = (owned(pins), owned(exclusions));
        let rules = Rules::of(&graph(), &["cpu", "gpu"], &pins, &exclusions);
        rules.map_err(|error| error.to_string())
    }

    #[test]
    fn pins_hold_and_exclusions_too() {
        let found = rules(&[("Relu", "gpu"), ("*", "cpu")], &[]).unwrap();
        assert!(found.allows(0, 1) && !found.allows(0, 0) && found.allows(1, 0));
        assert!(!found.allow_all(0) && found.kinds() == [0, 1]);
        let found = rules(&[], &[("Sqrt", "gpu")]).unwrap();
        assert!(found.allows(0, 1) && found.allows(1, 0) && !found.allows(1, 1));
        assert!(found.allow_all(0) && !found.allow_all(1));
        assert_eq!(rules(&[], &[]).unwrap().kinds(), [0, 0]);
    }

    #[test]
    fn what_cannot_be_kept_is_said() {
        let fault = |pins: &[(&str, &str)], exclusions: &[(&str, &str)]| {
            rules(pins, exclusions).err().unwrap_or_default()
        };
        assert!(fault(&[("Relu", "npu")], &[]).contains("it has cpu, gpu"));
        assert!(fault(&[], &[("Tanh", "gpu")]).contains("no node or operator is called so"));
        let left = fault(&[("Relu", "gpu")], &[("Re*", "gpu")]);
        assert!(left.starts_with("--exclude Re*=gpu") && left.contains("no device left"), "{left}");
    }
}
