//! Raw block devices, on loop devices where the system lets us make them.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use super::*;

/// A loop device over a file of [`FILE_BYTES`], gone when dropped.
struct Loop {
    path: PathBuf,
    _dir: TempDir,
}

impl Loop {
    /// `None`, with the reason printed, where there are no loop devices to be had.
    fn new(arguments: &[&str]) -> Option<Self> {
        let dir = tempdir().unwrap();
        let file = slab(&dir);
        std::fs::File::create(&file).unwrap().set_len(FILE_BYTES).unwrap();
        let made = Command::new("losetup").args(["--find", "--show"]).args(arguments).arg(&file).output();
        let output = match made {
            Ok(output) if output.status.success() => output.stdout,
            Ok(output) => {
                println!("SKIPPED: losetup refuses: {}", String::from_utf8_lossy(&output.stderr).trim());
                return None;
            }
            Err(error) => {
                println!("SKIPPED: there is no losetup: {error}");
                return None;
            }
        };
        Some(Self { path: String::from_utf8(output).unwrap().trim().into(), _dir: dir })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let detached = Command::new("losetup").arg("--detach").arg(&self.path).status().unwrap();
        assert!(detached.success() || std::thread::panicking());
    }
}

#[test]
fn every_driver_serves_a_raw_block_device() {
    let Some(device) = Loop::new(&[]) else { return };
    for (name, options) in DRIVERS {
        println!("driver: {name}");
        let bench = Bench::new(&device.path, options);
        assert_eq!(bench.device.len_bytes(), FILE_BYTES);
        assert_eq!(bench.device.space().unwrap(), None, "it lies on no file system");
        for n in 0..3 {
            bench.write(n * 65_536, bench.block(60_000, n as u8 + 1)).wait().unwrap();
        }
        match bench.discard(65_536, 65_536).wait() {
            Ok(()) => assert_eq!(bench.read_now(65_536, 60_000).unwrap()[..], [0; 60_000]),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::Unsupported),
        }
        assert_eq!(bench.read_now(131_072, 60_000).unwrap()[..], [3; 60_000]);
        let error = bench.read_now(FILE_BYTES - 4_096, 8_000).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        bench.device.stop();
        assert_eq!(bench.used_bytes(), 0, "INV-LEAK");
    }
}

#[test]
fn a_block_device_does_not_grow_and_says_so() {
    let Some(device) = Loop::new(&[]) else { return };
    let member = Member::open(&device.path).unwrap();
    member.allocate(FILE_BYTES).unwrap();
    let error = member.allocate(FILE_BYTES + 4_096).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(error.to_string().contains("4194304 bytes and cannot get 4198400"), "{error}");
    assert_eq!(member.len_bytes(), FILE_BYTES);
}

#[test]
fn a_block_device_with_large_sectors_is_taken() {
    let Some(device) = Loop::new(&["--sector-size", "4096"]) else { return };
    let bench = Bench::new(&device.path, DriverOptions::default());
    bench.write(4_096, bench.block(60_000, 5)).wait().unwrap();
    assert_eq!(bench.read_now(4_096, 60_000).unwrap()[..], [5; 60_000]);
    bench.device.stop();
}

#[test]
fn a_block_device_that_is_in_use_is_refused() {
    let Some(device) = Loop::new(&[]) else { return };
    let member = Member::open(&device.path).unwrap();
    assert!(matches!(Member::open(&device.path), Err(DeviceError::InUse { .. })));
    drop(member);
    Member::open(&device.path).unwrap();
}

#[test]
fn a_block_device_that_is_read_only_is_refused() {
    let Some(device) = Loop::new(&["--read-only"]) else { return };
    assert!(matches!(Member::open(&device.path), Err(DeviceError::ReadOnly { .. })));
}

#[test]
fn a_block_device_that_vanishes_fails_its_transfers_and_nothing_else() {
    for (name, options) in DRIVERS {
        println!("driver: {name}");
        let Some(device) = Loop::new(&[]) else { return };
        let bench = Bench::new(&device.path, options);
        bench.write(0, bench.block(8_000, 1)).wait().unwrap();
        // The file beneath loses all its blocks' length: the device keeps its own and errs.
        std::fs::OpenOptions::new().write(true).open(slab(&device._dir)).unwrap().set_len(0).unwrap();
        let error = bench.read_now(0, 8_000).unwrap_err();
        assert!(error.raw_os_error() == Some(libc::EIO) || error.kind() == io::ErrorKind::UnexpectedEof);
        bench.device.stop();
        assert_eq!(bench.used_bytes(), 0, "INV-LEAK");
    }
}

#[test]
fn a_file_that_may_not_be_written_is_refused() {
    let dir = tempdir().unwrap();
    let file = std::fs::File::create(slab(&dir)).unwrap();
    let mut permissions = file.metadata().unwrap().permissions();
    permissions.set_readonly(true);
    file.set_permissions(permissions).unwrap();
    // Permissions do not bind the superuser; immutability does.
    let immutable = file.metadata().unwrap().uid() == 0;
    if immutable {
        let flags = ioctl_getflags(&file).unwrap();
        if let Err(error) = ioctl_setflags(&file, flags | IFlags::IMMUTABLE) {
            println!("SKIPPED: the superuser may write everything here: {error}");
            return;
        }
    }
    let refused = matches!(Member::open(&slab(&dir)), Err(DeviceError::ReadOnly { .. }));
    if immutable {
        let flags = ioctl_getflags(&file).unwrap();
        ioctl_setflags(&file, flags - IFlags::IMMUTABLE).unwrap();
    }
    assert!(refused);
}
