//! Writes random kernels as Rust functions.
//!
//! Floats are whole numbers of at most 1000 in size wherever they are compared or decide anything,
//! so that every target computes the same; only what is stored last takes functions that round.

use std::fmt::Write as _;
use std::{env, fs, path::Path};

const KERNELS: usize = 200;

/// splitmix64, as in `hetra-device`, which a build script cannot use.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.bits() % bound
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len() as u64) as usize]
    }
}

const TYPES: [&str; 4] = ["f32", "i32", "u32", "bool"];

struct Writer {
    random: Random,
    text: String,
    indent: usize,
    /// Name, type, whether it changes.
    names: Vec<(String, &'static str, bool)>,
    count: usize,
}

impl Writer {
    fn line(&mut self, line: &str) {
        let indent = self.indent * 4;
        writeln!(self.text, "{:indent$}{line}", "").expect("strings take everything");
    }

    fn fresh(&mut self) -> String {
        self.count += 1;
        format!("t{}", self.count)
    }

    fn name(&mut self, ty: &str) -> Option<String> {
        let fit: Vec<&String> =
            self.names.iter().filter(|(_, of, _)| *of == ty).map(|(name, ..)| name).collect();
        if fit.is_empty() {
            return None;
        }
        Some(fit[self.random.below(fit.len() as u64) as usize].clone())
    }

    fn leaf(&mut self, ty: &'static str) -> String {
        if self.random.below(3) > 0
            && let Some(name) = self.name(ty)
        {
            return name;
        }
        match ty {
            "f32" => format!("{}.0", self.random.below(40)),
            "i32" => {
                let value = self.random.pick(&["0", "1", "7", "-3", "2147483647", "-2147483647"]);
                format!("({value} as i32)")
            }
            "u32" => {
                let value = self.random.pick(&["0", "1", "5", "31", "33", "4294967295"]);
                format!("({value} as u32)")
            }
            _ => self.random.pick(&["true", "false"]).to_string(),
        }
    }

    fn expr(&mut self, ty: &'static str, depth: usize) -> String {
        if depth == 0 || self.random.below(5) == 0 {
            return self.leaf(ty);
        }
        let depth = depth - 1;
        match ty {
            "f32" => self.float(depth),
            "bool" => self.truth(depth),
            _ => self.integer(ty, depth),
        }
    }

    fn float(&mut self, depth: usize) -> String {
        let a = self.expr("f32", depth);
        match self.random.below(10) {
            0..=5 => {
                let b = self.expr("f32", depth);
                let sign = self.random.pick(&["+", "-", "*"]);
                format!("({a} {sign} {b}).clamp(-1000.0, 1000.0)")
            }
            6 => {
                let b = self.expr("f32", depth);
                let method = self.random.pick(&["min", "max"]);
                format!("{a}.{method}({b})")
            }
            7 => {
                let b = self.expr("i32", depth);
                format!("(({b} % 500) as f32)")
            }
            8 => {
                let (b, c) = (self.expr("f32", depth), self.expr("bool", depth));
                format!("select({c}, {a}, {b})")
            }
            _ => {
                let method = self.random.pick(&["abs", "floor", "ceil", "trunc"]);
                format!("(-{a}).{method}()")
            }
        }
    }

    fn integer(&mut self, ty: &'static str, depth: usize) -> String {
        let a = self.expr(ty, depth);
        match self.random.below(12) {
            0..=7 => {
                let b = self.expr(ty, depth);
                let sign = self.random.pick(&["+", "-", "*", "/", "%", "&", "|", "^", "<<", ">>"]);
                format!("({a} {sign} {b})")
            }
            8 => {
                let b = self.expr(ty, depth);
                let method = self.random.pick(&["min", "max"]);
                format!("{a}.{method}({b})")
            }
            9 => {
                let other = self.random.pick(&["f32", "i32", "u32", "bool"]);
                let other = TYPES.into_iter().find(|known| *known == other).unwrap_or("f32");
                let b = self.expr(other, depth);
                format!("({b} as {ty})")
            }
            10 => {
                let method = self.random.pick(&["count_ones", "leading_zeros"]);
                format!("{a}.{method}()")
            }
            _ => format!("(!{a})"),
        }
    }

    fn truth(&mut self, depth: usize) -> String {
        match self.random.below(6) {
            0..=3 => {
                let ty = TYPES[self.random.below(3) as usize];
                let (a, b) = (self.expr(ty, depth), self.expr(ty, depth));
                let sign = self.random.pick(&["<", "<=", ">", ">=", "==", "!="]);
                format!("({a} {sign} {b})")
            }
            4 => {
                let (a, b) = (self.expr("bool", depth), self.expr("bool", depth));
                let sign = self.random.pick(&["&&", "||"]);
                format!("({a} {sign} {b})")
            }
            _ => {
                let a = self.expr("bool", depth);
                format!("(!{a})")
            }
        }
    }

    fn statements(&mut self, count: u64, depth: usize) {
        let mark = self.names.len();
        for _ in 0..count {
            match self.random.below(8) {
                0..=2 => self.bind(),
                3 | 4 => self.assign(),
                5 | 6 if depth > 0 => self.branch(depth - 1),
                7 if depth > 0 => self.turns(depth - 1),
                _ => self.bind(),
            }
        }
        self.names.truncate(mark);
    }

    fn bind(&mut self) {
        let ty = TYPES[self.random.below(4) as usize];
        let (value, name) = (self.expr(ty, 2), self.fresh());
        let changes = self.random.below(2) == 0;
        let word = if changes { "let mut" } else { "let" };
        self.line(&format!("{word} {name}: {ty} = {value};"));
        self.names.push((name, ty, changes));
    }

    fn assign(&mut self) {
        let change: Vec<(String, &'static str)> = self
            .names
            .iter()
            .filter(|(.., changes)| *changes)
            .map(|(name, ty, _)| (name.clone(), *ty))
            .collect();
        let (name, ty) = change[self.random.below(change.len() as u64) as usize].clone();
        let value = self.expr(ty, 3);
        self.line(&format!("{name} = {value};"));
    }

    fn branch(&mut self, depth: usize) {
        let condition = self.expr("bool", 2);
        self.line(&format!("if {condition} {{"));
        self.nested(2, depth);
        self.line("} else {");
        self.nested(2, depth);
        self.line("}");
    }

    fn turns(&mut self, depth: usize) {
        let name = self.fresh();
        let to = 1 + self.random.below(5);
        let step = 1 + self.random.below(2);
        self.line(&format!("for {name} in (0..{to}u32).step_by({step}u32) {{"));
        self.names.push((name, "u32", false));
        self.nested(2, depth);
        if self.random.below(3) == 0 {
            let condition = self.expr("bool", 2);
            let word = self.random.pick(&["break", "continue"]);
            self.line(&format!("    if {condition} {{ {word}; }}"));
        }
        self.names.pop();
        self.line("}");
    }

    fn nested(&mut self, count: u64, depth: usize) {
        self.indent += 1;
        self.statements(count, depth);
        self.indent -= 1;
    }

    fn kernel(&mut self, number: usize) {
        let group = [16, 32, 64][self.random.below(3) as usize];
        self.line(&format!("#[hetra_kernel::kernel(group = [{group}])]"));
        self.line(&format!(
            "fn generated{number}(n: u32, x: &[f32], a: &[i32], b: &[u32], \
             y: &mut [f32], c: &mut [i32], d: &mut [u32]) {{"
        ));
        self.indent = 1;
        self.line("let i = global_id(0);");
        let exchange = self.random.below(2) == 0;
        if exchange {
            self.line(&format!("let tile = shared::<[i32; {group}]>();"));
            self.line("tile[local_id(0)] = a[i % n];");
            self.line("barrier();");
            self.line(&format!("let other = tile[(local_id(0) + 1) % {group}];"));
        } else {
            self.line("let other = a[(i + 1) % n];");
        }
        self.line("if i >= n { return; }");
        self.line("let mut f = x[i];");
        self.line("let mut g = a[i];");
        self.line("let mut h = b[i];");
        self.names = vec![
            ("other".to_string(), "i32", false),
            ("i".to_string(), "u32", false),
            ("f".to_string(), "f32", true),
            ("g".to_string(), "i32", true),
            ("h".to_string(), "u32", true),
        ];
        let count = 3 + self.random.below(4);
        self.statements(count, 3);
        let last = self.random.pick(&[
            "f",
            "(f * 0.01).exp()",
            "(f.abs() + 0.5).sqrt()",
            "(f * 0.1).sin()",
            "f / (f * f + 1.0)",
            "(f.abs() + 1.0).ln()",
            "(f * 0.001).tanh()",
            "f.mul_add(0.5, 0.25)",
        ]);
        self.line(&format!("y[i] = {last};"));
        self.line("c[i] = g;");
        self.line("d[i] = h;");
        self.indent = 0;
        self.line("}");
        self.text.push('\n');
    }
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let random = Random(20_261_127);
    let mut writer = Writer { random, text: String::new(), indent: 0, names: Vec::new(), count: 0 };
    for number in 0..KERNELS {
        writer.kernel(number);
    }
    writer.line("/// Every generated kernel.");
    writer.line("fn sources() -> Vec<hetra_kernel::Source> {");
    let all: Vec<String> = (0..KERNELS).map(|number| format!("generated{number}()")).collect();
    writer.line(&format!("    vec![{}]", all.join(", ")));
    writer.line("}");
    let folder = env::var_os("OUT_DIR").expect("cargo sets it");
    fs::write(Path::new(&folder).join("generated.rs"), writer.text).expect("cargo made the folder");
}
