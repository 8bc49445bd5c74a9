//! Asks each driver for its devices in a process of its own: some drivers crash, or hang, when they
//! are asked.

use std::io::Read;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;
use hetra::{DRIVERS, DeviceInfo, DriverState, Found};

use crate::usage::usage;

/// How long a driver may take to say what is there.
const LIMIT: Duration = Duration::from_secs(30);

/// Most that it may say.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Prints what a driver finds, as JSON
#[derive(clap::Args)]
pub(crate) struct Args {
    driver: String,
}

/// The other process.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let driver = DRIVERS.iter().find(|driver| driver.name() == args.driver);
    let driver = driver.ok_or_else(|| usage(format!("there is no driver `{}`", args.driver)))?;
    println!("{}", serde_json::to_string(&driver.discover())?);
    Ok(ExitCode::SUCCESS)
}

/// What each driver found on this machine. Where no other process can be started, they are asked
/// here.
pub(crate) fn devices() -> Vec<Found> {
    let deadline = Instant::now() + LIMIT;
    // All at once, the processor's here: it is no other library's.
    let asked: Vec<_> = DRIVERS
        .iter()
        .map(|driver| (driver, (driver.name() != "cpu").then(|| start(driver.name())).flatten()))
        .collect();
    let found = asked.into_iter().flat_map(|(driver, child)| match child {
        Some(child) => answer(driver.name(), child, deadline),
        None => driver.discover(),
    });
    found.collect()
}

fn start(driver: &str) -> Option<Child> {
    let mut command = Command::new(std::env::current_exe().ok()?);
    command.args(["probe-driver", driver]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()
}

/// What a driver's process says, or what became of it.
fn answer(driver: &str, mut child: Child, deadline: Instant) -> Vec<Found> {
    let stdout = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.map(|stdout| stdout.take(ANSWER_BYTES_MAX).read_to_string(&mut text));
        text
    });
    let broken = |what: String| {
        let hint = format!(
            "its driver {what} when it was asked for devices: update it, or remove it if nothing \
             else needs it"
        );
        vec![Found { info: DeviceInfo::of_driver(driver), state: DriverState::Broken, hint }]
    };
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return broken(format!("did not answer within {} s", LIMIT.as_secs()));
            }
        }
    };
    let text = reader.join().unwrap_or_default();
    match serde_json::from_str(&text) {
        Ok(found) if status.success() => found,
        // Such as `signal: 11 (SIGSEGV) (core dumped)`.
        _ => broken(format!("ended its process ({status})")),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn asked(script: &str, limit: Duration) -> Vec<Found> {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.stderr(Stdio::null()).spawn().unwrap();
        answer("wgpu", child, Instant::now() + limit)
    }

    #[test]
    fn a_driver_that_crashes_or_hangs_is_broken() {
        let long = Duration::from_secs(60);
        for (script, limit, wanted) in [
            ("kill -SEGV $$", long, "signal: 11"),
            ("echo '[]'; exit 3", long, "exit status: 3"),
            ("echo nonsense", long, "exit status: 0"),
            ("exec sleep 600", Duration::from_millis(50), "did not answer"),
        ] {
            let found = asked(script, limit);
            let [found] = &found[..] else { panic!("{script}: {found:?}") };
            assert_eq!((found.state, &found.info.driver[..]), (DriverState::Broken, "wgpu"));
            assert!(found.hint.contains(wanted), "{script}: {}", found.hint);
        }
        let info = DeviceInfo { id: "wgpu:0".to_string(), ..DeviceInfo::of_driver("wgpu") };
        let whole = vec![Found { info, state: DriverState::Found, hint: String::new() }];
        let script = format!("echo '{}'", serde_json::to_string(&whole).unwrap());
        assert_eq!(asked(&script, long)[0].info.id, "wgpu:0");
    }
}
