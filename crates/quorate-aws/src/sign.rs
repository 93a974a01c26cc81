//! Signature Version 4: proves a request with a secret key that is never sent. A pure function of the request, the key and the time.

use std::fmt::Write as _;
use std::time::SystemTime;

use ring::{digest, hmac};
use zeroize::Zeroizing;

use crate::clock::stamp;
use crate::secret::Secret;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// What is signed of a request. Only requests to the root path are made here and path segments are not encoded again, so this is not for S3.
pub(crate) struct ToSign<'a> {
    pub(crate) method: &'a str,
    /// Percent-encoded, from `/`.
    pub(crate) path: &'a str,
    /// Percent-encoded, without `?`.
    pub(crate) query: &'a str,
    /// Every header that is signed, among them `host` and `x-amz-date`, with names in lower case.
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) body: &'a [u8],
}

/// For whom the signature is good, and when it was made: AWS takes it for some minutes.
pub(crate) struct Scope<'a> {
    pub(crate) region: &'a str,
    pub(crate) service: &'a str,
    pub(crate) at: SystemTime,
}

/// The value of the header `Authorization`.
pub(crate) fn authorization(
    request: &ToSign<'_>,
    key_id: &str,
    secret: &Secret,
    scope: &Scope<'_>,
) -> String {
    let time = stamp(scope.at);
    let day = &time[..8];
    let scope_text = format!("{day}/{}/{}/aws4_request", scope.region, scope.service);
    let (canonical, signed) = canonical(request);
    let to_sign = format!(
        "{ALGORITHM}\n{time}\n{scope_text}\n{}",
        sha256_hex(canonical.as_bytes())
    );
    let key = signing_key(secret, day, scope);
    let signature = hex(hmac::sign(&key, to_sign.as_bytes()).as_ref());
    format!(
        "{ALGORITHM} Credential={key_id}/{scope_text}, SignedHeaders={signed}, Signature={signature}"
    )
}

/// The request as both sides write it down, and the names of the headers in it.
fn canonical(request: &ToSign<'_>) -> (String, String) {
    let mut query: Vec<(&str, &str)> = request
        .query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .collect();
    query.sort_unstable();
    let query: Vec<String> = query.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let mut headers = request.headers.to_vec();
    headers.sort_by_key(|(name, _)| *name);
    let mut lines = String::new();
    for (name, value) in &headers {
        // Runs of blanks count as one.
        let value: Vec<&str> = value.split(' ').filter(|word| !word.is_empty()).collect();
        writeln!(lines, "{name}:{}", value.join(" ")).expect("writing to a string");
    }
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let signed = names.join(";");
    let canonical = format!(
        "{}\n{}\n{}\n{lines}\n{signed}\n{}",
        request.method,
        request.path,
        query.join("&"),
        sha256_hex(request.body)
    );
    (canonical, signed)
}

/// The secret narrowed down to a day, a region and a service, one after another.
fn signing_key(secret: &Secret, day: &str, scope: &Scope<'_>) -> hmac::Key {
    let first = Zeroizing::new(format!("AWS4{}", secret.expose()));
    let mut key = hmac::Key::new(hmac::HMAC_SHA256, first.as_bytes());
    for part in [day, scope.region, scope.service, "aws4_request"] {
        let narrowed = hmac::sign(&key, part.as_bytes());
        key = hmac::Key::new(hmac::HMAC_SHA256, narrowed.as_ref());
    }
    key
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(out, "{byte:02x}").expect("writing to a string");
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    // The key pair, time and region of every example that AWS publishes for this signature.
    const KEY_ID: &str = "AKIDEXAMPLE";
    const REGION: &str = "us-east-1";
    const TIME: &str = "20150830T123600Z";

    fn secret() -> Secret {
        Secret::from("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned())
    }

    fn scope(service: &str) -> Scope<'_> {
        Scope {
            region: REGION,
            service,
            at: UNIX_EPOCH + Duration::from_secs(1_440_938_160),
        }
    }

    fn signed(request: &ToSign<'_>, service: &str, names: &str, signature: &str) {
        assert_eq!(
            authorization(request, KEY_ID, &secret(), &scope(service)),
            format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/{service}/aws4_request, SignedHeaders={names}, Signature={signature}"
            )
        );
    }

    fn get<'a>(query: &'a str, headers: &'a [(&'a str, &'a str)]) -> ToSign<'a> {
        ToSign {
            method: "GET",
            path: "/",
            query,
            headers,
            body: b"",
        }
    }

    #[test]
    fn the_key_of_the_documentation_is_derived() {
        // A key is only shown by what it signs, so the last step is taken by hand: HMAC of the derived key given as bytes.
        let key = signing_key(&secret(), "20150830", &scope("iam"));
        let published: Vec<u8> = (0..32)
            .map(|at| {
                let hex = "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9";
                u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()
            })
            .collect();
        let expected = hmac::Key::new(hmac::HMAC_SHA256, &published);
        assert_eq!(
            hmac::sign(&key, b"anything").as_ref(),
            hmac::sign(&expected, b"anything").as_ref()
        );
    }

    #[test]
    fn the_published_examples_have_their_signatures() {
        let host = ("host", "example.amazonaws.com");
        let date = ("x-amz-date", TIME);
        // get-vanilla
        signed(
            &get("", &[host, date]),
            "service",
            "host;x-amz-date",
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        );
        // get-vanilla-query-order-key-case
        signed(
            &get("Param2=value2&Param1=value1", &[host, date]),
            "service",
            "host;x-amz-date",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        );
        // get-header-value-trim
        signed(
            &get(
                "",
                &[
                    date,
                    host,
                    ("my-header2", "\"a   b   c\""),
                    ("my-header1", " value1"),
                ],
            ),
            "service",
            "host;my-header1;my-header2;x-amz-date",
            "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
        );
        // The request of the documentation's walk through all steps.
        signed(
            &get(
                "Action=ListUsers&Version=2010-05-08",
                &[
                    (
                        "content-type",
                        "application/x-www-form-urlencoded; charset=utf-8",
                    ),
                    ("host", "iam.amazonaws.com"),
                    date,
                ],
            ),
            "iam",
            "content-type;host;x-amz-date",
            "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
        );
        // post-x-www-form-urlencoded
        signed(
            &ToSign {
                method: "POST",
                path: "/",
                query: "",
                headers: &[
                    ("content-type", "application/x-www-form-urlencoded"),
                    host,
                    date,
                ],
                body: b"Param1=value1",
            },
            "service",
            "content-type;host;x-amz-date",
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
        );
        // post-sts-header-before: a session token is signed like any header.
        let token = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";
        signed(
            &ToSign {
                method: "POST",
                path: "/",
                query: "",
                headers: &[host, date, ("x-amz-security-token", token)],
                body: b"",
            },
            "service",
            "host;x-amz-date;x-amz-security-token",
            "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
        );
    }
}
