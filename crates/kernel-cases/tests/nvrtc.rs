//! NVIDIA's compiler takes the CUDA C, for PTX and for machine code. Nothing is run, which would
//! take a GPU: that what is computed is right is not tested here.
//!
//! NVRTC needs no GPU and no driver. It comes out of a wheel (`cargo xtask fetch`) and is loaded by
//! name, from where the loader was told to look when the process started: each test runs itself
//! again in a process that was told.

#![allow(clippy::print_stderr, reason = "a test that is left out says so")]

mod language;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use cudarc::nvrtc::{CompileError, CompileOptions, Ptx, compile_ptx_with_opts};
use hetra_kernel::{Kernel, Options, Target, emit, entry, kernel};
use hetra_kernel_cases::cases;

/// The libraries in the cache; crates/fetch/wheels.toml has the version.
const LIBRARIES: &str = "nvidia-cuda-nvrtc-13.5.37/nvidia/cu13/lib";

/// The one that is loaded first.
const LIBRARY: &str = "libnvrtc.so.13";

/// Where the loader looks.
const LOADER_PATH: &str = "LD_LIBRARY_PATH";

/// PTX, and machine code of two generations: the first GPUs that multiply bf16, and the first whose
/// instructions are not all in later ones.
const ARCHITECTURES: [&str; 3] = ["compute_80", "sm_80", "sm_90a"];

/// A way to write and compile a kernel.
#[derive(Clone, Copy)]
struct Form {
    architecture: &'static str,
    checked: bool,
}

fn forms() -> impl Iterator<Item = Form> {
    let both = |architecture| [false, true].map(|checked| Form { architecture, checked });
    ARCHITECTURES.into_iter().flat_map(both)
}

#[test]
fn all_of_the_language_compiles() {
    with_nvrtc("all_of_the_language_compiles", || {
        for kernel in language::all() {
            forms().for_each(|form| drop(compiled(&kernel, form)));
        }
    });
}

#[test]
fn generated_kernels_compile() {
    with_nvrtc("generated_kernels_compile", || {
        // Each in one form, by turns: in all of them they would take most of a minute.
        for (case, form) in cases().iter().zip(forms().collect::<Vec<_>>().into_iter().cycle()) {
            compiled(case.source.kernel().unwrap(), form);
        }
    });
}

/// What is asked for machine code goes through the assembler: it fails where only that can tell.
#[test]
fn machine_code_is_made() {
    with_nvrtc("machine_code_is_made", || {
        let text = "extern \"C\" __global__ void k() { asm volatile(\"no_such_word;\"); }";
        for architecture in ARCHITECTURES {
            match compile(text, architecture) {
                Ok(_) => assert_eq!(architecture, "compute_80"),
                Err(log) => {
                    assert_ne!(architecture, "compute_80");
                    assert!(log.contains("ptxas") && log.contains("no_such_word"), "{log}");
                }
            }
        }
    });
}

#[kernel(group = [8])]
fn line(a: f32, x: &[f32], y: &mut [f32], z: &mut [f32]) {
    let i = global_id(0);
    y[i] = a * x[i] + y[i];
    z[i] = a.mul_add(x[i], z[i]);
}

/// As everywhere; by itself the compiler would make one step of both.
#[test]
fn products_and_sums_are_rounded_each() {
    with_nvrtc("products_and_sums_are_rounded_each", || {
        let source = line();
        let form = Form { architecture: "compute_80", checked: false };
        let ptx = compiled(source.kernel().unwrap(), form);
        for word in ["mul.rn.f32", "add.rn.f32", "fma.rn.f32"] {
            assert_eq!(ptx.matches(word).count(), 1, "{word}: {ptx}");
        }
    });
}

/// Halves are made of instructions that all these GPUs have.
#[test]
fn halves_are_no_option() {
    for kernel in language::all() {
        let text = |f16| emit(&kernel, Target::Cuda, Options { f16, ..Options::default() });
        assert_eq!(text(false).unwrap(), text(true).unwrap());
    }
}

/// The PTX of a kernel.
fn compiled(kernel: &Kernel, Form { architecture, checked }: Form) -> String {
    let options = Options { checked, f16: true, subgroups: true };
    let text = emit(kernel, Target::Cuda, options).unwrap();
    let ptx = compile(&text, architecture).unwrap_or_else(|log| {
        let lines = text.lines().enumerate();
        let lines: String = lines.map(|(at, line)| format!("{:4} {line}\n", at + 1)).collect();
        panic!("{} for {architecture}, checked: {checked}\n{log}\n{lines}", kernel.name)
    });
    let ptx = ptx.to_src();
    let target = architecture.replace("compute", "sm");
    for wanted in [format!(".entry {}(", entry(kernel)), format!(".target {target}\n")] {
        assert!(ptx.contains(&wanted), "{}: no `{wanted}` in\n{ptx}", kernel.name);
    }
    ptx
}

/// What NVRTC makes of a text, or its log.
fn compile(text: &str, architecture: &'static str) -> Result<Ptx, String> {
    let options = CompileOptions { arch: Some(architecture), ..CompileOptions::default() };
    compile_ptx_with_opts(text, options).map_err(|error| match error {
        CompileError::CompileError { log, .. } => log.to_string_lossy().into_owned(),
        error => error.to_string(),
    })
}

/// Does what a test does, in a process in which NVRTC is found; where it is not here, says so.
fn with_nvrtc(test: &str, body: impl FnOnce()) {
    let Some(folder) = fetched() else { return };
    let path = env::var_os(LOADER_PATH).unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&path).collect();
    if folders.contains(&folder) {
        return body();
    }
    folders.insert(0, folder);
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(LOADER_PATH, env::join_paths(folders).unwrap())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    // A name that no test has would be a success, too.
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// The folder of the libraries.
///
/// # Panics
/// Where they must be there and are not: with `CI` or `HETRA_REQUIRE_FETCH` set.
fn fetched() -> Option<PathBuf> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        eprintln!("SKIPPED: the NVRTC that is fetched is for Linux on x86-64");
        return None;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let cache = env::var_os("HETRA_CACHE").map_or_else(|| root.join(".cache/fetch"), PathBuf::from);
    let folder = cache.join(LIBRARIES);
    if folder.join(LIBRARY).is_file() {
        return Some(folder);
    }
    let flag = |name| env::var(name).is_ok_and(|value| !matches!(&*value, "" | "0" | "false"));
    let message = format!("{} is missing: run `cargo xtask fetch`", folder.display());
    assert!(!flag("CI") && !flag("HETRA_REQUIRE_FETCH"), "{message}");
    eprintln!("SKIPPED: {message}");
    None
}
