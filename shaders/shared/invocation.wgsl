// An invocation's number in its workgroup.
struct Invocation {
    @builtin(local_invocation_index) index: u32,
}

fn thread_of(invocation: Invocation) -> u32 {
    return invocation.index;
}
