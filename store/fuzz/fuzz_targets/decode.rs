//! The input is the codec's number, four bytes of payload length, and the stored bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&[codec, a, b, c, d], stored)) = input.split_first_chunk::<5>() else { return };
    hearth_store_fuzz::decode(codec, u32::from_le_bytes([a, b, c, d]), stored);
});
