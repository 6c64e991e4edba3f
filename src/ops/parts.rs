//! Calls larger than one binding or one dispatch: cut into boxes of batch entries, heads and query rows, each with a
//! window of every tensor that fits a binding.

use crate::error::{Result, check_limit};
use crate::tensor::Strides;

/// Batch entries, query heads and query rows that one dispatch covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub batch: (u32, u32),
    pub head: (u32, u32),
    pub query: (u32, u32),
}

/// How a tensor's addresses follow from batch entry, query head and query row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    pub name: &'static str,
    /// Bytes of an element.
    pub size: u64,
    pub strides: Strides,
    /// Query heads that share one head of this tensor.
    pub group: u32,
    /// Query rows that share one row of this tensor.
    pub block: u32,
    /// Elements from the start of a (batch, head, query) row to the end of what belongs to it.
    pub row: u64,
    /// Bytes of a part at most, where that is less than a binding holds.
    pub most: u64,
}

impl Geometry {
    /// First element and the one past the last that a part touches.
    pub fn range(&self, part: &Part) -> (u64, u64) {
        let at = |b: u32, h: u32, i: u32| {
            u64::from(b) * self.strides.batch
                + u64::from(h / self.group) * self.strides.head
                + u64::from(i / self.block) * self.strides.seq
        };
        let first = at(part.batch.0, part.head.0, part.query.0);
        let last = at(part.batch.1 - 1, part.head.1 - 1, part.query.1 - 1);
        (first, last + self.row)
    }

    /// Strides as a part's parameters. A dimension of which the part has one index needs none, and may have a stride
    /// that a u32 does not hold.
    pub fn strides_in(&self, part: &Part) -> [u32; 3] {
        let one = |(a, b): (u32, u32), stride: u64| if b - a <= 1 { 0 } else { stride as u32 };
        [
            one(part.batch, self.strides.batch),
            one(part.head, self.strides.head),
            one(part.query, self.strides.seq),
        ]
    }
}

/// What bounds a part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Bytes of a binding.
    pub binding: u64,
    /// Alignment of a binding's offset; a window may start that much early.
    pub alignment: u64,
    /// Workgroups in each dimension.
    pub workgroups: u32,
    /// Query rows of a workgroup, each counted once for every head of `heads`.
    pub rows: u32,
    /// Query heads that a workgroup takes together.
    pub heads: u32,
    /// Workgroups for the same rows, each with a share of the keys.
    pub splits: u32,
    /// Query rows that may not be cut further, so that parts begin where workgroups do.
    pub unit: u32,
}

impl Bounds {
    /// What a device's limits allow for such workgroups.
    pub fn of(limits: &wgpu::Limits, rows: u32, heads: u32, splits: u32) -> Self {
        Bounds {
            // Shaders count elements in 32 bits.
            binding: limits.max_storage_buffer_binding_size.min(u32::MAX.into()),
            alignment: limits.min_storage_buffer_offset_alignment.into(),
            workgroups: limits.max_compute_workgroups_per_dimension,
            rows,
            heads,
            splits,
            unit: rows / gcd(rows, heads),
        }
    }

    /// Workgroups along x for so many query rows.
    fn row_workgroups(&self, queries: u32) -> u64 {
        (u64::from(queries) * u64::from(self.heads)).div_ceil(self.rows.into()) * u64::from(self.splits)
    }
}

/// The greatest common divisor.
pub(crate) fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Cuts the whole problem into as few parts as its bounds allow: batch entries first, then heads, then query rows.
pub(crate) fn split(whole: Part, tensors: &[Geometry], bounds: &Bounds) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut todo = vec![whole];
    while let Some(part) = todo.pop() {
        if fits(&part, tensors, bounds).is_ok() {
            parts.push(part);
            continue;
        }
        let Some((first, second)) = halve(&part, bounds) else {
            fits(&part, tensors, bounds)?;
            continue;
        };
        todo.push(second);
        todo.push(first);
    }
    Ok(parts)
}

fn fits(part: &Part, tensors: &[Geometry], bounds: &Bounds) -> Result<()> {
    for tensor in tensors {
        let (first, end) = tensor.range(part);
        check_limit(
            format_args!("tensor `{}`, already cut to one head of one batch entry,", tensor.name),
            (end - first) * tensor.size + bounds.alignment,
            "max_storage_buffer_binding_size",
            bounds.binding.min(tensor.most),
        )?;
    }
    let workgroups = [
        bounds.row_workgroups(part.query.1 - part.query.0),
        (part.head.1 - part.head.0).div_ceil(bounds.heads).into(),
        (part.batch.1 - part.batch.0).into(),
    ];
    for needed in workgroups {
        check_limit(
            "a dispatch for one row of workgroups",
            needed,
            "max_compute_workgroups_per_dimension",
            bounds.workgroups,
        )?;
    }
    Ok(())
}

/// Two halves along the outermost dimension that has more than one unit: a batch entry, a workgroup's heads, a
/// workgroup's query rows.
fn halve(part: &Part, bounds: &Bounds) -> Option<(Part, Part)> {
    let cut = |(start, end): (u32, u32), unit: u32| {
        let units = (end - start).div_ceil(unit);
        (units > 1).then(|| start + units / 2 * unit)
    };
    if let Some(at) = cut(part.batch, 1) {
        let (mut a, mut b) = (*part, *part);
        (a.batch.1, b.batch.0) = (at, at);
        return Some((a, b));
    }
    if let Some(at) = cut(part.head, bounds.heads) {
        let (mut a, mut b) = (*part, *part);
        (a.head.1, b.head.0) = (at, at);
        return Some((a, b));
    }
    let at = cut(part.query, bounds.unit)?;
    let (mut a, mut b) = (*part, *part);
    (a.query.1, b.query.0) = (at, at);
    Some((a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(row: u64, seq: u64, head: u64, batch: u64) -> Geometry {
        Geometry {
            name: "q",
            size: 4,
            strides: Strides { batch, head, seq },
            group: 1,
            block: 1,
            row,
            most: u64::MAX,
        }
    }

    fn whole(batch: u32, heads: u32, queries: u32) -> Part {
        Part {
            batch: (0, batch),
            head: (0, heads),
            query: (0, queries),
        }
    }

    const BOUNDS: Bounds = Bounds {
        binding: 128 << 20,
        alignment: 256,
        workgroups: 65535,
        rows: 64,
        heads: 1,
        splits: 1,
        unit: 64,
    };

    #[test]
    fn what_fits_stays_whole() {
        let parts = split(whole(2, 8, 1024), &[geometry(64, 64, 65536, 524288)], &BOUNDS).unwrap();
        assert_eq!(parts, [whole(2, 8, 1024)]);
    }

    #[test]
    fn parts_tile_the_problem_and_fit() {
        let bounds = Bounds {
            binding: 40_000,
            workgroups: 3,
            ..BOUNDS
        };
        let problem = whole(3, 5, 1000);
        let tensor = geometry(16, 16, 16_000, 80_000);
        let parts = split(problem, &[tensor], &bounds).unwrap();
        let mut covered = vec![0; 3 * 5 * 1000];
        for p in &parts {
            let (first, end) = tensor.range(p);
            assert!((end - first) * 4 + 256 <= 40_000 && (p.query.1 - p.query.0).div_ceil(64) <= 3);
            for b in p.batch.0..p.batch.1 {
                for h in p.head.0..p.head.1 {
                    for i in p.query.0..p.query.1 {
                        covered[((b * 5 + h) * 1000 + i) as usize] += 1;
                    }
                }
            }
        }
        assert!(covered.iter().all(|&n| n == 1));
    }

    #[test]
    fn splits_and_groups_count_as_workgroups() {
        let bounds = Bounds {
            workgroups: 10,
            rows: 8,
            heads: 4,
            splits: 3,
            unit: 2,
            ..BOUNDS
        };
        let parts = split(whole(1, 8, 16), &[geometry(16, 16, 256, 2048)], &bounds).unwrap();
        for p in &parts {
            assert!(((p.query.1 - p.query.0) * 4).div_ceil(8) * 3 <= 10, "{p:?}");
        }
        let rows: u32 = parts
            .iter()
            .map(|p| (p.query.1 - p.query.0) * (p.head.1 - p.head.0))
            .sum();
        assert!(rows == 16 * 8 && parts.iter().all(|p| p.head.0 % 4 == 0));
    }

    #[test]
    fn what_cannot_be_cut_names_the_limit() {
        let bounds = Bounds {
            binding: 1000,
            ..BOUNDS
        };
        // Every query needs all the keys: 100 rows of 64.
        let keys = geometry(100 * 64, 0, 6400, 6400);
        let error = split(whole(1, 1, 512), &[keys], &bounds).unwrap_err();
        assert!(error.to_string().contains("max_storage_buffer_binding_size"), "{error}");
    }
}
