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

/// Kernels by what they ask of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// Core WGSL and the limits of every WebGPU device.
    Portable,
    /// Subgroup operations, of subgroups of any size; native f16 where the device has that too.
    Subgroup,
    /// Cooperative matrices (tensor cores, simdgroup matrices), with f16 factors and f32 sums. Dense prefill of f32 and bf16
    /// takes two factors for each number, so that it stays as precise as without them, where D and Dv are up to 128; see [`Dense::reduced_precision`](crate::Dense::reduced_precision).
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
}

impl Abilities {
    /// Nothing.
    pub const NONE: Abilities = Abilities {
        subgroups: None,
        half: false,
        subgroup_barriers: false,
        matrices: None,
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

    #[test]
    fn tiers_are_named_as_they_are_read() {
        for tier in Tier::ALL {
            assert_eq!(tier.name().parse(), Ok(tier));
        }
        let error = "fast".parse::<Tier>().unwrap_err().to_string();
        assert!(error.contains("`fast`") && error.contains("cooperative"), "{error}");
    }
}
