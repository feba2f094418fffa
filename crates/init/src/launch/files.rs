//! Writing the engine's small files into a box, whose paths may lead anywhere but never outside.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use boxyard_proto::launch::File;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, fchmod, mkdirat, openat, openat2, unlinkat};
use rustix::io::Errno;

use crate::trouble::{Doing, Trouble};

/// Writes `file` below `root`. Whatever was in its place, a link for instance, is replaced and never written through.
pub fn write(root: impl AsFd, file: &File) -> Result<(), Trouble> {
    let doing = || format!("writing {} in the box", file.path.display());
    let path = file.path.strip_prefix("/").map_err(|_| Trouble::new(doing(), "the path is not absolute"))?;
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(Trouble::new(doing(), "the path is not plain"));
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Trouble::new(doing(), "the path names no file"));
    };
    let folder = open_folder(root.as_fd(), folder).doing_with(doing)?;
    let mode = Mode::from_raw_mode(file.mode & 0o7777);
    let create = || {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&folder, name, flags, mode)
    };
    let made = match create() {
        Err(Errno::EXIST) => {
            unlinkat(&folder, name, AtFlags::empty()).doing_with(doing)?;
            create().doing_with(doing)?
        }
        result => result.doing_with(doing)?,
    };
    fchmod(&made, mode).doing_with(doing)?;
    let mut rest = file.content.as_bytes();
    while !rest.is_empty() {
        let written = rustix::io::write(&made, rest).doing_with(doing)?;
        rest = &rest[written..];
    }
    Ok(())
}

/// Opens the folder at `path`, resolved as a process whose root is `root` would, and makes what is missing of it.
fn open_folder(root: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let open = |path: &Path| {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat2(root.as_fd(), path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    };
    match open(path) {
        Err(Errno::NOENT) => {}
        opened => return opened,
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::NOENT) };
    let parent = open_folder(root.as_fd(), parent)?;
    match mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
        // A dangling link is there already; the folder still does not open then.
        Ok(()) | Err(Errno::EXIST) => open(path),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn file(path: &str, content: &str) -> File {
        File { path: path.into(), content: content.into(), mode: 0o640 }
    }

    #[test]
    fn links_that_a_box_has_planted_lead_nowhere_else() {
        let place = std::env::temp_dir().join(format!("boxyard-files-{}", std::process::id()));
        let _ = fs::remove_dir_all(&place);
        let root_path = place.join("root");
        fs::create_dir_all(root_path.join("etc")).expect("make a root");
        fs::write(place.join("host"), "untouched").expect("make a file outside");
        symlink("../../host", root_path.join("etc/hosts")).expect("plant a link");
        symlink("/../../../..", root_path.join("up")).expect("plant a link");
        symlink(&place, root_path.join("out")).expect("plant a link");
        let root = fs::File::open(&root_path).expect("open the root");

        write(&root, &file("/etc/hosts", "127.0.0.1 localhost\n")).expect("replace the link");
        assert_eq!(fs::read_to_string(root_path.join("etc/hosts")).ok().as_deref(), Some("127.0.0.1 localhost\n"));
        write(&root, &file("/up/new/deep/file", "inside")).expect("resolve inside");
        assert_eq!(fs::read_to_string(root_path.join("new/deep/file")).ok().as_deref(), Some("inside"));
        write(&root, &file("/out/host", "x")).expect_err("the absolute link dangles inside");
        assert_eq!(fs::read_to_string(place.join("host")).ok().as_deref(), Some("untouched"));
        for path in ["relative", "/", "/a/../b", ""] {
            write(&root, &file(path, "x")).expect_err("not a plain absolute path");
        }
        let mode = fs::metadata(root_path.join("etc/hosts")).expect("stat").permissions().mode();
        assert_eq!(mode & 0o7777, 0o640);
        fs::remove_dir_all(&place).expect("clean up");
    }
}
