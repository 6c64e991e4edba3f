//! The text of every file under `shaders/`, by name without extension.

macro_rules! source {
    ($name:literal) => {
        (
            $name,
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $name, ".wgsl")),
        )
    };
}

/// Name and text, sorted by name. A test compares the list with the folder.
pub const SOURCES: &[(&str, &str)] = &[
    source!("dense/bias_bf16"),
    source!("dense/bias_f16"),
    source!("dense/bias_f32"),
    source!("dense/bias_none"),
    source!("dense/bindings"),
    source!("dense/custom_no_mask"),
    source!("dense/custom_no_score"),
    source!("dense/custom_none"),
    source!("dense/decode"),
    source!("dense/decode_serial"),
    source!("dense/mask_bytes"),
    source!("dense/mask_none"),
    source!("dense/output"),
    source!("dense/params"),
    source!("dense/position"),
    source!("dense/prefill"),
    source!("dense/score"),
    source!("dense/small"),
    source!("dense/small_none"),
    source!("dense/visibility"),
    source!("dense/weighting_sigmoid"),
    source!("dense/weighting_softmax"),
    source!("measure/copy"),
    source!("measure/fma"),
    source!("measure/read"),
    source!("merge/merge"),
    source!("merge/parts_lse"),
    source!("merge/parts_lse_none"),
    source!("merge/parts_x1"),
    source!("merge/parts_x4"),
    source!("shared/copy_words"),
    source!("shared/element_bf16_x1"),
    source!("shared/element_bf16_x4"),
    source!("shared/element_f16_x1"),
    source!("shared/element_f16_x4"),
    source!("shared/element_f32_x1"),
    source!("shared/element_f32_x4"),
    source!("shared/lse"),
    source!("shared/lse_none"),
    source!("shared/numerics"),
    source!("shared/output_f32_x1"),
    source!("shared/output_f32_x4"),
    source!("shared/output_half_x1"),
    source!("shared/output_half_x4"),
    source!("shared/pack_bf16"),
    source!("shared/pack_f16"),
    source!("shared/qkv_x1"),
    source!("shared/qkv_x4"),
];
