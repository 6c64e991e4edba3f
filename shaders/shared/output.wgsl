// The output of a kernel that attends.
@group(0) @binding(4) var<storage, read_write> o: array<OutputUnit>;
