// e^{−104} is below the smallest f32: a state times this is wiped out, and sums of it stay finite.
const DECAY_FLOOR: f32 = -104.0;
