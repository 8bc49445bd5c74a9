//! From a model that nobody tuned to a session that works by what was found.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hetra::{
    Attr, DType, Dim, Graph, GraphBuilder, Node, Session, Stand, Tensor, TuneOptions, Tuned, Value,
    device_key, tune,
};
use hetra_tune::store::Store;

/// Two convolutions that are the same task, and one by each channel.
fn model() -> Graph {
    let mut builder = GraphBuilder::new("tuned");
    let mut last = builder.input("x", DType::F32, [1, 32, 12, 12].map(Dim::Known).to_vec());
    for (index, channels) in [32, 32, 1].into_iter().enumerate() {
        let shape = [32, channels, 3, 3];
        let count: usize = shape.iter().product();
        let weights: Vec<f32> = (0..count).map(|i| (i % 13) as f32 / 64.0 - 0.1).collect();
        let weights = Tensor::from_slice(&shape, &weights).unwrap();
        let weights = builder.constant(&format!("w{index}"), weights);
        let node = Node::new("Conv", &[last, weights], &[])
            .with("pads", Attr::Ints(vec![1; 4]))
            .with("group", if channels == 1 { 32i64 } else { 1 });
        last = builder.node(node, 1)[0];
    }
    builder.output(last);
    builder.finish()
}

fn session(tuned: Tuned) -> Session {
    Session::builder().graph(model()).threads(2).tuned(tuned).build().unwrap()
}

fn inputs() -> Vec<(String, Value)> {
    let pixels: Vec<f32> = (0..32 * 144).map(|i| (i % 11) as f32 / 11.0).collect();
    vec![("x".to_string(), Tensor::from_slice(&[1, 32, 12, 12], &pixels).unwrap().into())]
}

fn store(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("hetra-tune-{name}-{}", std::process::id()))
}

#[test]
fn what_is_tuned_is_found_by_the_next_session() {
    let (path, stop) = (store("found"), AtomicBool::new(false));
    let untuned = session(Tuned::Shipped);
    let mut options =
        TuneOptions { store: &path, budget: Duration::from_secs(60), fresh: false, stop: &stop };
    let mut trials = 0;
    let ops = tune(&untuned, &inputs(), &options, &mut |moment| {
        trials += 1;
        assert!(moment.best_seconds <= moment.default_seconds);
    });
    let ops = ops.unwrap();
    assert_eq!(ops.iter().map(|op| op.nodes).sum::<usize>(), 3, "{ops:?}");
    assert_eq!(ops.len(), 2, "{ops:?}");
    assert!(ops.iter().all(|op| op.stand == Stand::Tuned && op.trials > 0), "{ops:?}");
    assert_eq!(trials, ops.iter().map(|op| op.trials).sum::<usize>());

    // Nothing is measured again, whoever asks.
    let again = tune(&untuned, &inputs(), &options, &mut |_| panic!("measured again")).unwrap();
    for (first, second) in ops.iter().zip(&again) {
        let of = |ops: &[hetra::TunedOp]| {
            ops.iter().find(|op| op.task == first.task).unwrap().schedule.clone()
        };
        assert_eq!((second.stand.clone(), of(&again)), (Stand::Known, of(&ops)));
    }

    let tuned = session(Tuned::Store(path.clone()));
    assert_eq!(tuned.warning(), None);
    let run = |session: &Session| session.run(inputs()).unwrap()[0].clone();
    let (got, want) = (run(&tuned), run(&untuned));
    // Only another form, which rounds in another way, may make a difference.
    let floats = |value: &Value| value.as_tensor().unwrap().as_slice::<f32>().unwrap().to_vec();
    let most = floats(&want).iter().fold(0f32, |most, x| most.max(x.abs()));
    for (got, want) in floats(&got).iter().zip(&floats(&want)) {
        assert!((got - want).abs() <= 1e-4 * most, "{got} not {want}");
    }

    options.fresh = true;
    options.budget = Duration::from_millis(200);
    let fresh = tune(&untuned, &inputs(), &options, &mut |_| ()).unwrap();
    assert!(fresh.iter().any(|op| op.stand == Stand::Tuned), "{fresh:?}");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn what_is_stopped_goes_on_where_it_was() {
    let (path, stop) = (store("stopped"), AtomicBool::new(false));
    let untuned = session(Tuned::Shipped);
    let budget = Duration::from_secs(60);
    let options = TuneOptions { store: &path, budget, fresh: false, stop: &stop };
    let ops = tune(&untuned, &inputs(), &options, &mut |moment| {
        stop.store(moment.trials >= 5, Ordering::Relaxed);
    });
    let ops = ops.unwrap();
    assert!(ops.iter().all(|op| op.stand == Stand::Open), "{ops:?}");
    let task = ops.iter().find(|op| op.trials == 5).unwrap().task.clone();
    stop.store(false, Ordering::Relaxed);
    let ops = tune(&untuned, &inputs(), &options, &mut |_| ()).unwrap();
    assert!(ops.iter().all(|op| op.stand == Stand::Tuned), "{ops:?}");
    // Nothing but the default was measured twice: each schedule has one row.
    let new = ops.iter().find(|op| op.task == task).unwrap().trials;
    let kept = Store::open_to_read(&path).unwrap().unwrap();
    let rows = kept.rows(&device_key(untuned.device()), task.key(), 0).unwrap();
    assert_eq!(rows.len(), 5 + new - 1);
    std::fs::remove_file(&path).unwrap();
}
