use std::collections::BTreeSet;

use super::{boxyard, run, text};

#[test]
fn a_key_is_made_listed_and_revoked() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data_dir = folder.path().join("yard");
    let call = |arguments: &[&str]| run(boxyard(&[arguments, &["--data-dir", text(&data_dir)]].concat()));

    let (code, _, err) = call(&["key", "list"]);
    assert_eq!(code, 1);
    assert!(err.contains("start the server once"), "{err}");

    let (code, key, err) = call(&["key", "create", "--account", "team", "--label", "my laptop"]);
    assert_eq!(code, 0, "{err}");
    let key = key.trim();
    assert!(key.starts_with("box_") && key.len() == 47, "{key}");
    let id = err.split_whitespace().next().expect("the key's id").to_owned();

    let (code, other, _) = call(&["key", "create"]);
    assert_eq!(code, 0);
    assert_ne!(other.trim(), key);

    let (_, list, _) = call(&["key", "list"]);
    let accounts: BTreeSet<_> = list.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(accounts, BTreeSet::from(["default", "team"]));
    assert!(list.contains("my laptop") && list.contains(&key[..8]) && !list.contains(&key[..12]), "{list}");

    assert_eq!(call(&["key", "revoke", &id]).0, 0);
    let (code, _, err) = call(&["key", "revoke", &id]);
    assert_eq!((code, err), (1, format!("boxyard: no live key is called {id}\n")));
    let (_, list, _) = call(&["key", "list"]);
    let line = list.lines().find(|line| line.starts_with(&id)).expect("revoked keys are listed");
    assert!(line.contains("revoked 20"), "{line}");
    assert_eq!(call(&["key", "revoke", "nonsense"]).0, 64);
    assert_eq!(call(&["key", "create", "--label", ""]).0, 64);
}
