//! The typed spec behind `shaders/topk/score.wgsl` and `shaders/topk/score_serial.wgsl`.

use super::tile::{ScoreTile, Shape};
use crate::ops::dense::variant::{Attend, element_piece, row_pieces, unroll};
use crate::ops::topk::Scoring;
use crate::shader::{Binding, BindingKind, Constant, Spec};

/// What the code of a kernel that scores depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ScoreVariant {
    /// The options of the attention; only those that decide about scores play a part.
    pub(crate) options: Attend<()>,
    /// What entries are scored by.
    pub scoring: Scoring,
    /// Keys of an entry.
    pub block_size: u32,
    /// Whether the entries that hold a row's own position are kept in any case.
    pub diagonal: bool,
    /// How rows and lists lie.
    pub(crate) shape: Shape,
    /// Kernel and tile.
    pub tile: ScoreTile,
}

impl ScoreVariant {
    fn by_blocks(&self) -> bool {
        self.scoring != Scoring::Keys
    }
}

impl Spec for ScoreVariant {
    fn label(&self) -> String {
        let by = match self.scoring {
            Scoring::Keys => "keys",
            Scoring::Mean => "means",
            Scoring::Bound => "bounds",
        };
        let lists = if self.shape.row_lists { "rows" } else { "lists" };
        format!(
            "{} {by} of {} {lists} {} {:?}",
            self.kernel(),
            self.block_size,
            self.options.options(),
            self.tile
        )
    }

    fn kernel(&self) -> &'static str {
        match self.tile {
            ScoreTile::Tiled(_) => "topk/score",
            ScoreTile::Serial(_) => "topk/score_serial",
        }
    }

    fn constants(&self) -> Vec<(&'static str, Constant)> {
        use Constant::{Count, Flag};
        let mut constants = self.options.option_constants();
        constants.extend([
            ("BLOCK_SIZE", Count(self.block_size)),
            ("DIAGONAL", Flag(self.diagonal)),
            ("ROW_LISTS", Flag(self.shape.row_lists)),
            ("INTERLEAVED", Flag(self.shape.interleaved)),
        ]);
        match self.tile {
            ScoreTile::Tiled(t) => constants.extend([
                ("ROW_GROUPS", Count(t.row_groups)),
                ("ROW_REGS", Count(t.row_regs)),
                ("LANES", Count(t.lanes)),
                ("KEY_REGS", Count(t.key_regs)),
                ("CHUNK", Count(t.chunk)),
                ("QK_UNROLL", Count(unroll(t.chunk, t.unroll))),
            ]),
            ScoreTile::Serial(t) => constants.extend([("ROWS", Count(t.rows)), ("THREADS", Count(t.threads))]),
        }
        constants
    }

    fn pieces(&self) -> Vec<&'static str> {
        let vector = self.options.vector_inputs;
        let [q, k, _] = row_pieces(vector);
        let mut pieces = vec![element_piece(self.options.dtype, vector), q];
        pieces.push(if self.by_blocks() { "topk/pooled" } else { k });
        pieces.extend(self.options.hook_pieces());
        pieces.push(match self.scoring {
            Scoring::Keys => "topk/places_keys",
            Scoring::Mean | Scoring::Bound => "topk/places_blocks",
        });
        pieces.push(match self.scoring {
            Scoring::Keys => "dense/vectors",
            Scoring::Mean => "topk/vectors_mean",
            Scoring::Bound => "topk/vectors_bounds",
        });
        if matches!(self.tile, ScoreTile::Tiled(_)) {
            pieces.push("dense/keys_all");
        }
        pieces
    }

    fn custom(&self) -> Option<String> {
        self.options.custom.as_ref().map(crate::ops::dense::custom::module_text)
    }

    fn bindings(&self) -> Vec<Binding> {
        use BindingKind::{Read, Uniform, Write};
        let mut bindings: Vec<_> = [(0, Uniform), (1, Read), (2, Read), (4, Write)]
            .map(|(number, kind)| Binding { number, kind })
            .to_vec();
        bindings.extend(self.options.hook_bindings());
        bindings
    }

    fn workgroup_bytes(&self) -> u32 {
        match self.tile {
            ScoreTile::Tiled(t) => t.workgroup_bytes(self.shape.row_lists, self.shape.entry_places),
            ScoreTile::Serial(_) => 0,
        }
    }
}
