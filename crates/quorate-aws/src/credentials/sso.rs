//! Credentials of a session that `aws sso login` opened: the token it left in its cache is exchanged for keys. The token itself is not
//! renewed here: that is the login's.

use http::{Method, StatusCode};
use ring::digest;
use serde::Deserialize;
use std::time::{Duration, UNIX_EPOCH};
use tokio::time::Instant;

use super::remote::{ANSWER_BYTES_MAX, left};
use super::{Chain, Credentials, CredentialsError, Source};
use crate::clock::parse_rfc3339;
use crate::endpoint::Region;
use crate::error::shown;
use crate::http::{Ask, Url};
use crate::profile::{Profile, read_bounded};
use crate::secret::Secret;
use crate::sign::hex;

const EXCHANGE_MAX: Duration = Duration::from_secs(10);

/// What `aws sso login` leaves behind.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cached {
    access_token: Secret,
    expires_at: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Exchanged {
    role_credentials: RoleCredentials,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RoleCredentials {
    access_key_id: String,
    secret_access_key: Secret,
    session_token: Secret,
    /// Milliseconds since 1970.
    expiration: u64,
}

pub(super) async fn of_session(
    chain: &Chain,
    profile: &Profile<'_>,
    deadline: Instant,
) -> Result<Credentials, CredentialsError> {
    let failed = |why: String| CredentialsError::Sso {
        profile: shown(&profile.name, 100),
        why,
    };
    let lacks = |key: &str| failed(format!("{profile} has no `{key}`"));
    // The newer form names a section of its own, and the cache goes by that name; the older has everything in the profile.
    let (cached_as, region) = match profile.get("sso_session") {
        Some(session) => {
            let section = format!("sso-session {session}");
            (session, profile.files.other(&section, "sso_region"))
        }
        None => (
            profile
                .get("sso_start_url")
                .ok_or_else(|| lacks("sso_start_url"))?,
            profile.get("sso_region"),
        ),
    };
    let region: Region = region
        .ok_or_else(|| lacks("sso_region"))?
        .parse()
        .map_err(|_| failed("its `sso_region` is not a region".to_owned()))?;
    let account = profile
        .get("sso_account_id")
        .ok_or_else(|| lacks("sso_account_id"))?;
    let role = profile
        .get("sso_role_name")
        .ok_or_else(|| lacks("sso_role_name"))?;
    // Both become part of an address.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+=,.@_-".contains(&byte);
    if !account.bytes().all(|byte| byte.is_ascii_digit()) || !role.bytes().all(plain) {
        return Err(failed(
            "its `sso_account_id` or `sso_role_name` is none".to_owned(),
        ));
    }

    let home = chain.environment.home().ok_or_else(|| {
        failed("there is no home directory (HOME) to look for its session".into())
    })?;
    let name = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, cached_as.as_bytes());
    let path = home.join(format!(".aws/sso/cache/{}.json", hex(name.as_ref())));
    let unreadable = |why: &str| failed(format!("{} {why}", path.display()));
    let bytes = read_bounded(&path)
        .map_err(|err| {
            failed(format!(
                "its session cannot be read: {}: {err}",
                path.display()
            ))
        })?
        .ok_or_else(|| unreadable("is too long for a session"))?;
    let cached: Cached =
        serde_json::from_slice(&bytes).map_err(|_| unreadable("is not a session"))?;
    let ends = parse_rfc3339(&cached.expires_at)
        .ok_or_else(|| unreadable("does not say when its session ends"))?;
    if ends <= chain.clock.now() {
        return Err(failed("its session is over".to_owned()));
    }

    let server = match chain.environment.get("AWS_ENDPOINT_URL_SSO") {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => format!("https://portal.sso.{region}.amazonaws.com"),
    };
    let place = format!("the SSO portal for profile `{}`", shown(&profile.name, 100));
    let http = |source| CredentialsError::Http {
        place: place.clone(),
        source,
    };
    let role = role.replace('+', "%2B").replace('=', "%3D");
    let url = Url::parse(&format!(
        "{server}/federation/credentials?role_name={role}&account_id={account}"
    ))
    .map_err(http)?;
    let ask = Ask {
        method: Method::GET,
        url: &url,
        headers: vec![(
            "x-amz-sso_bearer_token",
            cached.access_token.expose().to_owned(),
        )],
        body: Vec::new(),
        answer_bytes_max: ANSWER_BYTES_MAX,
    };
    let answer = chain
        .http
        .ask(ask, left(deadline, EXCHANGE_MAX))
        .await
        .map_err(http)?;
    match answer.status {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED => {
            return Err(failed(format!("{url} does not take its session any more")));
        }
        StatusCode::FORBIDDEN => {
            return Err(failed(format!(
                "{url} gives that session no role `{role}` in account {account}"
            )));
        }
        status => return Err(failed(format!("{url} answered {status}"))),
    }
    let exchanged: Exchanged = serde_json::from_slice(&answer.body)
        .map_err(|_| failed(format!("{url} answered something that is not credentials")))?;
    let keys = exchanged.role_credentials;
    Ok(Credentials {
        key_id: keys.access_key_id,
        secret: keys.secret_access_key,
        token: Some(keys.session_token),
        expires: UNIX_EPOCH.checked_add(Duration::from_millis(keys.expiration)),
        source: Source::Sso {
            name: profile.name.clone(),
        },
    })
}
