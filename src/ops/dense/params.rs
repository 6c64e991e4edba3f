//! The uniform that `shaders/dense/params.wgsl` declares.

use bytemuck::{Pod, Zeroable};

/// Twin of `struct Params`; the shader has the meaning of each field.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[allow(missing_docs)]
pub struct Params {
    pub first_batch: u32,
    pub first_head: u32,
    pub first_query: u32,
    pub end_query: u32,
    pub queries: u32,
    pub keys: u32,
    pub heads: u32,
    pub group: u32,
    pub q_base: u32,
    pub q_batch: u32,
    pub q_head: u32,
    pub q_seq: u32,
    pub k_base: u32,
    pub k_batch: u32,
    pub k_head: u32,
    pub k_seq: u32,
    pub v_base: u32,
    pub v_batch: u32,
    pub v_head: u32,
    pub v_seq: u32,
    pub o_base: u32,
    pub o_batch: u32,
    pub o_head: u32,
    pub o_seq: u32,
    pub bias_base: u32,
    pub bias_batch: u32,
    pub bias_head: u32,
    pub bias_query: u32,
    pub mask_base: u32,
    pub mask_batch: u32,
    pub mask_head: u32,
    pub mask_query: u32,
    pub lse_base: u32,
    pub kv_len_at: u32,
    pub cu_q_at: u32,
    pub cu_k_at: u32,
    pub alibi_at: u32,
    pub sinks_at: u32,
    pub documents: u32,
    pub q_offset_given: u32,
    pub q_offset: i32,
    pub left: i32,
    pub right: i32,
    pub ahead: i32,
    pub sink_tokens: i32,
    pub prefix: i32,
    pub q_scale: f32,
    pub softcap: f32,
    pub weight_bias: f32,
    pub splits: u32,
    pub rows: u32,
    pub list_base: u32,
    pub list_batch: u32,
    pub list_head: u32,
    pub list_row: u32,
    pub list_group: u32,
    pub list_capacity: u32,
    pub list_entries: u32,
    pub query_block: u32,
    pub zero: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shader::{layout, text};

    #[test]
    fn fields_lie_where_the_shader_has_them() {
        layout::assert_same(&Params::default(), text("dense/params"));
    }
}
