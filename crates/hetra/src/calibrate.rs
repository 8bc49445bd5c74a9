//! What devices that are here reach: `machine.toml`.
//!
//! A device is measured by graphs of single operators, as models use it: products and convolutions
//! of many shapes, sums of large arrays, chains of small products. The figures of a roofline are
//! fitted to these times ([`hetra_cost::Roofline`]), and how far it is off is told.

use std::time::{Duration, Instant};

use hetra_cost::{Point, fit};
use hetra_device::Wire;
use hetra_exec::Seat;
use hetra_ir::{Builder, Dim, Graph, Node, Type, ValueId};
use hetra_machine::{Back, DeviceSpec, Figure, Kind, LinkSpec, Machine, OnChip};
use hetra_tensor::{DType, Tensor, Value};

use crate::error::Error;
use crate::placing::measure::{Ready, copying};

/// Products of a chain, of which each takes what it takes to begin one.
const CHAIN: [usize; 2] = [8, 40];
/// Width of the products of a chain.
const SMALL: usize = 16;
/// Floats of arrays that are added: more than caches hold.
const LARGE: usize = 8 << 20;
/// Widths of square products, as long as one does not take longer than [`LONG`].
const WIDTHS: [usize; 7] = [64, 128, 256, 512, 1024, 2048, 4096];
const LONG: Duration = Duration::from_millis(120);
/// How long each graph is run.
const EACH: Duration = Duration::from_millis(60);
/// Convolutions: channels in and out, height and width, kernel, and of how many groups.
const CONVS: [[usize; 5]; 8] = [
    [3, 32, 112, 3, 1],
    [32, 64, 56, 1, 1],
    [64, 64, 56, 3, 1],
    [128, 128, 28, 1, 1],
    [128, 128, 28, 3, 1],
    [256, 256, 14, 3, 1],
    [128, 128, 28, 3, 128],
    [512, 512, 7, 1, 1],
];
/// Products that are not square: rows, inner, columns.
const PRODUCTS: [[usize; 3]; 6] = [
    [1, 1024, 1024],
    [16, 768, 768],
    [128, 768, 3072],
    [197, 384, 384],
    [384, 64, 384],
    [1, 4096, 512],
];
/// Floats of elementwise operators.
const ARRAYS: [usize; 4] = [1 << 14, 1 << 17, 1 << 20, LARGE];

/// What is being measured.
#[derive(Clone, Debug)]
pub struct CalibrateMoment {
    /// In words.
    pub what: String,
    /// How many steps are done.
    pub done: usize,
    /// Of how many.
    pub of: usize,
}

/// What was measured of a device.
#[derive(Clone, Debug)]
pub struct Calibrated {
    /// Its id.
    pub id: String,
    /// What goes into a machine file.
    pub spec: DeviceSpec,
    /// Its link, where it has memory of its own.
    pub link: Option<LinkSpec>,
    /// Graphs that were timed.
    pub points: usize,
    /// How far the fitted roofline is off in half of them, in parts.
    pub error: f64,
}

/// How many steps [`calibrate`] tells of a device.
pub const CALIBRATE_STEPS: usize = WIDTHS.len() + CONVS.len() + PRODUCTS.len() + ARRAYS.len() + 3;

/// Measures a device, in some seconds.
///
/// # Errors
/// When it does not run what is measured.
pub fn calibrate(
    seat: &Seat,
    progress: &mut dyn FnMut(&CalibrateMoment),
) -> Result<Calibrated, Error> {
    let mut bench = Bench { seat, progress, done: 0, points: Vec::new() };
    let info = seat.device.info();
    let launch_s = bench.launch()?;
    let best = bench.products()?;
    bench.others()?;
    let bandwidth = bench.bandwidth()?;
    bench.say("copies".to_string());
    let link = bench.link()?;
    let own = seat.device.peak();
    let peak_f32 = own.map_or(best, |peak| peak.ops.max(best));
    let bytes_s = own.map_or(bandwidth, |peak| peak.bytes.max(bandwidth));
    let fitted = fit(&bench.points, launch_s, peak_f32, bytes_s);
    let figure = |value: f64| Figure::measured(value, "measured by hetra calibrate");
    let fit_figure = |value: f64| Figure::measured(value, "fitted by hetra calibrate");
    let mut spec = DeviceSpec {
        name: info.name.clone(),
        kind: Some(kind(info)),
        software: format!("{} {}", info.driver, info.version),
        launch_us: Some(fit_figure(fitted.launch_s * 1e6)),
        on_chip: OnChip::default(),
        ..DeviceSpec::default()
    };
    spec.peak.insert("f32".to_string(), figure(peak_f32));
    if let Some(peak) = own {
        spec.peak.extend(peak.bf16_ops.map(|ops| ("bf16".to_string(), figure(ops))));
        spec.peak.extend(peak.byte_ops.map(|ops| ("i8".to_string(), figure(ops))));
    }
    spec.memory.bandwidth = Some(figure(bytes_s));
    spec.memory.bytes =
        info.memory_bytes.map(|bytes| Figure::measured(bytes as f64, "its driver says so"));
    spec.efficiency.compute = Some(fit_figure(fitted.compute));
    spec.efficiency.memory = Some(fit_figure(fitted.memory));
    spec.units =
        (info.threads > 0).then(|| Figure::measured(info.threads as f64, "its driver says so"));
    if link.is_some() {
        spec.host_link = Some(link_id(&info.id));
    }
    let points = bench.points.len();
    Ok(Calibrated { id: info.id.clone(), spec, link, points, error: fitted.error })
}

fn kind(info: &hetra_device::DeviceInfo) -> Kind {
    match (crate::placing::on_host(info), info.id.contains("npu")) {
        (true, _) => Kind::Cpu,
        (_, true) => Kind::Npu,
        _ => Kind::Gpu,
    }
}

/// The link of a device, as a machine file calls it.
fn link_id(device: &str) -> String {
    format!("{device}-link")
}

impl Calibrated {
    /// Puts what was measured into a machine; what a person wrote there and nobody measures stays:
    /// power, price.
    pub fn into_machine(self, machine: &mut Machine) {
        let known = machine.devices.remove(&self.id).unwrap_or_default();
        if let Some(link) = self.link {
            machine.links.insert(link_id(&self.id), link);
        }
        machine.devices.insert(self.id, self.spec.over(&known));
    }
}

struct Bench<'a> {
    seat: &'a Seat,
    progress: &'a mut dyn FnMut(&CalibrateMoment),
    done: usize,
    points: Vec<Point>,
}

impl Bench<'_> {
    fn say(&mut self, what: String) {
        let what = format!("{}: {what}", self.seat.device.info().id);
        (self.progress)(&CalibrateMoment { what, done: self.done, of: CALIBRATE_STEPS });
        self.done += 1;
    }

    /// Seconds of a graph, the median.
    fn seconds(&self, graph: &Graph) -> Result<f64, Error> {
        let inputs = inputs(graph);
        let ready = Ready::whole(graph, inputs, std::slice::from_ref(self.seat))?;
        Ok(ready.sample(EACH)?.median)
    }

    /// Times a graph, and keeps what it asks for.
    fn time(&mut self, graph: &Graph) -> Result<f64, Error> {
        let seconds = self.seconds(graph)?;
        let types: Vec<Type> = graph.inputs.iter().map(|&id| graph.ty(id).clone()).collect();
        let demands = hetra_cost::demands(&hetra_cost::joined(graph), &types, 32);
        let demands = demands.map_err(hetra_exec::ExecError::from)?;
        self.points.push(Point { demands, seconds });
        Ok(seconds)
    }

    /// Seconds to begin a small operator, behind others.
    fn launch(&mut self) -> Result<f64, Error> {
        self.say("what it takes to begin a kernel".to_string());
        let (few, many) = (self.seconds(&chain(CHAIN[0])?)?, self.seconds(&chain(CHAIN[1])?)?);
        Ok(((many - few) / (CHAIN[1] - CHAIN[0]) as f64).max(1e-8))
    }

    /// Operations per second that large products reach.
    fn products(&mut self) -> Result<f64, Error> {
        let mut best = 0f64;
        let mut long = false;
        for width in WIDTHS {
            self.say(format!("products of {width} x {width}"));
            if long {
                continue;
            }
            let begun = Instant::now();
            let seconds = self.time(&product([width; 3])?)?;
            best = best.max(2.0 * (width as f64).powi(3) / seconds);
            long = Duration::from_secs_f64(seconds * 8.0) > LONG || begun.elapsed() > LONG * 10;
        }
        Ok(best)
    }

    /// Other products, convolutions and elementwise operators.
    fn others(&mut self) -> Result<(), Error> {
        for shape in PRODUCTS {
            self.say(format!("products of {} x {} x {}", shape[0], shape[1], shape[2]));
            self.time(&product(shape)?)?;
        }
        for shape in CONVS {
            self.say(format!("convolutions of {} channels", shape[0]));
            self.time(&conv(shape)?)?;
        }
        Ok(())
    }

    /// Bytes per second that sums of large arrays read and write.
    fn bandwidth(&mut self) -> Result<f64, Error> {
        let mut best = 0f64;
        for count in ARRAYS {
            self.say(format!("sums of {count} numbers"));
            let seconds = self.time(&sum(count))?;
            if count == LARGE {
                best = 12.0 * count as f64 / seconds;
            }
        }
        Ok(best)
    }

    fn link(&self) -> Result<Option<LinkSpec>, Error> {
        let info = self.seat.device.info();
        if self.seat.device.launcher().is_none() {
            return Ok(None);
        }
        let (into, out) = copying(self.seat.device.as_ref())?;
        let source = "measured by hetra calibrate: copies of 4 KiB and 4 MiB";
        let bandwidth = |wire: Wire| Figure::measured(1.0 / wire.byte_s.max(1e-15), source);
        let latency = |wire: Wire| Figure::measured(wire.latency_s * 1e6, source);
        Ok(Some(LinkSpec {
            name: format!("between the host and {}", info.id),
            bandwidth: bandwidth(into),
            nominal: None,
            latency_us: latency(into),
            back: Some(Back { bandwidth: bandwidth(out), latency_us: latency(out) }),
            duplex: None,
            energy_pj_per_bit: None,
        }))
    }
}

/// Values for the inputs of a graph of this program's making, which has their shapes.
pub(crate) fn inputs(graph: &Graph) -> Vec<Value> {
    let one = |&id: &ValueId| crate::made_up(graph.ty(id), &|_| 1, u64::from(id.0) + 1);
    graph.inputs.iter().filter_map(one).collect()
}

fn weights(b: &mut Builder, shape: &[usize]) -> Result<ValueId, Error> {
    let count = shape.iter().product();
    let mut random = fastrand::Rng::with_seed(count as u64);
    let numbers: Vec<f32> = (0..count).map(|_| random.f32() * 0.1 - 0.05).collect();
    Ok(b.constant("w", Tensor::from_slice(shape, &numbers)?))
}

fn shaped(b: &mut Builder, name: &str, shape: &[usize]) -> ValueId {
    b.input(name, DType::F32, shape.iter().map(|&extent| Dim::from(extent)).collect())
}

fn chain(count: usize) -> Result<Graph, Error> {
    let mut b = Builder::new("chain");
    let mut x = shaped(&mut b, "x", &[1, SMALL]);
    for _ in 0..count {
        let w = weights(&mut b, &[SMALL, SMALL])?;
        x = b.op("MatMul", &[x, w]);
    }
    b.output(x);
    Ok(b.finish())
}

fn product([rows, inner, columns]: [usize; 3]) -> Result<Graph, Error> {
    let mut b = Builder::new("product");
    let x = shaped(&mut b, "x", &[rows, inner]);
    let w = weights(&mut b, &[inner, columns])?;
    let y = b.op("MatMul", &[x, w]);
    b.output(y);
    Ok(b.finish())
}

fn conv([from, to, size, kernel, groups]: [usize; 5]) -> Result<Graph, Error> {
    let mut b = Builder::new("convolution");
    let x = shaped(&mut b, "x", &[1, from, size, size]);
    let w = weights(&mut b, &[to, from / groups, kernel, kernel])?;
    let node = Node::new("Conv", &[x, w], &[])
        .with("kernel_shape", vec![kernel as i64; 2])
        .with("pads", vec![(kernel / 2) as i64; 4])
        .with("group", groups as i64);
    let y = b.node(node, 1)[0];
    b.output(y);
    Ok(b.finish())
}

fn sum(count: usize) -> Graph {
    let mut b = Builder::new("sum");
    let (x, y) = (shaped(&mut b, "x", &[count]), shaped(&mut b, "y", &[count]));
    let z = b.op("Add", &[x, y]);
    b.output(z);
    b.finish()
}
