//! What requests bring: JSON bodies, queries, path segments. Every refusal is ours and says what to change.

use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Request};
use http::request::Parts;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::Http;
use super::error::ApiError;
use super::limits::read_body;

/// A JSON object as body, whatever content type it claims. An empty body reads as `{}`, `null` as an absent field; unknown fields are
/// ignored, and of a repeated field the last one counts.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<Http>> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, http: &Arc<Http>) -> Result<Self, ApiError> {
        let body = read_body(request, http.body_cap).await?;
        typed(object(&body)?).map(Self)
    }
}

/// The same, untyped.
#[derive(Debug)]
pub(super) struct JsonObject(pub(super) Map<String, Value>);

impl FromRequest<Arc<Http>> for JsonObject {
    type Rejection = ApiError;

    async fn from_request(request: Request, http: &Arc<Http>) -> Result<Self, ApiError> {
        let body = read_body(request, http.body_cap).await?;
        object(&body).map(Self)
    }
}

/// The same, and `None` when there is no body.
#[derive(Debug)]
pub(super) struct JsonBody(pub(super) Option<Map<String, Value>>);

impl FromRequest<Arc<Http>> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, http: &Arc<Http>) -> Result<Self, ApiError> {
        let body = read_body(request, http.body_cap).await?;
        if body.trim_ascii().is_empty() { Ok(Self(None)) } else { object(&body).map(Some).map(Self) }
    }
}

/// Values in a body at most. Far more than any request needs; in memory a value takes up to fifty times its bytes in the body.
const VALUES_MAX: usize = 200_000;
/// Bytes that a refusal shows of what is wrong with a value: the value itself is in it.
const REFUSAL_BYTES_MAX: usize = 300;

fn object(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let text = str::from_utf8(body).map_err(|_| ApiError::bad_request("the body is not UTF-8 text"))?;
    if values(body) > VALUES_MAX {
        return Err(ApiError::bad_request(format!("the body has more than {VALUES_MAX} values")));
    }
    if text.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            Err(ApiError::bad_request("the body must be a JSON object"))
        }
        Err(error) => Err(ApiError::bad_request(format!("the body is not valid JSON: {error}"))),
    }
}

/// How many values a JSON text has at least: each but the first follows a comma or an opening bracket that no string contains.
fn values(text: &[u8]) -> usize {
    let (mut count, mut in_string, mut escaped) = (0, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => count += 1,
            _ => {}
        }
    }
    count
}

fn shown(error: &serde_json::Error) -> String {
    let mut text = error.to_string();
    if text.len() > REFUSAL_BYTES_MAX {
        text.truncate(text.floor_char_boundary(REFUSAL_BYTES_MAX));
        text.push('…');
    }
    text
}

/// Gives an object its type.
///
/// # Errors
/// Names the first field whose value has the wrong type.
pub(super) fn typed<T: DeserializeOwned>(object: Map<String, Value>) -> Result<T, ApiError> {
    let object = Value::Object(object);
    T::deserialize(&object).map_err(|error| {
        let Value::Object(fields) = object else { return ApiError::bad_request(shown(&error)) };
        // All fields are optional, so the wrong one is wrong by itself too.
        let wrong = fields.into_iter().find_map(|(name, value)| {
            let alone = Value::Object(Map::from_iter([(name.clone(), value)]));
            T::deserialize(&alone).err().map(|error| (name, error))
        });
        match wrong {
            Some((name, error)) => ApiError::bad_request(format!("field '{name}': {}", shown(&error))),
            None => ApiError::bad_request(shown(&error)),
        }
    })
}

/// Path segments, percent-decoded.
#[derive(Debug)]
pub(super) struct Path<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(segments)) => Ok(Self(segments)),
            Err(rejection) => Err(ApiError::bad_request(rejection.body_text())),
        }
    }
}

/// The query.
#[derive(Debug)]
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match axum::extract::Query::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(rejection) => Err(ApiError::bad_request(rejection.body_text())),
        }
    }
}

#[cfg(test)]
mod tests {
    use boxyard_proto::api::exec::{CodeRequest, ExecRequest};

    use super::*;

    fn read(body: &[u8]) -> Result<ExecRequest, String> {
        object(body).and_then(typed).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn forgiving_where_nothing_is_lost() {
        let expected = ExecRequest { command: Some(vec!["true".into()]), folder: None, detach: None };
        for body in [
            r#"{"command":["true"]}"#,
            r#"{"command":["true"],"folder":null,"async":null}"#,
            r#"{"command":["true"],"work_dir":"/x","nested":{"unknown":[1]}}"#,
            r#"{"command":["false"],"command":["true"]}"#,
            " {\"command\":[\"true\"]}\n",
        ] {
            assert_eq!(read(body.as_bytes()), Ok(expected.clone()), "{body}");
        }
        for body in ["", " \n", "{}"] {
            assert_eq!(read(body.as_bytes()), Ok(ExecRequest::default()), "{body:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (body, part) in [
            (r#"{"command":"true"}"#, "field 'command': invalid type: string \"true\", expected a sequence"),
            (r#"{"command":["a",1]}"#, "field 'command': invalid type: integer `1`, expected a string"),
            (r#"{"folder":1,"command":["a"]}"#, "field 'folder'"),
            (r#"{"async":"yes"}"#, "field 'async': invalid type: string \"yes\", expected a boolean"),
            (r#"{"command":["#, "the body is not valid JSON: EOF while parsing a list at line 1 column 12"),
            ("[]", "the body must be a JSON object"),
            ("\"x\"", "the body must be a JSON object"),
            (r#"{"folder":"\ud800"}"#, "the body is not valid JSON"),
        ] {
            let error = read(body.as_bytes()).expect_err(body);
            assert!(error.contains(part), "{body}: {error}");
        }
        assert!(read(b"{\"folder\":\"\xff\"}").is_err());
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(read(deep.as_bytes()).expect_err("too deep").contains("recursion limit"));
        let error = object(br#"{"timeout":-1}"#).and_then(typed::<CodeRequest>).expect_err("negative");
        assert_eq!(error.message(), "field 'timeout': invalid value: integer `-1`, expected u64");
    }

    #[test]
    fn a_body_of_millions_of_tiny_values_is_refused_before_it_takes_memory() {
        for tiny in ["1,", "{},", "[],", "\"\","] {
            let body = format!("{{\"x\":[{}0]}}", tiny.repeat(VALUES_MAX));
            assert_eq!(read(body.as_bytes()), Err("the body has more than 200000 values".into()), "{tiny}");
        }
        let commas = ",[{".repeat(VALUES_MAX);
        let body = serde_json::json!({"folder": commas, "command": ["\\\",", "\"", "["]}).to_string();
        assert_eq!(read(body.as_bytes()).map(|request| request.folder), Ok(Some(commas)));
        assert_eq!(values(br#"{"a":"\\\",[","b":[1,{"c":"\\"},[2]]}"#), 7);
    }

    #[test]
    fn a_refusal_does_not_send_a_long_value_back() {
        let body = format!(r#"{{"command":"{}"}}"#, "ü".repeat(1_000_000));
        let error = read(body.as_bytes()).expect_err("no array");
        assert!(error.starts_with("field 'command': invalid type: string") && error.len() < 400, "{}", error.len());
    }
}
