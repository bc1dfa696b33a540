//! The scheduler and the rules over days of seeded random traffic: arrivals, failures, an operator, crashes, restarts
//! with other settings, clock steps, slow loads. After each step a judge that shares no code with the scheduler
//! checks the invariants I8 and I10 to I16, also for ramp, rate and adaptive limit over restarts, and whether late
//! events are handled as their destination is configured.
//!
//! `HOLDLINE_SIM_SEEDS` is the number of seeds, `HOLDLINE_SIM_FIRST` the first one. A failing seed prints its last steps.

mod adaptive;
mod courses;
mod judge;
mod latecomers;
mod lives;
mod pacer;
mod rig;
mod settings;
mod store;
mod verdicts;
mod world;

use judge::Violation;
use rig::Break;
use world::World;

const SEEDS: u64 = 500;

/// Runs one seed to its end; returns the number of attempts, or the step at which an invariant was violated.
fn run(world: &mut World) -> Result<u64, (usize, Violation)> {
    let steps = world.weather.steps;
    for step in 0..steps {
        world.step().map_err(|violation| (step, violation))?;
    }
    world.drain().map_err(|violation| (steps, violation))?;
    Ok(world.starts)
}

/// Runs a failing seed once more; returns the log of its steps.
fn story(seed: u64, broken: Break) -> String {
    let mut world = World::new(seed, broken, true);
    let Err((step, Violation { invariant, how })) = run(&mut world) else { return "it does not repeat".to_owned() };
    let log: Vec<String> = world.log.into_iter().flatten().collect();
    let policies: Vec<_> = world.destinations.iter().map(|d| (d.policy.clone(), d.late.clone())).collect();
    format!("{invariant}, seed {seed}, step {step}: {how}\n{policies:?}\n{}", log.join("\n"))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|n| n.parse().expect("a number"))
}

#[test]
fn the_invariants_hold_for_every_seed() {
    let first = number("HOLDLINE_SIM_FIRST").unwrap_or(0);
    let seeds = number("HOLDLINE_SIM_SEEDS").unwrap_or(SEEDS);
    let mut attempts = 0;
    for seed in first..first + seeds {
        match run(&mut World::new(seed, Break::Nothing, false)) {
            Ok(made) => attempts += made,
            Err(_) => panic!("{}", story(seed, Break::Nothing)),
        }
    }
    println!("{seeds} seeds from {first}, {attempts} attempts");
    assert!(attempts > seeds, "something happens in them");
}

/// Each rule that is broken on purpose must be noticed within this number of seeds.
const SEEDS_TO_NOTICE: u64 = 300;

#[test]
fn every_broken_rule_is_detected() {
    for (broken, invariants) in [
        (Break::SecondInFlight, &["I13", "ramp", "concurrency"][..]),
        (Break::LosesLane, &["I13"]),
        (Break::OneTooMany, &["concurrency"]),
        (Break::ForgetsHoldAtStart, &["I12"]),
        (Break::IgnoresHold, &["I12"]),
        (Break::RetriesEarly, &["I16"]),
        (Break::IgnoresDeadLetter, &["I13", "I15"]),
        (Break::DropsLoaded, &["I13", "I14"]),
        (Break::DropsRedriven, &["I15"]),
        (Break::RedrivenLast, &["I15"]),
        (Break::ForgetsAttempt, &["I11", "I16"]),
        (Break::NeverGivesUp, &["I11"]),
        (Break::BelievesEveryAnswer, &["I8"]),
        (Break::CountsWhatWasNotSent, &["I8"]),
        (Break::Oversleeps, &["I14", "I15", "I16"]),
        (Break::SpinsInPlace, &["I14"]),
        (Break::DoesNotClamp, &["I16"]),
        (Break::DeliversTwice, &["I10"]),
        (Break::KeepsLastHold, &["I12"]),
        (Break::IgnoresPause, &["I12", "ramp"]),
        (Break::ForgetsPauseAtStart, &["I12", "ramp"]),
        (Break::BreakerNeverOpens, &["breaker", "ramp"]),
        (Break::ForgetsBreakerAtStart, &["I12", "breaker", "ramp"]),
        (Break::ProbeTooMany, &["I12", "breaker"]),
        (Break::IgnoresRate, &["rate"]),
        (Break::IgnoresRamp, &["ramp"]),
        (Break::KeepsPostponedProbe, &["breaker", "I14", "I15", "I16"]),
        (Break::IgnoresWindow, &["I13", "I16"]),
        (Break::HalvesWindow, &["I13", "I16"]),
        (Break::IgnoresEventTime, &["I13", "I14", "I16"]),
        (Break::TrustsOldClock, &["I13", "I14", "I16"]),
        (Break::GivesUpUnknownPage, &["I8", "I13", "I14"]),
        (Break::IgnoresStale, &["stale"]),
        (Break::StaleWhenEqual, &["stale"]),
        (Break::StaleAgainstTried, &["stale"]),
        (Break::RemembersLastOnly, &["stale"]),
        (Break::ForgetsDeliveredAtStart, &["stale"]),
        (Break::FlagsNothing, &["stale"]),
        (Break::DeliversInsteadOfDiscarding, &["stale"]),
        (Break::DiscardsInsteadOfBurying, &["stale"]),
        (Break::JudgesRedrivenStale, &["stale"]),
        (Break::IgnoresTtl, &["ttl"]),
        (Break::LetsRedrivenExpire, &["ttl"]),
        (Break::AgesFromAcceptance, &["ttl"]),
        (Break::AgesFromTheFuture, &["ttl"]),
        (Break::BelievesTheFuture, &["stale"]),
        (Break::TakesShorterPattern, &["ttl"]),
        (Break::ForgetsRampAtStart, &["ramp"]),
        (Break::ForgetsRateAtStart, &["rate"]),
        (Break::NeverCuts, &["concurrency"]),
        (Break::GrowsWhenThrottled, &["concurrency", "breaker"]),
        (Break::CutsForEach, &["concurrency"]),
        (Break::IgnoresQuota, &["I12"]),
        (Break::TakesNoTurns, &["turns"]),
    ] {
        let mut seen = (0..SEEDS_TO_NOTICE).filter_map(|seed| {
            let broke = run(&mut World::new(seed, broken, false)).err()?;
            Some((seed, broke.1))
        });
        let (seed, violation) = seen.next().unwrap_or_else(|| panic!("{broken:?} goes unnoticed"));
        let right = invariants.contains(&violation.invariant);
        assert!(right, "{broken:?} is taken for {violation:?}\n{}", story(seed, broken));
        println!("{broken:?}: {} at seed {seed}: {}", violation.invariant, violation.how);
    }
}
