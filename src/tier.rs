//! Tiers: kernels by what they ask of a device, and what a device has for them.
//!
//! The planner takes the best tier that serves a problem. [`Gpu::with_tier`](crate::Gpu::with_tier) forces one, to
//! measure or to test it.
//!
//! ```
//! use wgpu_attention::tier::{Abilities, Tier};
//!
//! let abilities = Abilities { subgroups: Some((32, 32)), half: true, matrices: Some(16), ..Abilities::NONE };
//! assert_eq!(abilities.tiers(), [Tier::Portable, Tier::Subgroup, Tier::Cooperative]);
//! assert_eq!(Abilities::default().tiers(), [Tier::Portable]);
//! assert_eq!("cooperative".parse(), Ok(Tier::Cooperative));
//! ```

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::shader::Constant;

/// Kernels by what they ask of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// Core WGSL and the limits of every WebGPU device.
    Portable,
    /// Subgroup operations, of subgroups of any size; native f16 where the device has that too.
    Subgroup,
    /// Cooperative matrices (tensor cores, simdgroup matrices), with f16 factors and f32 sums. Dense prefill of f32 and bf16
    /// takes two factors for each number, so that it stays as precise as without them, where D and Dv are up to 128; decode has f16, and bf16 where right factors have elements
    /// ([`MatrixElements::right`]); see [`Dense::reduced_precision`](crate::Dense::reduced_precision).
    Cooperative,
}

impl Tier {
    /// All of them, each asking for more than the one before.
    pub const ALL: [Tier; 3] = [Tier::Portable, Tier::Subgroup, Tier::Cooperative];

    /// In lower case, as [`FromStr`] takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Tier::Portable => "portable",
            Tier::Subgroup => "subgroup",
            Tier::Cooperative => "cooperative",
        }
    }

    /// What a device must have for it, in words.
    pub(crate) const fn needs(self) -> &'static str {
        match self {
            Tier::Portable => "nothing",
            Tier::Subgroup => "feature SUBGROUP",
            Tier::Cooperative => {
                "features EXPERIMENTAL_COOPERATIVE_MATRIX, SHADER_F16 and SUBGROUP, and an adapter that reports square \
                 matrices of 8 or 16 with f16 factors and f32 sums"
            }
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Tier {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Tier::ALL
            .into_iter()
            .find(|t| t.name() == name)
            .ok_or_else(|| Error::Invalid {
                field: "tier",
                value: format!("`{name}`"),
                allowed: "portable, subgroup or cooperative".into(),
            })
    }
}

/// What a device has beyond the portable tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// Invocations of a subgroup, at least and at most, where shaders can use subgroups.
    pub subgroups: Option<(u32, u32)>,
    /// Shaders can compute with and store f16.
    pub half: bool,
    /// A subgroup can wait for its own invocations, and then finds in workgroup memory what they wrote.
    pub subgroup_barriers: bool,
    /// Edge of the square cooperative matrices with f16 factors and f32 sums, 8 or 16.
    pub matrices: Option<u32>,
    /// How an invocation has elements of such matrices, where shaders get at them.
    pub elements: Option<MatrixElements>,
}

/// The elements of a cooperative matrix that an invocation has, as `shaders/shared/elements.wgsl` relies on them: at the same
/// places of left factors as of sums; element e is of the row class e / `run` % `classes`, and each class is a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "tuned", derive(serde::Serialize, serde::Deserialize))]
pub struct MatrixElements {
    /// Elements of an invocation.
    pub each: u32,
    /// Neighbouring elements of one row.
    pub run: u32,
    /// Rows that an invocation has elements of.
    pub classes: u32,
    /// Invocations whose numbers differ in these bits only have elements of the same rows; others have none of them.
    pub sharers: u32,
    /// How they are in right factors, where those are as `shaders/shared/right_factors.wgsl` relies on it.
    #[cfg_attr(feature = "tuned", serde(default))]
    pub right: Option<RightElements>,
}

/// The elements of a right factor that an invocation has: element e is of the column class e / `run` % `classes`, each class is a
/// column, and all have the same rows in the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "tuned", derive(serde::Serialize, serde::Deserialize))]
pub struct RightElements {
    /// Neighbouring elements of one column.
    pub run: u32,
    /// Columns that an invocation has elements of.
    pub classes: u32,
    /// Invocations whose numbers have the same of these bits, the lowest, have elements of the same rows; those that have all
    /// others the same have elements of the same columns.
    pub sharers: u32,
    /// Each is where the same element of sums is, with row and column exchanged.
    #[cfg_attr(feature = "tuned", serde(default))]
    pub turned: bool,
}

#[cfg(test)]
impl MatrixElements {
    /// Of matrices of 16 in subgroups of 32, as NVIDIA's Vulkan driver has them.
    pub(crate) const OF_TENSOR_CORES: Self = MatrixElements {
        each: 8,
        run: 4,
        classes: 2,
        sharers: 3,
        right: Some(RightElements {
            run: 4,
            classes: 2,
            sharers: 3,
            turned: true,
        }),
    };
}

impl MatrixElements {
    /// Parts of what `shaders/measure/places.wgsl` writes, a matrix each.
    pub(crate) const PARTS: u32 = 9;

    /// Whether all fields are in range for matrices of `edge` in subgroups of `size`.
    pub(crate) fn fits(&self, edge: u32, size: u32) -> bool {
        let in_range = [self.each, self.run, self.classes]
            .iter()
            .all(|n| (1..=256).contains(n));
        in_range
            && self.each * size == edge * edge
            && self.each.is_multiple_of(self.run * self.classes)
            && self.sharers < size
            && self.right.is_none_or(|right| right.fits(edge, size))
    }

    /// What `shared/elements.wgsl` is to know.
    pub(crate) fn constants(&self) -> Vec<(&'static str, Constant)> {
        vec![
            ("ELEMENTS", Constant::Count(self.each)),
            ("RUN", Constant::Count(self.run)),
            ("CLASSES", Constant::Count(self.classes)),
            ("SHARERS", Constant::Count(self.sharers)),
        ]
    }

    /// As labels of tiles have it.
    pub(crate) fn label(&self) -> String {
        format!(" elements {}/{}x{}/{}", self.each, self.run, self.classes, self.sharers)
    }

    /// What the numbers say that `shaders/measure/places.wgsl` writes, on matrices of `edge` and subgroups of `size`; `None` where
    /// elements are not as kernels rely on it.
    pub(crate) fn found(numbers: &[f32], edge: u32, size: u32) -> Option<Self> {
        let all = (edge * edge) as usize;
        let each = edge * edge / size;
        if each * size != edge * edge || numbers.len() != Self::PARTS as usize * all {
            return None;
        }
        let part = |n: usize| &numbers[n * all..(n + 1) * all];
        let in_order = |part: &[f32]| part.iter().enumerate().all(|(n, x)| *x == n as f32);
        let places: Vec<u32> = part(0).iter().map(|x| *x as u32).collect();
        let mut seen = places.clone();
        seen.sort_unstable();
        let whole = seen.iter().copied().eq(0..edge * edge);
        let told = |part: &[f32], place: fn(u32, u32) -> u32| {
            part.iter().zip(&places).all(|(x, n)| *x == place(*n, edge) as f32)
        };
        let strides = told(part(3), |n, edge| n / edge) && told(part(4), |n, edge| n % edge);
        if !(whole && strides && in_order(part(1)) && in_order(part(2))) {
            return None;
        }
        let rows: Vec<Vec<u32>> = places
            .chunks(each as usize)
            .map(|places| places.iter().map(|n| n / edge).collect())
            .collect();
        let same_rows = |a: &[u32], b: &[u32]| a.iter().all(|row| b.contains(row));
        let sharers = (0..size)
            .filter(|lane| same_rows(&rows[*lane as usize], &rows[0]))
            .fold(0, |bits, lane| bits | lane);
        let fits = |classes: u32, run: u32| {
            let class = |e: usize| e as u32 / run % classes;
            let of_lane = |rows: &Vec<u32>| {
                let pairs = (0..rows.len()).flat_map(|a| (0..rows.len()).map(move |b| (a, b)));
                pairs
                    .into_iter()
                    .all(|(a, b)| (class(a) == class(b)) == (rows[a] == rows[b]))
            };
            // All of a row with the sharers, and in the same classes.
            let shared = |lane: usize| {
                let others = (0..rows.len()).filter(|other| (lane ^ other) as u32 & !sharers == 0);
                let alike = others.clone().all(|other| rows[other] == rows[lane]);
                alike && others.count() as u32 * each == edge * classes
            };
            rows.iter().all(of_lane) && (0..rows.len()).all(shared)
        };
        let runs = (0..=each.ilog2()).map(|n| 1 << n);
        let (run, classes) = runs
            .flat_map(|run| (0..=(each / run).ilog2()).map(move |n| (run, 1 << n)))
            .find(|(run, classes)| fits(*classes, *run))?;
        let whole_numbers = |part: &[f32]| part.iter().map(|x| *x as u32).collect::<Vec<_>>();
        let overflow_is_seen = part(8).iter().all(|x| *x == 1.0);
        let right = (in_order(part(7)) && overflow_is_seen)
            .then(|| RightElements::found(&whole_numbers(part(5)), &whole_numbers(part(6)), edge, size))
            .flatten()
            .map(|right| RightElements {
                turned: part(3) == part(6) && part(4) == part(5),
                ..right
            });
        Some(MatrixElements {
            each,
            run,
            classes,
            sharers,
            right,
        })
    }
}

impl RightElements {
    fn fits(&self, edge: u32, size: u32) -> bool {
        let each = edge * edge / size;
        let in_range = [self.run, self.classes].iter().all(|n| (1..=each).contains(n));
        in_range
            && each.is_multiple_of(self.run * self.classes)
            && each.is_multiple_of(2)
            && self.sharers < size
            && (self.sharers + 1) * each == edge * self.classes
            && (self.sharers + 1).is_power_of_two()
    }

    /// What `shared/right_elements.wgsl` and those who import it are to know.
    pub(crate) fn constants(&self) -> Vec<(&'static str, Constant)> {
        vec![
            ("RIGHT_RUN", Constant::Count(self.run)),
            ("COLUMNS", Constant::Count(self.classes)),
            ("RIGHT_SHARERS", Constant::Count(self.sharers)),
        ]
    }

    /// The same of right factors, where the elements of all invocations are of these rows and columns.
    fn found(rows: &[u32], columns: &[u32], edge: u32, size: u32) -> Option<Self> {
        let each = (edge * edge / size) as usize;
        let mut seen: Vec<u32> = rows
            .iter()
            .zip(columns)
            .map(|(row, column)| row * edge + column)
            .collect();
        seen.sort_unstable();
        let whole = seen.into_iter().eq(0..edge * edge);
        let rows: Vec<&[u32]> = rows.chunks(each).collect();
        let columns: Vec<&[u32]> = columns.chunks(each).collect();
        let sharers = (0..size as usize)
            .filter(|lane| columns[*lane] == columns[0])
            .fold(0, |bits, lane| bits | lane);
        let shared = |lane: usize| columns[lane] == columns[lane & !sharers] && rows[lane] == rows[lane & sharers];
        if !whole || !each.is_multiple_of(2) || !(sharers + 1).is_power_of_two() || !(0..size as usize).all(shared) {
            return None;
        }
        let fits = |(run, classes): (usize, usize)| {
            let class = |e: usize| e / run % classes;
            let of = |lane: &[u32], c: usize| {
                (0..each)
                    .filter(|e| class(*e) == c)
                    .map(|e| lane[e])
                    .collect::<Vec<_>>()
            };
            let one_column = |c: usize| {
                columns
                    .iter()
                    .all(|lane| of(lane, c).windows(2).all(|pair| pair[0] == pair[1]))
            };
            (0..classes).all(one_column) && rows.iter().all(|lane| (1..classes).all(|c| of(lane, c) == of(lane, 0)))
        };
        let sizes = |run: usize| (0..=(each / run).ilog2()).map(move |n| (run, 1 << n));
        let runs = (0..=each.ilog2()).rev().map(|n| 1 << n);
        let (run, classes) = runs.flat_map(sizes).find(|sizes| fits(*sizes))?;
        Some(RightElements {
            run: run as u32,
            classes: classes as u32,
            sharers: sharers as u32,
            turned: false,
        })
    }
}

impl Abilities {
    /// Nothing.
    pub const NONE: Abilities = Abilities {
        subgroups: None,
        half: false,
        subgroup_barriers: false,
        matrices: None,
        elements: None,
    };

    /// Those of a device with these features. `matrices`: what its adapter reports, empty if that is not known.
    pub fn of(
        features: wgpu::Features,
        info: &wgpu::AdapterInfo,
        matrices: &[wgpu::CooperativeMatrixProperties],
    ) -> Self {
        let half = features.contains(wgpu::Features::SHADER_F16);
        let sizes = (info.subgroup_min_size, info.subgroup_max_size);
        let known = sizes.0 >= 1 && sizes.0 <= sizes.1;
        let subgroups = (features.contains(wgpu::Features::SUBGROUP) && known).then_some(sizes);
        let usable = features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) && half && subgroups.is_some();
        Abilities {
            subgroups,
            half,
            subgroup_barriers: subgroups.is_some() && barriers_order_memory(features, info),
            matrices: if usable { edge(matrices) } else { None },
            // Found by trying, with a device.
            elements: None,
        }
    }

    /// The tiers whose kernels a device can run, the portable one first.
    pub fn tiers(&self) -> Vec<Tier> {
        Tier::ALL.into_iter().filter(|tier| self.serve(*tier)).collect()
    }

    /// Whether a device can run the kernels of a tier.
    pub fn serve(&self, tier: Tier) -> bool {
        match tier {
            Tier::Portable => true,
            Tier::Subgroup => self.subgroups.is_some(),
            Tier::Cooperative => self.matrices.is_some(),
        }
    }
}

/// Whether `subgroupBarrier` is there and orders workgroup memory. For Vulkan, naga 30 writes it without the word that says
/// so, which leaves it to the driver: Mesa's llvmpipe (26) reorders, NVIDIA's (580.159.04) passes the tests of the kernels
/// that rely on it.
fn barriers_order_memory(features: wgpu::Features, info: &wgpu::AdapterInfo) -> bool {
    const NVIDIA: u32 = 0x10de;
    let seen = match info.backend {
        wgpu::Backend::Metal => true,
        wgpu::Backend::Vulkan => info.vendor == NVIDIA && info.device_type != wgpu::DeviceType::Cpu,
        _ => false,
    };
    seen && features.contains(wgpu::Features::SUBGROUP_BARRIER)
}

/// The largest edge among the shapes that kernels can use.
fn edge(matrices: &[wgpu::CooperativeMatrixProperties]) -> Option<u32> {
    use wgpu::CooperativeScalarType::{F16, F32};
    let usable = |m: &&wgpu::CooperativeMatrixProperties| {
        m.m_size == m.n_size && m.n_size == m.k_size && m.ab_type == F16 && m.cr_type == F32
    };
    let edges = matrices.iter().filter(usable).map(|m| m.m_size);
    edges.filter(|e| [8, 16].contains(e)).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wgpu::CooperativeScalarType::{F16, F32};

    fn shape([m, n, k]: [u32; 3], ab: wgpu::CooperativeScalarType) -> wgpu::CooperativeMatrixProperties {
        wgpu::CooperativeMatrixProperties {
            m_size: m,
            n_size: n,
            k_size: k,
            ab_type: ab,
            cr_type: F32,
            saturating_accumulation: false,
        }
    }

    #[test]
    fn only_square_matrices_of_f16_with_f32_sums_are_used() {
        assert_eq!(edge(&[shape([16, 8, 16], F16), shape([16, 16, 16], F16)]), Some(16));
        assert_eq!(edge(&[shape([8, 8, 8], F32)]), None);
        assert_eq!(edge(&[shape([8, 8, 8], F16), shape([32, 32, 32], F16)]), Some(8));
        assert_eq!(edge(&[shape([16, 8, 8], F16)]), None);
    }

    /// What the probe writes where invocation `lane` has the element of a row and a column as its e-th, of sums and left factors, and
    /// of right ones.
    fn numbers(
        edge: u32,
        size: u32,
        place: impl Fn(u32, u32) -> (u32, u32),
        right: impl Fn(u32, u32) -> (u32, u32),
    ) -> Vec<f32> {
        let each = edge * edge / size;
        let all = || (0..size).flat_map(|lane| (0..each).map(move |e| (lane, e)));
        let places: Vec<_> = all().map(|(l, e)| place(l, e)).collect();
        let right: Vec<_> = all().map(|(l, e)| right(l, e)).collect();
        let order = || (0..edge * edge).map(|n| n as f32).collect::<Vec<_>>();
        let part = |places: &[(u32, u32)], number: fn(u32, (u32, u32)) -> u32| {
            places.iter().map(|p| number(edge, *p) as f32).collect::<Vec<_>>()
        };
        let (row, column) = (|_, (row, _)| row, |_, (_, column)| column);
        [
            part(&places, |edge, (row, column)| row * edge + column),
            order(),
            order(),
            part(&places, row),
            part(&places, column),
            part(&right, row),
            part(&right, column),
            order(),
            vec![1.0; (edge * edge) as usize],
        ]
        .concat()
    }

    /// As an NVIDIA H200 has them; right factors have rows for columns.
    fn of_tensor_cores(lane: u32, e: u32) -> (u32, u32) {
        (lane / 4 + e / 4 * 8, lane % 4 * 2 + e % 2 + e / 2 % 2 * 8)
    }

    fn turned((row, column): (u32, u32)) -> (u32, u32) {
        (column, row)
    }

    #[test]
    fn elements_are_used_where_they_are_as_kernels_rely_on_it() {
        let nvidia = numbers(16, 32, of_tensor_cores, |l, e| turned(of_tensor_cores(l, e)));
        let found = MatrixElements::found(&nvidia, 16, 32);
        assert_eq!(found, Some(MatrixElements::OF_TENSOR_CORES));
        assert!(found.unwrap().fits(16, 32) && !found.unwrap().fits(16, 64));
        // A row's halves in turn.
        let turns = |lane, e| (lane / 4 + e / 2 % 2 * 8, lane % 4 * 2 + e % 2 + e / 4 * 8);
        let found = MatrixElements::found(&numbers(16, 32, turns, |l, e| turned(turns(l, e))), 16, 32).unwrap();
        assert_eq!((found.run, found.right.unwrap().run), (2, 2));
        assert!(found.right.unwrap().turned);
        // Right factors that serve, but whose elements are elsewhere than those of sums.
        let elsewhere = MatrixElements::found(&numbers(16, 32, turns, |l, e| turned(of_tensor_cores(l, e))), 16, 32);
        assert_eq!(elsewhere.unwrap().right.map(|right| right.turned), Some(false));
        // A column each, of right factors a row each, as Mesa's software GPU has them; half a column each.
        let columns = numbers(8, 8, |lane, e| (e, lane), |lane, e| (lane, e));
        let found = MatrixElements::found(&columns, 8, 8).unwrap();
        assert_eq!((found.run, found.classes, found.sharers), (1, 8, 7));
        let right = RightElements {
            run: 1,
            classes: 8,
            sharers: 7,
            turned: true,
        };
        assert_eq!(found.right, Some(right));
        let halves = numbers(
            16,
            32,
            |lane, e| (2 * e + lane / 16, lane % 16),
            |lane, e| (lane % 16, 2 * e + lane / 16),
        );
        let found = MatrixElements::found(&halves, 16, 32).unwrap();
        assert_eq!((found.run, found.classes, found.sharers), (1, 8, 15));
        assert_eq!(found.right.map(|right| (right.classes, right.sharers)), Some((8, 15)));
        // Rows in another order in every other invocation; factors elsewhere; a stride of 0 that is none.
        let mixed = |lane: u32, e: u32| (if lane.is_multiple_of(2) { e } else { 7 - e }, lane);
        assert_eq!(MatrixElements::found(&numbers(8, 8, mixed, |l, e| (l, e)), 8, 8), None);
        for wrong in [64, 128, 192, 256] {
            let mut other = columns.clone();
            other.swap(wrong + 1, wrong + 10);
            assert_eq!(MatrixElements::found(&other, 8, 8), None, "{wrong}");
        }
        assert_eq!(MatrixElements::found(&columns, 8, 48), None);
        assert_eq!(MatrixElements::found(&columns[1..], 8, 8), None);
    }

    #[test]
    fn right_factors_do_without_where_theirs_are_elsewhere() {
        let left = |lane: u32, e: u32| (e, lane);
        let found =
            |right: fn(u32, u32) -> (u32, u32)| MatrixElements::found(&numbers(8, 8, left, right), 8, 8).unwrap().right;
        // A column each, in the same order, serves as well as a row.
        assert_eq!(
            found(|lane, e| (e, lane)).map(|right| (right.run, right.classes, right.sharers)),
            Some((8, 1, 0))
        );
        // The rows of a column in another order in every other invocation; sharers that are not the lowest bits.
        assert_eq!(
            found(|lane, e| (if lane.is_multiple_of(2) { e } else { 7 - e }, lane)),
            None
        );
        assert_eq!(found(|lane, e| (lane / 4 + 2 * (e % 4), lane % 4 + 4 * (e / 4))), None);
        // What is put together is not what was taken apart.
        for wrong in [320, 384, 448] {
            let mut other = numbers(8, 8, left, |lane, e| (lane, e));
            other.swap(wrong + 1, wrong + 10);
            let found = MatrixElements::found(&other, 8, 8).unwrap();
            assert_eq!(found.right, None, "{wrong}");
        }
        // What f16 has no room for is finite somewhere.
        let mut other = numbers(8, 8, left, |lane, e| (lane, e));
        other[8 * 64 + 5] = 0.0;
        assert_eq!(MatrixElements::found(&other, 8, 8).unwrap().right, None);
    }

    #[test]
    fn tiers_are_named_as_they_are_read() {
        for tier in Tier::ALL {
            assert_eq!(tier.name().parse(), Ok(tier));
        }
        let error = "fast".parse::<Tier>().unwrap_err().to_string();
        assert!(error.contains("`fast`") && error.contains("cooperative"), "{error}");
    }
}
