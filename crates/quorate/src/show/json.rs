//! Objects for programs. Each carries `apiVersion` and `kind`; keys are added, never renamed.

use serde::Serialize;

/// `apiVersion` of every object.
pub const API_VERSION: &str = "quorate/v1";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Object<'a, T> {
    api_version: &'a str,
    kind: &'a str,
    #[serde(flatten)]
    rest: &'a T,
}

/// An object's text, with a line end.
pub fn text<T: Serialize>(kind: &str, rest: &T) -> String {
    let object = Object {
        api_version: API_VERSION,
        kind,
        rest,
    };
    let mut out = serde_json::to_string_pretty(&object).expect("what is printed is plain data");
    out.push('\n');
    out
}
