//! How far a copy is, on a terminal.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use indicatif::{ProgressBar, ProgressStyle};

use super::Copy;

/// A bar of `length` bytes, or of no known number. Where standard error is no terminal nothing shows.
pub(super) fn bar(copy: &Copy, name: &str, length: Option<u64>) -> ProgressBar {
    if copy.quiet {
        return ProgressBar::hidden();
    }
    let bar = length.map_or_else(ProgressBar::no_length, ProgressBar::new);
    let style = match length {
        Some(_) => "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        None => "{msg} {spinner} {bytes} {bytes_per_sec}",
    };
    // The templates are constants.
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    let shown: String = name.chars().map(|c| if c.is_control() { '?' } else { c }).take(40).collect();
    bar.set_message(shown);
    bar
}

/// Counts what goes by.
pub(super) struct Counted<S> {
    pub(super) inner: S,
    pub(super) bar: ProgressBar,
}

impl<S: Stream<Item = io::Result<Bytes>> + Unpin> Stream for Counted<S> {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = Pin::new(&mut self.inner).poll_next(cx);
        if let Poll::Ready(Some(Ok(bytes))) = &next {
            self.bar.inc(bytes.len() as u64);
        }
        next
    }
}
