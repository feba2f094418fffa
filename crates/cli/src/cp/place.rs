//! Where copies come from and go to.

use std::path::PathBuf;

use boxyard_proto::api::files::FileStat;
use reqwest::{Method, RequestBuilder, StatusCode};

use crate::client::{Client, box_argument, read_json};
use crate::failure::Failure;

/// A place on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Standard input or output.
    Pipe,
    /// On this host.
    Here(PathBuf),
    /// In a box.
    Box(Remote),
}

/// A path in a box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remote {
    /// Id or name of the box.
    pub(crate) id: String,
    /// Absolute, or below the workspace; empty for the workspace itself.
    pub(crate) path: String,
}

impl Place {
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        match text.split_once(':') {
            _ if text == "-" => Ok(Self::Pipe),
            _ if text.is_empty() => Err(Failure::usage("a path is missing")),
            // As scp has it: what has a slash before the colon is a path here.
            Some((id, path)) if !id.contains('/') => {
                let id = box_argument(id).map_err(|error| {
                    Failure::usage(format!("'{text}': {error}; a path here with a colon in it begins with ./"))
                })?;
                Ok(Self::Box(Remote { id, path: path.to_owned() }))
            }
            Some(_) | None => Ok(Self::Here(text.into())),
        }
    }
}

impl Remote {
    /// A request about files of the box.
    pub(crate) fn request(
        &self,
        client: &Client,
        method: Method,
        what: &str,
        query: &[(&str, &str)],
    ) -> RequestBuilder {
        client.request_with(method, &[&self.id, "files", what], query)
    }

    /// What is there, behind symbolic links; none where nothing is.
    pub(crate) async fn stat(&self, client: &Client) -> Result<Option<FileStat>, Failure> {
        let path = if self.path.is_empty() { "." } else { &self.path };
        let request = self.request(client, Method::GET, "stat", &[("path", path), ("follow", "true")]);
        let answer = client.ask(request).await?;
        let status = answer.status();
        if status.is_success() {
            return read_json(answer).await.map(Some);
        }
        let failure = client.refusal(answer).await;
        // A box that is not there is another matter.
        if status == StatusCode::NOT_FOUND && failure.text().starts_with("not found") { Ok(None) } else { Err(failure) }
    }

    /// The same folder's entry with this name.
    pub(super) fn child(&self, name: &str) -> Self {
        let folder = self.path.trim_end_matches('/');
        let path = match folder {
            "" if self.path.is_empty() => name.to_owned(),
            folder => format!("{folder}/{name}"),
        };
        Self { id: self.id.clone(), path }
    }

    /// Its last name, where it has one.
    pub(super) fn name(&self) -> Option<&str> {
        let name = self.path.trim_end_matches('/').rsplit('/').next()?;
        (!matches!(name, "" | "." | "..")).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_box_before_the_colon_is_in_a_box() {
        let remote = |id: &str, path: &str| Place::Box(Remote { id: id.into(), path: path.into() });
        for (text, place) in [
            ("-", Place::Pipe),
            ("a", Place::Here("a".into())),
            ("./a:b", Place::Here("./a:b".into())),
            ("/a:b", Place::Here("/a:b".into())),
            ("my-box:", remote("my-box", "")),
            ("my-box:/tmp/a:b", remote("my-box", "/tmp/a:b")),
            ("current-wasp-05510:src", remote("current-wasp-05510", "src")),
        ] {
            assert_eq!(Place::parse(text).expect("a place"), place, "{text}");
        }
        for text in ["", ":a", "no box:a", "..:a"] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
        let child = |path: &str| Remote { id: "b".into(), path: path.into() }.child("n").path;
        assert_eq!(
            (child(""), child("a/"), child("/"), child(".")),
            ("n".into(), "a/n".into(), "/n".into(), "./n".into())
        );
        let name = |path: &str| Remote { id: "b".into(), path: path.into() }.name().map(str::to_owned);
        assert_eq!((name("a/b/"), name("."), name(""), name("a/..")), (Some("b".into()), None, None, None));
    }
}
