//! How lists are found and read.

use super::*;

const SELECTION: Selection = Selection {
    block_size: 4,
    query_block: 3,
    per_kv_head: false,
    capacity: 4,
};

fn read(list: &[u32]) -> Vec<u32> {
    SELECTION.visible_entries(list, 6)
}

#[test]
fn what_is_right_is_read_as_it_stands() {
    assert_eq!(read(&[3, 0, 2, 5, 9]), [0, 2, 5]);
    assert_eq!(read(&[4, 0, 2, 3, 5]), [0, 2, 3, 5]);
    assert!(read(&[0, 1, 2, 3, 4]).is_empty());
}

#[test]
fn what_is_out_of_range_or_does_not_ascend_is_skipped() {
    assert_eq!(read(&[4, 0, 6, 7, u32::MAX]), [0]);
    assert_eq!(read(&[4, 1, 1, 2, 2]), [1, 2]);
    // Each is held against the one before it as it stands: 5 and 4 against those that were skipped.
    assert_eq!(read(&[4, 3, 2, 5, 5]), [3, 5]);
    assert_eq!(read(&[4, 3, 9, 4, 5]), [3, 5]);
    assert_eq!(read(&[4, 3, 2, 3, 4]), [3, 3, 4]);
}

#[test]
fn a_count_above_the_room_reads_as_the_room() {
    assert_eq!(read(&[5, 0, 1, 2, 3, 4]), [0, 1, 2, 3]);
    assert_eq!(read(&[u32::MAX, 0, 1, 2, 3]), [0, 1, 2, 3]);
    assert_eq!(read(&[4, 0, 1]), [0, 1]);
    assert!(read(&[]).is_empty());
}

#[test]
fn every_row_has_its_list() {
    let problem = Dense {
        batch: 2,
        heads: 4,
        kv_heads: Some(2),
        queries: 7,
        keys: 23,
        ..Default::default()
    };
    // [2, 4, 3, 5] and [2, 2, 3, 5].
    assert_eq!(SELECTION.list_of(&problem, 0, 0, 2), 0..5);
    assert_eq!(SELECTION.list_of(&problem, 0, 0, 3), 5..10);
    assert_eq!(SELECTION.list_of(&problem, 1, 3, 6), 115..120);
    let shared = Selection {
        per_kv_head: true,
        ..SELECTION
    };
    assert_eq!(shared.list_of(&problem, 1, 2, 6), 55..60);
    assert_eq!(shared.list_of(&problem, 1, 3, 6), 55..60);
    assert_eq!(shared.list_of(&problem, 1, 1, 6), 40..45);
}

#[test]
fn the_last_entry_may_be_short_and_none_lies_behind_it() {
    let problem = Dense {
        keys: 23,
        ..Default::default()
    };
    assert_eq!(SELECTION.entries(&problem), 6);
    assert_eq!(SELECTION.keys_of(&problem, 4), 16..20);
    assert_eq!(SELECTION.keys_of(&problem, 5), 20..23);
    assert_eq!(SELECTION.keys_of(&problem, 6), 23..23);
    assert_eq!(SELECTION.keys_of(&problem, u32::MAX), 23..23);
}
