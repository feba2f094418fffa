//! What commands on the server's host have in common: the local engine, set up as the configuration says.

use std::error::Error;
use std::io;

use boxyard_engine::EngineError;
use boxyard_engine::images::{ImagesConfig, OciConfig, OciLimits};
use boxyard_engine::local::{Cidr, LocalConfig, LocalEngine};
use boxyard_server::config::{AddressRange, Config};

use crate::failure::Failure;

/// The local engine's share of the configuration.
pub(crate) fn local(config: &Config) -> LocalConfig {
    let range = |range: &AddressRange| Cidr::new(range.first, range.prefix);
    let ranges = |ranges: &[AddressRange]| ranges.iter().map(range).collect();
    LocalConfig {
        network_range: range(&config.network.range),
        network_deny: ranges(&config.network.deny),
        network_allow: ranges(&config.network.allow),
        uid_start: config.uids_start,
        boxes_max: config.boxes_max,
        storage: config.storage.kind,
        pool_size: config.storage.pool_size,
        dns_upstreams: config.network.dns.clone(),
        dns_hosts: config.network.hosts.clone(),
        ..LocalConfig::new(config.data_dir.clone(), config.init.clone(), images(config))
    }
}

/// The images' share of the configuration.
pub(crate) fn images(config: &Config) -> ImagesConfig {
    let of = &config.images;
    let limits =
        OciLimits { compressed_bytes: of.download_max, unpacked_bytes: of.unpacked_max, ..OciLimits::default() };
    ImagesConfig {
        trust_host_cas: config.trust_host_cas,
        recipes_dir: of.recipes_dir.clone(),
        oci: OciConfig {
            mirrors: of.registry_mirrors.clone(),
            insecure: of.insecure_registries.clone(),
            logins: of.docker_config.clone(),
            limits,
        },
    }
}

/// The engine could not be opened.
pub(crate) fn not_opened(error: EngineError) -> Failure {
    let hint = if in_use(&error) { "" } else { "\nrun boxyard doctor to see what this host lacks" };
    Failure::plain(format!("{}{hint}", Failure::failed("the local engine", error).text()))
}

/// Closes the engine: boxes that run go on, with all that they share; where there are none, nothing of ours stays on the host.
pub(crate) async fn close(engine: &LocalEngine) {
    if let Err(error) = engine.close().await {
        tracing::warn!(error = &error as &dyn Error, "cannot tidy up");
    }
}

/// Whether the engine could not be opened because another server has the data directory.
pub(crate) fn in_use(error: &EngineError) -> bool {
    let mut cause: Option<&dyn Error> = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ResourceBusy) {
            return true;
        }
        cause = error.source();
    }
    false
}
