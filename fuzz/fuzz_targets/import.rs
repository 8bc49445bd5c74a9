//! Bytes to a graph, and the graph through its other forms.

#![no_main]

use hetra_onnx::{ExportOptions, ImportOptions};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    hetra_tensor::set_bytes_max(64 << 20);
    let Ok(graph) = hetra_onnx::import(bytes, &ImportOptions::default()) else { return };
    hetra_ir::verify(&graph).expect("the import keeps the promises of a graph");
    let text = hetra_ir::print(&graph);
    let again = hetra_ir::parse(&text).expect("what is printed can be parsed");
    // As texts: NaN is not equal to itself.
    assert_eq!(hetra_ir::print(&again), text);
    if let Ok(bytes) = hetra_onnx::export(&graph, &ExportOptions::default()) {
        // What was left out of a call is refused on the way back: any result will do.
        let _ = hetra_onnx::import(&bytes, &ImportOptions::default());
    }
});
