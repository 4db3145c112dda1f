//! What every driver promises.

use std::fs::OpenOptions;

use super::*;

#[test]
fn many_transfers_at_once_keep_their_bytes() {
    on_every_driver(|bench, _| {
        let writes: Vec<_> =
            (0..200_u8).map(|n| bench.write(u64::from(n) * 8_192, bench.block(8_000, n))).collect();
        for write in writes {
            write.wait().unwrap();
        }
        let reads: Vec<_> = (0..200_u64).map(|n| bench.read(n * 8_192, 8_000, soon())).collect();
        for (n, read) in reads.into_iter().enumerate() {
            let slot = read.wait().unwrap();
            assert!(slot.iter().all(|byte| *byte == n as u8), "record {n}");
            assert!(Footer::decode(slot.footer()).is_ok(), "record {n}");
        }
    });
}

#[test]
fn records_of_every_size_come_back() {
    on_every_driver(|bench, _| {
        for (fill, len) in [(1, 1), (2, 3_968), (3, 65_536), (4, 1_000_000)] {
            bench.write(1 << 20, bench.block(len, fill)).wait().unwrap();
            let slot = bench.read_now(1 << 20, len).unwrap();
            assert!(slot.iter().all(|byte| *byte == fill), "{len} bytes");
        }
    });
}

#[test]
fn threads_that_submit_at_once_lose_nothing() {
    on_every_driver(|bench, _| {
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                scope.spawn(move || {
                    for round in 0..50_u8 {
                        let offset = (u64::from(thread) << 20) + u64::from(round % 16) * 8_192;
                        bench.write(offset, bench.block(8_000, thread ^ round)).wait().unwrap();
                        let slot = bench.read_now(offset, 8_000).unwrap();
                        assert!(slot.iter().all(|byte| *byte == thread ^ round), "{thread} {round}");
                    }
                });
            }
        });
    });
}

#[test]
fn completions_may_submit() {
    fn follow(
        device: &Arc<dyn Device>,
        block: &Arc<HostBlock>,
        left: u32,
        end: mpsc::Sender<io::Result<()>>,
    ) {
        let (for_next, next) = (Arc::clone(device), Arc::clone(block));
        let done = Box::new(move |result: io::Result<()>| match left {
            0 => drop(end.send(result)),
            _ => follow(&for_next, &next, left - 1, end),
        });
        device.submit(Request::Write { offset: 0, block: Arc::clone(block), done });
    }
    on_every_driver(|bench, _| {
        let (end, wait) = mpsc::channel();
        follow(&bench.device, &bench.block(100, 7), 100, end);
        wait.recv_timeout(TIMEOUT).unwrap().unwrap();
    });
}

#[test]
fn reads_that_are_too_late_fail_at_once_and_hold_up_nobody() {
    on_every_driver(|bench, _| {
        let late: Vec<_> = (0..300).map(|_| bench.read(0, 100, Instant::now())).collect();
        for read in late {
            assert_eq!(read.wait().unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
        bench.read_now(0, 100).unwrap();
    });
}

#[test]
fn a_read_beyond_the_end_says_so() {
    on_every_driver(|bench, _| {
        for (offset, len) in [(FILE_BYTES, 100), (FILE_BYTES - 8_192, 16_000), (1 << 40, 100)] {
            let error = bench.read_now(offset, len).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{len} bytes at {offset}");
        }
    });
}

#[test]
fn a_file_that_is_cut_or_unlinked_fails_the_reads_beyond_its_end_and_nothing_else() {
    on_every_driver(|bench, dir| {
        bench.write(0, bench.block(8_000, 1)).wait().unwrap();
        bench.write(2 << 20, bench.block(8_000, 2)).wait().unwrap();
        let other = OpenOptions::new().write(true).open(slab(dir)).unwrap();
        std::fs::remove_file(slab(dir)).unwrap();
        // Not at a sector's end, as whoever cuts a file does not ask.
        other.set_len((2 << 20) + 5_000).unwrap();
        let error = bench.read_now(2 << 20, 8_000).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(bench.read_now(0, 8_000).unwrap()[..], [1; 8_000]);
        bench.write(2 << 20, bench.block(8_000, 3)).wait().unwrap();
        assert_eq!(bench.read_now(2 << 20, 8_000).unwrap()[..], [3; 8_000]);
    });
}

#[test]
fn a_discarded_range_is_given_back_and_its_neighbours_stay() {
    on_every_driver(|bench, dir| {
        for n in 0..3 {
            bench.write(n * 65_536, bench.block(60_000, n as u8 + 1)).wait().unwrap();
        }
        let blocks = || std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(slab(dir)).unwrap());
        let before = blocks();
        match bench.discard(65_536, 65_536).wait() {
            Ok(()) => {
                assert!(blocks() < before, "{before} blocks before");
                assert_eq!(bench.read_now(65_536, 60_000).unwrap()[..], [0; 60_000]);
            }
            Err(error) => {
                println!("this file system cannot discard");
                assert_eq!(error.kind(), io::ErrorKind::Unsupported);
            }
        }
        assert_eq!(bench.device.len_bytes(), FILE_BYTES);
        assert_eq!(bench.read_now(0, 60_000).unwrap()[..], [1; 60_000]);
        assert_eq!(bench.read_now(131_072, 60_000).unwrap()[..], [3; 60_000]);
    });
}

#[test]
fn abandoned_reads_give_their_slots_back() {
    on_every_driver(|bench, _| {
        for _ in 0..20 {
            let ends: Vec<_> = (0..50).map(|n| bench.read(n * 4_096, 100, soon())).collect();
            drop(ends);
            // The slots come back without being waited for, so that the arena suffices.
            bench.read_now(0, 100).unwrap();
        }
    });
}

#[test]
fn stopping_completes_what_was_taken_and_refuses_the_rest() {
    on_every_driver(|bench, _| {
        let writes: Vec<_> =
            (0..200_u8).map(|n| bench.write(u64::from(n) * 8_192, bench.block(8_000, n))).collect();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    bench.device.stop();
                    assert_eq!(bench.used_bytes(), 0, "whoever stops the device waits for every transfer");
                });
            }
        });
        for write in writes {
            write.has_ended().expect("stopping completes what was taken").unwrap();
        }
        let late = bench.write(0, bench.block(100, 1));
        assert_eq!(late.wait().unwrap_err().kind(), io::ErrorKind::NotConnected);
        assert_eq!(bench.read_now(0, 100).unwrap_err().kind(), io::ErrorKind::NotConnected);
        bench.device.stop();
    });
}

#[test]
fn an_idle_device_stops() {
    on_every_driver(|_, _| ());
}
