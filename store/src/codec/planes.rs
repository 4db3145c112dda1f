//! Two-byte elements taken apart into a plane of their low bytes and one of their high bytes.
//!
//! The loops are zips over slices, and splitting goes by whole elements, one plane at a time: so the
//! compiler turns both directions into vector instructions that every x86-64 has.

/// Lengths of the two planes of `len` bytes; an odd byte at the end is a low one.
pub(super) fn plane_lens(len: usize) -> (usize, usize) {
    (len.div_ceil(2), len / 2)
}

/// Takes `bytes` apart.
///
/// *Shapes*: `low` and `high` have the lengths that [`plane_lens`] says.
pub(super) fn split(bytes: &[u8], low: &mut [u8], high: &mut [u8]) {
    assert_eq!((low.len(), high.len()), plane_lens(bytes.len()), "the planes fit the bytes");
    let (pairs, odd) = bytes.as_chunks::<2>();
    for (pair, low) in pairs.iter().zip(&mut *low) {
        *low = u16::from_le_bytes(*pair) as u8;
    }
    for (pair, high) in pairs.iter().zip(high) {
        *high = (u16::from_le_bytes(*pair) >> 8) as u8;
    }
    if let (Some(last), Some(odd)) = (low.last_mut(), odd.first()) {
        *last = *odd;
    }
}

/// Puts together what [`split`] took apart; the same shapes.
pub(super) fn merge(low: &[u8], high: &[u8], bytes: &mut [u8]) {
    assert_eq!((low.len(), high.len()), plane_lens(bytes.len()), "the planes fit the bytes");
    let (pairs, odd) = bytes.as_chunks_mut::<2>();
    for ((pair, low), high) in pairs.iter_mut().zip(low).zip(high) {
        *pair = [*low, *high];
    }
    if let (Some(last), Some(odd)) = (low.last(), odd.first_mut()) {
        *odd = *last;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn planes(bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let (low_len, high_len) = plane_lens(bytes.len());
        let (mut low, mut high) = (vec![0; low_len], vec![0; high_len]);
        split(bytes, &mut low, &mut high);
        (low, high)
    }

    #[test]
    fn the_planes_of_bytes_never_change() {
        assert_eq!(planes(&[]), (vec![], vec![]));
        assert_eq!(planes(&[7]), (vec![7], vec![]));
        assert_eq!(planes(&[1, 2]), (vec![1], vec![2]));
        assert_eq!(planes(&[1, 2, 3, 4, 5]), (vec![1, 3, 5], vec![2, 4]));
        // 1.0, -2.0, 0.5 in bf16.
        assert_eq!(
            planes(&[0x80, 0x3f, 0x00, 0xc0, 0x00, 0x3f]),
            (vec![0x80, 0x00, 0x00], vec![0x3f, 0xc0, 0x3f])
        );
    }

    proptest! {
        #[test]
        fn merging_undoes_splitting(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let (low, high) = planes(&bytes);
            let mut merged = vec![0xee; bytes.len()];
            merge(&low, &high, &mut merged);
            prop_assert_eq!(merged, bytes);
        }
    }
}
