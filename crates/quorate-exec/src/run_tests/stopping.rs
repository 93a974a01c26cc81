//! Stopping: by the operator, and by a journal that cannot be written.

use super::*;

/// Holds no more than a few lines.
struct FewLines(usize);

impl std::io::Write for FewLines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0 == 0 {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.0 -= 1;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Store for FewLines {
    fn sync(&mut self) -> std::io::Result<()> {
        Ok(())
    }
    fn cut(&mut self, _length: u64) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn stopping_at_a_safe_point_leaves_the_rest() {
    let fake = Fake::default();
    let stop = StopSignal::new();
    let mut watch = |event: &Event| {
        if matches!(event, Event::StepStarted { .. }) {
            stop.ask(Stop::AtSafePoint);
        }
    };
    let whole = plan_of(vec![
        stage("One", vec![step("cp-1", "a"), step("cp-1", "b")]),
        stage("Two", vec![step("cp-2", "a")]),
    ]);
    let (verdict, _) = run_with(&fake, whole.clone(), &stop, &mut watch).await;
    assert_eq!(verdict, Verdict::Stopped { left: 2 });
    position(&fake.log(), "cp-1 ends a");
    assert!(
        fake.fencing(&node("cp-1")).claim.is_some(),
        "it is not over"
    );

    // A stage that changes the quorum is finished once it began.
    let fake = Fake::default();
    let stop = StopSignal::new();
    let mut changing = whole;
    changing.stages[0].change = Some(Change::Found {
        nodes: [node("cp-1")].into(),
    });
    let mut watch = |event: &Event| {
        if matches!(event, Event::StepStarted { .. }) {
            stop.ask(Stop::AtSafePoint);
        }
    };
    let (verdict, _) = run_with(&fake, changing, &stop, &mut watch).await;
    assert_eq!(verdict, Verdict::Stopped { left: 1 });
    position(&fake.log(), "cp-1 ends b");
}

#[tokio::test(start_paused = true)]
async fn stopping_before_the_first_effect_gives_the_fence_back() {
    let fake = Fake::default();
    let stop = StopSignal::new();
    let mut watch = |event: &Event| {
        if matches!(event, Event::Fenced { .. }) {
            stop.ask(Stop::AtSafePoint);
        }
    };
    let whole = plan_of(vec![stage("One", vec![step("cp-1", "a")])]);
    let (verdict, _) = run_with(&fake, whole, &stop, &mut watch).await;
    assert_eq!(verdict, Verdict::Stopped { left: 1 });
    assert!(fake.fencing(&node("cp-1")).claim.is_none());
    assert!(!fake.log().iter().any(|line| line.contains("begins")));
}

#[tokio::test(start_paused = true)]
async fn stopping_now_does_not_wait() {
    let fake = Fake::default();
    let stop = StopSignal::new();
    *fake.fault.borrow_mut() = Some(Box::new(|_, _, _, _| panic!("nobody waits for its end")));
    let mut watch = |event: &Event| {
        if matches!(event, Event::StepProgress { .. }) {
            stop.ask(Stop::Now);
        }
    };
    let whole = plan_of(vec![stage("One", vec![step("cp-1", "a")])]);
    let (verdict, _) = run_with(&fake, whole, &stop, &mut watch).await;
    assert_eq!(verdict, Verdict::Stopped { left: 1 });
    assert!(fake.fencing(&node("cp-1")).claim.is_some());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_down_first_is_not_done() {
    let whole = plan_of(vec![
        stage("One", vec![step("cp-1", "a")]),
        stage("Two", vec![step("cp-2", "a")]),
    ]);
    // Every place where the disk can fill up: the effects are those whose beginning was written.
    for lines in 0..12 {
        let fake = Fake::default();
        let stop = StopSignal::new();
        let journal = Journal::on(FewLines(lines), std::path::Path::new("j"));
        let mut recorder = Recorder::new(journal, stop.clone());
        let mut begun = 0;
        let mut watch = |event: &Event| {
            recorder.record(event);
            if recorder.error().is_none() && matches!(event, Event::StepStarted { .. }) {
                begun += 1;
            }
        };
        let (verdict, _) = run_with(&fake, whole.clone(), &stop, &mut watch).await;
        let effects = fake
            .log()
            .iter()
            .filter(|line| line.contains("begins"))
            .count();
        assert_eq!(effects, begun, "{lines} lines");
        match verdict {
            Verdict::Done => assert!(lines >= 8 && effects == 2, "{lines} lines"),
            Verdict::Stopped { left } => assert_eq!(left, 2 - effects, "{lines} lines"),
            other => panic!("{lines} lines: {other:?}"),
        }
    }
}
