use super::*;

const MS: fn(u64) -> Duration = Duration::from_millis;
const RULES: Rules = Rules {
    suspect_after: MS_20,
    dead_after: MS_45,
    dead_after_max: MS_300,
    warm_up: Duration::ZERO,
    rise: 3,
};
const MS_20: Duration = Duration::from_millis(20);
const MS_45: Duration = Duration::from_millis(45);
const MS_300: Duration = Duration::from_millis(300);

fn event(word: &str) -> Event {
    match word {
        "answered" => Event::Answered { rtt: MS(1) },
        "ready" => Event::Ready,
        "notready" => Event::NotReady,
        "silent20" => Event::Silent {
            lasted: MS(20),
            others_answer: true,
        },
        "silent45" => Event::Silent {
            lasted: MS(45),
            others_answer: true,
        },
        "alone45" => Event::Silent {
            lasted: MS(45),
            others_answer: false,
        },
        "lost" => Event::Lost,
        "left" => Event::Left,
        "refused" => Event::Refused,
        "untrusted" => Event::Untrusted,
        other => panic!("no event `{other}`"),
    }
}

/// Plays events from the beginning and writes down the state after each, with what was done.
fn play(events: &str) -> String {
    let mut tracker = Tracker::new(MS(0));
    let mut now = MS(0);
    let mut shown = Vec::new();
    for word in events.split_whitespace() {
        now += MS(20);
        let (next, actions) = step(tracker, event(word), now, &RULES);
        let mut text = next.state().word().replace(' ', "-");
        for action in actions {
            text.push_str(match action {
                Action::ResetEstablished => "!reset",
                Action::Redial => "!redial",
                Action::SlowStart => "!slow",
            });
        }
        assert_eq!(
            next.since() == now,
            next.state() != tracker.state(),
            "since moves with the state"
        );
        tracker = next;
        shown.push(text);
    }
    shown.join(" ")
}

fn check(events: &str, expected: &str) {
    assert_eq!(play(events), expected, "after: {events}");
}

/// Every state against every event, the way into the state first.
#[test]
fn the_whole_table() {
    let ways: [(&str, &str); 7] = [
        ("unknown", ""),
        ("up", "ready"),
        ("suspect", "ready silent20"),
        ("suspect (connection lost)", "ready lost"),
        ("not-ready", "ready notready"),
        ("closed", "ready refused"),
        ("dead", "ready silent45"),
    ];
    let events = [
        "answered",
        "ready",
        "notready",
        "silent20",
        "silent45",
        "alone45",
        "lost",
        "left",
        "refused",
        "untrusted",
    ];
    let table: [(&str, [&str; 10]); 7] = [
        (
            "unknown",
            [
                "unknown",
                "up",
                "not-ready",
                "unknown",
                "dead!reset!redial",
                "unknown",
                "unknown",
                "unknown",
                "closed",
                "not-ready",
            ],
        ),
        (
            "up",
            [
                "up",
                "up",
                "not-ready",
                "suspect",
                "dead!reset!redial",
                "suspect",
                "suspect",
                "up",
                "closed",
                "not-ready",
            ],
        ),
        (
            "suspect",
            [
                "up",
                "up",
                "not-ready",
                "suspect",
                "dead!reset!redial",
                "suspect",
                "suspect",
                "suspect",
                "closed",
                "not-ready",
            ],
        ),
        (
            "suspect (connection lost)",
            [
                "suspect",
                "up",
                "not-ready",
                "suspect",
                "dead!reset!redial",
                "suspect",
                "suspect",
                "suspect",
                "closed",
                "not-ready",
            ],
        ),
        (
            "not-ready",
            [
                "not-ready",
                "not-ready",
                "not-ready",
                "not-ready",
                "dead!reset!redial",
                "not-ready",
                "not-ready",
                "not-ready",
                "closed",
                "not-ready",
            ],
        ),
        (
            "closed",
            [
                "closed",
                "closed",
                "not-ready",
                "closed",
                "dead!reset!redial",
                "closed",
                "closed",
                "closed",
                "closed",
                "not-ready",
            ],
        ),
        (
            "dead",
            [
                "dead",
                "dead",
                "not-ready",
                "dead",
                "dead!redial",
                "dead!redial",
                "dead",
                "dead",
                "closed",
                "not-ready",
            ],
        ),
    ];
    for ((name, way), (row, expected)) in ways.into_iter().zip(table) {
        assert_eq!(name, row);
        for (word, expected) in events.into_iter().zip(expected) {
            let played = play(&format!("{way} {word}"));
            let last = played.split(' ').next_back().expect("one event was played");
            assert_eq!(last, expected, "{name} + {word}");
        }
    }
}

#[test]
fn the_first_start_is_let_in_at_once_a_return_is_not() {
    check("ready", "up");
    check("refused refused ready", "closed closed up");
    check(
        "ready refused ready ready ready",
        "up closed closed closed up!slow",
    );
    check(
        "ready silent45 ready ready ready",
        "up dead!reset!redial dead dead up!slow",
    );
    check(
        "ready notready ready ready ready",
        "up not-ready not-ready not-ready up!slow",
    );
}

#[test]
fn good_answers_count_only_in_a_row() {
    check(
        "ready notready ready ready notready ready ready ready",
        "up not-ready not-ready not-ready not-ready not-ready not-ready up!slow",
    );
    check(
        "ready refused ready ready lost ready ready ready",
        "up closed closed closed closed closed closed up!slow",
    );
}

#[test]
fn nobody_dies_while_nobody_answers() {
    check(
        "ready silent20 alone45 alone45 alone45 answered",
        "up suspect suspect suspect suspect up",
    );
    // The moment another answers, the silent one is dead.
    check(
        "ready silent20 alone45 silent45",
        "up suspect suspect dead!reset!redial",
    );
}

#[test]
fn a_crash_is_suspected_then_closed_and_resets_nothing() {
    check("ready lost refused", "up suspect closed");
    // The host went altogether: the dial hangs, and then what is left is reset.
    check(
        "ready lost refused silent45",
        "up suspect closed dead!reset!redial",
    );
}

#[test]
fn a_graceful_stop_resets_nothing() {
    check(
        "ready notready left refused",
        "up not-ready not-ready closed",
    );
}

#[test]
fn a_dead_one_is_reset_once() {
    check(
        "ready silent45 silent45 silent45",
        "up dead!reset!redial dead!redial dead!redial",
    );
}

#[test]
fn lateness_seen_before_raises_the_limits() {
    let mut tracker = Tracker::new(MS(0));
    let answered = |rtt| Event::Answered { rtt: MS(rtt) };
    for event in [Event::Ready, answered(1), answered(40)] {
        (tracker, _) = step(tracker, event, MS(0), &RULES);
    }
    let after = |lasted| {
        let silent = Event::Silent {
            lasted: MS(lasted),
            others_answer: true,
        };
        step(tracker, silent, MS(50), &RULES).0.state()
    };
    assert_eq!(after(22), State::Up);
    assert_eq!(after(25), State::Suspect);
    assert_eq!(after(79), State::Suspect);
    assert_eq!(after(81), State::Dead);
}

#[test]
fn one_that_just_came_up_is_given_time() {
    let rules = Rules {
        warm_up: MS(10_000),
        ..RULES
    };
    let (mut tracker, _) = step(Tracker::new(MS(0)), Event::Ready, MS(1000), &rules);
    let dead = |tracker: &Tracker, at| tracker.limits(&rules, MS(at)).dead;
    assert_eq!(dead(&tracker, 1000), MS(300));
    assert_eq!(dead(&tracker, 6000), MS(150));
    assert_eq!(dead(&tracker, 11_000), MS(45));
    // The suspicion stays quick, and does not begin the time anew.
    assert_eq!(tracker.limits(&rules, MS(1000)).suspect, MS(20));
    let silent = Event::Silent {
        lasted: MS(20),
        others_answer: true,
    };
    for event in [silent, Event::Ready] {
        (tracker, _) = step(tracker, event, MS(5000), &rules);
    }
    assert_eq!(dead(&tracker, 6000), MS(150));
    // A death does.
    let silent = Event::Silent {
        lasted: MS(300),
        others_answer: true,
    };
    for event in [silent, Event::Ready, Event::Ready, Event::Ready] {
        (tracker, _) = step(tracker, event, MS(20_000), &rules);
    }
    assert_eq!(
        (tracker.state(), dead(&tracker, 20_000)),
        (State::Up, MS(300))
    );
}
