//! Asks each driver for its devices in a process of its own: some drivers crash, or hang, when they
//! are asked.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write, stdout};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hetra_device::{DeviceInfo, Driver, DriverState, Found};

use crate::DRIVERS;

/// How long a driver may take to say what is there.
const LIMIT: Duration = Duration::from_secs(30);

/// Most that it may say.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// What the answer stands behind: drivers write on stdout, too.
const MARK: &str = "hetra-found ";

/// Said before the driver is touched.
const BEGUN: &str = "begun";

/// The command that another process is started by.
static COMMAND: OnceLock<Vec<OsString>> = OnceLock::new();

/// What drivers that other processes asked have found.
static ASKED: Mutex<BTreeMap<&str, Vec<Found>>> = Mutex::new(BTreeMap::new());

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
    let Some(driver) = DRIVERS.iter().find(|known| known.name() == driver) else { return false };
    // Nobody is there to tell where it cannot be written.
    let say = |text: &str| writeln!(stdout(), "\n{MARK}{text}").and_then(|()| stdout().flush());
    let answer = say(BEGUN).map(|()| serde_json::to_string(&driver.discover()));
    answer.is_ok_and(|answer| answer.is_ok_and(|answer| say(&answer).is_ok()))
}

/// What each driver found on this machine, all asked at once.
pub(crate) fn devices() -> Vec<Found> {
    found(&DRIVERS.iter().collect::<Vec<_>>())
}

/// What these drivers found; the processor's is asked here, as it is no other library's.
pub(crate) fn found(drivers: &[&&'static dyn Driver]) -> Vec<Found> {
    let deadline = Instant::now() + LIMIT;
    let known = |name: &str| lock().get(name).cloned();
    // Nobody else waits while processes run.
    let started = drivers.iter().map(|driver| match driver.name() {
        "cpu" => (driver, None),
        name => (driver, known(name).map(Ok).or_else(|| Asked::start(name).map(Err))),
    });
    let started: Vec<_> = started.collect();
    let answers = started.into_iter().flat_map(|(driver, asked)| match asked {
        Some(Ok(known)) => known,
        Some(Err(asked)) => match asked.answer(driver.name(), deadline) {
            Answer::Found(found) => {
                lock().insert(driver.name(), found.clone());
                found
            }
            Answer::Broken(found) => vec![*found],
            Answer::NotAsked => driver.discover(),
        },
        None => driver.discover(),
    });
    answers.collect()
}

fn lock() -> MutexGuard<'static, BTreeMap<&'static str, Vec<Found>>> {
    ASKED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What came of asking.
enum Answer {
    Found(Vec<Found>),
    /// The driver crashed, or did not answer.
    Broken(Box<Found>),
    /// The process ended before it came to the driver, whose fault that is not.
    NotAsked,
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
        let (send, text) = sync_channel(2);
        // It may never end: what the process started in turn may hold its end of the pipe.
        std::thread::spawn(move || {
            let lines = BufReader::new(stdout.take(ANSWER_BYTES_MAX)).split(b'\n');
            for line in lines.map_while(Result::ok) {
                let answer = line.strip_prefix(MARK.as_bytes());
                let answer = answer.and_then(|answer| String::from_utf8(answer.to_vec()).ok());
                // Two lines at most; nobody waits for more.
                if answer.is_some_and(|answer| send.try_send(answer).is_err()) {
                    return;
                }
            }
        });
        Some(Asked { child, text })
    }

    /// What the driver says, or what became of it.
    fn answer(mut self, driver: &str, deadline: Instant) -> Answer {
        let left = || deadline.saturating_duration_since(Instant::now());
        let begun = self.text.recv_timeout(left()).is_ok_and(|text| text == BEGUN);
        let text = if begun { self.text.recv_timeout(left()).ok() } else { None };
        let found = text.as_ref().and_then(|text| serde_json::from_str(text).ok());
        let late = left().is_zero();
        let ended = self.ended();
        if let Some(found) = found {
            return Answer::Found(found);
        }
        if !begun && !late {
            return Answer::NotAsked;
        }
        let what = match (text, ended) {
            (Some(_), _) => "said what is no answer".to_string(),
            // Such as `signal: 11 (SIGSEGV) (core dumped)`.
            (None, Some(status)) if begun => format!("ended its process ({status})"),
            (None, _) => format!("did not answer within {} s", LIMIT.as_secs()),
        };
        let hint = format!(
            "its driver {what} when it was asked for devices: update it, or remove it if nothing \
             else needs it"
        );
        let (info, state) = (DeviceInfo::of_driver(driver), DriverState::Broken);
        Answer::Broken(Box::new(Found { info, state, hint }))
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
        // Most end at once; one that is stuck in the kernel is waited for no longer.
        std::thread::sleep(Duration::from_millis(10));
        let _ = self.child.try_wait();
        None
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn asked(script: &str, limit: Duration) -> Answer {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Asked::of(command).unwrap().answer("wgpu", Instant::now() + limit)
    }

    #[test]
    fn a_driver_that_crashes_or_hangs_is_broken() {
        let (long, short) = (Duration::from_secs(60), Duration::from_millis(200));
        let begun = format!("echo '{MARK}{BEGUN}'");
        for (script, limit, wanted) in [
            ("kill -SEGV $$", long, "signal: 11"),
            ("echo '[]'; exit 3", long, "exit status: 3"),
            ("echo 'hetra-found nonsense'", long, "no answer"),
            ("exec sleep 600", short, "did not answer"),
        ] {
            match asked(&format!("{begun}\n{script}"), limit) {
                Answer::Broken(found) => {
                    assert_eq!(found.state, DriverState::Broken);
                    assert_eq!(found.info.driver, "wgpu");
                    assert!(found.hint.contains(wanted), "{script}: {}", found.hint);
                }
                _ => panic!("{script}: not broken"),
            }
        }
        // What never came to the driver says nothing of it.
        assert!(matches!(asked("exit 1", long), Answer::NotAsked));
        assert!(matches!(asked("exec sleep 600", short), Answer::Broken(_)));
    }

    #[test]
    fn what_a_driver_says_besides_or_leaves_behind_does_not_matter() {
        let info = DeviceInfo { id: "wgpu:0".to_string(), ..DeviceInfo::of_driver("wgpu") };
        let whole = vec![Found { info, state: DriverState::Found, hint: String::new() }];
        let answer = serde_json::to_string(&whole).unwrap();
        let time = Instant::now();
        for before in ["", "echo 'a note of the driver'", "printf 'caf\\351\\n'", "sleep 600 &"] {
            let script = format!(
                "printf '\\n{MARK}{BEGUN}\\n'\n{before}\nprintf '\\n{MARK}%s\\n' '{answer}'"
            );
            match asked(&script, Duration::from_secs(60)) {
                Answer::Found(found) => assert_eq!(found[0].info.id, "wgpu:0", "{before}"),
                _ => panic!("{before}: not found"),
            }
        }
        assert!(time.elapsed() < Duration::from_secs(30));
    }
}
