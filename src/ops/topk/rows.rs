//! Calls over many independent rows: cut so that the rows of each dispatch fit a binding of every tensor.

use crate::error::{Result, check_limit};

/// How many rows a dispatch takes, and how its grid holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Rows of a dispatch.
    rows: u32,
    /// Rows of a workgroup.
    workgroup_rows: u32,
    /// Workgroups in a dimension of the grid.
    workgroups: u32,
}

impl Cut {
    /// For rows of so many bytes of each tensor.
    ///
    /// # Errors
    /// [`crate::Error::Limit`] where one row is too large for a binding.
    pub fn new(limits: &wgpu::Limits, workgroup_rows: u32, tensors: &[(&str, u64)]) -> Result<Self> {
        // Shaders count elements in 32 bits.
        let binding = limits.max_storage_buffer_binding_size.min(u32::MAX.into());
        // A window may start that much early.
        let alignment = u64::from(limits.min_storage_buffer_offset_alignment);
        let workgroups = limits.max_compute_workgroups_per_dimension;
        let mut rows = u64::from(workgroups) * u64::from(workgroups) * u64::from(workgroup_rows);
        for (what, bytes) in tensors {
            check_limit(what, bytes + alignment, "max_storage_buffer_binding_size", binding)?;
            rows = rows.min((binding - alignment) / bytes);
        }
        Ok(Cut {
            rows: rows.min(u32::MAX.into()) as u32,
            workgroup_rows,
            workgroups,
        })
    }

    /// First row and the one past the last of each dispatch.
    pub fn parts(&self, rows: u32) -> impl Iterator<Item = (u32, u32)> + use<> {
        let step = self.rows;
        let first = (0..rows.div_ceil(step)).map(move |n| n * step);
        first.map(move |first| (first, first + step.min(rows - first)))
    }

    /// The workgroups of a dispatch for so many rows, over x and y.
    pub fn grid(&self, rows: u32) -> [u32; 3] {
        let needed = rows.div_ceil(self.workgroup_rows);
        let y = needed.div_ceil(self.workgroups);
        [needed.div_ceil(y), y, 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(binding: u64, workgroups: u32) -> wgpu::Limits {
        wgpu::Limits {
            max_storage_buffer_binding_size: binding,
            max_compute_workgroups_per_dimension: workgroups,
            ..Default::default()
        }
    }

    #[test]
    fn parts_tile_the_rows_and_fit() {
        for (binding, workgroups, workgroup_rows) in
            [(4096, 3, 1), (4096, 65535, 64), (1 << 20, 3, 64), (1 << 30, 7, 1)]
        {
            let cut = Cut::new(&limits(binding, workgroups), workgroup_rows, &[("a", 400), ("b", 12)]).unwrap();
            let mut next = 0;
            for (first, end) in cut.parts(1000) {
                assert!(first == next && end > first);
                assert!(u64::from(end - first) * 400 + 256 <= binding);
                let [x, y, _] = cut.grid(end - first);
                assert!(x <= workgroups && y <= workgroups);
                assert!(x * y * workgroup_rows >= end - first);
                next = end;
            }
            assert_eq!(next, 1000);
        }
    }

    #[test]
    fn a_row_larger_than_a_binding_is_refused_with_the_limit() {
        let error = Cut::new(&limits(1000, 10), 1, &[("a row", 800)]).unwrap_err();
        assert!(error.to_string().contains("a row needs 1056"), "{error}");
        assert!(error.to_string().contains("max_storage_buffer_binding_size"), "{error}");
    }
}
