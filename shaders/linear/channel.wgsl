// Where an element of q or k stands, for feature maps.
struct Channel {
    head: u32,
    token: u32,
    channel: u32,
    is_query: bool,
}
