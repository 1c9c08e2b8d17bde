//! Where a world runs: on a thread of its own, and in the simulated build inside of a madsim runtime.
//!
//! The world is a plain loop over its own heap of events and needs no host. The runtime is there for what the world
//! does not see: a dependency that reads the system's clock, asks for random bytes, iterates a `HashMap` with random
//! keys or starts a thread. Inside of the runtime the first three come from the seed and the last is refused; with
//! [`run_bare`] they are the machine's own. A leak is therefore a difference between the two, or between two processes,
//! and `lockstep-sim check` looks for it.
//!
//! madsim overrides functions of the C library for a thread that is inside of its runtime, so clocks and threads of the
//! program itself are used outside of it only.

use std::cell::{Cell, RefCell};
use std::panic;
use std::sync::Once;
use std::thread;

use crate::report::{Report, Verdict};
use crate::world::{self, Options, Script};

/// The main thread's usual size: a world is deeper in debug builds than a thread's default allows for.
const STACK_BYTES: usize = 8 << 20;

/// Does the work on a thread that nobody has used before and nobody uses again: the keys of its hash maps, its thread
/// local marks and its mutation are its own. A panic is passed on.
pub fn fresh<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("world".to_owned()).stack_size(STACK_BYTES);
        let started = builder.spawn_scoped(scope, work).expect("the system has room for one more thread");
        started.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}

/// Runs the world to its end, or to what breaks; wants to be called inside of [`fresh`].
#[cfg(madsim)]
pub fn run(script: Script, options: Options) -> Report {
    use std::time::Duration;

    use madsim::runtime::Runtime;
    use madsim::time::{TimeHandle, sleep_until};

    use crate::world::World;

    /// A sleep of madsim is never shorter.
    const LEAST_SLEEP: Duration = Duration::from_millis(1);

    let seed = match &script {
        Script::Seed { seed, .. } => *seed,
        Script::Scenario(_) => 0,
    };
    let runtime = Runtime::with_seed_and_config(seed, madsim::Config::default());
    silently(|| {
        runtime.block_on(async {
            let clock = TimeHandle::current();
            let begin = clock.now_instant();
            let mut world = World::new(script, options);
            while let Some(time_us) = world.next_time_us() {
                let due = begin + Duration::from_micros(time_us);
                let wait = due.saturating_duration_since(clock.now_instant());
                if wait < LEAST_SLEEP {
                    clock.advance(wait);
                } else {
                    sleep_until(due).await;
                }
                while world.next_time_us() == Some(time_us) {
                    world.step();
                }
            }
            world.finish()
        })
    })
}

/// Runs the world to its end, or to what breaks; wants to be called inside of [`fresh`].
#[cfg(not(madsim))]
pub fn run(script: Script, options: Options) -> Report {
    run_bare(script, options)
}

/// The same without madsim in either build. The trace is the same, unless something leaks.
pub fn run_bare(script: Script, options: Options) -> Report {
    silently(|| world::run(script, options))
}

thread_local! {
    static IN_A_WORLD: Cell<bool> = const { Cell::new(false) };
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A panic inside of a world is a verdict: where it came from is told in the report, not on the terminal.
fn silently(run: impl FnOnce() -> Report) -> Report {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IN_A_WORLD.get() {
                return usual(info);
            }
            let place = info.location().map_or_else(String::new, |at| format!("{}:{}", at.file(), at.line()));
            LAST_PANIC.set(Some(place));
        }));
    });
    LAST_PANIC.set(None);
    IN_A_WORLD.set(true);
    let outcome = panic::catch_unwind(panic::AssertUnwindSafe(run));
    IN_A_WORLD.set(false);
    let place = LAST_PANIC.take();
    // The world catches what the product panics with. What comes out here is a defect of the simulator itself.
    let mut report = outcome.unwrap_or_else(|payload| {
        eprintln!("the simulator itself panicked at {}", place.clone().unwrap_or_default());
        panic::resume_unwind(payload)
    });
    if let (Verdict::Fail { checker: "panic", story, .. }, Some(place)) = (&mut report.verdict, place) {
        story.push_str(&format!(" (at {place})"));
    }
    report
}
