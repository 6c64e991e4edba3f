// All channels decay alike, so that products of channels are multiplied by their decay afterwards.
const CHANNEL_DECAY = false;

fn decay_between_channels(i: u32, j: u32, vec: u32) -> vec4<f32> {
    return vec4<f32>(1.0);
}

fn decay_from_start_channels(i: u32, vec: u32) -> vec4<f32> {
    return vec4<f32>(1.0);
}
