//! The end of a stream: output bytes as they come, then one block that tells how the command ended.
//!
//! The block has nothing that sets it apart from output, so only the last one counts: a block is held back while it may be the last,
//! and turns out to be output when more follows.

use boxyard_proto::api::error::ErrorBody;
use boxyard_proto::api::exec::StreamExit;

const EXIT: &[u8] = b"event: exit\ndata: ";
const ERROR: &[u8] = b"event: error\ndata: ";
const END: &[u8] = b"\n\n";
/// Bytes of a block at most. What is longer is output.
const BLOCK_MAX: usize = 64 * 1024;

/// How a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The command ended.
    Exit(StreamExit),
    /// The command could not be run.
    Error(String),
}

/// Separates output from the block at its end.
#[derive(Debug, Default)]
pub(crate) struct Trailer {
    held: Vec<u8>,
}

impl Trailer {
    /// Takes the stream's next bytes and returns those that are surely output.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        let mut at = 0;
        loop {
            let candidate = self.held[at..].iter().position(|byte| *byte == b'e').map(|offset| at + offset);
            match candidate {
                None => return std::mem::take(&mut self.held),
                Some(start) if may_be_last(&self.held[start..]) => {
                    let rest = self.held.split_off(start);
                    return std::mem::replace(&mut self.held, rest);
                }
                Some(start) => at = start + 1,
            }
        }
    }

    /// Ends the stream: the output that was held back, and how the command ended if the stream says so.
    pub(crate) fn finish(self) -> (Vec<u8>, Option<Ending>) {
        match parse(&self.held) {
            Some(ending) => (Vec::new(), Some(ending)),
            None => (self.held, None),
        }
    }
}

/// Whether these bytes are a block, or the beginning of one.
fn may_be_last(bytes: &[u8]) -> bool {
    [EXIT, ERROR].into_iter().any(|head| {
        if bytes.len() <= head.len() {
            return head.starts_with(bytes);
        }
        let Some(data) = bytes.strip_prefix(head) else { return false };
        match data.iter().position(|byte| *byte == b'\n') {
            None => data.len() <= BLOCK_MAX,
            Some(end) => END.starts_with(&data[end..]),
        }
    })
}

fn parse(bytes: &[u8]) -> Option<Ending> {
    let block = bytes.strip_suffix(END)?;
    if let Some(data) = block.strip_prefix(EXIT) {
        return serde_json::from_slice(data).ok().map(Ending::Exit);
    }
    let body: ErrorBody = serde_json::from_slice(block.strip_prefix(ERROR)?).ok()?;
    Some(Ending::Error(body.error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(pieces: &[&[u8]]) -> (Vec<u8>, Option<Ending>) {
        let mut trailer = Trailer::default();
        let mut output = Vec::new();
        for piece in pieces {
            output.extend(trailer.push(piece));
        }
        let (rest, ending) = trailer.finish();
        output.extend(rest);
        (output, ending)
    }

    const BLOCK: &[u8] = b"event: exit\ndata: {\"exit_code\":3,\"cpu_ns\":7}\n\n";

    fn exit() -> Option<Ending> {
        Some(Ending::Exit(StreamExit { exit_code: 3, cpu_ns: 7 }))
    }

    #[test]
    fn the_last_block_is_found_wherever_the_stream_is_cut() {
        let whole = [b"some text, even: \xff\n" as &[u8], BLOCK].concat();
        for first in 0..=whole.len() {
            for second in first..=whole.len() {
                let (output, ending) = run(&[&whole[..first], &whole[first..second], &whole[second..]]);
                assert_eq!((output.as_slice(), ending), (&b"some text, even: \xff\n"[..], exit()));
            }
        }
    }

    #[test]
    fn blocks_in_the_output_are_output() {
        for before in [BLOCK, b"event: exit\nevent: exit\ndata: ", b"event: error\ndata: {}\n\n", b"eeevent: "] {
            let whole = [before, BLOCK].concat();
            for cut in 0..=whole.len() {
                let (output, ending) = run(&[&whole[..cut], &whole[cut..]]);
                assert_eq!((output.as_slice(), ending), (before, exit()), "cut at {cut}");
            }
        }
        let endless = [b"event: exit\ndata: " as &[u8], &[b'x'; 2 * BLOCK_MAX]].concat();
        let mut trailer = Trailer::default();
        assert_eq!(trailer.push(&endless), endless, "no endless holding back");
    }

    #[test]
    fn a_stream_without_a_block_says_so() {
        assert_eq!(run(&[b"half a line, event: ex"]), (b"half a line, event: ex".to_vec(), None));
        assert_eq!(run(&[]), (vec![], None));
        assert_eq!(run(&[b"event: exit\ndata: rubbish\n\n"]).1, None);
        let (output, ending) = run(&[b"x", b"event: error\ndata: {\"error\":\"no such box\"}\n\n"]);
        assert_eq!((output.as_slice(), ending), (&b"x"[..], Some(Ending::Error("no such box".into()))));
    }
}
