//! Writing, reading and finding outputs again.

use std::collections::BTreeMap;

use boxyard_proto::{BoxId, RunId};
use bytes::Bytes;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::boxes::output::Stream;
use crate::config::Config;

const MIB: u64 = 1 << 20;

struct Place {
    folder: TempDir,
    spools: Spools,
    ids: (BoxId, RunId),
}

impl Place {
    fn new(keep: u64, total: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let spools = Self::spools(&folder, keep, total);
        Self { folder, spools, ids: (BoxId::from_entropy(1), RunId::from_entropy(2)) }
    }

    fn spools(folder: &TempDir, keep: u64, total: u64) -> Spools {
        let (env, files) = (BTreeMap::<String, String>::new(), BTreeMap::<PathBuf, String>::new());
        let mut config = Config::load(&Default::default(), &env, &files, Path::new("/bin/boxyard"))
            .expect("the default configuration");
        config.data_dir = folder.path().to_owned();
        (config.output_keep, config.output_total) = (keep, total);
        Spools::new(&config, Default::default())
    }

    fn pen(&self) -> Pen {
        self.spools.begin(&self.ids.0, &self.ids.1)
    }

    /// What a server finds that is started after the last one was killed.
    async fn killed(&mut self, keep: u64) -> Pen {
        self.spools = Self::spools(&self.folder, keep, 1 << 40);
        self.spools.resume(&self.ids.0, &self.ids.1).await
    }

    async fn find(&self, row: &OutputRow) -> Arc<Spool> {
        self.spools.find(&self.ids.0, &self.ids.1, row).await.expect("it was recorded")
    }

    fn file(&self) -> PathBuf {
        self.spools.room.path(&self.ids.0, &self.ids.1)
    }

    fn used(&self) -> u64 {
        self.spools.room.used.get()
    }
}

/// Bytes of which each says where it stands.
fn numbered(from: u64, count: usize) -> Bytes {
    (from..).take(count).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect::<Vec<u8>>().into()
}

fn count(from: u64, to: u64) -> usize {
    usize::try_from(to - from).expect("small")
}

async fn all(reader: &mut Reader) -> Result<Vec<u8>, Cut> {
    let mut all = Vec::new();
    while let Some(bytes) = reader.next().await? {
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

async fn read(spool: &Arc<Spool>, from: u64, streams: Streams) -> Vec<u8> {
    let mut reader = spool.read(from, streams, false, CancellationToken::new());
    all(&mut reader).await.expect("it is there")
}

async fn write(pen: &mut Pen, count: usize) {
    let bytes = numbered(pen.end(), count);
    pen.append(Stream::Out, bytes).await;
}

#[tokio::test]
async fn a_short_output_takes_no_file_and_no_output_takes_nothing() {
    let place = Place::new(16 * MIB, 1 << 30);
    let mut pen = place.pen();
    pen.append(Stream::Out, Bytes::from_static(b"out")).await;
    pen.append(Stream::Err, Bytes::from_static(b"err")).await;
    assert_eq!(pen.safe(), 0, "a killed server's successor asks the box for it");
    let live = Arc::clone(pen.spool());
    let row = pen.finish().await;
    assert!(!place.folder.path().join("spool").exists());
    assert_eq!((row.end, row.held > 0, row.short.is_some()), (Some(6), true, true));
    for spool in [live, place.find(&row).await] {
        assert_eq!(read(&spool, 0, Streams::Both).await, b"outerr");
        assert_eq!(read(&spool, 2, Streams::Both).await, b"terr");
        assert_eq!(read(&spool, 1, Streams::Err).await, b"err");
        assert_eq!(read(&spool, 99, Streams::Both).await, b"");
    }
    let nothing = place.pen().finish().await;
    assert_eq!(nothing, OutputRow { end: Some(0), held: 0, short: None });
    assert!(place.spools.find(&place.ids.0, &place.ids.1, &OutputRow::default()).await.is_none(), "never recorded");
}

#[tokio::test]
async fn any_byte_of_a_long_output_can_be_read_from_whether_it_goes_on_or_not() {
    let place = Place::new(16 * MIB, 1 << 30);
    let mut pen = place.pen();
    let mut expected = Vec::new();
    for step in 0..400_usize {
        let count = [1, 10, 1000, 40_000, 5][step % 5];
        let bytes = numbered(pen.end(), count);
        let stream = if step % 3 == 0 { Stream::Err } else { Stream::Out };
        expected.push((stream, bytes.clone()));
        pen.append(stream, bytes).await;
    }
    let both: Vec<u8> = expected.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect();
    let one = |wanted| expected.iter().filter(|(stream, _)| *stream == wanted).flat_map(|(_, b)| b.to_vec()).collect();
    let (out, err): (Vec<u8>, Vec<u8>) = (one(Stream::Out), one(Stream::Err));
    let live = Arc::clone(pen.spool());
    assert_eq!(read(&live, 0, Streams::Both).await, both);
    let row = pen.finish().await;
    assert_eq!(row.held.cast_unsigned(), std::fs::metadata(place.file()).expect("a file").len());
    assert_eq!(place.used(), row.held.cast_unsigned());
    for spool in [live, place.find(&row).await] {
        assert_eq!(spool.range(), (0, both.len() as u64));
        for from in [0, 1, 41_015, 41_016, 41_017, 1_000_000, both.len() - 1, both.len()] {
            assert!(read(&spool, from as u64, Streams::Both).await == both[from..], "{from}");
        }
        assert!(read(&spool, 0, Streams::Out).await == out && read(&spool, 0, Streams::Err).await == err);
    }
}

#[tokio::test]
async fn the_oldest_is_dropped_and_that_is_said() {
    let place = Place::new(MIB, 1 << 30);
    let mut pen = place.pen();
    let mut early = pen.spool().read(0, Streams::Both, true, CancellationToken::new());
    write(&mut pen, 100_000).await;
    assert!(early.next().await.expect("in time").is_some());
    for _ in 0..50 {
        write(&mut pen, 77_777).await;
    }
    assert_eq!(early.next().await, Err(Cut::Lapped), "it was too slow");
    let (start, end) = pen.spool().range();
    assert!(end - start >= MIB * 7 / 8 && start > 0, "{start} {end}");
    assert!(std::fs::metadata(place.file()).expect("a file").len() <= MIB + 16);
    let live = Arc::clone(pen.spool());
    let row = pen.finish().await;
    for spool in [live, place.find(&row).await] {
        let mut reader = spool.read(0, Streams::Both, false, CancellationToken::new());
        let first = reader.next_byte();
        assert!(first > 0);
        assert!(all(&mut reader).await.expect("it is there") == numbered(first, count(first, end)));
    }
}

#[tokio::test]
async fn a_killed_server_has_left_what_is_safe_and_the_next_goes_on_there() {
    let mut place = Place::new(MIB, 1 << 40);
    let mut pen = place.pen();
    for round in 0..60_usize {
        write(&mut pen, 1 + round * 997).await;
        let safe = pen.safe();
        pen = place.killed(MIB).await;
        assert_eq!(pen.end(), safe, "round {round}");
        let (start, end) = pen.spool().range();
        assert!(read(pen.spool(), 0, Streams::Both).await == numbered(start, count(start, end)));
    }
    assert!(pen.spool().range().0 > 0);
    // A larger ring is for new runs; what is there keeps its shape.
    let before = pen.spool().range();
    pen = place.killed(16 * MIB).await;
    assert_eq!(pen.spool().range(), before);
    write(&mut pen, 500_000).await;
    let row = pen.finish().await;
    let (start, end) = place.find(&row).await.range();
    assert!(end == before.1 + 500_000 && start > before.0);
}

#[tokio::test]
async fn a_tail_that_a_power_cut_has_spoilt_is_left_out() {
    for spoilt in [100, 500, 900, 999] {
        for zeros in [true, false] {
            let mut place = Place::new(16 * MIB, 1 << 40);
            let mut pen = place.pen();
            for _ in 0..100 {
                write(&mut pen, 40_000).await;
            }
            let length = std::fs::metadata(place.file()).expect("a file").len();
            let at = length * spoilt / 1000;
            let file = std::fs::OpenOptions::new().write(true).open(place.file()).expect("open");
            file.set_len(at).expect("cut");
            if zeros {
                file.set_len(length).expect("fill with zeros");
            }
            let pen = place.killed(16 * MIB).await;
            let (start, end) = pen.spool().range();
            assert!(end <= at && (end > 0) == (at > 50_000), "{start}..{end} of {at}");
            assert!(read(pen.spool(), 0, Streams::Both).await == numbered(start, count(start, end)));
        }
    }
    let mut place = Place::new(MIB, 1 << 40);
    std::fs::create_dir_all(place.file().parent().expect("a folder")).expect("make it");
    for rubbish in [&b""[..], b"short", &[0xff; 100_000]] {
        std::fs::write(place.file(), rubbish).expect("write");
        let mut pen = place.killed(MIB).await;
        assert_eq!(pen.spool().range(), (0, 0));
        write(&mut pen, 100_000).await;
        assert_eq!(read(pen.spool(), 0, Streams::Both).await, numbered(0, 100_000));
    }
}

#[tokio::test]
async fn nothing_before_a_gap_is_kept() {
    let mut place = Place::new(MIB, 1 << 40);
    let mut pen = place.pen();
    write(&mut pen, 300_000).await;
    pen.skip_to(1_000_000);
    write(&mut pen, 50_000).await;
    write(&mut pen, 10).await;
    assert_eq!(pen.spool().range(), (1_000_000, 1_050_010));
    let mut reader = pen.spool().read(5, Streams::Both, false, CancellationToken::new());
    assert_eq!(reader.next_byte(), 1_000_000);
    assert!(all(&mut reader).await.expect("it is there") == numbered(1_000_000, 50_010));
    let pen = place.killed(MIB).await;
    assert_eq!(pen.spool().range(), (1_000_000, 1_050_000));
}

#[tokio::test]
async fn all_together_take_no_more_than_they_may() {
    let place = Place::new(MIB, 3 * MIB);
    let mut pens: Vec<Pen> = (0..20).map(|run| place.spools.begin(&place.ids.0, &RunId::from_entropy(run))).collect();
    for _ in 0..40 {
        for pen in &mut pens {
            write(pen, 50_000).await;
        }
    }
    assert!(place.used() <= 3 * MIB);
    let mut lengths = 0;
    for entry in std::fs::read_dir(place.file().parent().expect("a folder")).expect("list") {
        lengths += entry.expect("an entry").metadata().expect("its size").len();
    }
    assert!(lengths <= 3 * MIB, "{lengths}");
    for pen in &mut pens {
        let (start, end) = pen.spool().range();
        assert_eq!(end, 2_000_000, "who writes is not stopped");
        assert!(read(pen.spool(), 0, Streams::Both).await == numbered(start, count(start, end)));
    }
    for pen in pens {
        pen.discard().await;
    }
    assert_eq!(place.used(), 0);
}

#[tokio::test]
async fn two_followers_get_everything_while_it_is_written() {
    let place = Place::new(16 * MIB, 1 << 30);
    let mut pen = place.pen();
    let follow = |from| {
        let mut reader = pen.spool().read(from, Streams::Both, true, CancellationToken::new());
        tokio::spawn(async move { all(&mut reader).await })
    };
    let (first, second, beyond) = (follow(0), follow(12_345), follow(3_000_000));
    for count in [1, 2, 3, 100_000, 10, 1_000_000, 20_000, 20_000, 20_000, 1_500_000, 900_000, 1] {
        write(&mut pen, count).await;
        tokio::task::yield_now().await;
    }
    let (spool, end) = (Arc::clone(pen.spool()), pen.end());
    pen.finish().await;
    spool.publish(true);
    let expected = numbered(0, count(0, end));
    for (follower, from) in [(first, 0), (second, 12_345), (beyond, 3_000_000)] {
        let got = follower.await.expect("no panic").expect("it keeps up");
        assert!(got == expected[from..], "{} bytes from {from}", got.len());
    }
}

#[tokio::test]
async fn bytes_that_alternate_between_both_outputs_come_back_in_order() {
    let place = Place::new(MIB, 1 << 30);
    let mut pen = place.pen();
    let mut expected = Vec::new();
    for count in 0..5000_u32 {
        let stream = if count % 2 == 0 { Stream::Out } else { Stream::Err };
        let byte = [(count % 251) as u8];
        expected.extend_from_slice(&byte);
        pen.append(stream, Bytes::copy_from_slice(&byte)).await;
    }
    let row = pen.finish().await;
    let spool = place.find(&row).await;
    assert_eq!(read(&spool, 0, Streams::Both).await, expected);
    let even: Vec<u8> = expected.iter().copied().step_by(2).collect();
    assert_eq!(read(&spool, 0, Streams::Out).await, even);
}
