//! Asks each driver for its devices in a process of its own: some drivers crash, or hang, when they
//! are asked.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write, stdout};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hetra_device::{DeviceInfo, Driver, DriverState, Found};

use crate::DRIVERS;

/// How long a driver may take to say what is there.
const LIMIT: Duration = Duration::from_secs(30);

/// Most that it may say.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// What the answer stands behind: drivers write on stdout, too.
const MARK: &str = "hetra-found ";

/// The command that another process is started by.
static COMMAND: OnceLock<Vec<OsString>> = OnceLock::new();

/// What drivers that other processes asked have found.
static ASKED: Mutex<Option<HashMap<&str, Vec<Found>>>> = Mutex::new(None);

/// From now on drivers are asked for their devices by this command, with the driver's name behind
/// it, before this process touches them: one that crashes or hangs does it there, and is
/// [`DriverState::Broken`] here. The command has to call [`tell`]. Without one they are asked in
/// this process, as a library has no command of its own. The first call counts.
pub fn set_prober(command: impl IntoIterator<Item = OsString>) {
    let _ = COMMAND.set(command.into_iter().collect());
}

/// What the other process does: asks a driver of this process, and writes what it finds to the
/// standard output. False where there is no such driver.
pub fn tell(driver: &str) -> bool {
    let driver = DRIVERS.iter().find(|known| known.name() == driver);
    let answer = driver.and_then(|driver| serde_json::to_string(&driver.discover()).ok());
    // Nobody is there to tell where it cannot be written.
    answer.is_some_and(|answer| writeln!(stdout(), "\n{MARK}{answer}").is_ok())
}

/// What each driver found on this machine, all asked at once.
pub(crate) fn devices() -> Vec<Found> {
    found(&DRIVERS.iter().collect::<Vec<_>>())
}

/// What these drivers found; the processor's is asked here, as it is no other library's.
pub(crate) fn found(drivers: &[&&'static dyn Driver]) -> Vec<Found> {
    let deadline = Instant::now() + LIMIT;
    let mut asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
    let known = asked.get_or_insert_default();
    let started: Vec<_> = drivers
        .iter()
        .map(|driver| {
            let name = driver.name();
            (driver, (name != "cpu" && !known.contains_key(name)).then(|| Asked::start(name)))
        })
        .collect();
    let mut all = Vec::new();
    for (driver, asked) in started {
        let name = driver.name();
        if let Some(asked) = asked.flatten() {
            known.insert(name, asked.answer(name, deadline));
        }
        match known.get(name) {
            Some(found) => all.extend(found.iter().cloned()),
            None => all.extend(driver.discover()),
        }
    }
    all
}

/// A driver's process, and what it writes.
struct Asked {
    child: Child,
    text: Receiver<String>,
}

impl Asked {
    fn start(driver: &str) -> Option<Asked> {
        let (program, args) = COMMAND.get()?.split_first()?;
        let mut command = Command::new(program);
        command.args(args).arg(driver);
        Asked::of(command)
    }

    fn of(mut command: Command) -> Option<Asked> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().ok()?;
        let stdout = child.stdout.take()?;
        let (send, text) = sync_channel(1);
        // It may never end: what the process started in turn may hold its end of the pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout.take(ANSWER_BYTES_MAX)).lines().map_while(Result::ok)
            {
                if let Some(answer) = line.strip_prefix(MARK) {
                    // Nobody waits any more.
                    let _ = send.send(answer.to_string());
                    return;
                }
            }
        });
        Some(Asked { child, text })
    }

    /// What the driver says, or what became of it.
    fn answer(mut self, driver: &str, deadline: Instant) -> Vec<Found> {
        let left = deadline.saturating_duration_since(Instant::now());
        let text = self.text.recv_timeout(left);
        let found = text.as_ref().ok().and_then(|text| serde_json::from_str(text).ok());
        let what = match (text, self.ended()) {
            (Ok(_), _) => "said what is no answer".to_string(),
            (Err(_), None) => format!("did not answer within {} s", LIMIT.as_secs()),
            // Such as `signal: 11 (SIGSEGV) (core dumped)`.
            (Err(_), Some(status)) => format!("ended its process ({status})"),
        };
        found.unwrap_or_else(|| {
            let hint = format!(
                "its driver {what} when it was asked for devices: update it, or remove it if \
                 nothing else needs it"
            );
            vec![Found { info: DeviceInfo::of_driver(driver), state: DriverState::Broken, hint }]
        })
    }

    /// How the process ended, soon after it has answered or its pipe closed; else it is killed, and
    /// not waited for: one that is stuck in the kernel cannot end.
    fn ended(&mut self) -> Option<ExitStatus> {
        let deadline = Instant::now() + Duration::from_millis(500);
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(1)),
                Ok(status) => return status,
                Err(_) => return None,
            }
        }
        let _ = self.child.kill();
        let _ = self.child.try_wait();
        None
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn asked(script: &str, limit: Duration) -> Vec<Found> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Asked::of(command).unwrap().answer("wgpu", Instant::now() + limit)
    }

    #[test]
    fn a_driver_that_crashes_or_hangs_is_broken() {
        let (long, short) = (Duration::from_secs(60), Duration::from_millis(100));
        for (script, limit, wanted) in [
            ("kill -SEGV $$", long, "signal: 11"),
            ("echo '[]'; exit 3", long, "exit status: 3"),
            ("echo 'hetra-found nonsense'", long, "no answer"),
            ("exec sleep 600", short, "did not answer"),
        ] {
            let found = asked(script, limit);
            let [found] = &found[..] else { panic!("{script}: {found:?}") };
            assert_eq!((found.state, &found.info.driver[..]), (DriverState::Broken, "wgpu"));
            assert!(found.hint.contains(wanted), "{script}: {}", found.hint);
        }
    }

    #[test]
    fn what_a_driver_says_besides_or_leaves_behind_does_not_matter() {
        let info = DeviceInfo { id: "wgpu:0".to_string(), ..DeviceInfo::of_driver("wgpu") };
        let whole = vec![Found { info, state: DriverState::Found, hint: String::new() }];
        let answer = serde_json::to_string(&whole).unwrap();
        let begun = Instant::now();
        for before in ["", "echo 'a note of the driver'", "sleep 600 &"] {
            let script = format!("{before}\nprintf '\\nhetra-found %s\\n' '{answer}'");
            assert_eq!(asked(&script, Duration::from_secs(60))[0].info.id, "wgpu:0", "{before}");
        }
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}
