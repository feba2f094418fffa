use proptest::prelude::*;

use super::*;

fn mark() -> Mark {
    Mark(*b"\xffmark\0mark\xffmark\xff")
}

fn piece(kind: u8, more: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("short").to_be_bytes();
    [&mark().0[..], &[kind, more], &length, payload].concat()
}

/// All that comes of bytes that come in these pieces: what is written joined, in its place between what is said.
fn heard<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Heard>, Malformed> {
    heard_with(pieces, &Budget::new(0, 1 << 20), 10_000)
}

fn heard_with<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    budget: &Budget,
    most: usize,
) -> Result<Vec<Heard>, Malformed> {
    let mut split = Split::new(&mark(), most, budget);
    let mut all: Vec<Heard> = Vec::new();
    let mut add = |heard| match (all.last_mut(), heard) {
        (Some(Heard::Written(before)), Heard::Written(more)) => *before = [&before[..], &more[..]].concat().into(),
        (_, heard) => all.push(heard),
    };
    for piece in pieces {
        split.push(Bytes::copy_from_slice(piece));
        while let Some(heard) = split.next()? {
            add(heard);
        }
    }
    let rest = split.finish();
    if !rest.is_empty() {
        add(Heard::Written(rest));
    }
    Ok(all)
}

fn written(bytes: &[u8]) -> Heard {
    Heard::Written(Bytes::copy_from_slice(bytes))
}

fn said(kind: u8, bytes: &[u8]) -> Heard {
    Heard::Said(kind, Bytes::copy_from_slice(bytes))
}

#[test]
fn what_is_said_is_told_from_what_is_written_wherever_the_bytes_are_cut() {
    let bytes = [
        b"before\xffmar".to_vec(),
        piece(b'R', b'(', b"broken off"),
        piece(b'R', b'(', b"one "),
        b"between".to_vec(),
        piece(b'R', b'-', b"two "),
        piece(b'R', b')', b"three"),
        piece(b'D', b'.', b""),
        b"after\xffmark\0".to_vec(),
    ]
    .concat();
    let expected = vec![
        written(b"before\xffmarbetween"),
        said(b'R', b"one two three"),
        said(b'D', b""),
        written(b"after\xffmark\0"),
    ];
    for size in 1..bytes.len() {
        assert_eq!(heard(bytes.chunks(size)).as_ref(), Ok(&expected), "in pieces of {size}");
    }
}

#[test]
fn pieces_that_no_driver_sends_are_refused() {
    let long = [&mark().0[..], b"R.\x10\x00"].concat();
    let more = (0..10).flat_map(|_| piece(b'R', b'-', &[b'x'; 2000]));
    let endless: Vec<u8> = piece(b'R', b'(', b"").into_iter().chain(more).collect();
    let mixed = [piece(b'R', b'(', b"a"), piece(b'E', b')', b"b")].concat();
    for (bytes, text) in [
        (piece(b'R', b'?', b""), "unknown head"),
        (long, "a piece that is too long"),
        (endless, "a message that is too long"),
        (mixed, "within another"),
        (piece(b'R', b')', b""), "without a beginning"),
    ] {
        let error = heard([&bytes[..]]).expect_err(text).to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn a_message_that_there_is_no_memory_for_is_dropped_and_the_next_one_is_not() {
    let budget = Budget::new(0, 1);
    let more = (0..100).flat_map(|_| piece(b'R', b'-', &[b'x'; 4000]));
    let long: Vec<u8> = piece(b'R', b'(', b"").into_iter().chain(more).chain(piece(b'R', b')', b"")).collect();
    let next = piece(b'D', b'.', b"next");
    let came = heard_with([&long[..], &next, &long, b"written"], &budget, 1 << 20);
    let expected = vec![Heard::Dropped(b'R'), said(b'D', b"next"), Heard::Dropped(b'R'), written(b"written")];
    assert_eq!(came, Ok(expected));
    let enough = heard_with([&long[..]], &Budget::new(0, 1 << 20), 1 << 20);
    assert!(matches!(enough.as_deref(), Ok([Heard::Said(b'R', message)]) if message.len() == 400_000));
}

#[test]
fn a_message_that_was_begun_while_no_code_ran_took_memory_for_ever() {
    const MOST: usize = 1 << 20;
    let budget = Budget::new(0, MOST);
    let mut split = Split::new(&mark(), MOST, &budget);
    let begin = [piece(b'R', b'(', &[b'x'; 4000]), piece(b'R', b'-', &[b'x'; 4000]).repeat(200)].concat();
    // By code that ran, and by what it left behind.
    for keeps in [true, false] {
        split.keep(keeps);
        split.push(Bytes::from(begin.clone()));
        assert_eq!(split.next(), Ok(None));
        split.keep(false);
        assert!(budget.output().hold_elsewhere(MOST), "{keeps}");
        split.push(Bytes::from(piece(b'R', b')', b"")));
        assert_eq!(split.next(), Ok(Some(Heard::Dropped(b'R'))), "{keeps}");
    }
}

#[test]
fn a_small_value_kept_the_whole_message_alive_that_it_came_in() {
    let large = [b'?'; 100_000];
    let head = format!("{{\"main\":false,\"parts\":[[\"bad\",{}],[\"text/plain\",1]]}}\n", large.len());
    let message = Bytes::from([head.as_bytes(), &large, b"x"].concat());
    let Ok(Word::Result(shown)) = Word::read(b'R', &message) else { panic!("a result") };
    assert_eq!(shown.len(), "text/plain".len() + 1);
    let [Value::Text(text)] = &shown.data.into_values().collect::<Vec<_>>()[..] else { panic!("one text") };
    assert!(!message.as_ptr_range().contains(&text.as_ptr()), "it is a part of the message");
}

fn result(head: &str, values: &[u8]) -> Result<Word, Malformed> {
    Word::read(b'R', &Bytes::from([head.as_bytes(), b"\n", values].concat()))
}

#[test]
fn a_result_is_what_it_says() {
    let head = r#"{"main":true,"parts":[["text/plain",2],["image/png",4],["application/json",9]]}"#;
    let Ok(Word::Result(shown)) = result(head, b"okaGk=[1,\"x\",2]") else { panic!("a result") };
    assert!(shown.is_main);
    assert_eq!(shown.data["text/plain"], Value::Text(Bytes::from_static(b"ok")));
    assert_eq!(shown.data["image/png"], Value::Text(Bytes::from_static(b"aGk=")));
    assert_eq!(shown.data["application/json"], Value::Json(Bytes::from_static(b"[1,\"x\",2]")));
}

#[test]
fn what_is_not_what_its_kind_says_is_left_out() {
    for (kind, value) in [
        ("text", "x"),
        ("text/", "x"),
        ("te xt/plain", "x"),
        ("is_main", "true"),
        ("text/\\\"", "x"),
        ("image/png", "no base64"),
        ("image/png", "aGk=aGk="),
        ("application/json", "[1"),
        ("application/json", "1 2"),
        ("application/json", ""),
        ("application/geo+json", "{\"a\":\n1}"),
        ("application/json", "1,\"x\":2"),
    ] {
        let head = format!("{{\"main\":false,\"parts\":[[\"{kind}\",{}]]}}", value.len());
        let Ok(Word::Result(shown)) = result(&head, value.as_bytes()) else { panic!("{kind} {value}") };
        assert!(shown.data.is_empty(), "{kind}: {value}");
    }
    let Ok(Word::Result(shown)) = result(r#"{"main":false,"parts":[["text/html",1]]}"#, b"\xff") else { panic!() };
    assert!(shown.data.is_empty(), "no UTF-8");
}

#[test]
fn results_that_lie_about_their_lengths_are_refused() {
    for (head, values) in [
        (r#"{"main":true,"parts":[["text/plain",3]]}"#, "ok"),
        (r#"{"main":true,"parts":[["text/plain",1]]}"#, "ok"),
        (r#"{"main":true,"parts":[["text/plain",18446744073709551615],["text/html",2]]}"#, "ok"),
        (r#"{"main":true,"parts":[["text/plain",-1]]}"#, "ok"),
        (r#"{"parts":[]}"#, ""),
        ("[]", ""),
        ("", ""),
    ] {
        assert!(result(head, values.as_bytes()).is_err(), "{head}");
    }
    let many = vec!["[\"text/plain\",0]"; 33].join(",");
    assert!(result(&format!("{{\"main\":true,\"parts\":[{many}]}}"), b"").is_err());
    assert!(result(&format!("{{\"main\":true,\"parts\":[],\"x\":\"{}\"}}", "x".repeat(10_000)), b"").is_err());
    assert!(Word::read(b'R', &Bytes::from_static(b"{}")).is_err(), "no head");
    assert!(Word::read(b'Z', &Bytes::new()).is_err());
    assert!(Word::read(b'D', &Bytes::from_static(b"{\"n\":-1}")).is_err());
}

#[test]
fn json_that_is_nested_without_end_is_looked_at_without_harm() {
    let deep = vec![b'['; 10_000_000];
    let head = format!("{{\"main\":true,\"parts\":[[\"application/json\",{}]]}}", deep.len());
    let Ok(Word::Result(shown)) = result(&head, &deep) else { panic!("a result") };
    assert!(shown.data.is_empty());
}

#[test]
fn a_long_picture_is_looked_at_in_pieces() {
    let picture = BASE64_STANDARD.encode(vec![7; 100_000]);
    assert!(is_base64(picture.as_bytes()) && is_base64(b"") && is_base64("QUFB".repeat(2048).as_bytes()));
    let mut spoiled = picture.into_bytes();
    spoiled[5000] = b'=';
    assert!(!is_base64(&spoiled));
    assert!(!is_base64(b"aaaaa"));
}

proptest! {
    #[test]
    fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..300), kind: u8) {
        let _ = heard([&bytes[..], &piece(kind, b'.', &bytes), &bytes]);
        let _ = Word::read(kind, &Bytes::from(bytes));
    }
}
