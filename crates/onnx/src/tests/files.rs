//! Tensor data in other files.

use std::path::{Path, PathBuf};

use hetra_tensor::DType;

use super::*;
use crate::import_file;
use crate::proto::{StringStringEntryProto, TensorProto};

/// A folder that goes when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("hetra-onnx-{name}-{}", std::process::id()));
        std::fs::create_dir_all(path.join("model")).unwrap();
        Scratch(path)
    }

    fn model(&self) -> PathBuf {
        self.0.join("model")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A model whose output is the tensor `w`, two floats in another file.
fn external(entries: &[(&str, &str)]) -> ModelProto {
    let entry = |(key, value): &(&str, &str)| StringStringEntryProto {
        key: key.to_string(),
        value: value.to_string(),
    };
    let mut proto = graph("", "w", vec![]);
    proto.initializer = vec![TensorProto {
        name: "w".to_string(),
        dims: vec![2],
        data_type: DType::F32.onnx(),
        data_location: 1,
        external_data: entries.iter().map(entry).collect(),
        ..TensorProto::default()
    }];
    model(proto)
}

fn load(folder: &Path, entries: &[(&str, &str)]) -> Result<Vec<Vec<f32>>, String> {
    let path = folder.join("m.onnx");
    std::fs::write(&path, external(entries).encode_to_vec()).unwrap();
    let model = import_file(&path, &ImportOptions::default()).map_err(|error| error.to_string())?;
    Ok(run_graph(&model.graph, vec![]))
}

#[test]
fn data_is_read_from_the_models_folder() {
    let scratch = Scratch::new("reads");
    let folder = scratch.model();
    let numbers: Vec<u8> =
        [0f32, 1.0, 2.0].iter().flat_map(|number| number.to_le_bytes()).collect();
    std::fs::write(folder.join("w.bin"), &numbers).unwrap();
    let place = [("location", "w.bin"), ("offset", "4"), ("length", "8")];
    assert_eq!(load(&folder, &place).unwrap(), [[1.0, 2.0]]);
    assert_eq!(load(&folder, &place[..2]).unwrap(), [[1.0, 2.0]]);
    assert_eq!(load(&folder, &[("location", "./w.bin")]).unwrap(), [[0.0, 1.0]]);
    let cases = [
        ("8", "8", "wanted 8 bytes at 8, it has 12 bytes"),
        ("18446744073709551615", "8", "wanted 8 bytes at 18446744073709551615, it has 12 bytes"),
        ("0", "12", "its length is 12 bytes, the shape takes 8"),
        ("-4", "8", "`-4` is no offset"),
    ];
    for (offset, length, wanted) in cases {
        let place = [("location", "w.bin"), ("offset", offset), ("length", length)];
        let fault = load(&folder, &place).unwrap_err();
        assert_eq!(fault, format!("tensor `w`: external data in `w.bin`: {wanted}"));
    }
}

#[test]
fn data_outside_the_models_folder_is_refused() {
    let scratch = Scratch::new("escapes");
    let folder = scratch.model();
    let secret = scratch.0.join("secret");
    std::fs::write(&secret, [0; 8]).unwrap();
    std::fs::create_dir(folder.join("inner")).unwrap();
    let absolute = secret.display().to_string();
    for location in ["../secret", "inner/../../secret", &absolute, "", "..\\secret", "inner"] {
        let fault = load(&folder, &[("location", location)]).unwrap_err();
        assert!(fault.starts_with("tensor `w`: external data in"), "{location}: {fault}");
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&secret, folder.join("link")).unwrap();
        let fault = load(&folder, &[("location", "link")]).unwrap_err();
        assert!(fault.ends_with("a link leads out of the model's folder"), "{fault}");
    }
}

/// A cache of downloads: files under their hash, and links to them that bear their names.
#[cfg(unix)]
#[test]
fn data_may_lie_where_a_linked_model_really_lies() {
    use std::os::unix::fs::symlink;
    let scratch = Scratch::new("links");
    let (folder, blobs) = (scratch.model(), scratch.0.join("blobs"));
    std::fs::create_dir(&blobs).unwrap();
    std::fs::write(scratch.0.join("secret"), [0; 8]).unwrap();
    let data: Vec<u8> = [1f32, 2.0].iter().flat_map(|number| number.to_le_bytes()).collect();
    std::fs::write(blobs.join("data"), data).unwrap();
    symlink("../blobs/data", folder.join("w.bin")).unwrap();
    symlink("../secret", folder.join("out")).unwrap();
    symlink("../blobs/model", folder.join("m.onnx")).unwrap();
    // `load` writes the model through the link.
    assert_eq!(load(&folder, &[("location", "w.bin")]).unwrap(), [[1.0, 2.0]]);
    // Beside the file that the link leads to, but not beside the link.
    assert_eq!(load(&folder, &[("location", "data")]).unwrap(), [[1.0, 2.0]]);
    let fault = load(&folder, &[("location", "out")]).unwrap_err();
    assert!(fault.ends_with("a link leads out of the model's folder"), "{fault}");
    assert!(load(&folder, &[("location", "nowhere")]).is_err());
    // A link of the data alone leaves the folder.
    std::fs::remove_file(folder.join("m.onnx")).unwrap();
    let fault = load(&folder, &[("location", "w.bin")]).unwrap_err();
    assert!(fault.ends_with("a link leads out of the model's folder"), "{fault}");
}

#[test]
fn bytes_alone_have_no_folder() {
    let fault = read(&external(&[("location", "w.bin")])).unwrap_err().to_string();
    assert!(fault.ends_with("the model was given without its folder"), "{fault}");
    let bytes = external(&[("location", "w.bin")]).encode_to_vec();
    let given = |_: &str, _: u64, _: Option<u64>| Ok(vec![0; 8].into());
    let options = ImportOptions { external: Some(&given), ..ImportOptions::default() };
    assert!(import(&bytes, &options).is_ok());
}
