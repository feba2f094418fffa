//! The doctor on this very machine, which the other tests run on.

use super::yard::Yard;
use crate::local::check_host;

#[tokio::test]
async fn a_host_that_runs_boxes_is_found_well() {
    let yard = Yard::open().await;
    let ill: Vec<_> = check_host(&yard.config).into_iter().filter(|check| !check.ok).collect();
    assert_eq!(ill, []);
    yard.close().await;
}

#[tokio::test]
async fn what_is_wrong_comes_with_a_remedy() {
    let yard = Yard::open_with(|config| config.init = "/bin/true".into()).await;
    let mut config = yard.config.clone();
    config.data_dir = "/proc/boxyard".into();
    config.network_range = "192.0.2.0/24".parse().unwrap();
    let ill: Vec<_> = check_host(&config).into_iter().filter(|check| !check.ok).collect();
    let names: Vec<_> = ill.iter().map(|check| check.name).collect();
    assert_eq!(names, ["data folder's file system", "disk space", "network range", "boxyard-init"]);
    assert!(ill.iter().all(|check| !check.problem.is_empty() && !check.remedy.is_empty()), "{ill:?}");
    yard.close().await;
}
