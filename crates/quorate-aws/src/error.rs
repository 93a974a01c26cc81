//! Why a call has no result, and what to do about it. Start at [`AwsError`].

use std::time::{Duration, SystemTime};

use crate::clock::parse_http_date;
use crate::credentials::CredentialsError;
use crate::endpoint::RegionError;
use crate::http::{Answer, HttpError};
use crate::profile::ProfileError;
use crate::xml::{Unfit, Xml};

/// Longest text of a service that an error keeps, in characters. EC2 sends some that are longer and for machines only.
const TEXT_MAX: usize = 600;

/// How far clocks may be apart: AWS takes signatures of up to five minutes ago.
const SKEW_MAX: Duration = Duration::from_secs(4 * 60);

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AwsError {
    /// Nobody could be found to make the call as.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// A profile or a file of profiles cannot be used.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// No region, or one that is none.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// The request has no answer.
    #[error("{call} has no answer")]
    Http {
        /// Which call, as IAM policies write it.
        call: String,
        /// Why.
        #[source]
        source: HttpError,
    },
    /// The service answered, and not with success.
    #[error("{call} at {peer} answered {status} {code}: {message} ({request}){hint}",
        request = request_id.as_deref().map_or_else(|| "no request id".to_owned(), |id| format!("request {id}")),
        hint = hint(call, code, identity, skew.as_deref()))]
    Refused {
        /// Which call.
        call: String,
        /// Where.
        peer: String,
        /// The HTTP status.
        status: u16,
        /// The service's code for it, such as `TargetGroupNotFound`; `HTTP <status>` when something else answered.
        code: String,
        /// The service's words, shortened, control characters escaped.
        message: String,
        /// AWS's name for the request, which its support asks for.
        request_id: Option<String>,
        /// As whom the call was made: where the credentials came from, and the end of the key's id.
        identity: String,
        /// How far this machine's clock is from the service's, where that is too far for signatures.
        skew: Option<String>,
    },
    /// The service said success and sent something that is not the answer.
    #[error("the answer to {call} from {peer} is not what was expected: {why} ({request})\nhint: if {peer} is not AWS, look at AWS_ENDPOINT_URL; if it is, this is a fault of Quorate's",
        request = request_id.as_deref().map_or_else(|| "no request id".to_owned(), |id| format!("request {id}")))]
    Unfit {
        /// Which call.
        call: String,
        /// Where.
        peer: String,
        /// What is wrong.
        why: String,
        /// AWS's name for the request.
        request_id: Option<String>,
    },
    /// It was tried several times.
    #[error("{call} was tried {attempts} times in {took:?}; the last time")]
    GaveUp {
        /// Which call.
        call: String,
        /// How often.
        attempts: u32,
        /// How long it all took.
        took: Duration,
        /// What came of the last attempt.
        #[source]
        last: Box<AwsError>,
    },
    /// The time for the whole call was over before it could be made.
    #[error("{call}: the {within:?} that it may take were over {doing}")]
    Deadline {
        /// Which call.
        call: String,
        /// The time given.
        within: Duration,
        /// What was being done.
        doing: &'static str,
    },
}

impl AwsError {
    /// The service's code for its refusal, such as `TargetGroupNotFound`, if it refused.
    pub fn code(&self) -> Option<&str> {
        match self {
            AwsError::Refused { code, .. } => Some(code),
            AwsError::GaveUp { last, .. } => last.code(),
            AwsError::Credentials(_)
            | AwsError::Profile(_)
            | AwsError::Region(_)
            | AwsError::Http { .. }
            | AwsError::Unfit { .. }
            | AwsError::Deadline { .. } => None,
        }
    }

    /// AWS's name for the request that failed, if one was answered.
    pub fn request_id(&self) -> Option<&str> {
        match self {
            AwsError::Refused { request_id, .. } | AwsError::Unfit { request_id, .. } => {
                request_id.as_deref()
            }
            AwsError::GaveUp { last, .. } => last.request_id(),
            AwsError::Credentials(_)
            | AwsError::Profile(_)
            | AwsError::Region(_)
            | AwsError::Http { .. }
            | AwsError::Deadline { .. } => None,
        }
    }

    /// Reads an answer that is no success: one of the service's two forms of error, or whatever a proxy in between wrote.
    pub(crate) fn refused(
        call: String,
        peer: String,
        answer: &Answer,
        identity: String,
        now: SystemTime,
    ) -> AwsError {
        let status = answer.status.as_u16();
        let xml = Xml::parse(&answer.body).ok();
        let error = xml.as_ref().and_then(|xml| xml.find("Error"));
        let code = error.and_then(|error| error.optional("Code"));
        let message = match error.and_then(|error| error.optional("Message")) {
            Some(message) => message,
            None if code.is_some() => "no message".to_owned(),
            None => String::from_utf8_lossy(&answer.body).into_owned(),
        };
        AwsError::Refused {
            call,
            peer,
            status,
            code: code.map_or_else(|| format!("HTTP {status}"), |code| shown(&code, 100)),
            message: shown(&message, TEXT_MAX),
            request_id: request_id(answer, xml.as_ref()),
            identity,
            skew: skew(answer, now),
        }
    }

    pub(crate) fn unfit(
        call: String,
        peer: String,
        why: Unfit,
        request_id: Option<String>,
    ) -> AwsError {
        AwsError::Unfit {
            call,
            peer,
            why: shown(&why.0, TEXT_MAX),
            request_id,
        }
    }
}

/// AWS's name for a request: in the answer itself, or in a header.
pub(crate) fn request_id(answer: &Answer, xml: Option<&Xml>) -> Option<String> {
    ["RequestId", "requestId", "RequestID"]
        .iter()
        .find_map(|name| Some(xml?.find(name)?.own_text().to_owned()))
        .filter(|id| !id.is_empty())
        .or_else(|| answer.header("x-amzn-requestid").map(str::to_owned))
        .or_else(|| answer.header("x-amz-request-id").map(str::to_owned))
        .map(|id| shown(&id, 100))
}

/// How far this machine's clock is from the answer's `Date`, if that is more than a signature bears.
fn skew(answer: &Answer, now: SystemTime) -> Option<String> {
    let there = parse_http_date(answer.header("date")?)?;
    let (apart, way) = match now.duration_since(there) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    (apart > SKEW_MAX).then(|| format!("{} s {way}", apart.as_secs()))
}

/// The next command, where there is one to give.
fn hint(call: &str, code: &str, identity: &str, skew: Option<&str>) -> String {
    let advice = match code {
        "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" => format!(
            "the call was made as {identity}, and that identity may not do it; its policy must allow {call}"
        ),
        "ExpiredToken" | "ExpiredTokenException" => format!(
            "{identity}: this session is over; get a new one, for example with `aws sso login`, and start again"
        ),
        "InvalidClientTokenId" | "UnrecognizedClientException" | "AuthFailure" => format!(
            "the call was made as {identity}, and nobody there knows that key; look with `aws sts get-caller-identity`"
        ),
        "SignatureDoesNotMatch"
        | "InvalidSignatureException"
        | "RequestExpired"
        | "RequestTimeTooSkewed" => match skew {
            Some(skew) => format!(
                "this machine's clock is {skew} the service's, and signatures carry the time; set it right: `timedatectl`"
            ),
            None => format!(
                "the secret key of {identity} does not belong to its id; look with `aws sts get-caller-identity`"
            ),
        },
        "OptInRequired" => "this account has not switched that region on".to_owned(),
        _ => return String::new(),
    };
    format!("\nhint: {advice}")
}

/// Others' text as it may be shown: at most `chars_max` characters, control characters escaped.
pub(crate) fn shown(text: &str, chars_max: usize) -> String {
    let text = text.trim();
    let mut out = String::new();
    for c in text.chars().take(chars_max) {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    if text.chars().nth(chars_max).is_some() {
        out.push('…');
    }
    out
}
