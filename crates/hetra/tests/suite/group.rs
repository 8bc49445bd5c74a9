//! Models of one process that are planned together.

use std::time::Duration;

use crate::places;
use hetra::group::{GroupBuilder, GroupError};
use hetra::{Error, Model, Session, Tensor, import_file};

fn digits() -> Model {
    import_file(places::digits(), &Default::default()).expect("the model")
}

fn group() -> GroupBuilder {
    Session::group().compare(Duration::from_millis(40))
}

fn picture() -> Tensor {
    let pixels: Vec<f32> = (0..64).map(|at| (at % 17) as f32 / 16.0).collect();
    Tensor::from_slice(&[1, 1, 8, 8], &pixels).expect("a picture")
}

#[test]
fn models_of_a_group_give_what_they_give_by_themselves() {
    let cpu = || hetra::open("cpu", Some(2)).expect("a device");
    let built = group().model("a", digits()).weight(3).model("b", digits()).device(cpu()).build();
    let group = built.expect("a group");
    let alone = Session::builder().model_file(places::digits()).build().expect("a session");
    let wanted = alone.run([("image", picture())]).expect("a run");
    // From several threads at a time.
    std::thread::scope(|scope| {
        for name in ["a", "b", "a", "b"] {
            let (group, wanted) = (&group, &wanted);
            scope.spawn(move || {
                for _ in 0..20 {
                    let got = group.run(name, [("image", picture())]).expect("a run");
                    let pair = [&got[0], &wanted[0]].map(|value| value.as_tensor().unwrap());
                    assert_eq!(pair[0].as_slice::<f32>(), pair[1].as_slice::<f32>());
                }
            });
        }
    });
    let report = group.report();
    assert_eq!(group.names(), ["a", "b"]);
    assert_eq!(report.members.iter().map(|m| m.weight).collect::<Vec<_>>(), [3, 1]);
    assert!(report.members.iter().all(|m| m.device == "cpu" && m.alone_s["cpu"] > 0.0));
    // Both on the processor: beside each other, and in turns.
    let how: Vec<bool> = report.tried.iter().map(|tried| tried.turns).collect();
    assert!(how.len() == 2 && how.contains(&true) && how.contains(&false), "{how:?}");
    // What is taken was measured to be better, or is every model by itself.
    let won = report.certificate.as_ref().is_some_and(|c| c.winner == hetra::group::TOGETHER);
    assert_eq!(report.turns, won);
    assert!(group.session("b").is_ok());
}

#[test]
fn a_device_that_runs_none_is_left_out() {
    let cpu = hetra::open("cpu", None).expect("a device");
    // Its first call fails, and all others.
    let faulty = hetra::open("faulty:fail_every=1:cpu", None).expect("a device");
    let built = group().model("a", digits()).model("b", digits()).device(cpu).device(faulty);
    let group = built.build().expect("a group");
    assert!(group.report().members.iter().all(|member| member.device == "cpu"));
}

#[test]
fn what_is_no_group_is_refused() {
    let refused = |builder: GroupBuilder| match builder.build() {
        Err(Error::Group(error)) => error,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("a group"),
    };
    assert!(matches!(refused(group()), GroupError::Members(0)));
    let described = group().model("a", digits()).device(hetra::open("sim:l4", None).unwrap());
    assert!(matches!(refused(described), GroupError::Described(id) if id == "sim:l4"));
    let same = || hetra::open("cpu", None).unwrap();
    let devices = group().model("a", digits()).device(same()).device(same());
    assert!(matches!(refused(devices), GroupError::DeviceTwice(_)));
    let twice = group().model("a", digits()).model("a", digits());
    assert!(matches!(refused(twice), GroupError::Twice(name) if name == "a"));
    let never = group().model("a", digits()).weight(0);
    assert!(matches!(refused(never), GroupError::Weight { weight: 0, .. }));
    let group = group().model("a", digits()).build().expect("a group");
    let Err(unknown) = group.run("b", [("image", picture())]) else { panic!("a model `b`") };
    assert_eq!(unknown.to_string(), "there is no model `b`; there are a");
}
