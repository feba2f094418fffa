//! `boxyard image`: images ahead of their first use.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use boxyard_engine::images::{BuildProgress, Images};
use boxyard_engine::local::LocalEngine;
use clap::{Args, Subcommand};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use tokio::sync::watch;

use crate::data::DataOptions;
use crate::failure::Failure;
use crate::host::{close, images, in_use, local, not_opened};
use crate::output::{note, print, table};

/// How often a bar without news shows that it is alive.
const TICK: Duration = Duration::from_millis(120);
/// Steps of a bar.
const BAR: u64 = 1000;

#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// Build images that are not there yet
    Build(Build),
    /// List images and whether they are built
    List(DataOptions),
}

#[derive(Debug, Args)]
pub(crate) struct Build {
    /// Names of the images, such as node or golang
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    data: DataOptions,
}

impl Image {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Build(build) => build.run().await,
            Self::List(data) => list(&data),
        }
    }
}

impl Build {
    async fn run(self) -> Result<ExitCode, Failure> {
        let config = self.data.load()?;
        let engine = match LocalEngine::open(local(&config)).await {
            Ok(engine) => engine,
            Err(error) if in_use(&error) => {
                let text = "a server uses this data directory: it builds an image when a box first needs it, so run\n  \
                            boxyard create --runtime NAME";
                return Err(Failure::plain(text));
            }
            Err(error) => return Err(not_opened(error)),
        };
        let built = self.build(&engine).await;
        close(&engine).await;
        built
    }

    async fn build(&self, engine: &LocalEngine) -> Result<ExitCode, Failure> {
        for name in &self.names {
            let shown = Shown::begin(name);
            let progress = engine.build_progress();
            let image = tokio::select! {
                image = engine.build_image(name) => image,
                never = shown.follow(progress) => match never {},
            };
            shown.end();
            let image = image.map_err(|error| Failure::failed(format!("cannot build {name}"), error))?;
            note(&format!("{name} is built: {} layers", image.layers.len()));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn list(data: &DataOptions) -> Result<ExitCode, Failure> {
    let config = data.load()?;
    let folder = config.data_dir.join("images");
    if !folder.is_dir() {
        let text = format!("there are no images in {}: start the server once, or build one", config.data_dir.display());
        return Err(Failure::plain(text));
    }
    let images =
        Images::open(&folder, images(&config)).map_err(|error| Failure::failed("cannot read the images", error))?;
    let rows: Vec<_> = images
        .list()
        .into_iter()
        .map(|image| {
            let state = if image.built { "built" } else { "not built" };
            let size = if image.bytes == 0 { String::new() } else { HumanBytes(image.bytes).to_string() };
            let digest = image.digest.trim_start_matches("sha256:").chars().take(12).collect();
            [image.name, image.aliases.join(" "), state.into(), size, digest]
        })
        .collect();
    print(&table(["NAME", "ALSO", "STATE", "ON DISK", "DIGEST"], &rows))
}

/// A build's progress: a bar on a terminal, a line for each step elsewhere.
enum Shown {
    Bar(ProgressBar),
    Lines,
}

impl Shown {
    fn begin(name: &str) -> Self {
        if !io::stderr().is_terminal() {
            return Self::Lines;
        }
        let bar = ProgressBar::new(BAR).with_prefix(name.to_owned());
        let style = ProgressStyle::with_template("{prefix:.bold} {spinner} {wide_bar} {percent:>3}% {elapsed} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(TICK);
        Self::Bar(bar)
    }

    /// Shows all news, for ever.
    async fn follow(&self, mut progress: watch::Receiver<Option<BuildProgress>>) -> std::convert::Infallible {
        let mut told = None;
        loop {
            if progress.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            let Some(news) = progress.borrow_and_update().clone() else { continue };
            match self {
                Self::Bar(bar) => {
                    bar.set_position(position(&news));
                    bar.set_message(format!("{}/{} {}", news.step, news.of, news.doing));
                }
                Self::Lines if told != Some((news.step, news.doing)) => {
                    note(&format!("{}: step {} of {}, {}", news.image, news.step, news.of, news.doing));
                    told = Some((news.step, news.doing));
                }
                Self::Lines => {}
            }
        }
    }

    fn end(self) {
        match self {
            Self::Bar(bar) => bar.finish_and_clear(),
            Self::Lines => {}
        }
    }
}

/// How much of a whole build is done, all steps taken for equally long.
fn position(news: &BuildProgress) -> u64 {
    let step = u64::try_from(news.step.saturating_sub(1)).unwrap_or(0);
    let of = u64::try_from(news.of.max(1)).unwrap_or(1);
    let part = f64::from(news.fraction.unwrap_or(0.0).clamp(0.0, 1.0));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=BAR just before")]
    let within = (part * BAR as f64) as u64;
    ((step * BAR + within) / of).min(BAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_never_leaves_its_bounds() {
        let at = |step, of, fraction| {
            position(&BuildProgress { image: "node".into(), step, of, doing: "installing", fraction })
        };
        assert_eq!(at(1, 2, None), 0);
        assert_eq!(at(1, 2, Some(0.5)), 250);
        assert_eq!(at(2, 2, Some(1.0)), 1000);
        assert_eq!(at(0, 0, Some(f32::NAN)), 0);
        assert_eq!(at(9, 2, Some(7.0)), 1000);
    }
}
