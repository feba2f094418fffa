//! Answers with a long text in them.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header;
use serde_json::{Map, Value};

use crate::boxes::Share;
use crate::http::held::Held;

/// Bytes up to which an answer is made in one piece, with its length in its head.
const WHOLE_MAX: usize = 1024 * 1024;

/// An object with this text in it, and what else there is to say.
pub(super) fn answer(name: &str, text: Vec<u8>, exit_code: Option<i32>, truncated: bool, share: Share) -> Response {
    if text.len() > WHOLE_MAX {
        let exit_code = exit_code.map(|code| format!("\"exit_code\":{code}"));
        let truncated = truncated.then(|| "\"truncated\":true".to_owned());
        let rest = [exit_code, truncated].into_iter().flatten().collect::<Vec<_>>().join(",");
        let body = Body::new(Held::text(name, text, &rest, share));
        return ([(header::CONTENT_TYPE, "application/json")], body).into_response();
    }
    let text = String::from_utf8(text).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    let mut object = Map::from_iter([(name.to_owned(), Value::from(text))]);
    if let Some(code) = exit_code {
        object.insert("exit_code".into(), code.into());
    }
    if truncated {
        object.insert("truncated".into(), true.into());
    }
    axum::Json(object).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn a_long_text_reads_as_a_short_one_does() {
        for bytes in [3, WHOLE_MAX + 3] {
            let text = "\"ü".repeat(bytes / 3).into_bytes();
            for (code, truncated) in [(Some(128), false), (None, true), (None, false), (Some(0), true)] {
                let answer = answer("output", text.clone(), code, truncated, Share::default());
                assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/json");
                let body = answer.into_body().collect().await.expect("a body").to_bytes();
                let read: Value = serde_json::from_slice(&body).expect("JSON");
                assert_eq!(read["output"].as_str().map(str::as_bytes), Some(&text[..]));
                assert_eq!(read.get("exit_code"), code.map(Value::from).as_ref());
                assert_eq!(read.get("truncated"), truncated.then_some(Value::Bool(true)).as_ref());
            }
        }
    }
}
