//! The input is a footer, or the beginning of one with zeros behind it.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| hearth_store_fuzz::footer(bytes));
