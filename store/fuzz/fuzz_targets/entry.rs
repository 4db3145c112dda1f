//! The input is the length of the key, the key, and the value.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((key_len, bytes)) = input.split_first() else { return };
    let (key, value) = bytes.split_at(usize::from(*key_len).min(bytes.len()));
    hearth_store_fuzz::entry(key, value);
});
