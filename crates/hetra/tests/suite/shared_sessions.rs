//! Sessions of one file share what was made of it, and files that change are read anew.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hetra::{DType, Dim, ExportOptions, GraphBuilder, Precision, Session, Tensor, Tuned};

/// Rows and columns of the weights: 512 KiB, so that the file is mapped.
const K: usize = 256;
const N: usize = 512;

/// A file of `x * w + x'`, all weights of which are `weight`; written so long ago that it counts as
/// settled.
fn file(name: &str, weight: f32) -> PathBuf {
    let mut b = GraphBuilder::new("product");
    let x = b.input("x", DType::F32, vec![Dim::Known(1), Dim::Known(K)]);
    let w = b.constant("w", Tensor::from_slice(&[K, N], &vec![weight; K * N]).unwrap());
    let y = b.op("MatMul", &[x, w]);
    b.output(y);
    let bytes = hetra::export(&b.finish(), &ExportOptions::default()).unwrap();
    let path = std::env::temp_dir().join(format!("hetra-{name}-{}.onnx", std::process::id()));
    std::fs::write(&path, bytes).unwrap();
    settle(&path, 60);
    path
}

/// Sets the time of the last write so many seconds back, and lets the clock of changes go on.
fn settle(path: &Path, seconds: u64) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    std::thread::sleep(Duration::from_millis(150));
}

fn build(path: &Path) -> Session {
    Session::builder().model_file(path).threads(1).tuned(Tuned::Shipped).build().unwrap()
}

fn first(session: &Session) -> f32 {
    let name = session.inputs()[0].name.clone();
    let x = Tensor::from_slice(&[1, K], &[1.0f32; K]).unwrap();
    let outputs = session.run([(name, x)]).unwrap();
    let (_, y) = outputs.iter().next().unwrap();
    y.as_tensor().unwrap().as_slice::<f32>().unwrap()[0]
}

fn share(a: &Session, b: &Session) -> bool {
    std::ptr::eq(a.graph(), b.graph())
}

#[test]
fn sessions_of_one_file_share_and_outlive_each_other() {
    let path = file("one", 0.5);
    let a = build(&path);
    let b = build(&path);
    assert!(share(&a, &b) && share(&a, &a.another()));
    assert_eq!((first(&a), first(&b)), (128.0, 128.0));
    drop(a);
    let c = build(&path);
    assert!(share(&b, &c));
    assert_eq!(first(&c), 128.0);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn what_is_made_in_another_way_is_made_anew() {
    let path = file("ways", 0.5);
    let a = build(&path);
    let builder = || Session::builder().model_file(&path).tuned(Tuned::Shipped);
    let others = [
        builder().threads(2).build().unwrap(),
        builder().threads(1).without_pass("all").build().unwrap(),
        builder().threads(1).precision(Precision::Bf16).build().unwrap(),
        builder().threads(1).pin().build().unwrap(),
    ];
    for other in &others {
        assert!(!share(&a, other));
        assert_eq!(first(other), 128.0);
    }
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_file_that_was_replaced_is_read_anew() {
    let path = file("replaced", 0.5);
    let a = build(&path);
    let other = file("replacing", 2.0);
    std::fs::rename(&other, &path).unwrap();
    let b = build(&path);
    assert_eq!((first(&a), first(&b)), (128.0, 512.0));
    // One that has just been written may be written again and look the same.
    settle(&path, 0);
    let (c, d) = (build(&path), build(&path));
    assert!(!share(&c, &d) && !share(&b, &c));
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn equal_bytes_are_one_model() {
    let path = file("bytes", 0.5);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let build = |bytes: &[u8]| {
        let builder = Session::builder().model_bytes(bytes).threads(1).tuned(Tuned::Shipped);
        builder.build().unwrap()
    };
    let (a, b) = (build(&bytes), build(&bytes.clone()));
    assert!(share(&a, &b));
    let mut changed = bytes;
    // The last byte of a weight: the file ends with the graph's names, so look for the weights.
    let at = changed.windows(8).position(|w| w == [0, 0, 0, 0x3f, 0, 0, 0, 0x3f]).unwrap();
    changed[at + 3] = 0xbf;
    assert!(!share(&a, &build(&changed)));
}
