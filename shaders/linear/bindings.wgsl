// The tensors that every linear kernel over tokens reads.
@group(0) @binding(1) var<storage, read> q: array<Unit>;
@group(0) @binding(2) var<storage, read> k: array<Unit>;
@group(0) @binding(3) var<storage, read> v: array<Unit>;
