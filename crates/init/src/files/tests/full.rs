//! A disk that is full.

use boxyard_proto::files::{Ask, Failure, Format};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::files::testing::World;

/// A small disk in the folder `w/small`. Dropping it takes it away.
struct Small<'a>(&'a World);

impl<'a> Small<'a> {
    fn new(world: &'a World) -> Self {
        world.make_folder("w/small");
        let options = c"size=256k,mode=755";
        mount("tmpfs", world.place("w/small"), "tmpfs", MountFlags::empty(), options).expect("tests need root");
        Self(world)
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = unmount(self.0.place("w/small"), UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_leaves_the_old_file_and_nothing_else() {
    let world = World::new();
    let small = Small::new(&world);
    world.write("w/small/file", "old").done();
    let told = world.write("w/small/file", vec![b'x'; 1_000_000]);
    assert_eq!(told.failure(), Failure::NoSpace);
    assert_eq!((world.content("w/small/file"), world.names("w/small")), ("old".into(), vec!["file".into()]));
    assert_eq!(world.write("w/small/new", vec![b'x'; 1_000_000]).failure(), Failure::NoSpace);
    assert_eq!(world.names("w/small"), ["file"]);
    // There is room again for what fits, and an archive is unpacked as far as it does.
    assert!(!world.write("w/small/new", vec![b'x'; 90_000]).done());
    let tar = world.ask(&Ask::Archive { path: world.path("w/small"), format: Format::Tar }).content;
    assert!(!world.with(&Ask::Unpack { path: world.path("w/small/copy") }, &tar).done());
    let told = world.with(&Ask::Unpack { path: world.path("w/small/again") }, &tar);
    assert_eq!((told.failure(), world.names("w/small/again")), (Failure::NoSpace, vec!["file".into()]));
    assert!(told.message().contains("what came before has been unpacked"), "{}", told.message());
    assert!(!world.remove("w/small/copy", true).done());
    drop(small);
}
