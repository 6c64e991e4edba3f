// ln 2^-40: what has decayed by more is left out of a segment's state. That is less than f32 rounds off of a token whose key and value
// are, multiplied, 2^16 times smaller: an error of 2^-40·|k|·|v| / (1 − λ) at most, |k| and |v| the largest of those left out. What is
// not finite is forgotten so too.
const FORGOTTEN = -27.73;

// Whether a segment of this log-decay remembers anything of its first section: the second is half of it, or more.
fn remembers_first_section(total: f32) -> bool {
    return 0.5 * total >= FORGOTTEN;
}
