//! A snapshot on its way to this node: what has come stays when the transfer breaks, and the next one goes on
//! from there.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use futures::{Stream, TryStreamExt};
use hearth_proto::limits::SNAPSHOT_CHUNK_BYTES;
use hearth_proto::v1;
use tonic::Status;

use super::snapshot::SnapshotFile;
use crate::offload::spawn_blocking;

/// The file that the chunks go to, and which snapshot it is of. One at a time for each group (INV-BOUND).
#[derive(Debug)]
pub(super) struct Arrival {
    path: PathBuf,
    part: Option<Part>,
    /// Snapshots that have arrived whole.
    arrived: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    size_bytes: u64,
    checksum: u32,
    received: u64,
}

impl Arrival {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, part: None, arrived: 0 }
    }

    /// Bytes of this snapshot that are here.
    pub(super) fn offset(&self, header: &v1::SnapshotHeader) -> u64 {
        let is_it = |part: &Part| (part.size_bytes, part.checksum) == (header.size_bytes, header.checksum);
        self.part.filter(is_it).map_or(0, |part| part.received)
    }

    /// Receives the rest of a snapshot.
    ///
    /// # Errors
    /// The stream's or the disk's; what has come is kept, unless it cannot be right.
    ///
    /// The file goes with the [`Arrived`], unless it was made the group's snapshot by then.
    pub(super) async fn receive(
        &mut self,
        header: &v1::SnapshotHeader,
        mut chunks: impl Stream<Item = Result<v1::SnapshotChunk, Status>> + Unpin,
    ) -> Result<Arrived, Status> {
        let has = self.offset(header);
        if header.offset > has {
            return Err(Status::out_of_range(format!("{has} bytes of this snapshot are here")));
        }
        let (size_bytes, checksum) = (header.size_bytes, header.checksum);
        let mut part = Part { size_bytes, checksum, received: header.offset };
        let (path, offset) = (self.path.clone(), header.offset);
        let mut file = on_disk(move || open(&path, offset)).await?;
        self.part = Some(part);
        while let Some(chunk) = chunks.try_next().await? {
            part.received += chunk.data.len() as u64;
            if part.received > size_bytes || chunk.data.len() > SNAPSHOT_CHUNK_BYTES {
                self.part = None;
                return Err(Status::invalid_argument("the snapshot is larger than its header says"));
            }
            // Written before it counts as received.
            file = on_disk(move || file.write_all(&chunk.data).map(|()| file)).await?;
            self.part = Some(part);
        }
        if part.received != size_bytes {
            return Err(Status::data_loss("the snapshot ended early"));
        }
        on_disk(move || file.sync_all()).await?;
        // Whatever is made of it, it is not begun again from the middle.
        self.part = None;
        // Under a name of its own: it may still be being installed when the next one arrives.
        self.arrived += 1;
        let whole = self.path.with_extension(format!("{}.tmp", self.arrived));
        std::fs::rename(&self.path, &whole).map_err(failed)?;
        let arrived = Arrived { file: SnapshotFile::open(whole).map_err(failed)? };
        let found = arrived.file.checksum().map_err(failed)?;
        if found != checksum {
            return Err(Status::data_loss("the snapshot is not the one that was announced"));
        }
        Ok(arrived)
    }
}

/// A snapshot that has arrived whole.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) file: SnapshotFile,
}

impl Drop for Arrived {
    /// One that was installed has another name since; any other is of no use.
    fn drop(&mut self) {
        match std::fs::remove_file(&self.file.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %self.file.path.display(), "a snapshot is left over");
            }
            _ => {}
        }
    }
}

fn open(path: &Path, offset: u64) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(offset == 0).open(path)?;
    // A chunk that was written in part is written again.
    file.set_len(offset)?;
    file.seek(io::SeekFrom::Start(offset))?;
    Ok(file)
}

async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Status> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(failed)
}

fn failed(error: io::Error) -> Status {
    Status::internal(format!("the snapshot cannot be stored: {error}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use hearth_proto::GroupId;

    use super::super::pace::SnapshotPace;
    use super::super::snapshot::Writer;
    use super::super::types::SnapshotMeta;
    use super::*;

    fn chunk(data: &[u8]) -> Result<v1::SnapshotChunk, Status> {
        Ok(v1::SnapshotChunk { header: None, data: data.to_vec().into() })
    }

    #[tokio::test]
    async fn a_transfer_goes_on_where_the_one_before_broke() {
        let dir = tempfile::tempdir().unwrap();
        let written = dir.path().join("written");
        let pace = SnapshotPace::new(Arc::default(), Instant::now());
        let mut writer = Writer::create(&written, GroupId(1), 0, &SnapshotMeta::default(), pace).unwrap();
        (0..100_u32).for_each(|number| writer.record(&number.to_le_bytes(), &[7; 100]).unwrap());
        writer.finish().unwrap();
        let bytes = std::fs::read(&written).unwrap();
        let checksum = SnapshotFile::open(written).unwrap().checksum().unwrap();
        let header = |offset| v1::SnapshotHeader {
            size_bytes: bytes.len() as u64,
            checksum,
            offset,
            ..Default::default()
        };
        let mut arrival = Arrival::new(dir.path().join("arrival"));
        assert_eq!(arrival.offset(&header(0)), 0);
        let broken = [chunk(&bytes[..3_000]), Err(Status::unavailable("cut"))];
        arrival.receive(&header(0), futures::stream::iter(broken)).await.unwrap_err();
        assert_eq!(arrival.offset(&header(0)), 3_000);
        let other = v1::SnapshotHeader { checksum: checksum ^ 1, ..header(0) };
        assert_eq!(arrival.offset(&other), 0, "another snapshot of the same size");
        arrival.receive(&header(3_001), futures::stream::iter([])).await.unwrap_err();
        // The second one begins a little earlier than it has to.
        let short = [chunk(&bytes[2_000..5_000])];
        arrival.receive(&header(2_000), futures::stream::iter(short)).await.unwrap_err();
        assert_eq!(arrival.offset(&header(0)), 5_000);
        let rest = [chunk(&bytes[5_000..])];
        let whole = arrival.receive(&header(5_000), futures::stream::iter(rest)).await.unwrap();
        assert_eq!(std::fs::read(&whole.file.path).unwrap(), bytes);
        let next = arrival.receive(&header(0), futures::stream::iter([chunk(&bytes)])).await.unwrap();
        assert_ne!(next.file.path, whole.file.path, "the first may still be being installed");
        assert_eq!(arrival.offset(&header(0)), 0);
        let large = [chunk(&bytes), chunk(&[0])];
        arrival.receive(&header(0), futures::stream::iter(large)).await.unwrap_err();
        assert_eq!(arrival.offset(&header(0)), 0, "what cannot be right is not kept");
        let mut damaged = bytes.clone();
        *damaged.last_mut().unwrap() ^= 1;
        arrival.receive(&header(0), futures::stream::iter([chunk(&damaged)])).await.unwrap_err();
        // One is installed, the other is not needed: neither leaves anything behind.
        std::fs::rename(&whole.file.path, dir.path().join("installed")).unwrap();
        drop((whole, next));
        let mut left: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort_unstable();
        assert_eq!(left, ["installed", "written"]);
    }
}
