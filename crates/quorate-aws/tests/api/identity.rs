//! As whom calls are made: every place of the chain, in its order, and what is said where one does not work.

use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use quorate_aws::{Aws, AwsError, CredentialsError, Environment, Options};
use ring::digest;
use tokio::time::Instant;

use crate::fake::{Fault, Network, Reply, SOON, morning};
use crate::services::{Key, Services, group};

/// Nothing but a region and where the metadata service would be.
const BARE: [(&str, &str); 3] = [
    ("AWS_REGION", "eu-central-1"),
    ("AWS_ENDPOINT_URL", "http://aws.test"),
    ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://imds.test"),
];

fn with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&BARE, more].concat()
}

async fn identity(network: &Network, variables: &[(&str, &str)]) -> Result<String, AwsError> {
    network.open(variables).await?.identity(SOON).await
}

/// An `~/.aws` with these files.
struct Home(tempfile::TempDir);

impl Home {
    fn new(config: &str, credentials: &str) -> Home {
        let home = Home(tempfile::tempdir().unwrap());
        home.write("config", config);
        home.write("credentials", credentials);
        home
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(".aws").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    async fn open(&self, network: &Network, variables: &[(&str, &str)]) -> Result<Aws, AwsError> {
        let home: PathBuf = self.0.path().to_owned();
        let options = Options {
            environment: Environment::of(with(variables), Some(home)),
            ..network.options(&[])
        };
        Aws::open(options, SOON).await
    }

    async fn identity(
        &self,
        network: &Network,
        variables: &[(&str, &str)],
    ) -> Result<String, AwsError> {
        self.open(network, variables).await?.identity(SOON).await
    }
}

fn rfc3339(after: Duration) -> String {
    // All of it happens on one morning.
    let seconds = 6 * 3600 + after.as_secs();
    format!(
        "2026-11-26T{:02}:{:02}:{:02}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// A metadata service with one role. The number at the end of its keys counts how often it was asked.
fn metadata(network: &Network, lasts: Duration) {
    let (began, asked) = (Instant::now(), std::sync::atomic::AtomicU32::new(0));
    network.host("imds.test", move |seen| {
        let header = |name: &str| seen.headers.get(name).map(String::as_str);
        if seen.path == "/latest/api/token" {
            let lifetime = header("x-aws-ec2-metadata-token-ttl-seconds");
            return match (seen.method.as_str(), lifetime) {
                ("PUT", Some(_)) => Reply::new(200, "session"),
                _ => Reply::new(400, ""),
            };
        }
        if header("x-aws-ec2-metadata-token") != Some("session") {
            return Reply::new(401, "");
        }
        match seen.path.as_str() {
            "/latest/meta-data/iam/security-credentials/" => Reply::new(200, "operator"),
            "/latest/meta-data/iam/security-credentials/operator" => {
                let number = asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let ends = rfc3339(began.elapsed() + lasts);
                Reply::new(
                    200,
                    format!(
                        r#"{{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":"ASIA-{number:04}","SecretAccessKey":"secret","Token":"token-{number}","Expiration":"{ends}"}}"#
                    ),
                )
            }
            "/latest/meta-data/placement/region" => Reply::new(200, "eu-north-1"),
            _ => Reply::new(404, ""),
        }
    });
}

const KEYS: [(&str, &str); 2] = [
    ("AWS_ACCESS_KEY_ID", "AKIDOFENV"),
    ("AWS_SECRET_ACCESS_KEY", "secret"),
];

#[tokio::test(start_paused = true)]
async fn the_places_are_asked_in_their_order() {
    let network = Network::new();
    metadata(&network, Duration::from_secs(3600));
    let home = Home::new(
        "[profile prod]\nregion = eu-west-1\n",
        "[default]\naws_access_key_id = AKIDOFDEFAULT\naws_secret_access_key = s\n[prod]\naws_access_key_id = AKIDOFPROD\naws_secret_access_key = s\n",
    );
    let path = home.0.path().join(".aws/credentials");
    let prod = [("AWS_PROFILE", "prod")];
    for (variables, expected) in [
        (
            [&KEYS[..], &prod].concat(),
            "the environment's AWS_ACCESS_KEY_ID (key …FENV)".to_owned(),
        ),
        (
            prod.to_vec(),
            format!("profile `prod` in {} (key …PROD)", path.display()),
        ),
        (
            Vec::new(),
            format!("profile `default` in {} (key …AULT)", path.display()),
        ),
    ] {
        assert_eq!(home.identity(&network, &variables).await.unwrap(), expected);
    }
    assert!(network.seen().is_empty());
    assert_eq!(
        identity(&network, &BARE).await.unwrap(),
        "this instance's role `operator` (key …0000)"
    );
    // A profile that the caller asks for goes before everything.
    let options = Options {
        environment: Environment::of(with(&KEYS), Some(home.0.path().to_owned())),
        profile: Some("prod".to_owned()),
        ..network.options(&[])
    };
    let aws = Aws::open(options, SOON).await.unwrap();
    assert!(aws.identity(SOON).await.unwrap().ends_with("(key …PROD)"));
}

#[tokio::test(start_paused = true)]
async fn where_there_are_none_every_place_is_named() {
    let network = Network::new();
    let err = identity(&network, &BARE).await.unwrap_err();
    let text = err.to_string();
    assert_eq!(
        text,
        "no AWS credentials found; looked at\n\
         \x20 environment: AWS_ACCESS_KEY_ID is not set\n\
         \x20 ~/.aws/config and ~/.aws/credentials: no profile `default`\n\
         \x20 container: neither AWS_CONTAINER_CREDENTIALS_RELATIVE_URI nor …_FULL_URI is set\n\
         \x20 instance metadata at http://imds.test: http://imds.test cannot be reached: connection refused\n\
         hint: `aws sts get-caller-identity` must work where Quorate runs; `aws configure` or `aws sso login` set it up"
    );
    // Where nobody answers at all it does not take long to know.
    network.host("imds.test", |_| unreachable!("it is silent"));
    network.faults([Fault::Silence]);
    let began = Instant::now();
    let err = identity(&network, &BARE).await.unwrap_err();
    assert!(
        err.to_string()
            .contains("http://imds.test: no answer within 1s\n"),
        "{err}"
    );
    assert_eq!(began.elapsed(), Duration::from_secs(1));
    let disabled = with(&[("AWS_EC2_METADATA_DISABLED", "true")]);
    let err = identity(&network, &disabled).await.unwrap_err();
    assert!(
        err.to_string()
            .contains("instance metadata: AWS_EC2_METADATA_DISABLED is set\n"),
        "{err}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_place_that_does_not_work_is_no_reason_to_be_somebody_else() {
    let network = Network::new();
    metadata(&network, Duration::from_secs(3600));
    let half = with(&KEYS[..1]);
    let err = identity(&network, &half).await.unwrap_err();
    assert_eq!(
        err.to_string(),
        "AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not\n\
         hint: set both, or neither to use a profile: `unset AWS_ACCESS_KEY_ID`"
    );
    let web = with(&[("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token")]);
    let err = identity(&network, &web).await.unwrap_err();
    assert!(
        err.to_string().starts_with(
            "the environment gets its credentials by `AWS_WEB_IDENTITY_TOKEN_FILE`, which Quorate does not do\n"
        ),
        "{err}"
    );
    let home = Home::new(
        "[profile role]\nrole_arn = arn:aws:iam::123456789012:role/x\nsource_profile = default\n\
         [profile process]\ncredential_process = /bin/keys\n",
        "[half]\naws_access_key_id = AKID\n",
    );
    for (name, expected) in [
        ("role", "profile `role` gets its credentials by `role_arn`"),
        (
            "process",
            "profile `process` gets its credentials by `credential_process`",
        ),
        ("half", "profile `half` in "),
        (
            "absent",
            "profile `absent` (named by AWS_PROFILE) is neither in ",
        ),
    ] {
        let variables = [("AWS_PROFILE", name)];
        let err = home.identity(&network, &variables).await.unwrap_err();
        assert!(err.to_string().starts_with(expected), "{err}");
    }
    let err = home
        .identity(&network, &[("AWS_PROFILE", "process")])
        .await
        .unwrap_err();
    assert!(
        err.to_string().ends_with(
            "start again: `eval \"$(aws configure export-credentials --profile process --format env)\"`"
        ),
        "{err}"
    );
    let container = with(&[(
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "http://127.0.0.1:81/keys",
    )]);
    let err = identity(&network, &container).await.unwrap_err();
    assert!(
        matches!(err, AwsError::Credentials(CredentialsError::Http { .. })),
        "{err:?}"
    );
    // The instance has a role, and nobody asked for it.
    assert!(network.seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_role_is_renewed_before_it_ends() {
    let services = Services::new();
    let hour = Duration::from_secs(3600);
    metadata(&services.network, hour);
    let key = |number: u64, ends| {
        let key = Key {
            secret: "secret".to_owned(),
            token: Some(format!("token-{number}")),
            ends: Some(morning() + ends),
        };
        (format!("ASIA-{number:04}"), key)
    };
    services.state().keys = [key(0, hour), key(1, hour * 2), key(2, hour * 3)].into();
    let aws = services.network.open(&BARE).await.unwrap();
    let used = async || {
        aws.target_health(&group(), SOON).await.unwrap();
        let seen = services.network.take_seen();
        let asked = seen.iter().filter(|seen| seen.host == "imds.test").count();
        let last = seen.last().unwrap().headers["authorization"].clone();
        let id = last.split("Credential=").nth(1).unwrap()[..9].to_owned();
        (id, asked)
    };
    let minutes = |minutes: u64| tokio::time::sleep(Duration::from_secs(minutes * 60));
    assert_eq!(used().await, ("ASIA-0000".to_owned(), 3));
    minutes(54).await;
    assert_eq!(used().await, ("ASIA-0000".to_owned(), 0));
    // Less than five minutes are left.
    minutes(2).await;
    assert_eq!(used().await, ("ASIA-0001".to_owned(), 3));
    // Where they cannot be renewed the old ones do to their end, and not longer.
    minutes(57).await;
    services.network.host("imds.test", |_| Reply::new(503, ""));
    assert_eq!(used().await, ("ASIA-0001".to_owned(), 1));
    minutes(4).await;
    let err = aws.target_health(&group(), SOON).await.unwrap_err();
    assert!(
        err.to_string()
            .contains("instance metadata at http://imds.test: no session: it answered 503"),
        "{err}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_the_metadata_service_says_is_not_believed_blindly() {
    for (role, body, expected) in [
        ("../../x", "", "`../../x` is no name of a role"),
        ("a", "<html>", "the answer is not the JSON expected"),
        (
            "a",
            r#"{"Code":"AssumeRoleUnauthorizedAccess","Message":"EC2 cannot\u001b assume"}"#,
            r"AssumeRoleUnauthorizedAccess EC2 cannot\u{1b} assume",
        ),
        (
            "a",
            r#"{"Code":"Success"}"#,
            "the answer has no AccessKeyId or no SecretAccessKey",
        ),
        (
            "a",
            r#"{"AccessKeyId":"A","SecretAccessKey":"s3cret","Expiration":"soon"}"#,
            "its Expiration `soon` is no time",
        ),
    ] {
        let network = Network::new();
        network.host("imds.test", move |seen| {
            Reply::new(
                200,
                match seen.path.rsplit('/').next().unwrap() {
                    "token" => "session",
                    "" => role,
                    _ => body,
                },
            )
        });
        let err = identity(&network, &BARE).await.unwrap_err();
        let text = format!("{err} {err:?}");
        assert!(err.to_string().contains(expected), "{err}");
        assert!(!text.contains("s3cret"), "{text}");
    }
    // Keys that have ended already are none.
    let network = Network::new();
    metadata(&network, Duration::ZERO);
    let err = identity(&network, &BARE).await.unwrap_err();
    assert!(
        err.to_string()
            .starts_with("the credentials from this instance's role `operator` have ended\n"),
        "{err}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_container_has_a_role() {
    let keys = |token: Option<&'static str>| {
        move |seen: &crate::fake::Seen| {
            if seen.headers.get("authorization").map(String::as_str) != token {
                return Reply::new(403, "");
            }
            Reply::new(
                200,
                format!(
                    r#"{{"RoleArn":"arn","AccessKeyId":"ASIACONT","SecretAccessKey":"s","Token":"t","Expiration":"{}"}}"#,
                    rfc3339(Duration::from_secs(3600))
                ),
            )
        }
    };
    let network = Network::new();
    network.host("169.254.170.2", keys(None));
    network.host("127.0.0.1", keys(Some("Basic abc")));
    let relative = with(&[(
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "/v2/credentials/x",
    )]);
    assert_eq!(
        identity(&network, &relative).await.unwrap(),
        "the container's role from http://169.254.170.2/v2/credentials/x (key …CONT)"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "Basic abc\n").unwrap();
    let path = file.path().display().to_string();
    let full = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:81/"),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", path.as_str()),
    ];
    assert!(identity(&network, &with(&full)).await.is_ok());
    let err = identity(&network, &with(&full[..1])).await.unwrap_err();
    assert_eq!(
        err.to_string(),
        "the container's role at http://127.0.0.1:81 (AWS_CONTAINER_CREDENTIALS_FULL_URI) gave no credentials: it answered 403 Forbidden"
    );
    let plain = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://keys.example/")];
    let err = identity(&network, &with(&plain)).await.unwrap_err();
    assert!(err.to_string().contains("without TLS only"), "{err}");
}

#[tokio::test(start_paused = true)]
async fn a_session_of_the_login_is_exchanged_for_keys() {
    let network = Network::new();
    let ends = morning() + Duration::from_secs(3600);
    let millis = ends.duration_since(UNIX_EPOCH).unwrap().as_millis();
    network.host("sso.test", move |seen| {
        let token = seen.headers.get("x-amz-sso_bearer_token").map(String::as_str);
        if token != Some("bearer") {
            return Reply::new(401, "{}");
        }
        if !seen.path.ends_with("?role_name=Admin&account_id=123456789012") {
            return Reply::new(403, "{}");
        }
        Reply::new(
            200,
            format!(
                r#"{{"roleCredentials":{{"accessKeyId":"ASIAOFSSO","secretAccessKey":"s","sessionToken":"t","expiration":{millis}}}}}"#
            ),
        )
    });
    let home = Home::new(
        "[profile new]\nsso_session = corp\nsso_account_id = 123456789012\nsso_role_name = Admin\n\
         [sso-session corp]\nsso_region = eu-west-1\nsso_start_url = https://corp.example/start\n\
         [profile old]\nsso_start_url = https://corp.example/start\nsso_region = eu-west-1\nsso_account_id = 123456789012\nsso_role_name = Admin\n\
         [profile other]\nsso_session = corp\nsso_account_id = 123456789012\nsso_role_name = Reader\n",
        "",
    );
    let cached = |key: &str, token: &str, ends: &str| {
        let name = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, key.as_bytes());
        let name: String = name.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        let text = format!(
            r#"{{"startUrl":"https://corp.example/start","region":"eu-west-1","accessToken":"{token}","expiresAt":"{ends}"}}"#
        );
        home.write(&format!("sso/cache/{name}.json"), &text);
    };
    let profile = |name| {
        [
            ("AWS_PROFILE", name),
            ("AWS_ENDPOINT_URL_SSO", "http://sso.test"),
        ]
    };
    let err = home.identity(&network, &profile("new")).await.unwrap_err();
    assert!(
        err.to_string()
            .starts_with("profile `new` uses SSO, and its session cannot be read: "),
        "{err}"
    );
    assert!(
        err.to_string()
            .ends_with("\nhint: `aws sso login --profile new`"),
        "{err}"
    );
    let later = rfc3339(Duration::from_secs(60));
    cached("corp", "bearer", &later);
    cached("https://corp.example/start", "bearer", &later);
    for name in ["new", "old"] {
        assert_eq!(
            home.identity(&network, &profile(name)).await.unwrap(),
            format!("the SSO session of profile `{name}` (key …FSSO)")
        );
    }
    let err = home
        .identity(&network, &profile("other"))
        .await
        .unwrap_err();
    assert!(
        err.to_string()
            .contains("gives that session no role `Reader` in account 123456789012"),
        "{err}"
    );
    for (token, ends, expected) in [
        ("bearer", rfc3339(Duration::ZERO), "its session is over"),
        ("stale", later, "does not take its session any more"),
    ] {
        cached("corp", token, &ends);
        let err = home.identity(&network, &profile("new")).await.unwrap_err();
        assert!(err.to_string().contains(expected), "{err}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_region_is_looked_for_too() {
    let network = Network::new();
    let imds = &BARE[1..];
    let region = async |variables: &[(&str, &str)]| {
        network
            .open(variables)
            .await
            .map(|aws| aws.region().to_string())
    };
    let Err(err) = region(imds).await else {
        panic!("nobody says which")
    };
    assert_eq!(
        err.to_string(),
        "no AWS region found (looked at AWS_REGION and AWS_DEFAULT_REGION: not set; no profile; \
         instance metadata at http://imds.test: http://imds.test cannot be reached: connection refused)\n\
         hint: set AWS_REGION, or `region` in the profile: `aws configure set region eu-central-1`"
    );
    metadata(&network, Duration::from_secs(3600));
    assert_eq!(region(imds).await.unwrap(), "eu-north-1");
    let home = Home::new("[default]\nregion = eu-south-1\n", "");
    let config = home.0.path().join(".aws/config").display().to_string();
    let file = [imds, &[("AWS_CONFIG_FILE", config.as_str())]].concat();
    assert_eq!(region(&file).await.unwrap(), "eu-south-1");
    let default = [&file[..], &[("AWS_DEFAULT_REGION", "eu-west-3")]].concat();
    assert_eq!(region(&default).await.unwrap(), "eu-west-3");
    let named = [&default[..], &[("AWS_REGION", "eu-west-2")]].concat();
    assert_eq!(region(&named).await.unwrap(), "eu-west-2");
    let wrong = [&default[..], &[("AWS_REGION", "Frankfurt")]].concat();
    let Err(err) = region(&wrong).await else {
        panic!("it is none")
    };
    assert!(
        err.to_string().starts_with("`Frankfurt` is not a region\n"),
        "{err}"
    );
    // An ARN's own region goes before everything.
    let options = Options {
        region: Some(group().region().clone()),
        ..network.options(&named)
    };
    let aws = Aws::open(options, SOON).await.unwrap();
    assert_eq!(aws.region().as_str(), "eu-central-1");
}
