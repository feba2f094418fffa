//! `boxyard doctor`, as far as it goes without a host that runs boxes.

use crate::{boxyard, run};

#[test]
fn a_pool_that_is_not_there_does_not_grow() {
    let data = tempfile::tempdir().expect("a folder");
    let grow = |size: &str| {
        let mut call = boxyard(&["doctor", "--grow-pool", size]);
        call.env("BOXYARD_DATA_DIR", data.path());
        run(call)
    };
    for size in ["", "0", "much", "10XB"] {
        let (code, out, err) = grow(size);
        assert_eq!((code, out.as_str()), (64, ""), "{size:?}: {err}");
        assert!(err.contains("--grow-pool"), "{size:?}: {err}");
    }
    let (code, out, err) = grow("10GB");
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("the pool stays as it is") && err.contains("there is no"), "{err}");
    assert_eq!(std::fs::read_dir(data.path()).expect("the folder").count(), 0, "nothing is made");

    std::fs::write(data.path().join("pool.img"), vec![0; 1 << 20]).expect("write a file");
    let (code, _, err) = grow("10GB");
    assert!(code == 1 && err.contains("its file is not whole"), "{err}");
}
