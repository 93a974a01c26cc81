use super::*;
use crate::backend::Routes;
use crate::config::{Connections, Health};
use std::net::SocketAddr;

const MS: fn(u64) -> Duration = Duration::from_millis;

struct Rig {
    pool: Arc<Pool>,
    resets: Arc<Mutex<Vec<String>>>,
}

/// Backends `a`, `b`, `c`…, all of them up.
fn rig(count: u8) -> Rig {
    let resets = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&resets);
    let routes = Routes {
        backends: vec![],
        settings: Connections::default(),
        slow_start: MS(0),
    };
    let reset: Reset = Box::new(move |backend| {
        seen.lock()
            .expect("not poisoned")
            .push(backend.name.clone());
    });
    let rules = Rules {
        warm_up: MS(0),
        ..Rules::of(&Health::default())
    };
    let pool = Arc::new(Pool::new(rules, Arc::new(RouteTable::new(routes)), reset));
    for slot in 0..count {
        let name = char::from(b'a' + slot).to_string();
        let address = SocketAddr::from(([127, 0, 0, 1], 6443));
        let id = pool.add(Arc::new(Backend::new(&name, address, slot)), None);
        pool.event(id, Event::Ready);
    }
    Rig { pool, resets }
}

fn states(pool: &Pool) -> Vec<State> {
    pool.status()
        .into_iter()
        .map(|backend| backend.state)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_silence_kills_only_when_another_answered_since_it_began() {
    let rig = rig(2);
    tokio::time::advance(MS(20)).await;
    rig.pool.asks(1);
    tokio::time::advance(MS(25)).await;
    // b last answered before the silence of a began: the fault may be ours.
    rig.pool.silent(1, MS(45));
    assert_eq!(states(&rig.pool), [State::Suspect, State::Up]);
    assert!(rig.resets.lock().expect("not poisoned").is_empty());
    rig.pool.event(2, Event::Answered { rtt: MS(1) });
    tokio::time::advance(MS(30)).await;
    assert!(
        rig.pool.silent(1, MS(55)),
        "the kept connection is given up"
    );
    assert_eq!(states(&rig.pool), [State::Dead, State::Up]);
    assert_eq!(*rig.resets.lock().expect("not poisoned"), ["a"]);
    assert_eq!(rig.pool.status()[0].ejected_total, 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_on_its_way_when_the_link_broke_kills_nobody() {
    let rig = rig(2);
    rig.pool.asks(1);
    tokio::time::advance(MS(1)).await;
    rig.pool.event(2, Event::Answered { rtt: MS(1) });
    for _ in 0..10 {
        tokio::time::advance(MS(100)).await;
        rig.pool.silent(1, MS(100));
    }
    assert_eq!(states(&rig.pool), [State::Suspect, State::Up]);
    rig.pool.event(2, Event::Answered { rtt: MS(1000) });
    rig.pool.silent(1, MS(1001));
    assert_eq!(states(&rig.pool), [State::Dead, State::Up]);
}

#[tokio::test(start_paused = true)]
async fn a_silence_that_all_shared_is_given_as_long_again() {
    let rig = rig(3);
    for id in [1, 2, 3] {
        rig.pool.asks(id);
    }
    tokio::time::advance(MS(400)).await;
    for id in [1, 2, 3] {
        rig.pool.silent(id, MS(400));
    }
    // The break of our link is over, and c is the first whose packet is sent once more.
    rig.pool.event(3, Event::Answered { rtt: MS(400) });
    tokio::time::advance(MS(390)).await;
    rig.pool.event(3, Event::Answered { rtt: MS(1) });
    rig.pool.silent(1, MS(790));
    rig.pool.silent(2, MS(790));
    rig.pool.event(2, Event::Answered { rtt: MS(790) });
    assert_eq!(
        states(&rig.pool),
        [State::Suspect, State::Up, State::Up],
        "b was asked once more in time"
    );
    // A new question begins anew, and others answer it at once.
    rig.pool.asks(2);
    rig.pool.event(3, Event::Answered { rtt: MS(1) });
    tokio::time::advance(MS(10)).await;
    rig.pool.silent(1, MS(800));
    assert_eq!(
        states(&rig.pool),
        [State::Dead, State::Up, State::Up],
        "a is silent on its own by now"
    );
    assert_eq!(*rig.resets.lock().expect("not poisoned"), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn the_last_one_is_not_killed_for_the_sake_of_those_not_let_in() {
    let rig = rig(3);
    for id in [2, 3] {
        rig.pool.event(id, Event::Answered { rtt: MS(1) });
    }
    rig.pool.asks(2);
    tokio::time::advance(MS(25)).await;
    // b is dead and answers again, c is drained: neither could take a's clients.
    rig.pool.event(1, Event::Answered { rtt: MS(1) });
    tokio::time::advance(MS(25)).await;
    rig.pool.silent(2, MS(50));
    rig.pool.set_drained("c", true, false).expect("a is up");
    rig.pool.asks(1);
    tokio::time::advance(MS(20)).await;
    for id in [2, 3] {
        rig.pool.event(id, Event::Answered { rtt: MS(1) });
    }
    tokio::time::advance(MS(480)).await;
    rig.pool.silent(1, MS(500));
    assert_eq!(states(&rig.pool), [State::Suspect, State::Dead, State::Up]);
    rig.pool.set_drained("c", false, false).expect("there");
    rig.pool.silent(1, MS(510));
    assert_eq!(states(&rig.pool), [State::Dead, State::Dead, State::Up]);
}

#[tokio::test(start_paused = true)]
async fn when_nobody_is_ready_it_fails_open_and_says_so() {
    let rig = rig(2);
    assert!(!rig.pool.fail_open());
    rig.pool.event(1, Event::Refused);
    assert!(!rig.pool.fail_open());
    rig.pool.event(2, Event::NotReady);
    assert!(rig.pool.fail_open());
    for _ in 0..3 {
        rig.pool.event(2, Event::Ready);
    }
    assert!(!rig.pool.fail_open());
}

#[tokio::test(start_paused = true)]
async fn the_last_good_one_is_not_drained_unless_forced() {
    let rig = rig(2);
    rig.pool.set_drained("a", true, false).expect("b is up");
    let refused = rig
        .pool
        .set_drained("b", true, false)
        .expect_err("nothing would be left")
        .to_string();
    assert!(refused.contains("others: a (up, drained)"), "{refused}");
    rig.pool.set_drained("b", true, true).expect("forced");
    assert!(rig.pool.standings().iter().all(|standing| standing.drained));
    assert!(
        !rig.pool.fail_open(),
        "drained by request is not failing open"
    );
    rig.pool.set_drained("a", false, false).expect("undrained");
    let unknown = rig
        .pool
        .set_drained("x", true, false)
        .expect_err("no such backend")
        .to_string();
    assert_eq!(unknown, "no backend is named `x`; there are a, b");
}

#[tokio::test(start_paused = true)]
async fn the_first_look_waits_for_everyone_and_for_nobody_gone() {
    let rig = rig(1);
    let backend = Arc::new(Backend::new(
        "late",
        SocketAddr::from(([127, 0, 0, 1], 1)),
        9,
    ));
    let id = rig.pool.add(backend, None);
    let waiting = Arc::clone(&rig.pool);
    let look = tokio::spawn(async move { waiting.first_look().await });
    tokio::task::yield_now().await;
    rig.pool.event(id, Event::Left);
    tokio::task::yield_now().await;
    assert!(!look.is_finished(), "a goodbye is no look");
    rig.pool.event(id, Event::Refused);
    look.await.expect("seen");
}

#[test]
fn a_strangers_words_are_made_harmless() {
    assert_eq!(shown("ok\u{1b}[31m\nred"), "ok\\u{1b}[31m red");
    assert_eq!(shown(&"x".repeat(1000)).len(), SHOWN_MAX);
}
