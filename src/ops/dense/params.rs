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
    pub padding: u32,
}

/// Field names in order, for the test that compares them with the shader's.
#[cfg(test)]
pub const FIELDS: &str = "first_batch first_head first_query end_query queries keys heads group \
q_base q_batch q_head q_seq k_base k_batch k_head k_seq v_base v_batch v_head v_seq o_base o_batch o_head o_seq \
bias_base bias_batch bias_head bias_query mask_base mask_batch mask_head mask_query \
lse_base kv_len_at cu_q_at cu_k_at alibi_at sinks_at documents q_offset_given \
q_offset left right ahead sink_tokens prefix q_scale softcap weight_bias splits rows padding";
