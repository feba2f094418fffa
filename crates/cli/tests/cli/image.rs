//! `boxyard image`, as far as it goes without boxes.

use crate::{boxyard, run, text};

#[test]
fn wrong_calls_say_what_is_meant() {
    let recipe = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(recipe.path(), "name = 'a'\nimage = 'b'\n").expect("write it");
    let recipe = text(recipe.path());
    for (arguments, told) in [
        (&["add", "mine"][..], "--oci"),
        (&["add", "--oci", "alpine"], "NAME"),
        (&["add", "mine", "--recipe", "a.toml"], "cannot be used with"),
        (&["add", "mine", "--oci", "alpine", "--recipe", "a.toml"], "cannot be used with"),
        (&["add", "../mine", "--oci", "alpine"], "the name of an image must be"),
        (&["add", "mine", "--oci", "http://alpine"], "`oci`"),
        (&["add", "--recipe", "/nonexistent.toml"], "/nonexistent.toml: No such file"),
        (&["add", "--recipe", recipe], "unknown field `image`"),
        (&["remove"], "NAME"),
    ] {
        let (code, out, err) = run(boxyard(&[&["image"], arguments].concat()));
        assert_eq!((code, out.as_str()), (64, ""), "{arguments:?}: {err}");
        assert!(err.contains(told), "{arguments:?}: {err}");
    }
}

#[test]
fn images_are_listed_removed_and_freed_in_a_data_directory() {
    let data = tempfile::tempdir().expect("a folder");
    let image = |arguments: &[&str]| {
        let mut call = boxyard(&[&["image"], arguments].concat());
        call.env("BOXYARD_DATA_DIR", data.path());
        run(call)
    };
    let (code, _, err) = image(&["list"]);
    assert!(code == 1 && err.contains("there are no images in"), "{err}");
    std::fs::create_dir_all(data.path().join("images/added")).expect("make the folder");
    std::fs::write(data.path().join("images/added/mine.toml"), "name = 'mine'\noci = 'registry.invalid/a/b'\n")
        .expect("add an image");
    let (code, out, err) = image(&["list"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let line = |name: &str| out.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    assert!(line("NAME").ends_with("USED BY"), "{out}");
    assert!(line("mine").contains("registry.invalid/a/b") && line("mine").contains("not built"), "{out}");
    assert!(line("node-alpine").contains("docker.io/library/alpine"), "{out}");

    assert_eq!(image(&["remove", "mine"]), (0, String::new(), "mine is removed: 0 layers, 0 B freed\n".into()));
    let (code, _, err) = image(&["remove", "mine"]);
    assert!(code == 1 && err.contains("there are: ") && err.contains("node"), "{err}");
    // What a broken download has left, and a layer of a recipe that nobody has any more.
    let layer = data.path().join("images/layers/old");
    std::fs::create_dir_all(layer.join("fs")).expect("make a layer");
    let note = r#"{"key":"old","parent":null,"recipe":"x","bytes":1024,"built_at_ms":1,"took_ms":1}"#;
    std::fs::write(layer.join("layer.json"), note).expect("note it");
    std::fs::write(data.path().join("images/blobs/sha256/abc.part"), vec![0; 1024]).expect("leave a download");
    assert_eq!(image(&["gc"]), (0, String::new(), "1 layer, 2.00 KiB freed\n".into()));
    assert!(!layer.exists());
}
