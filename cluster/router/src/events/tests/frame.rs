//! Parts of messages.

use super::*;

#[test]
fn parts_are_told_apart() {
    let seq = 7_u64.to_be_bytes();
    let batch = Ok(Message::Batch { seq: 7, payload: b"payload" });
    let (empty, topic, payload): (&[u8], &[u8], &[u8]) = (b"", b"kv-events", b"payload");
    let end: &[u8] = &[0xff; 8];
    assert_eq!(Message::from_live(&[topic, &seq, payload]), batch);
    assert_eq!(Message::from_live(&[empty, &seq, payload]), batch);
    // Without and with the empty part, without and with the topic.
    assert_eq!(Message::from_replay(&[&seq, payload]), batch);
    assert_eq!(Message::from_replay(&[empty, &seq, payload]), batch);
    assert_eq!(Message::from_replay(&[topic, &seq, payload]), batch);
    assert_eq!(Message::from_replay(&[empty, topic, &seq, payload]), batch);
    for parts in [&[end, empty][..], &[empty, end, empty], &[empty, empty, end, empty]] {
        assert_eq!(Message::from_replay(parts), Ok(Message::ReplayEnd));
    }
    assert_eq!(replay_request(258), [0, 0, 0, 0, 0, 0, 1, 2]);
}

#[test]
fn other_parts_are_refused() {
    let (seq, two): (&[u8], &[u8]) = (&7_u64.to_be_bytes(), &(-2_i64).to_be_bytes());
    let live = |parts: &[&[u8]]| Message::from_live(parts).expect_err("they are no message");
    assert_eq!(live(&[]), FrameError::PartCount { count: 0 });
    assert_eq!(live(&[seq, b"payload"]), FrameError::PartCount { count: 2 });
    assert_eq!(live(&[b"", b"", seq, b"payload"]), FrameError::PartCount { count: 4 });
    assert_eq!(live(&[b"", b"seven", b"payload"]), FrameError::SeqLength { len: 5 });
    assert_eq!(live(&[b"", &[0xff; 8], b""]), FrameError::Seq { seq: -1 });
    assert_eq!(live(&[b"", two, b""]), FrameError::Seq { seq: -2 });
    let replay = |parts: &[&[u8]]| Message::from_replay(parts).expect_err("they are no message");
    assert_eq!(replay(&[seq]), FrameError::PartCount { count: 1 });
    assert_eq!(replay(&[b"", b"", b"", seq, b""]), FrameError::PartCount { count: 5 });
    assert_eq!(replay(&[b"", &[0xff; 9], b""]), FrameError::SeqLength { len: 9 });
    assert_eq!(replay(&[two, b""]), FrameError::Seq { seq: -2 });
}
