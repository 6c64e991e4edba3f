//! Whether a parameter struct is the shader's, field by field.

use std::fmt::Debug;

use naga::proc::Layouter;

/// Compares a struct of 4-byte fields, all zero, with `struct Params` of a shader: names, order, kinds, offsets, size.
pub(crate) fn assert_same<T: Debug + Default>(zero: &T, wgsl: &str) {
    let module = naga::front::wgsl::parse_str(wgsl).unwrap();
    let (handle, ty) = module
        .types
        .iter()
        .find(|(_, ty)| ty.name.as_deref() == Some("Params"))
        .unwrap();
    let naga::TypeInner::Struct { members, .. } = &ty.inner else {
        panic!("Params is no struct")
    };
    // `Params { name: 0, other: 0.0 }`
    let text = format!("{zero:?}");
    let body = text.split_once('{').unwrap().1.trim_end_matches('}');
    let fields: Vec<_> = body.split(',').map(|f| f.trim().split_once(": ").unwrap()).collect();
    assert_eq!(fields.len(), members.len());
    for (n, ((name, value), member)) in fields.iter().zip(members).enumerate() {
        assert_eq!(Some(*name), member.name.as_deref());
        assert_eq!(member.offset as usize, 4 * n, "{name}");
        let float = matches!(&module.types[member.ty].inner, naga::TypeInner::Scalar(s) if *s == naga::Scalar::F32);
        assert_eq!(value.contains('.'), float, "{name}");
    }
    let mut layouter = Layouter::default();
    layouter.update(module.to_ctx()).unwrap();
    assert_eq!(layouter[handle].size as usize, size_of::<T>());
    assert_eq!(size_of::<T>(), 4 * fields.len());
}

#[test]
#[should_panic(expected = "left")]
fn swapped_fields_are_noticed() {
    #[derive(Debug, Default)]
    #[allow(dead_code)]
    struct Params {
        b: u32,
        a: u32,
    }
    assert_same(
        &Params::default(),
        "struct Params { a: u32, b: u32 }\n@group(0) @binding(0) var<uniform> params: Params;",
    );
}
