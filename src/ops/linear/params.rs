//! The uniform that `shaders/linear/params.wgsl` declares.

use bytemuck::{Pod, Zeroable};

/// Twin of `struct Params`; the shader has the meaning of each field.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[allow(missing_docs)]
pub struct Params {
    pub first_head: u32,
    pub tokens: u32,
    pub group: u32,
    pub documents: u32,
    pub segment: u32,
    pub segments: u32,
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
    pub decay_base: u32,
    pub decay_batch: u32,
    pub decay_head: u32,
    pub decay_seq: u32,
    pub in_base: u32,
    pub in_sequence: u32,
    pub in_head: u32,
    pub in_segment: u32,
    pub out_base: u32,
    pub out_sequence: u32,
    pub out_head: u32,
    pub out_segment: u32,
    pub total_base: u32,
    pub total_sequence: u32,
    pub total_head: u32,
    pub total_segment: u32,
    pub cu_base: u32,
    pub start_base: u32,
    pub scale: f32,
    pub epsilon: f32,
    pub zero: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shader::{layout, text};

    #[test]
    fn fields_lie_where_the_shader_has_them() {
        layout::assert_same(&Params::default(), text("linear/params"));
    }
}
