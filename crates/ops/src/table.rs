//! The table of all operators: the only place that lists them.

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::def::OpDef;

/// Every operator, by family.
pub static ALL_OPS: &[&[&OpDef]] = &[
    crate::activation::OPS,
    crate::convert::OPS,
    crate::logic::OPS,
    crate::unary::OPS,
    crate::numeric::OPS,
    crate::philox::OPS,
    crate::fused::OPS,
    crate::complex::OPS,
    crate::variadic::OPS,
    crate::random::OPS,
    crate::generate::OPS,
    crate::cumulative::OPS,
    crate::text::OPS,
    crate::text_lines::OPS,
    crate::tfidf::OPS,
    crate::training::OPS,
    crate::gradient::OPS,
    crate::ml::OPS,
    crate::trees::OPS,
    crate::svm::OPS,
    crate::linear::OPS,
    crate::arithmetic::OPS,
    crate::fourier::OPS,
    crate::einsum::OPS,
    crate::loss::OPS,
    crate::embed_norm::OPS,
    crate::deform_conv::OPS,
    crate::column::OPS,
    crate::regions::OPS,
    crate::sample::OPS,
    crate::warp::OPS,
    crate::pool_whole::OPS,
    crate::pool::OPS,
    crate::channel_norm::OPS,
    crate::resize::OPS,
    crate::pad::OPS,
    crate::layer_norm::OPS,
    crate::softmax::OPS,
    crate::arg_reduce::OPS,
    crate::reduce::OPS,
    crate::optional::OPS,
    crate::sequence::OPS,
    crate::scan::OPS,
    crate::matmul::OPS,
    crate::conv_transpose::OPS,
    crate::conv::OPS,
    crate::channels_last::OPS,
    crate::order::OPS,
    crate::select::OPS,
    crate::scatter::OPS,
    crate::gather::OPS,
    crate::gather_concat::OPS,
    crate::slice::OPS,
    crate::movement::OPS,
    crate::reshape::OPS,
    crate::attention::OPS,
    crate::recurrent::OPS,
    crate::rotary::OPS,
    crate::quant_matmul::OPS,
    crate::quantize::OPS,
    crate::quant_nbits::OPS,
    crate::quant_elementwise::OPS,
    crate::quant_conv::OPS,
    crate::quant_gemm::OPS,
    crate::quant_lstm::OPS,
    crate::attention_cached::OPS,
    crate::attention_group::OPS,
    crate::attention_microsoft::OPS,
    crate::control::OPS,
    crate::part::OPS,
];

fn by_name() -> &'static HashMap<&'static str, &'static OpDef> {
    static INDEX: OnceLock<HashMap<&'static str, &'static OpDef>> = OnceLock::new();
    INDEX.get_or_init(|| ALL_OPS.iter().copied().flatten().map(|def| (def.name, *def)).collect())
}

/// The operator of this name (`Node::op`).
pub fn find(name: &str) -> Option<&'static OpDef> {
    by_name().get(name).copied()
}

/// The operator that an ONNX file means by this domain and name.
pub fn find_onnx(domain: &str, name: &str) -> Option<&'static OpDef> {
    type Index = HashMap<(&'static str, &'static str), &'static OpDef>;
    static INDEX: OnceLock<Index> = OnceLock::new();
    let index = INDEX.get_or_init(|| {
        let rows = ALL_OPS.iter().copied().flatten();
        rows.flat_map(|def| def.onnx.iter().map(|row| ((row.domain, row.name), *def))).collect()
    });
    let domain = if domain == "ai.onnx" { "" } else { domain };
    index.get(&(domain, name)).copied()
}

/// The newest version of an ONNX domain that a row knows of; 0 for a domain without rows.
pub fn newest_version(domain: &str) -> u32 {
    let names = ALL_OPS.iter().copied().flatten().flat_map(|def| def.onnx);
    names.filter(|name| name.domain == domain).map(|name| name.version).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_documented() {
        let rows: Vec<_> = ALL_OPS.iter().copied().flatten().collect();
        assert_eq!(by_name().len(), rows.len(), "two rows share a name");
        let mut seen = std::collections::BTreeSet::new();
        for def in rows {
            assert!(def.doc.ends_with('.'), "{}: its doc is a sentence", def.name);
            assert!(def.inputs.min <= def.inputs.max && def.outputs.min <= def.outputs.max);
            for row in def.onnx {
                assert!(seen.insert((row.domain, row.name)), "{} is claimed twice", row.name);
            }
        }
    }
}
