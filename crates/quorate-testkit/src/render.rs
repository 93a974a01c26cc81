//! Plans, judgements and worlds as short text, for golden files and for comparing. Start at [`plan`].

use std::{fmt::Write as _, sync::Arc};

use quorate_plan::{
    Ensure, HostEnsure, Plan, Planning, Step,
    assessment::{Assessment, Health},
    event::Verdict,
};

use crate::{World, world::nlb::Registration};

/// A plan: one line a stage, one line a step.
pub fn plan(plan: &Plan) -> String {
    let mut out = String::new();
    for (number, stage) in (1..).zip(&plan.stages) {
        write!(out, "{number}. {}", stage.title).expect("a String takes everything");
        if let Some(change) = &stage.change {
            write!(out, " [{change}]").expect("a String takes everything");
        }
        out.push('\n');
        for step in &stage.steps {
            writeln!(out, "   {}", self::step(step)).expect("a String takes everything");
            // Why a member goes is what an operator has to judge.
            if matches!(step.ensure, Ensure::Host(HostEnsure::MemberGone { .. })) {
                writeln!(out, "      because {}", step.because).expect("a String takes everything");
            }
        }
    }
    if plan.is_empty() {
        out.push_str("nothing to do\n");
    }
    out
}

/// A step in one line.
pub fn step(step: &Step) -> String {
    let mut out = format!("{}: {}", step.on, step.ensure);
    if let Some(handover) = &step.handover {
        write!(out, " <- {}", handover.from()).expect("a String takes everything");
    }
    out
}

/// A planning: the plan, what it waits for, what is refused.
pub fn planning(planning: &Planning) -> String {
    let waits_only = planning.plan.is_empty() && !planning.waiting.is_empty();
    let mut out = if planning.refused.is_empty() && !waits_only {
        plan(&planning.plan)
    } else {
        String::new()
    };
    for waiting in &planning.waiting {
        writeln!(out, "waits for {}", waiting.what).expect("a String takes everything");
    }
    for refusal in &planning.refused {
        writeln!(out, "refused ({}): {refusal}", refusal.code())
            .expect("a String takes everything");
    }
    out
}

/// How a run ended, in one line.
pub fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Done => "done".into(),
        Verdict::More => "done, and more is needed".into(),
        Verdict::Refused { refusals } => {
            let texts: Vec<String> = refusals
                .iter()
                .map(|refusal| format!("refused ({}): {refusal}", refusal.code()))
                .collect();
            texts.join("\n")
        }
        Verdict::Failed { step, error } => format!("failed: {}: {error}", self::step(step)),
        Verdict::Unseen { missing } => format!("cannot be seen: {}", missing.join("; ")),
        Verdict::Stopped { left } => format!("stopped, {left} steps left"),
    }
}

/// A judgement.
pub fn assessment(assessment: &Assessment) -> String {
    let health = match assessment.health {
        Health::Healthy => "healthy",
        Health::Degraded => "degraded",
        Health::QuorumLost => "quorum lost",
        Health::Absent => "absent",
        Health::Unseen => "unseen",
    };
    let number = |value: Option<usize>| value.map_or_else(|| "?".to_owned(), |n| n.to_string());
    let mut out = format!(
        "{health}: {} of {} voters healthy, survives {} more\n",
        number(assessment.healthy_voters),
        number(assessment.voters),
        number(assessment.tolerance)
    );
    for problem in &assessment.problems {
        writeln!(out, "  {}: {}", problem.on, problem.what).expect("a String takes everything");
    }
    for missing in &assessment.unseen {
        writeln!(out, "  unseen: {missing}").expect("a String takes everything");
    }
    out
}

/// What of a world outlasts how it came about: two runs that end in the same state have the same text. Tokens, terms, boots, log lengths
/// and fences are left out, since a killed run may have spent more of them.
pub fn lasting(world: &World) -> String {
    let mut world = world.clone();
    world.now_ms = 0;
    for machine in world.machines.values_mut() {
        let machine = Arc::make_mut(machine);
        machine.boots = 0;
        machine.memory.recipients = 0;
        machine.memory.connected = false;
        machine.disk.fence = quorate_plan::Fence::default();
        machine.disk.claim = None;
        let disk = &mut machine.disk;
        for data in disk.etcd.iter_mut().chain(&mut disk.aside) {
            data.index = 0;
        }
        for certificate in machine.disk.pki.certificates.values_mut() {
            certificate.not_after = 0;
        }
    }
    for cluster in world.clusters.values_mut() {
        cluster.index = 0;
        cluster.term = 0;
        cluster.leader = None;
        cluster.kube.tokens_made = 0;
        cluster.kube.silent_since.clear();
        for member in cluster.members.values_mut() {
            member.confirmed = 0;
        }
    }
    for registration in world
        .nlb
        .iter_mut()
        .flat_map(|nlb| nlb.registered.values_mut())
    {
        let (Registration::Since(when) | Registration::Leaving(when)) = registration;
        *when = 0;
    }
    format!("{world:#?}")
}

/// The first line in which two texts differ, for messages that people read. `None`: they are the same.
pub fn first_difference(expected: &str, seen: &str) -> Option<String> {
    if expected == seen {
        return None;
    }
    let (mut expected, mut seen) = (expected.lines(), seen.lines());
    let mut above = Vec::new();
    loop {
        match (expected.next(), seen.next()) {
            (Some(a), Some(b)) if a == b => above.push(a),
            (a, b) => {
                let near = above
                    .iter()
                    .rev()
                    .take(6)
                    .rev()
                    .copied()
                    .collect::<Vec<_>>();
                return Some(format!(
                    "{}\n- {}\n+ {}",
                    near.join("\n"),
                    a.unwrap_or("(end)"),
                    b.unwrap_or("(end)")
                ));
            }
        }
    }
}
