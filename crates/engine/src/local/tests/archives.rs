//! Snapshots as archives, on both kinds of storage.

use std::fs;
use std::io::Cursor;
use std::process::Command;

use boxyard_proto::SnapshotId;
use tokio::io::AsyncReadExt;

use super::yard::{LIMITS, Yard, explain, spec};
use crate::archive::{ArchiveLimits, Description, ExportOrder};
use crate::local::StorageChoice;
use crate::{BoxSpec, Engine, EngineError, ErrorKind};

const BOTH: [StorageChoice; 2] = [StorageChoice::Dir, StorageChoice::Btrfs];

pub(super) const BOUNDS: ArchiveLimits = ArchiveLimits { packed_bytes: 1 << 30, unpacked_bytes: 2 << 30, keep_free: 0 };

fn new_id() -> SnapshotId {
    SnapshotId::from_entropy(rand::random())
}

fn order(name: &str) -> ExportOrder {
    let (runtime, size) = ("node".to_owned(), "small".to_owned());
    let description = Description { runtime, size, name: name.to_owned(), source: None, created_at_ms: 5 };
    ExportOrder { description, without_image: false, limits: BOUNDS }
}

async fn packed(yard: &Yard, snapshot: &SnapshotId) -> Vec<u8> {
    let mut exported = yard.engine.export(snapshot, &order("mine")).await.map_err(explain).unwrap();
    let mut bytes = Vec::new();
    exported.bytes.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes.len() as u64, exported.length);
    bytes
}

async fn import(yard: &Yard, into: &SnapshotId, bytes: Vec<u8>) -> Result<crate::archive::Imported, EngineError> {
    yard.engine.import(into, Box::new(Cursor::new(bytes)), &BOUNDS).await
}

fn from(snapshot: &SnapshotId) -> BoxSpec {
    BoxSpec { from: Some(snapshot.clone()), image: "whatever".into(), ..spec(LIMITS) }
}

/// What sort of error it is; all of it is printed.
fn kind(error: EngineError) -> String {
    let kind = format!("{:?}", error.kind);
    println!("{}", explain(error));
    kind
}

/// How many layers came with snapshots and are there still.
fn layers(yard: &Yard) -> usize {
    fs::read_dir(yard.config.data_dir.join("images/layers")).unwrap().count()
}

/// Waits until nobody works in the background and says how many layers are left.
async fn layers_in_the_end(yard: &Yard) -> usize {
    while !yard.engine.tasks.is_empty() {
        tokio::task::yield_now().await;
    }
    layers(yard)
}

/// A small archive of a snapshot, made by other means than ours, of these files. A path that ends in a slash is a folder, and one like
/// `a -> b` a link.
pub(super) fn small_archive(base: &[(&str, &str)], own: &[(&str, &str)]) -> Vec<u8> {
    archive_of(&[base, own])
}

/// The same of any number of layers, of which the last is the box's own.
fn archive_of(layers: &[&[(&str, &str)]]) -> Vec<u8> {
    let script = r#"
import hashlib, io, json, sys, tarfile
blobs, layers = {}, []
def blob(kind, data):
    digest = 'sha256:' + hashlib.sha256(data).hexdigest()
    blobs[digest] = data
    return {'mediaType': 'application/vnd.oci.image.' + kind, 'digest': digest, 'size': len(data)}
def add(out, path, text):
    path, _, target = path.partition(' -> ')
    entry = tarfile.TarInfo(path)
    if target:
        entry.type, entry.linkname = tarfile.SYMTYPE, target
    elif path.endswith('/'):
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
    entry.size = len(text)
    out.addfile(entry, io.BytesIO(text))
for files in json.loads(sys.argv[1]):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode='w') as out:
        for path, text in files:
            add(out, path, text.encode())
    layers.append(blob('layer.v1.tar', data.getvalue()))
label = 'io.boxyard.snapshot'
labels = {label: '1', label + '.runtime': 'node', label + '.size': 'small', label + '.layers': json.dumps(['x'] * (len(layers) - 1))}
arch = {'x86_64': 'amd64', 'aarch64': 'arm64'}[__import__('platform').machine()]
config = blob('config.v1+json', json.dumps({'architecture': arch, 'os': 'linux', 'config': {'Labels': labels},
    'rootfs': {'type': 'layers', 'diff_ids': [layer['digest'] for layer in layers]}}).encode())
manifest = blob('manifest.v1+json', json.dumps({'schemaVersion': 2, 'config': config, 'layers': layers}).encode())
files = {'blobs/sha256/' + digest[7:]: data for digest, data in blobs.items()}
files['index.json'] = json.dumps({'schemaVersion': 2, 'manifests': [manifest]}).encode()
files['oci-layout'] = b'{"imageLayoutVersion": "1.0.0"}'
with tarfile.open(fileobj=sys.stdout.buffer, mode='w|') as out:
    for path, data in files.items():
        add(out, path, data)
"#;
    let files = serde_json::to_string(layers).unwrap();
    let made = Command::new("python3").args(["-c", script, &files]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    made.stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_from_an_archive_has_all_that_the_saved_box_had() {
    for storage in BOTH {
        let yard = Yard::with(storage).await;
        let id = yard.make().await;
        let make = r#"set -e; cd /root; echo one > file; ln file link; mkfifo fifo; ln -s /nowhere sym
            rm /etc/debian_version; rm -r /etc/apt; mkdir /etc/apt; echo new > /etc/apt/new; chmod 1711 /
            head -c 3000000 /dev/urandom > big; sha1sum big > sum; truncate -s 5G holes; echo end >> holes
            chown 1000:1001 file; chmod 4755 file; touch -d @1234567890.123456789 file
            printf x > "$(printf 'odd\377\376\nname')"; mkdir -p a/b; chmod 2770 a
            python3 -c 'import os, struct
os.setxattr("big", "user.note", b"\x00y")
os.setxattr("sum", "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0))'"#;
        let done = yard.sh(&id, make).await;
        assert_eq!(done.code, 0, "{done:?}");
        let look = r#"cd /root; sha1sum -c sum; cat link; stat -c '%u:%g %a %h %y' file; readlink sym; test -p fifo && echo fifo
            ls -d /etc/debian_version 2>/dev/null; ls /etc/apt; stat -c %a / a; stat -c '%s %b' holes | awk '{print $1, ($2 < 1000)}'; tail -c 4 holes
            ls | od -c | head -20
            python3 -c 'import os; print(os.getxattr("big", "user.note"), os.getxattr("sum", "security.capability"))'
            echo $OF_THE_IMAGE; find / -xdev -not -path '/proc*' -not -path '/sys*' -not -path '/dev*' \
              -not -path '/tmp*' -not -path '/run*' -not -path '/etc/*host*' -not -path /etc/resolv.conf \
              -printf '%p %m %U %G %l\n' | sort | sha1sum"#;
        let seen = yard.sh(&id, look).await;
        assert!(seen.out.contains("big: OK") && seen.out.contains("4755 2 2009-02-13 23:31:30.123456789"), "{seen:?}");

        let saved = new_id();
        yard.engine.save(&id, &saved).await.map_err(explain).unwrap();
        let bytes = packed(&yard, &saved).await;
        yard.engine.drop_snapshot(&saved).await.map_err(explain).unwrap();
        let into = new_id();
        let imported = import(&yard, &into, bytes.clone()).await.map_err(explain).unwrap();
        assert_eq!(imported.description, order("mine").description);
        assert!((3_000_000..9_000_000).contains(&imported.saved.size_bytes), "{imported:?}");
        assert_eq!(layers(&yard), 1, "the image came along");
        let copy = from(&into);
        yard.engine.create(&copy).await.map_err(explain).unwrap();
        assert_eq!(yard.sh(&copy.id, look).await, seen);

        // A second one finds the image here.
        let second = new_id();
        import(&yard, &second, bytes).await.map_err(explain).unwrap();
        assert_eq!(layers(&yard), 1);
        yard.engine.drop_snapshot(&second).await.map_err(explain).unwrap();
        yard.engine.drop_snapshot(&into).await.map_err(explain).unwrap();
        assert_eq!(layers_in_the_end(&yard).await, 1, "a box stands on it");
        assert_eq!(yard.sh(&copy.id, look).await, seen);
        yard.engine.remove(&copy.id).await.map_err(explain).unwrap();
        assert_eq!(layers_in_the_end(&yard).await, 0);
        yard.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_more_layers_than_a_box_can_have_is_not_taken_in() {
    let yard = Yard::with(StorageChoice::Dir).await;
    let names: Vec<String> = (0..161).map(|number| format!("layer{number}")).collect();
    let files: Vec<[(&str, &str); 1]> = names.iter().map(|name| [(name.as_str(), "")]).collect();
    let layers_of = |count: usize| {
        let image = files[..count].iter().map(|file| &file[..]);
        archive_of(&image.chain([&[("own", "own")][..]]).collect::<Vec<_>>())
    };
    let error = import(&yard, &new_id(), layers_of(161)).await.unwrap_err();
    assert_eq!(kind(error), format!("{:?}", ErrorKind::Invalid));
    assert_eq!(layers_in_the_end(&yard).await, 0);
    import(&yard, &new_id(), layers_of(160)).await.map_err(explain).unwrap();
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_archives_took_the_room_that_the_pool_grows_into() {
    // A pool of more than this host has.
    let yard = Yard::open_with(|config| {
        config.storage = StorageChoice::Btrfs;
        config.pool_size = Some(4 << 40);
    })
    .await;
    let whole = small_archive(&[("etc/", "")], &[("own", "own")]);
    let error = import(&yard, &new_id(), whole).await.unwrap_err();
    assert_eq!(kind(error), format!("{:?}", ErrorKind::Exhausted));
    assert_eq!(layers_in_the_end(&yard).await, 0);
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_is_broken_off_or_wrong_leaves_nothing() {
    for storage in BOTH {
        let yard = Yard::with(storage).await;
        let whole = small_archive(&[("etc/", ""), ("etc/base", "base")], &[("own", "own")]);
        let into = new_id();
        let imported = import(&yard, &into, whole.clone()).await.map_err(explain).unwrap();
        assert_eq!((imported.description.runtime.as_str(), layers(&yard)), ("node", 1));
        assert_eq!(import(&yard, &into, whole.clone()).await.unwrap_err().kind, ErrorKind::Broken, "it is there");
        assert_eq!(yard.engine.snapshots().await.unwrap(), std::slice::from_ref(&into));
        yard.engine.drop_snapshot(&into).await.map_err(explain).unwrap();
        assert_eq!(layers_in_the_end(&yard).await, 0);

        let out = small_archive(&[("etc/", "")], &[("../../../evil", "out")]);
        let through_file = small_archive(&[("base", "")], &[("x", "y"), ("x/z", "out")]);
        let cut = |length: usize| whole[..length].to_vec();
        for bytes in [cut(whole.len() / 2), cut(700), cut(0), vec![7; 5000], out, through_file] {
            let error = import(&yard, &new_id(), bytes).await.unwrap_err();
            assert_eq!(kind(error), format!("{:?}", ErrorKind::Invalid));
        }
        let full = ArchiveLimits { keep_free: u64::MAX, ..BOUNDS };
        let error = yard.engine.import(&new_id(), Box::new(Cursor::new(whole.clone())), &full).await.unwrap_err();
        assert_eq!(kind(error), format!("{:?}", ErrorKind::Exhausted));
        let short = ArchiveLimits { unpacked_bytes: 2000, ..BOUNDS };
        let error = yard.engine.import(&new_id(), Box::new(Cursor::new(whole.clone())), &short).await.unwrap_err();
        assert_eq!(kind(error), format!("{:?}", ErrorKind::Invalid));

        // A link out of the tree leads to its own root, as it would for the box.
        let outside = format!("/outside-{:016x}", rand::random::<u64>());
        let links =
            small_archive(&[("base", "")], &[("x -> /", ""), (&format!("x{outside}"), "in"), ("y -> ../../..", "")]);
        let linked = new_id();
        import(&yard, &linked, links).await.map_err(explain).unwrap();
        assert!(!std::path::Path::new(&outside).exists());
        yard.engine.drop_snapshot(&linked).await.map_err(explain).unwrap();

        // Somebody who stops sending and is given up.
        let (near, far) = tokio::io::duplex(64);
        let id = new_id();
        let mut waiting = Box::pin(yard.engine.import(&id, Box::new(far), &BOUNDS));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(waiting);
        drop(near);
        assert_eq!(yard.engine.snapshots().await.unwrap(), []);
        assert_eq!(layers_in_the_end(&yard).await, 0);
        yard.close().await;
    }
}
