//! Questions and answers, as bytes. Answers from upstream are passed on unread beyond their header and question.

use std::net::Ipv4Addr;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};

/// Bytes of a message's header.
const HEADER: usize = 12;

/// What a client that says nothing else can take over UDP.
const UDP_DEFAULT: usize = 512;

/// Seconds for which a local answer may be remembered.
const LOCAL_TTL: u32 = 5;

/// A question that can be passed on.
#[derive(Debug)]
pub(super) struct Question {
    bytes: Vec<u8>,
    parsed: Message,
    /// Where the question section ends.
    end: usize,
}

impl Question {
    /// Reads a question. What is none gets the answer in `Err`, or no answer.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Option<Vec<u8>>> {
        let header: &[u8; HEADER] = bytes.first_chunk().ok_or(None)?;
        if header[2] & 0x80 != 0 {
            return Err(None);
        }
        if header[2] & 0x78 != 0 {
            return Err(Some(bare(header, ResponseCode::NotImp)));
        }
        let malformed = || Some(bare(header, ResponseCode::FormErr));
        let end = question_end(bytes).ok_or_else(malformed)?;
        let parsed = Message::from_vec(bytes).map_err(|_| malformed())?;
        if parsed.queries.len() != 1 {
            return Err(malformed());
        }
        Ok(Self { bytes: bytes.to_vec(), parsed, end })
    }

    /// The name asked for, in lower case and without a dot at the end; empty unless the question is of the internet's class.
    pub(super) fn host_name(&self) -> String {
        match self.parsed.queries.first() {
            Some(query) if query.query_class() == DNSClass::IN => {
                query.name().to_lowercase().to_ascii().trim_end_matches('.').to_owned()
            }
            Some(_) | None => String::new(),
        }
    }

    /// The answer that the name asked for has `address`, and nothing else.
    pub(super) fn local_answer(&self, address: Ipv4Addr) -> Vec<u8> {
        let mut answer = Message::new(self.parsed.metadata.id, MessageType::Response, OpCode::Query);
        answer.metadata.recursion_desired = self.parsed.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        for query in &self.parsed.queries {
            if matches!(query.query_type(), RecordType::A | RecordType::ANY) {
                answer.add_answer(Record::from_rdata(query.name().clone(), LOCAL_TTL, RData::A(A(address))));
            }
            answer.add_query(query.clone());
        }
        answer.to_vec().unwrap_or_else(|_| self.failure())
    }

    /// The answer that no answer can be had.
    pub(super) fn failure(&self) -> Vec<u8> {
        let mut header = [0; HEADER];
        header.copy_from_slice(&self.bytes[..HEADER]);
        bare(&header, ResponseCode::ServFail)
    }

    /// The question for upstream, under the id `id`.
    pub(super) fn with_id(&self, id: u16) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes[..2].copy_from_slice(&id.to_be_bytes());
        bytes
    }

    /// Makes what came back for the question under `id` an answer to the client. `None` when it belongs to another question.
    pub(super) fn accept(&self, id: u16, mut answer: Vec<u8>) -> Option<Vec<u8>> {
        let header: &[u8; HEADER] = answer.first_chunk()?;
        let is_answer = header[..2] == id.to_be_bytes() && header[2] & 0x80 != 0;
        // A server that could not read the question may leave it out.
        let fits = match answer.get(HEADER..self.end) {
            Some(question) => question.eq_ignore_ascii_case(&self.bytes[HEADER..self.end]),
            None => header[4..6] == [0, 0],
        };
        if !is_answer || !fits {
            return None;
        }
        answer[..2].copy_from_slice(&self.bytes[..2]);
        Some(answer)
    }

    /// Cuts an answer that the client cannot take over UDP to its question, marked so that the client asks again over TCP.
    pub(super) fn fit(&self, mut answer: Vec<u8>) -> Vec<u8> {
        let room =
            self.parsed.edns.as_ref().map_or(UDP_DEFAULT, |edns| usize::from(edns.max_payload()).max(UDP_DEFAULT));
        if answer.len() > room {
            answer.truncate(self.end);
            answer[2] |= 0x02;
            answer[6..HEADER].fill(0);
        }
        answer
    }
}

/// A header alone, as an answer to the message with `header`.
fn bare(header: &[u8; HEADER], code: ResponseCode) -> Vec<u8> {
    let mut answer = vec![0; HEADER];
    answer[..2].copy_from_slice(&header[..2]);
    answer[2] = 0x80 | header[2] & 0x79;
    answer[3] = 0x80 | code.low();
    answer
}

/// Where the only question of a message ends: its name cannot be compressed, since nothing stands before it.
fn question_end(bytes: &[u8]) -> Option<usize> {
    if bytes.get(4..6)? != [0, 1] {
        return None;
    }
    let mut at = HEADER;
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1 + length;
        match length {
            0 => break,
            1..=63 if at - HEADER <= 255 => {}
            _ => return None,
        }
    }
    (at + 4 <= bytes.len()).then_some(at + 4)
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use hickory_proto::op::{Edns, Query};
    use hickory_proto::rr::Name;
    use proptest::prelude::*;

    use super::*;

    fn question(payload: Option<u16>) -> Question {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_str("Mirror.Example.").unwrap(), RecordType::A));
        if let Some(payload) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            message.set_edns(edns);
        }
        Question::read(&message.to_vec().unwrap()).unwrap()
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), id: u16) {
            if let Ok(question) = Question::read(&bytes) {
                question.host_name();
                question.local_answer(Ipv4Addr::LOCALHOST);
            }
            let question = question_of_any(&bytes);
            if let Some(answer) = question.accept(id, bytes) {
                prop_assert_eq!(&answer[..2], &question.bytes[..2]);
                prop_assert!(question.fit(answer).len() <= 512);
            }
        }

        #[test]
        fn damaged_questions_are_read_or_refused_without_panic(at in 0usize..33, value: u8) {
            let mut bytes = question(Some(1232)).bytes;
            let at = at.min(bytes.len() - 1);
            bytes[at] = value;
            if let Ok(question) = Question::read(&bytes) {
                question.local_answer(Ipv4Addr::LOCALHOST);
            }
        }
    }

    fn question_of_any(_: &[u8]) -> Question {
        question(None)
    }

    #[test]
    fn an_answer_must_be_to_this_very_question() {
        let question = question(None);
        let mut answer = question.with_id(7);
        assert_eq!(question.accept(7, answer.clone()), None, "a question is no answer");
        answer[2] |= 0x80;
        assert_eq!(question.accept(8, answer.clone()), None, "another id");
        answer[13] = answer[13].to_ascii_uppercase();
        assert_eq!(&question.accept(7, answer.clone()).unwrap()[..2], &question.bytes[..2]);
        answer[14] = b'x';
        assert_eq!(question.accept(7, answer), None, "another name");
    }

    #[test]
    fn what_does_not_fit_is_cut_to_its_question_and_marked() {
        let long = |question: &Question| {
            let mut answer = question.with_id(7);
            answer[2] |= 0x80;
            answer.resize(1000, 0);
            answer
        };
        let small = question(None);
        let cut = Message::from_vec(&small.fit(long(&small))).unwrap();
        assert!(cut.metadata.truncation);
        assert_eq!(cut.queries.len(), 1);
        let large = question(Some(1232));
        assert_eq!(large.fit(long(&large)).len(), 1000);
    }

    #[test]
    fn local_names_have_their_address_and_nothing_else() {
        let question = question(None);
        assert_eq!(question.host_name(), "mirror.example");
        let answer = Message::from_vec(&question.local_answer(Ipv4Addr::new(192, 0, 2, 9))).unwrap();
        assert_eq!(answer.answers.len(), 1);
        assert_eq!(answer.metadata.id, question.parsed.metadata.id);
    }

    #[test]
    fn answers_are_never_answered() {
        let mut bytes = question(None).bytes;
        bytes[2] |= 0x80;
        assert_eq!(Question::read(&bytes).unwrap_err(), None);
        bytes[2] = 0x28;
        assert_eq!(Question::read(&bytes).unwrap_err().map(|answer| answer[3] & 15), Some(4));
    }
}
