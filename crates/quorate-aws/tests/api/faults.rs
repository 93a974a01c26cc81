//! Throttling, sessions that end, clocks that are wrong, answers that are late, cut, huge or something else.

use std::error::Error;
use std::time::Duration;

use quorate_aws::{AwsError, HttpError, Phase};
use tokio::time::Instant;

use crate::fake::{Fault, SOON, morning};
use crate::services::{ENVIRONMENT, Key, Services, group, refusal};

fn throttled() -> Fault {
    let reply = refusal(false, 400, "Throttling", "Rate exceeded");
    Fault::Instead(reply.status, reply.body)
}

fn chain(err: &AwsError) -> String {
    let mut text = err.to_string();
    let mut source = err.source();
    while let Some(err) = source {
        text += &format!(": {err}");
        source = err.source();
    }
    text
}

#[tokio::test(start_paused = true)]
async fn throttling_is_waited_out() {
    let services = Services::new();
    let aws = services.client().await;
    let unavailable = Fault::Instead(503, "<html>busy</html>".to_owned());
    services
        .network
        .faults([throttled(), unavailable, throttled(), Fault::Cut]);
    services
        .network
        .faults([Fault::Unreachable, Fault::Truncated]);
    let began = Instant::now();
    aws.target_health(&group(), SOON).await.unwrap();
    // Six pauses: 0.25, 0.5, 1, 2, 4 and 8 s at most.
    assert!(began.elapsed() <= Duration::from_millis(15_750));
    // The one that could not be reached saw nothing.
    assert_eq!(services.network.seen().len(), 6);
}

#[tokio::test(start_paused = true)]
async fn it_is_given_up_after_so_many_attempts() {
    let services = Services::new();
    let aws = services.client().await;
    services.network.faults(vec![throttled(); 20]);
    let began = Instant::now();
    let err = aws.target_health(&group(), SOON).await.unwrap_err();
    assert_eq!(services.network.seen().len(), 8);
    assert_eq!(err.code(), Some("Throttling"));
    assert_eq!(err.request_id(), Some("req-err"));
    let AwsError::GaveUp { attempts, took, .. } = &err else {
        panic!("{err:?}")
    };
    assert_eq!((*attempts, *took), (8, began.elapsed()));
    assert!(
        chain(&err).starts_with("elasticloadbalancing:DescribeTargetHealth was tried 8 times in "),
        "{err}"
    );
    assert!(chain(&err).ends_with("answered 400 Throttling: Rate exceeded (request req-err)"));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_holds_for_pauses_too() {
    let services = Services::new();
    let aws = services.client().await;
    services.network.faults(vec![throttled(); 20]);
    let within = Duration::from_secs(2);
    let began = Instant::now();
    let err = aws.target_health(&group(), within).await.unwrap_err();
    assert!(began.elapsed() <= within, "{:?}", began.elapsed());
    assert_eq!(err.code(), Some("Throttling"));
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_waited_for_and_a_silent_service_is_not() {
    let services = Services::new();
    let aws = services.client().await;
    services
        .network
        .faults([Fault::Slow(Duration::from_secs(14))]);
    aws.target_health(&group(), SOON).await.unwrap();
    assert_eq!(services.network.take_seen().len(), 1);
    // One attempt may take 15 s, and the next one is answered.
    services.network.faults([Fault::Silence]);
    let began = Instant::now();
    aws.target_health(&group(), SOON).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(15));
    assert_eq!(services.network.take_seen().len(), 2);
    // The call as a whole ends in time.
    services.network.faults(vec![Fault::Silence; 20]);
    let began = Instant::now();
    let err = aws
        .target_health(&group(), Duration::from_secs(40))
        .await
        .unwrap_err();
    assert!(began.elapsed() <= Duration::from_secs(40));
    let AwsError::GaveUp { last, .. } = err else {
        panic!("{err:?}")
    };
    let AwsError::Http {
        source: HttpError::Deadline { phase, .. },
        ..
    } = *last
    else {
        panic!("{last:?}")
    };
    assert_eq!(phase, Phase::Answer);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_answer_is_an_error_at_once() {
    let services = Services::new();
    let aws = services.client().await;
    let captive = "<html><body>Please log in<br></body></html>";
    let empty = "<DescribeTargetHealthResponse><DescribeTargetHealthResult/></DescribeTargetHealthResponse>";
    let no_port = "<DescribeTargetHealthResponse><DescribeTargetHealthResult><TargetHealthDescriptions><member>\
                   <Target><Id>i-01</Id></Target><TargetHealth><State>healthy</State></TargetHealth>\
                   </member></TargetHealthDescriptions></DescribeTargetHealthResult></DescribeTargetHealthResponse>";
    for (body, expected) in [
        ("", "it is empty"),
        (captive, "it is not XML at byte"),
        (
            "<html></html>",
            "it is `html` instead of `DescribeTargetHealthResponse`",
        ),
        (
            empty,
            "`DescribeTargetHealthResult` has no `TargetHealthDescriptions`",
        ),
        (no_port, "`Target` has no `Port`"),
        ("<a>\u{1b}[31m</b>", "it is not XML"),
    ] {
        services
            .network
            .faults([Fault::Instead(200, body.to_owned())]);
        let err = aws.target_health(&group(), SOON).await.unwrap_err();
        let text = err.to_string();
        assert!(matches!(err, AwsError::Unfit { .. }), "{err:?}");
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }
    assert_eq!(services.network.seen().len(), 6);
    services.network.faults([Fault::Endless]);
    let err = aws.target_health(&group(), SOON).await.unwrap_err();
    assert!(
        matches!(
            err,
            AwsError::Http {
                source: HttpError::TooLarge { .. },
                ..
            }
        ),
        "{err:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn somebody_elses_error_is_shown_without_its_control_characters() {
    let services = Services::new();
    let aws = services.client().await;
    services.network.faults([Fault::Instead(
        407,
        "proxy\u{1b}]0;x\u{7} says no\n".to_owned(),
    )]);
    let err = aws.target_health(&group(), SOON).await.unwrap_err();
    assert_eq!(
        err.to_string(),
        "elasticloadbalancing:DescribeTargetHealth at http://aws.test answered 407 HTTP 407: \
         proxy\\u{1b}]0;x\\u{7} says no (no request id)"
    );
    let long = "x".repeat(100_000);
    services.network.faults([Fault::Instead(400, long)]);
    let err = aws.target_health(&group(), SOON).await.unwrap_err();
    assert!(err.to_string().len() < 1000);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_over_says_whose_it_was() {
    let services = Services::new();
    let aws = services.client().await;
    services.state().keys.get_mut("AKIDEXAMPLE").unwrap().ends = Some(morning());
    let err = aws.target_health(&group(), SOON).await.unwrap_err();
    assert_eq!(err.code(), Some("ExpiredToken"));
    // The environment has no others, so it is asked once.
    assert_eq!(services.network.seen().len(), 1);
    assert!(
        err.to_string().ends_with(
            "\nhint: the environment's AWS_ACCESS_KEY_ID (key …MPLE): this session is over; \
             get a new one, for example with `aws sso login`, and start again"
        ),
        "{err}"
    );
}

#[tokio::test(start_paused = true)]
async fn keys_that_somebody_replaced_in_a_file_are_found() {
    let services = Services::new();
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("credentials");
    let write = |id: &str| {
        let text = format!(
            "[default]\naws_access_key_id = {id}\naws_secret_access_key = secret-{id}\naws_session_token = token-{id}\n"
        );
        std::fs::write(&file, text).unwrap();
    };
    let key = |id: &str, ends| {
        let key = Key {
            secret: format!("secret-{id}"),
            token: Some(format!("token-{id}")),
            ends,
        };
        (id.to_owned(), key)
    };
    let ends = |seconds| Some(morning() + Duration::from_secs(seconds));
    services.state().keys = [
        key("OLD", ends(60)),
        key("NEW", ends(120)),
        key("LAST", None),
    ]
    .into();
    write("OLD");
    let path = file.display().to_string();
    let variables = [
        ENVIRONMENT[0],
        ENVIRONMENT[1],
        ("AWS_SHARED_CREDENTIALS_FILE", path.as_str()),
    ];
    let aws = services.network.open(&variables).await.unwrap();
    let used = || -> Vec<String> {
        let seen = services.network.take_seen();
        seen.iter()
            .map(|seen| {
                let (_, id) = seen.headers["authorization"]
                    .split_once("Credential=")
                    .expect("signed");
                id.split('/').next().expect("it has a scope").to_owned()
            })
            .collect()
    };
    aws.target_health(&group(), SOON).await.unwrap();
    tokio::time::sleep(Duration::from_secs(61)).await;
    let err = aws.target_health(&group(), SOON).await.unwrap_err();
    assert_eq!(err.code(), Some("ExpiredToken"));
    assert_eq!(used(), ["OLD", "OLD"]);
    // Whoever looks again finds what was put there meanwhile, and keeps it.
    write("NEW");
    aws.target_health(&group(), SOON).await.unwrap();
    write("LAST");
    aws.target_health(&group(), SOON).await.unwrap();
    assert_eq!(used(), ["NEW", "NEW"]);
    // Refused in the middle of a call: looked again, and sent again.
    tokio::time::sleep(Duration::from_secs(61)).await;
    aws.target_health(&group(), SOON).await.unwrap();
    assert_eq!(used(), ["NEW", "LAST"]);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_clock_is_named() {
    let services = Services::new();
    let aws = services.client().await;
    services.state().ahead = -3600;
    let err = aws.target_health(&group(), SOON).await.unwrap_err();
    assert_eq!(err.code(), Some("SignatureDoesNotMatch"));
    assert!(
        err.to_string().ends_with(
            "hint: this machine's clock is 3600 s ahead of the service's, and signatures carry the time; set it right: `timedatectl`"
        ),
        "{err}"
    );
    assert_eq!(services.network.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_the_identity_may_not_do_is_named() {
    let services = Services::new();
    let aws = services.client().await;
    let reply = refusal(
        true,
        403,
        "UnauthorizedOperation",
        "You are not authorized.",
    );
    services
        .network
        .faults([Fault::Instead(reply.status, reply.body)]);
    let err = aws.instances(&["i-01"], SOON).await.unwrap_err();
    assert_eq!(
        err.to_string(),
        "ec2:DescribeInstances at http://aws.test answered 403 UnauthorizedOperation: You are not authorized. (request req-err)\n\
         hint: the call was made as the environment's AWS_ACCESS_KEY_ID (key …MPLE), and that identity may not do it; \
         its policy must allow ec2:DescribeInstances"
    );
    // Another secret for a known key.
    let mut variables = ENVIRONMENT;
    variables[3].1 = "wrong-secret";
    let aws = services.network.open(&variables).await.unwrap();
    let err = aws.target_health(&group(), SOON).await.unwrap_err();
    assert!(
        err.to_string().ends_with(
            "hint: the secret key of the environment's AWS_ACCESS_KEY_ID (key …MPLE) does not belong to its id; \
             look with `aws sts get-caller-identity`"
        ),
        "{err}"
    );
    assert!(!format!("{err} {err:?} {aws:?}").contains("wrong-secret"));
}
