//! `#unroll`: a loop with constant bounds, written out.
//!
//! ```text
//! #unroll
//! for (var r = 0u; r < ROW_REGS; r++) {        becomes        { const r = 0u; … }
//!     …                                                       { const r = 1u; … }
//! }                                                           …
//! ```
//!
//! Bounds are made of the module's constants and of the variables of marked loops around it. `#unroll if NAME` writes out
//! where the constant NAME is not 0: processors that emulate a GPU take minutes to compile what a GPU needs written out.
//! Where it is 0 the loop stays one, for the driver's compiler as well, which would write out up to 32 turns by itself: its
//! end is given `params.zero` more turns, 0 that only the host knows.
//!
//! The body stays as it is: without the directive the text is the same algorithm in plain WGSL. With it, an index
//! such as `acc[r * VALUE_VECS + n]` is a constant, so that every driver's compiler keeps the array in registers.
//! Left to themselves they do so for some sizes only: on an NVIDIA H200 decode with eight rows took 2.8 times as long.

use std::collections::HashMap;

/// Writes out every marked loop.
///
/// # Errors
/// What is wrong with a marked loop: the directive is for the library's own sources, so this is a mistake there.
pub(super) fn unroll(text: &str) -> Result<String, String> {
    let constants = constants(text);
    let lines: Vec<&str> = text.lines().collect();
    let mut out = String::with_capacity(text.len() * 4);
    expand(&lines, &constants, &mut out)?;
    Ok(out)
}

fn expand(lines: &[&str], constants: &HashMap<String, u32>, out: &mut String) -> Result<(), String> {
    let mut n = 0;
    while n < lines.len() {
        let Some(condition) = lines[n].trim().strip_prefix("#unroll") else {
            out.push_str(lines[n]);
            out.push('\n');
            n += 1;
            continue;
        };
        let head = lines.get(n + 1).ok_or("`#unroll` at the end")?;
        if !holds(condition, constants)? {
            out.push_str(&kept(head, constants)?);
            n += 2;
            continue;
        }
        let (name, start, end) = bounds(head, constants)?;
        let length = block(&lines[n + 1..]).ok_or_else(|| format!("no end of `{}`", head.trim()))?;
        let body = &lines[n + 2..n + 1 + length];
        let mut known = constants.clone();
        for value in start..end {
            out.push_str(&format!("{{ const {name} = {value}u;\n"));
            known.insert(name.to_string(), value);
            expand(body, &known, out)?;
            out.push_str("}\n");
        }
        n += 2 + length;
    }
    Ok(())
}

/// Whether a loop is to be written out; the condition is nothing, or ` if NAME`.
fn holds(condition: &str, constants: &HashMap<String, u32>) -> Result<bool, String> {
    if condition.is_empty() {
        return Ok(true);
    }
    let name = condition.strip_prefix(" if ");
    let value = name.and_then(|name| constants.get(name.trim()));
    value
        .map(|n| *n != 0)
        .ok_or_else(|| format!("`#unroll{condition}` is not `#unroll if CONSTANT`"))
}

/// The head of a loop that is to stay one.
fn kept(head: &str, constants: &HashMap<String, u32>) -> Result<String, String> {
    let (_, start, end) = parts(head)?;
    let turns = evaluate(end, constants).zip(evaluate(start, constants));
    let head = match turns {
        Some((end, start)) if end <= start + 1 => head.to_string(),
        _ => head.replacen(&format!("< {end};"), &format!("< ({end}) + params.zero;"), 1),
    };
    Ok(head + "\n")
}

/// Variable and range of `for (var NAME = START; NAME < END; NAME++) {`.
fn bounds<'a>(head: &'a str, constants: &HashMap<String, u32>) -> Result<(&'a str, u32, u32), String> {
    let (name, start, end) = parts(head)?;
    let value =
        |text: &str| evaluate(text, constants).ok_or_else(|| format!("`{text}` in `{}` is not constant", head.trim()));
    Ok((name, value(start)?, value(end)?))
}

/// The same, as written.
fn parts(head: &str) -> Result<(&str, &str, &str), String> {
    let wrong = || format!("`{}` is not `for (var n = A; n < B; n++) {{`", head.trim());
    let inner = head.trim().strip_prefix("for (var ").ok_or_else(wrong)?;
    let inner = inner.strip_suffix("++) {").ok_or_else(wrong)?;
    let mut parts = inner.split(';').map(str::trim);
    let (first, second, third) = (parts.next(), parts.next(), parts.next());
    let (name, start) = first.and_then(|p| p.split_once(" = ")).ok_or_else(wrong)?;
    let (left, end) = second.and_then(|p| p.split_once(" < ")).ok_or_else(wrong)?;
    if left != name || third != Some(name) {
        return Err(wrong());
    }
    Ok((name, start, end))
}

/// Lines from the first, which opens a block, to the one that closes it.
fn block(lines: &[&str]) -> Option<usize> {
    let mut depth = 0;
    for (n, line) in lines.iter().enumerate() {
        let code = line.split("//").next().unwrap_or("");
        depth += code.matches('{').count() as i32 - code.matches('}').count() as i32;
        if depth == 0 {
            return Some(n);
        }
    }
    None
}

/// The module's u32 constants. As in WGSL, each may refer to any other, wherever that stands.
fn constants(text: &str) -> HashMap<String, u32> {
    let mut open: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("const ")?.split_once(" = "))
        .map(|(left, right)| {
            (
                left.split(':').next().unwrap_or(left).trim(),
                right.trim_end_matches(';'),
            )
        })
        .collect();
    let mut known = HashMap::new();
    loop {
        let before = open.len();
        open.retain(|(name, text)| {
            let value = evaluate(text, &known);
            if let Some(value) = value {
                known.insert(name.to_string(), value);
            }
            value.is_none()
        });
        if open.len() == before {
            return known;
        }
    }
}

/// The value of an expression of u32 literals, constants, + − * / % << >>, parentheses and max(a, b).
fn evaluate(text: &str, constants: &HashMap<String, u32>) -> Option<u32> {
    let mut parser = Parser {
        rest: text.trim(),
        constants,
    };
    let value = parser.sum()?;
    parser.rest.is_empty().then_some(value)
}

struct Parser<'a> {
    rest: &'a str,
    constants: &'a HashMap<String, u32>,
}

impl Parser<'_> {
    fn take_both(&mut self, token: &str) -> bool {
        let found = self.rest.strip_prefix(token);
        self.rest = found.unwrap_or(self.rest).trim_start();
        found.is_some()
    }

    fn take(&mut self, token: char) -> bool {
        let found = self.rest.strip_prefix(token);
        self.rest = found.unwrap_or(self.rest).trim_start();
        found.is_some()
    }

    fn sum(&mut self) -> Option<u32> {
        let mut value = self.product()?;
        loop {
            if self.take('+') {
                value = value.checked_add(self.product()?)?;
            } else if self.take('-') {
                value = value.checked_sub(self.product()?)?;
            } else {
                return Some(value);
            }
        }
    }

    fn product(&mut self) -> Option<u32> {
        let mut value = self.atom()?;
        loop {
            if self.take('*') {
                value = value.checked_mul(self.atom()?)?;
            } else if self.take('/') {
                value = value.checked_div(self.atom()?)?;
            } else if self.take('%') {
                value = value.checked_rem(self.atom()?)?;
            } else if self.take_both("<<") {
                value = value.checked_shl(self.atom()?)?;
            } else if self.take_both(">>") {
                value = value.checked_shr(self.atom()?)?;
            } else {
                return Some(value);
            }
        }
    }

    fn atom(&mut self) -> Option<u32> {
        if self.take('(') {
            let value = self.sum()?;
            return self.take(')').then_some(value);
        }
        let length = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let (word, rest) = self.rest.split_at(length.unwrap_or(self.rest.len()));
        self.rest = rest.trim_start();
        if word == "max" && self.take('(') {
            let a = self.sum()?;
            let b = self.take(',').then(|| self.sum())??;
            return self.take(')').then_some(a.max(b));
        }
        if let Some(value) = self.constants.get(word) {
            return Some(*value);
        }
        word.trim_end_matches('u').parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_loops_are_written_out() {
        let text = "const A: u32 = 2u;\nconst B = A + 1u;\nfn f() {\n#unroll\nfor (var i = 1u; i < B; i++) {\n#unroll\n\
                    for (var j = 0u; j < A; j++) {\nx[i * A + j] = 0;\n}\n}\n}\n";
        let expected = "const A: u32 = 2u;\nconst B = A + 1u;\nfn f() {\n\
                        { const i = 1u;\n{ const j = 0u;\nx[i * A + j] = 0;\n}\n{ const j = 1u;\nx[i * A + j] = 0;\n}\n}\n\
                        { const i = 2u;\n{ const j = 0u;\nx[i * A + j] = 0;\n}\n{ const j = 1u;\nx[i * A + j] = 0;\n}\n}\n\
                        }\n";
        assert_eq!(unroll(text).unwrap(), expected);
    }

    #[test]
    fn bounds_may_name_the_loops_around() {
        let text =
            "#unroll\nfor (var i = 0u; i < 2u; i++) {\n#unroll\nfor (var j = 0u; j < (2u >> i); j++) {\nx(j);\n}\n}\n";
        let expected = "{ const i = 0u;\n{ const j = 0u;\nx(j);\n}\n{ const j = 1u;\nx(j);\n}\n}\n\
                        { const i = 1u;\n{ const j = 0u;\nx(j);\n}\n}\n";
        assert_eq!(unroll(text).unwrap(), expected);
    }

    #[test]
    fn loops_that_stay_have_an_end_that_no_compiler_knows() {
        let text = "const A = 3u;\nconst OUT = 0u;\n#unroll if OUT\nfor (var i = 0u; i < A >> 1u; i++) {\n#unroll if OUT\n\
                    for (var j = 0u; j < A - i; j++) {\n#unroll if A\nfor (var k = 1u; k < A; k++) {\nx(k);\n}\n}\n}\n\
                    #unroll if OUT\nfor (var l = 0u; l < A << 1u; l++) {\n}\n";
        let expected = "const A = 3u;\nconst OUT = 0u;\nfor (var i = 0u; i < A >> 1u; i++) {\n\
                        for (var j = 0u; j < (A - i) + params.zero; j++) {\n{ const k = 1u;\nx(k);\n}\n{ const k = 2u;\nx(k);\n}\n\
                        }\n}\nfor (var l = 0u; l < (A << 1u) + params.zero; l++) {\n}\n";
        assert_eq!(unroll(text).unwrap(), expected);
    }

    #[test]
    fn expressions() {
        let constants = HashMap::from([("D".to_string(), 40)]);
        assert_eq!(evaluate("(D + 3u) / 4u", &constants), Some(10));
        assert_eq!(evaluate("2u * max(D % 7u, 3u) - 1u", &constants), Some(9));
        assert_eq!(evaluate("D >> (1u + 1u)", &constants), Some(10));
        assert_eq!(evaluate("(2u << 2u) + 1u", &constants), Some(9));
        for wrong in ["", "D +", "(D", "E", "D - 41u", "D / 0u", "true"] {
            assert_eq!(evaluate(wrong, &constants), None, "{wrong}");
        }
    }

    #[test]
    fn loops_that_cannot_be_written_out_are_refused() {
        let wrong = [
            "#unroll",
            "#unroll\nwhile (x) {\n}",
            "#unroll\nfor (var i = 0u; i < n; i++) {\n}",
            "#unroll\nfor (var i = 0u; j < 3u; i++) {\n}",
            "#unroll\nfor (var i = 0u; i < 3u; i++) {\n",
        ];
        for text in wrong {
            assert!(unroll(text).is_err(), "{text}");
        }
    }
}
