//! Any 32 bytes are a header within the bounds of its kind, or a typed refusal (INV-WIRE).

#![no_main]

use hearth_proto::frame::{Header, MAGIC, VERSION};
use hearth_proto::limits::{BLOCK_BYTES_MAX, FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: [u8; FRAME_HEADER_BYTES]| {
    judge(&bytes);
    // The same bytes once more with what no mutation finds put right.
    let mut sealed = bytes;
    sealed[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    sealed[4..6].copy_from_slice(&VERSION.to_le_bytes());
    let crc = crc32fast::hash(&sealed[..28]);
    sealed[28..32].copy_from_slice(&crc.to_le_bytes());
    judge(&sealed);
});

fn judge(bytes: &[u8; FRAME_HEADER_BYTES]) {
    if let Ok(header) = Header::decode(bytes) {
        assert_eq!(header.encode(), *bytes, "there is one way to say a header");
        assert!(header.body_len as usize <= FRAME_BODY_BYTES_MAX);
        assert!(header.payload_len as usize <= BLOCK_BYTES_MAX);
    }
}
