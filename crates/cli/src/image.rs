//! `boxyard image`: images ahead of their first use, images of one's own, and freeing what nobody needs.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use boxyard_engine::images::{Addition, BuildProgress, Freed, Images};
use boxyard_engine::local::LocalEngine;
use boxyard_server::config::Config;
use clap::{Args, Subcommand};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use tokio::sync::watch;

use crate::data::DataOptions;
use crate::failure::Failure;
use crate::host::{close, images, in_use, local, not_opened};
use crate::output::{note, print, table};

/// How often a bar without news shows that it is alive.
const TICK: Duration = Duration::from_millis(120);
/// Bytes of a recipe at most, as the engine has it.
const RECIPE_MAX: u64 = 256 * 1024;
/// Steps of a bar.
const BAR: u64 = 1000;

#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// Build images that are not there yet
    Build(Build),
    /// Add an image of a registry, or of a recipe, under a name that boxes can be created with
    Add(Add),
    /// List images: what they are from, whether they are built, who uses them
    List(DataOptions),
    /// Remove an image that was added; of others, what is built of them
    Remove(Remove),
    /// Free image layers and downloads that no image, box or snapshot needs
    Gc(DataOptions),
}

#[derive(Debug, Args)]
#[group(id = "source", required = true, multiple = false, args = ["oci", "recipe"])]
pub(crate) struct Add {
    /// Its name; with --recipe the recipe says it
    #[arg(required_unless_present = "recipe", conflicts_with = "recipe")]
    name: Option<String>,
    /// An image of a registry, such as docker.io/library/alpine:3.22 or NAME@sha256:DIGEST
    #[arg(long, value_name = "REF")]
    oci: Option<String>,
    /// A recipe
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    #[command(flatten)]
    data: DataOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// Names of the images
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    data: DataOptions,
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
            Self::Add(add) => add.run().await,
            Self::List(data) => list(&data),
            Self::Remove(remove) => remove.run(),
            Self::Gc(data) => gc(&data),
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
            let image = shown(name, engine.build_progress(), engine.build_image(name)).await;
            let image = image.map_err(|error| Failure::failed(format!("cannot build {name}"), error))?;
            note(&format!("{name} is built: {} layers", image.layers.len()));
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Add {
    async fn run(self) -> Result<ExitCode, Failure> {
        let addition = match (&self.name, &self.oci, &self.recipe) {
            (Some(name), Some(reference), None) => Addition::oci(name, reference).map_err(Failure::usage)?,
            (_, _, Some(path)) => {
                let about = |why: &dyn std::fmt::Display| Failure::usage(format!("{}: {why}", path.display()));
                let text = read_recipe(path).map_err(|error| about(&error))?;
                Addition::recipe(&text).map_err(|why| about(&why))?
            }
            _ => return Err(Failure::usage("say what to add: NAME --oci REF, or --recipe FILE")),
        };
        let config = self.data.load()?;
        let name = addition.name().to_owned();
        let failed = |error| Failure::failed(format!("cannot add {name}"), error);
        match LocalEngine::open(local(&config)).await {
            Ok(engine) => {
                let added = shown(&name, engine.build_progress(), engine.add_image(&addition)).await;
                close(&engine).await;
                added.map_err(failed)?;
                note(&format!("{name} is added and built"));
            }
            // The server has the boxes to build in; what needs none is done here.
            Err(error) if in_use(&error) => {
                let images = open(&config)?;
                let built = shown(&name, images.progress(), images.add(&addition, None)).await.map_err(failed)?;
                let rest =
                    if built { "is added" } else { "is added; the server builds the rest when a box first needs it" };
                note(&format!("{name} {rest}: boxyard create --runtime {name}"));
            }
            Err(error) => return Err(not_opened(error)),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A recipe file; not more of it than a recipe may have.
fn read_recipe(path: &Path) -> io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(RECIPE_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > RECIPE_MAX {
        return Err(io::Error::other(format!("a recipe has at most {RECIPE_MAX} bytes")));
    }
    Ok(text)
}

/// Shows what a build does while it is waited for.
async fn shown<T>(name: &str, progress: watch::Receiver<Option<BuildProgress>>, built: impl Future<Output = T>) -> T {
    let shown = Shown::begin(name);
    let done = tokio::select! {
        done = built => done,
        never = shown.follow(progress) => match never {},
    };
    shown.end();
    done
}

/// The images in the data directory, also of a server that runs.
fn open(config: &Config) -> Result<Images, Failure> {
    let folder = config.data_dir.join("images");
    if !folder.is_dir() {
        let text = format!("there are no images in {}: start the server once, or build one", config.data_dir.display());
        return Err(Failure::plain(text));
    }
    Images::open(&folder, images(config)).map_err(|error| Failure::failed("cannot read the images", error))
}

fn list(data: &DataOptions) -> Result<ExitCode, Failure> {
    let list = open(&data.load()?)?.list().map_err(|error| Failure::failed("cannot list the images", error))?;
    let rows: Vec<_> = list
        .into_iter()
        .map(|image| {
            let state = if image.built { "built" } else { "not built" };
            let size = if image.bytes == 0 { String::new() } else { HumanBytes(image.bytes).to_string() };
            let digest = image.digest.trim_start_matches("sha256:").chars().take(12).collect();
            let used_by = used_by(image.boxes, image.snapshots);
            [image.name, image.aliases.join(" "), image.source, state.into(), size, digest, used_by]
        })
        .collect();
    print(&table(["NAME", "ALSO", "SOURCE", "STATE", "ON DISK", "DIGEST", "USED BY"], &rows))
}

fn used_by(boxes: usize, snapshots: usize) -> String {
    let count = |count: usize, one: &str, many: &str| match count {
        0 => None,
        1 => Some(format!("1 {one}")),
        _ => Some(format!("{count} {many}")),
    };
    let parts = [count(boxes, "box", "boxes"), count(snapshots, "snapshot", "snapshots")];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

impl Remove {
    fn run(self) -> Result<ExitCode, Failure> {
        let images = open(&self.data.load()?)?;
        for name in &self.names {
            let freed = images.remove(name).map_err(|error| Failure::failed(format!("cannot remove {name}"), error))?;
            note(&format!("{name} is removed: {}", freed_text(freed)));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn gc(data: &DataOptions) -> Result<ExitCode, Failure> {
    let freed = open(&data.load()?)?.gc().map_err(|error| Failure::failed("cannot free image layers", error))?;
    note(&freed_text(freed));
    Ok(ExitCode::SUCCESS)
}

fn freed_text(freed: Freed) -> String {
    let layers = if freed.layers == 1 { "layer" } else { "layers" };
    format!("{} {layers}, {} freed", freed.layers, HumanBytes(freed.bytes))
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
