//! A matrix of weights as a picture in the terminal.

use std::io::{self, Write};

use clap::builder::styling::{Ansi256Color, Color, Style};

/// At most this many columns of cells, so that the picture fits 80 with its labels.
const COLUMNS: usize = 64;

/// From nothing to the largest weight, in colours of the 256-colour palette: black, purple, red, orange, pale yellow.
const COLOURS: [u8; 12] = [16, 17, 54, 90, 126, 161, 197, 203, 209, 215, 222, 230];

/// The same without colours.
const SHADES: [char; 5] = [' ', '░', '▒', '▓', '█'];

/// A matrix of weights, one row a query.
pub struct Matrix<'a> {
    pub values: &'a [f32],
    pub columns: usize,
}

impl Matrix<'_> {
    /// The largest weight in each square of `step` by `step`.
    fn pooled(&self, step: usize) -> Vec<Vec<f32>> {
        let columns = self.columns.div_ceil(step);
        let rows: Vec<_> = self.values.chunks(self.columns).collect();
        let pool = |rows: &[&[f32]]| {
            let mut cells = vec![0f32; columns];
            for row in rows {
                for (j, &value) in row.iter().enumerate() {
                    cells[j / step] = cells[j / step].max(value);
                }
            }
            cells
        };
        rows.chunks(step).map(pool).collect()
    }

    /// Draws it; a character is one cell wide and two high. Brightness follows the square root of the weight, which
    /// lets the small ones be seen.
    pub fn draw(&self, out: &mut dyn Write, colours: bool) -> io::Result<()> {
        let step = self.columns.div_ceil(COLUMNS).max(1);
        let cells = self.pooled(step);
        let most = self.values.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
        let level = |value: f32, levels: usize| {
            let brightness = (value / most).clamp(0.0, 1.0).sqrt();
            (brightness * (levels - 1) as f32).round() as usize
        };
        let empty = vec![0f32; self.columns.div_ceil(step)];
        self.draw_axis(out, step)?;
        for (n, pair) in cells.chunks(2).enumerate() {
            let (upper, lower) = (&pair[0], pair.get(1).unwrap_or(&empty));
            match n % 4 {
                0 => write!(out, "{:>6} ", n * 2 * step)?,
                _ => write!(out, "{:>6} ", "")?,
            }
            for (&a, &b) in upper.iter().zip(lower) {
                if colours {
                    let colour = |v| Some(Color::Ansi256(Ansi256Color(COLOURS[level(v, COLOURS.len())])));
                    let style = Style::new().fg_color(colour(a)).bg_color(colour(b));
                    write!(out, "{style}▀{style:#}")?;
                } else {
                    write!(out, "{}", SHADES[level(a.max(b), SHADES.len())])?;
                }
            }
            writeln!(out)?;
        }
        Ok(())
    }

    /// Positions of keys, every tenth cell.
    fn draw_axis(&self, out: &mut dyn Write, step: usize) -> io::Result<()> {
        write!(out, "{:>6} {:<10}", "query", "key 0")?;
        for cell in (10..self.columns.div_ceil(step)).step_by(10) {
            write!(out, "{:<10}", cell * step)?;
        }
        writeln!(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(values: &[f32], columns: usize, colours: bool) -> String {
        let mut out = Vec::new();
        Matrix { values, columns }.draw(&mut out, colours).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_character_covers_two_rows_and_shows_the_larger_weight() {
        let picture = drawn(&[1.0, 0.0, 0.0, 0.0, 0.25, 0.0, 0.0, 0.0, 1.0], 3, false);
        let lines: Vec<_> = picture.lines().skip(1).collect();
        assert_eq!(lines, ["     0 █▒ ", "         █"]);
    }

    #[test]
    fn a_large_matrix_is_pooled_to_fit() {
        let (rows, columns) = (200, 130);
        let mut values = vec![0.0; rows * columns];
        values[199 * columns + 129] = 1.0;
        let picture = drawn(&values, columns, false);
        let lines: Vec<_> = picture.lines().skip(1).collect();
        // 130 columns in steps of 3; 200 rows likewise, two of those a line.
        assert_eq!(lines.len(), 200usize.div_ceil(3).div_ceil(2));
        assert_eq!(lines[33].chars().count(), 7 + 44);
        assert!(lines[33].ends_with('█'));
    }

    #[test]
    fn colours_are_escape_codes_and_nothing_else_changes() {
        let picture = drawn(&[0.0, 1.0], 2, true);
        assert!(picture.contains("\x1b[38;5;230m"));
        assert!(!drawn(&[0.0, 1.0], 2, false).contains('\x1b'));
    }
}
