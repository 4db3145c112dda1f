//! Any bytes behind a sound header are the body that it announces, or a typed refusal (INV-WIRE).
//!
//! The input is the kind, four bytes of payload length, and the body.

#![no_main]

use hearth_proto::frame::{Body, FrameKind, Header, VERSION, VERSION_MIN};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&[kind, a, b, c, d], bytes)) = input.split_first_chunk::<5>() else { return };
    let Some(kind) = FrameKind::from_wire(kind) else { return };
    for version in VERSION_MIN..=VERSION {
        let (body_len, payload_len) = (bytes.len() as u32, u32::from_le_bytes([a, b, c, d]));
        let body_crc = crc32fast::hash(bytes);
        judge(&Header { version, kind, request_id: 1, body_len, payload_len, body_crc }, bytes);
    }
});

fn judge(header: &Header, bytes: &[u8]) {
    // A reader comes to the body only by a header that passed.
    let Ok(header) = Header::decode(&header.encode()) else { return };
    if let Ok(body) = Body::decode(&header, bytes) {
        let mut expected = header.encode().to_vec();
        expected.extend_from_slice(bytes);
        let mut encoded = Vec::with_capacity(expected.len());
        body.encode(header.request_id, header.payload_len, &mut encoded);
        assert_eq!(encoded, expected, "there is one way to say a frame");
    }
}
