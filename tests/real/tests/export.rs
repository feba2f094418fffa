//! Snapshots of real boxes as archives, read by a program that is not ours, and imported by another account.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::{Client, Server, until};
use serde_json::json;

/// What a restarted server, or one in the background, has to finish.
const SETTLE: Duration = Duration::from_secs(120);

/// Checks an archive as the OCI image specification has it, and prints what its uppermost layer holds; or writes it as another host
/// would have, which has its own names for layers, packed as a whole, with its files in another order.
const PYTHON: &str = r#"
import gzip, hashlib, io, json, sys, tarfile
def sha(data): return 'sha256:' + hashlib.sha256(data).hexdigest()
files = {}
with tarfile.open(sys.argv[2]) as archive:
    for entry in archive:
        assert entry.isfile() and entry.name not in files, entry.name
        files[entry.name] = archive.extractfile(entry).read()
blobs = {}
for name, data in files.items():
    if name.startswith('blobs/sha256/'):
        assert sha(data) == 'sha256:' + name[13:], name
        blobs[sha(data)] = data
def blob(of):
    data = blobs[of['digest']]
    assert len(data) == of['size']
    return data
assert json.loads(files['oci-layout'])['imageLayoutVersion'] == '1.0.0'
index = json.loads(files['index.json'])
assert index['schemaVersion'] == 2 and len(index['manifests']) == 1
manifest = json.loads(blob(index['manifests'][0]))
config = json.loads(blob(manifest['config']))
diff_ids, layers = config['rootfs']['diff_ids'], manifest['layers']
assert len(diff_ids) == len(layers) >= 2 and config['os'] == 'linux'
if sys.argv[1] == 'check':
    docker = json.loads(files['manifest.json'])[0]
    assert [files[path] for path in docker['Layers']] == [blob(layer) for layer in layers]
    for layer, diff_id in zip(layers, diff_ids):
        assert layer['mediaType'] == 'application/vnd.oci.image.layer.v1.tar+gzip'
        plain = gzip.decompress(blob(layer))
        assert sha(plain) == diff_id
    kinds = {tarfile.REGTYPE: 'file', tarfile.LNKTYPE: 'hard', tarfile.SYMTYPE: 'link', tarfile.DIRTYPE: 'folder', tarfile.FIFOTYPE: 'fifo'}
    with tarfile.open(fileobj=io.BytesIO(plain)) as top:
        for entry in top:
            kind = 'holes' if entry.sparse else kinds[entry.type]
            extra = sorted(key for key in entry.pax_headers if 'xattr' in key)
            print(ascii(entry.name), kind, oct(entry.mode), entry.uid, entry.gid, entry.linkname, *extra)
    print(json.dumps(config))
else:
    labels = config['config']['Labels']
    labels['io.boxyard.snapshot.layers'] = json.dumps([''] * (len(layers) - 1))
    del blobs[manifest['config']['digest']], blobs[index['manifests'][0]['digest']]
    def put(of, value):
        data = json.dumps(value).encode()
        of['digest'], of['size'] = sha(data), len(data)
        blobs[sha(data)] = data
    put(manifest['config'], config)
    put(index['manifests'][0], manifest)
    del index['manifests'][0]['platform']
    with tarfile.open(sys.argv[3], 'w:gz', compresslevel=1) as out:
        def add(name, data):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            out.addfile(entry, io.BytesIO(data))
        for digest, data in sorted(blobs.items()):
            add('./blobs/sha256/' + digest[7:], data)
        add('./index.json', json.dumps(index).encode())
        add('./oci-layout', files['oci-layout'])
"#;

fn python(arguments: &[&str]) -> Result<String> {
    let output = Command::new("python3").arg("-c").arg(PYTHON).args(arguments).output().context("python3")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs the program `boxyard` as a client with this key, in the server's folder, and returns its standard output.
fn boxyard(server: &Server, key: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(server.programs().join("boxyard"));
    command.args(arguments).arg("--url").arg(server.client().base_url()).current_dir(server.lane().folder());
    let output = command.env("BOXYARD_API_KEY", key).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`boxyard {}` failed: {said}", arguments.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Makes a key by the program, for a new account.
fn other_key(server: &Server) -> Result<String> {
    let said = server.program(&["key", "create", "--account", "other"])?;
    let key = said.split_whitespace().find(|word| word.starts_with("box_")).context("no key was printed")?;
    Ok(key.to_owned())
}

/// Layers of images that came with snapshots to this server.
fn imported_layers(server: &Server) -> Result<BTreeSet<String>> {
    let data = server.lane().data();
    let owner = format!("imported by {}", fs::read_to_string(data.join("instance"))?.trim());
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(data.join("images/layers"))? {
        let layer = entry?;
        // Others use the store, too, and a layer may just go.
        let note = fs::read_to_string(layer.path().join("layer.json")).unwrap_or_default();
        if note.contains(&owner) {
            found.insert(layer.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(found)
}

/// The numbers of two calls of the kernel, for a box's perl, which has no names for them.
fn calls() -> (u32, u32) {
    if cfg!(target_arch = "aarch64") { (5, 8) } else { (188, 191) }
}

#[test]
fn an_exported_box_is_the_same_box_under_another_account_of_another_host() -> Result<()> {
    // A pool of the usual size leaves a fifth of the disk for layers that come along, less what others take meanwhile.
    let storage = [("BOXYARD_STORAGE_KIND", "btrfs"), ("BOXYARD_STORAGE_POOL_SIZE", "6GiB")];
    let server = Server::with(storage.map(|(key, value)| (key, value.to_owned())).into())?;
    let (key, other) = (server.client().key.clone(), other_key(&server)?);
    let source = server.create_with(&json!({"env_vars": {"TOKEN": "hush-hush-hush"}, "size": "medium"}))?;
    let (set, get) = calls();
    server.sh(
        &source,
        &format!(
            r#"set -e; cd /workspace/home; head -c 3000000 /dev/urandom > data; sha256sum data > sum
            ln -s /nowhere link; echo one > first; ln first second; mkfifo fifo; truncate -s 3G holes; echo end >> holes
            printf x > "$(printf 'odd\377\376\nname')"; touch -d @1234567890.123456789 first; mkdir -p a/b
            sudo sh -ec 'rm /etc/debian_version; rm -r /etc/apt; mkdir /etc/apt; echo new > /etc/apt/new; chmod 1711 /srv
              cp /bin/true suid; chmod 6755 suid; echo theirs > theirs; chown 1234:4321 theirs; chmod 2770 a
              mkdir -m 700 /root/secret; echo s > /root/secret/s'
            sudo perl -e '$n = "theirs"; $a = "user.note"; $v = "\0y"; syscall({set}, $n, $a, $v, 2, 0) == 0 or die $!;
              $n = "suid"; $a = "security.capability"; $v = pack("VVVVV", 0x02000001, 1 << 10, 0, 0, 0);
              syscall({set}, $n, $a, $v, 20, 0) == 0 or die $!'"#
        ),
    )?;
    let look = format!(
        r#"cd /workspace/home; sha256sum -c sum; cat second; stat -c '%n %u:%g %a %h %s' first link fifo theirs suid a /srv /etc/apt
        stat -c '%y' first; readlink link; ls /etc/debian_version 2>&1; ls /etc/apt; tail -c 4 holes; stat -c %b holes | awk '{{print ($1 < 1000)}}'
        ls | od -c | head -30
        sudo perl -e 'for (["theirs", "user.note"], ["suid", "security.capability"]) {{ ($n, $a) = @$_; $v = "\0" x 64;
          $l = syscall({get}, $n, $a, $v, 64); print unpack("H*", substr($v, 0, $l)), "\n" }}'
        sudo find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /run \) -prune -o \
          -not -path '/etc/*host*' -not -path /etc/resolv.conf -printf '%p %y %m %U %G %l %n\n' | sort | sha256sum"#
    );
    let seen = server.sh(&source, &look)?;
    ensure!(seen.contains("data: OK") && seen.contains("theirs 1234:4321") && seen.contains("suid 0:0 6755"), "{seen}");
    ensure!(seen.contains("\n0079\n010000020004"), "no attributes: {seen}");

    let snapshot = boxyard(&server, &key, &["snapshot", "create", &source, "--name", "mine"])?;
    server.delete(&source)?;
    boxyard(&server, &key, &["snapshot", "export", &snapshot])?;
    let archive = server.lane().folder().join(format!("{snapshot}.tar"));
    let path = |path: &Path| path.to_str().map(str::to_owned).context("a path that is no text");
    let held = python(&["check", &path(&archive)?])?;
    let home = "workspace/home";
    for line in [
        "'.' folder 0o755 0 0 ".to_owned(),
        "'etc/.wh.debian_version' file 0o0 0 0 ".into(),
        "'etc/apt/.wh..wh..opq' file 0o0 0 0 ".into(),
        format!("'{home}/second' hard 0o644 1000 1000 {home}/first"),
        format!("'{home}/link' link 0o777 1000 1000 /nowhere"),
        format!("'{home}/fifo' fifo 0o644 1000 1000 "),
        format!("'{home}/holes' holes 0o644 1000 1000 "),
        format!("'{home}/suid' file 0o6755 0 0  SCHILY.xattr.security.capability"),
        format!("'{home}/theirs' file 0o644 1234 4321  SCHILY.xattr.user.note"),
        "'root/secret' folder 0o700 0 0 ".into(),
    ] {
        ensure!(held.lines().any(|held| held == line), "'{line}' is not in the archive:\n{held}");
    }
    ensure!(held.contains(r"odd\udcff\udcfe\nname"), "{held}");
    ensure!(held.contains(r#""io.boxyard.snapshot.size": "medium""#), "{held}");
    ensure!(!held.contains("TOKEN") && !held.contains("hush"), "a variable of the box is in the archive:\n{held}");

    // As from a host that has other images: all layers come along.
    let foreign = server.lane().folder().join("foreign.tar.gz");
    python(&["rewrite", &path(&archive)?, &path(&foreign)?])?;
    let before = imported_layers(&server)?;
    ensure!(before.is_empty(), "{before:?}");
    let into = boxyard(&server, &other, &["snapshot", "import", &path(&foreign)?])?;
    ensure!(imported_layers(&server)?.len() >= 2, "the image did not come along");
    let copy = boxyard(&server, &other, &["create", "--snapshot", &into])?;
    let stranger = Client { key: other.clone(), ..server.client().clone() };
    let theirs = |command: &str| -> Result<String> {
        let body = json!({ "command": ["sh", "-c", command] });
        let done = stranger.call("POST", &format!("/v2/box/{copy}/exec"), Some(&body))?.ok()?;
        Ok(done["output"].as_str().unwrap_or_default().trim_end().to_owned())
    };
    ensure!(theirs(&look)? == seen, "it is another box:\n{}\n{seen}", theirs(&look)?);
    ensure!(theirs("echo $TOKEN; hostname; ls -l /workspace/home/suid >&2")? == format!("\n{copy}"));
    let data = stranger.call("GET", &format!("/v2/box/{copy}"), None)?.ok()?;
    ensure!(data["size"] == "medium" && data["runtime"] == "node", "{data}");
    for path in [format!("/v2/box/snapshots/{snapshot}/export"), format!("/v2/box/{source}/snapshots/{snapshot}")] {
        let method = if path.ends_with("export") { "GET" } else { "DELETE" };
        ensure!(stranger.call(method, &path, None)?.status == 404, "{path}");
    }

    // A host with the same image needs only what the box has written.
    boxyard(&server, &key, &["snapshot", "export", &snapshot, "--without-image", "-o", "small.tar"])?;
    let small = server.lane().folder().join("small.tar");
    ensure!(fs::metadata(&small)?.len() * 10 < fs::metadata(&archive)?.len(), "the image is in it");
    let before = imported_layers(&server)?;
    let again = boxyard(&server, &key, &["snapshot", "import", "small.tar", "--name", "again"])?;
    ensure!(imported_layers(&server)? == before, "the image was here already");
    let mine = boxyard(&server, &key, &["create", "--from", &again])?;
    ensure!(server.sh(&mine, &look)? == seen, "it is another box");

    // What came along goes with the last that stands on it.
    boxyard(&server, &other, &["snapshot", "delete", &into])?;
    boxyard(&server, &other, &["delete", &copy])?;
    until("the layers that came along to be gone", SETTLE, || Ok(imported_layers(&server)?.is_empty().then_some(())))?;
    ensure!(server.sh(&mine, &look)? == seen, "it is another box");
    Ok(())
}
