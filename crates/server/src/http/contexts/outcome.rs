//! The answer of `code`, as JSON made while it is sent: see `held.rs`.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header;
use serde::Serialize;

use crate::boxes::{Finished, Shown, ShownValue};
use crate::http::held::{Held, Part};

/// What came of a piece of code: the same text that [`boxyard_proto::api::contexts::CodeOutcome`] serialises to.
pub(super) fn respond(finished: Finished) -> Response {
    let Finished { execution_count, stdout, stderr, results, error, truncated, note, share } = finished;
    let mut parts =
        vec![Part::Json(format!("{{\"execution_count\":{execution_count},\"stdout\":\"")), Part::Text(stdout.into())];
    parts.extend([
        Part::Json("\",\"stderr\":\"".into()),
        Part::Text(stderr.into()),
        Part::Json("\",\"results\":[".into()),
    ]);
    for (place, shown) in results.into_iter().enumerate() {
        if place > 0 {
            parts.push(Part::Json(",".into()));
        }
        parts.extend(parts_of(shown));
    }
    let mut end = format!("],\"error\":{}", json(&error));
    if truncated {
        end.push_str(",\"truncated\":true");
    }
    if let Some(note) = &note {
        end.push_str(",\"note\":");
        end.push_str(&json(note));
    }
    end.push('}');
    parts.push(Part::Json(end));
    ([(header::CONTENT_TYPE, "application/json")], Body::new(Held::of_parts(parts, share))).into_response()
}

/// Something that was shown, as a JSON object.
pub(super) fn parts_of(shown: Shown) -> Vec<Part> {
    let mut parts = vec![Part::Json(format!("{{\"is_main\":{}", shown.is_main))];
    for (kind, value) in shown.data {
        let key = format!(",{}:", json(&kind));
        match value {
            ShownValue::Text(text) => {
                parts.extend([Part::Json(format!("{key}\"")), Part::Text(text), Part::Json("\"".into())]);
            }
            // It has been looked at: this is one value.
            ShownValue::Json(text) => parts.extend([Part::Json(key), Part::Raw(text)]),
        }
    }
    parts.push(Part::Json("}".into()));
    parts
}

/// A text as JSON, with what is no UTF-8 read as U+FFFD.
pub(super) fn text(bytes: &[u8]) -> String {
    json(&String::from_utf8_lossy(bytes))
}

fn json<T: Serialize + ?Sized>(value: &T) -> String {
    // Texts and plain structs of texts always serialise.
    serde_json::to_string(value).unwrap_or_else(|_| "null".into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use boxyard_proto::api::contexts::{CodeError, CodeOutcome, CodeOutput};
    use bytes::Bytes;
    use http_body_util::BodyExt;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn it_is_what_the_type_serialises_to() {
        let error = CodeError { name: "A\"".into(), message: "b\n".into(), traceback: "c".into() };
        let picture = ShownValue::Text(Bytes::from_static(b"aGk="));
        let data = BTreeMap::from([
            ("application/json".to_owned(), ShownValue::Json(Bytes::from_static(b"{\"x\":[1,null]}"))),
            ("image/png".to_owned(), picture),
            ("text/plain".to_owned(), ShownValue::Text(Bytes::from_static("ü\n\"".as_bytes()))),
        ]);
        let results = vec![Shown { is_main: false, data: BTreeMap::new() }, Shown { is_main: true, data }];
        let finished = Finished {
            execution_count: 3,
            stdout: b"out \xff\"\n".to_vec(),
            stderr: b"".to_vec(),
            results,
            error: Some(error.clone()),
            truncated: true,
            note: Some("new".into()),
            ..Finished::default()
        };
        let said = respond(finished).into_body().collect().await.expect("a body").to_bytes();
        let data = BTreeMap::from([
            ("application/json".to_owned(), json!({"x": [1, null]})),
            ("image/png".to_owned(), json!("aGk=")),
            ("text/plain".to_owned(), json!("ü\n\"")),
        ]);
        let expected = CodeOutcome {
            execution_count: 3,
            stdout: "out \u{fffd}\"\n".into(),
            stderr: String::new(),
            results: vec![CodeOutput { is_main: false, data: BTreeMap::new() }, CodeOutput { is_main: true, data }],
            error: Some(error),
            truncated: true,
            note: Some("new".into()),
        };
        assert_eq!(String::from_utf8_lossy(&said), serde_json::to_string(&expected).expect("JSON"));
    }
}
