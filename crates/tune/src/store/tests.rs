//! The store on real files: what is written is found again, and what is wrong is told.

use super::*;

/// A folder of one test, removed when it ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("hetra-tune-{}-{name}", std::process::id()));
        std::fs::remove_dir_all(&path).ok();
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("deep").join("store.sqlite")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn device(version: &str) -> DeviceKey {
    let text = |text: &str| text.to_string();
    DeviceKey { device: text("Some CPU avx512"), driver: text("cpu 1"), version: text(version) }
}

fn task(key: &str) -> Task {
    Task::new(key, vec![("m".to_string(), 8.0), ("n".to_string(), 0.1)]).unwrap()
}

fn measured(seconds: f64, at: i64) -> Measured {
    Measured { result: Ok(seconds), spread: 0.01, samples: 5, at }
}

fn choice(schedule: &str, at: i64) -> Choice {
    Choice {
        schedule: schedule.parse().unwrap(),
        seconds: 0.5,
        default_seconds: 1.0,
        at,
        finished: true,
    }
}

/// Schedules and times of rows.
fn texts(rows: &[Row]) -> Vec<(String, String, Option<f64>)> {
    let text = |row: &Row| (row.task.key().to_string(), row.schedule.to_string(), row.seconds);
    rows.iter().map(text).collect()
}

#[test]
fn rows_and_choices_are_found_by_the_next_process() {
    let folder = Folder::new("found");
    let mut store = Store::open(&folder.file()).unwrap();
    let schedule = |text: &str| text.parse::<Schedule>().unwrap();
    let one = device("1");
    for (key, text, seconds, at) in
        [("a", "mr=1", 3.0, 1), ("a", "mr=2", 2.0, 2), ("b", "mr=1", 9.0, 3), ("a", "mr=1", 4.0, 4)]
    {
        store.record(&one, &task(key), &schedule(text), &measured(seconds, at)).unwrap();
    }
    let failed = Measured { result: Err("é".repeat(400)), ..measured(0.0, 5) };
    store.record(&one, &task("a"), &schedule("mr=3"), &failed).unwrap();
    store.record(&one, &task("a"), &schedule("mr=4"), &measured(f64::NAN, 6)).unwrap();
    store.choose(&one, &task("a"), &choice("mr=2", 7)).unwrap();
    drop(store);

    let store = Store::open_to_read(&folder.file()).unwrap().unwrap();
    let row = |key: &str, text: &str, seconds| (key.to_string(), text.to_string(), seconds);
    let own = [
        row("a", "mr=2", Some(2.0)),
        row("a", "mr=1", Some(4.0)),
        row("a", "mr=3", None),
        row("a", "mr=4", None),
    ];
    assert_eq!(texts(&store.rows(&one, "a", 0).unwrap()), own);
    let all = store.rows(&one, "a", 10).unwrap();
    assert_eq!(texts(&all)[4..], [row("b", "mr=1", Some(9.0))]);
    assert_eq!(all[4].task, task("b"));
    assert_eq!(store.best(&one, "a").unwrap(), Some(choice("mr=2", 7)));
    assert_eq!(store.best(&one, "b").unwrap(), None);
    let table = store.table(&one).unwrap();
    assert_eq!((table.len(), table.get("a")), (1, Some(&schedule("mr=2"))));
    // Another version has other kernels.
    assert_eq!(store.best(&device("2"), "a").unwrap(), None);
    assert!(store.rows(&device("2"), "a", 10).unwrap().is_empty());
    assert!(store.table(&device("2")).unwrap().is_empty());
}

#[test]
fn a_file_that_is_not_there_is_not_made_by_reading() {
    let folder = Folder::new("absent");
    assert!(Store::open_to_read(&folder.file()).unwrap().is_none());
    assert!(!folder.file().exists());
    // An empty file is a store in which nothing is yet.
    let path = folder.0.join("empty");
    std::fs::write(&path, "").unwrap();
    assert!(Store::open_to_read(&path).unwrap().is_none());
    Store::open(&path).unwrap();
    assert!(Store::open_to_read(&path).unwrap().is_some());
}

#[test]
fn damage_is_an_error_wherever_it_is() {
    let folder = Folder::new("damage");
    let mut store = Store::open(&folder.file()).unwrap();
    for at in 0..200 {
        let schedule = format!("mr={at}").parse().unwrap();
        store.record(&device("1"), &task("a"), &schedule, &measured(1.0, at)).unwrap();
    }
    drop(store);
    let whole = std::fs::read(folder.file()).unwrap();
    let damaged = |bytes: &[u8]| {
        let path = folder.0.join("damaged");
        std::fs::write(&path, bytes).unwrap();
        let read = Store::open_to_read(&path).and_then(|store| {
            store.map_or(Ok(Vec::new()), |store| store.rows(&device("1"), "a", 9))
        });
        let written = Store::open(&path).and_then(|mut store| {
            store.record(&device("1"), &task("b"), &Schedule::new(), &measured(1.0, 1))
        });
        (read, written)
    };
    let (read, written) =
        damaged(b"text that is no database, long enough for a header of one, and more");
    assert!(matches!(read, Err(StoreError::Damaged { .. })), "{read:?}");
    assert!(matches!(written, Err(StoreError::Damaged { .. })), "{written:?}");
    let (read, _) = damaged(&whole[..whole.len() / 2]);
    assert!(matches!(read, Err(StoreError::Damaged { .. })), "{read:?}");
    // Pages of zeros and of noise: an error or an answer, never a panic.
    let mut random = hetra_device::Random::new(1);
    let mut errors = 0;
    for _ in 0..60 {
        let mut bytes = whole.clone();
        let start = random.index(bytes.len());
        for byte in bytes.iter_mut().skip(start).take(700) {
            *byte = random.bits() as u8;
        }
        errors += usize::from(damaged(&bytes).0.is_err());
    }
    assert!(errors > 5, "{errors}");
}

#[test]
fn what_others_wrote_is_refused() {
    let folder = Folder::new("others");
    let mut store = Store::open(&folder.file()).unwrap();
    store.choose(&device("1"), &task("a"), &choice("mr=2", 7)).unwrap();
    // A schedule that is none.
    store.connection.execute("UPDATE choice SET schedule = 'mr'", []).unwrap();
    let fault = store.table(&device("1")).unwrap_err();
    assert!(matches!(fault, StoreError::Damaged { .. }), "{fault}");
    // A value that is longer than any of ours.
    let sql = "UPDATE choice SET schedule = hex(zeroblob(524000)) || hex(zeroblob(524000))";
    assert!(store.connection.execute(sql, []).is_err());
    store.connection.pragma_update(None, "user_version", 99).unwrap();
    drop(store);
    for fault in
        [Store::open(&folder.file()).unwrap_err(), Store::open_to_read(&folder.file()).unwrap_err()]
    {
        assert!(matches!(fault, StoreError::Newer { found: 99, known: 3, .. }), "{fault}");
    }
    let path = folder.0.join("theirs");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    for fault in [Store::open(&path).unwrap_err(), Store::open_to_read(&path).unwrap_err()] {
        assert!(fault.to_string().contains("another program's"), "{fault}");
    }
    let bad = DeviceKey { driver: String::new(), ..device("1") };
    let mut store = Store::open(&folder.0.join("new")).unwrap();
    let fault = store.choose(&bad, &task("a"), &choice("mr=1", 1)).unwrap_err();
    assert!(matches!(fault, StoreError::Device { name: "driver" }), "{fault}");
}

#[test]
fn processes_wait_for_each_other() {
    let folder = Folder::new("shared");
    let path = folder.file();
    // Each opens a file of its own accord, the first makes it.
    let write = |worker: i64| {
        let mut store = Store::open(&path).unwrap();
        for at in 0..25 {
            let schedule = format!("mr={at}").parse().unwrap();
            let task = task(&format!("w{worker}"));
            store.record(&device("1"), &task, &schedule, &measured(1.0, at)).unwrap();
        }
    };
    std::thread::scope(|scope| {
        for worker in 0..4 {
            scope.spawn(move || write(worker));
        }
    });
    let store = Store::open_to_read(&path).unwrap().unwrap();
    assert_eq!(store.rows(&device("1"), "w0", 1000).unwrap().len(), 100);
}

#[test]
fn the_oldest_go_first() {
    let folder = Folder::new("prune");
    let mut store = Store::open(&folder.file()).unwrap();
    for at in 0..10 {
        let task = task(&format!("t{}", at / 5));
        let schedule: Schedule = format!("mr={at}").parse().unwrap();
        store.record(&device("1"), &task, &schedule, &measured(1.0, at)).unwrap();
        store.choose(&device("1"), &task, &choice("mr=1", at)).unwrap();
    }
    assert_eq!(store.prune(10, 2, 1).unwrap(), 0);
    // Eight rows of ten and one choice of two go, and with them all of the first task.
    assert_eq!(store.prune(2, 1, 1).unwrap(), 9);
    let rows = store.rows(&device("1"), "t1", 9).unwrap();
    assert_eq!(texts(&rows).iter().map(|row| row.1.as_str()).collect::<Vec<_>>(), ["mr=8", "mr=9"]);
    let tasks: i64 =
        store.connection.query_row("SELECT count(*) FROM task", [], |row| row.get(0)).unwrap();
    assert_eq!(tasks, 1);
}

#[test]
fn lines_carry_choices_to_another_store() {
    let folder = Folder::new("lines");
    let mut store = Store::open(&folder.file()).unwrap();
    store.choose(&device("1"), &task("b"), &choice("mr=6 nr=2", 5)).unwrap();
    store.choose(&device("1"), &task("a"), &choice("", 5)).unwrap();
    store.choose(&device("2"), &task("a"), &choice("mr=4", 5)).unwrap();
    let mut text = Vec::new();
    export(&store, &device("1"), &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let line = r#"{"device":"Some CPU avx512","driver":"cpu 1","version":"1","task":{"key":"b","features":[["m",8.0],["n",0.1]]},"schedule":"mr=6 nr=2","seconds":0.5,"default_seconds":1.0,"at":5,"finished":true}"#;
    assert_eq!(text.lines().nth(1), Some(line));

    let mut other = Store::open(&folder.0.join("other")).unwrap();
    other.choose(&device("1"), &task("a"), &choice("mr=9", 9)).unwrap();
    other.choose(&device("1"), &task("b"), &choice("mr=9", 1)).unwrap();
    assert_eq!(import(&mut other, &mut text.as_bytes()).unwrap(), 2);
    // What is newer stays.
    assert_eq!(other.best(&device("1"), "a").unwrap(), Some(choice("mr=9", 9)));
    assert_eq!(other.best(&device("1"), "b").unwrap(), Some(choice("mr=6 nr=2", 5)));

    let table = table_of_lines(&text, &|key| key.version == "1").unwrap();
    assert_eq!(table, store.table(&device("1")).unwrap());
    assert!(table_of_lines(&text, &|key| key.version == "2").unwrap().is_empty());
    assert!(table_of_lines("\n \n", &|_| true).unwrap().is_empty());
}

#[test]
fn lines_that_are_wrong_are_told_and_change_nothing() {
    let folder = Folder::new("wrong");
    let mut store = Store::open(&folder.file()).unwrap();
    store.choose(&device("1"), &task("a"), &choice("mr=1", 1)).unwrap();
    let mut good = Vec::new();
    export(&store, &device("1"), &mut good).unwrap();
    let good = String::from_utf8(good).unwrap().replace(r#""at":1"#, r#""at":2"#);
    for (bad, said) in [
        ("{}".to_string(), "line 2: missing field"),
        (good.replace("mr=1", "mr"), "line 2: `mr` in a schedule"),
        (good.replace("cpu 1", ""), "line 2: driver of a device"),
        ("x".repeat(1 << 20), "line 2: more than 16384 bytes"),
    ] {
        let fault = import(&mut store, &mut format!("{good}{bad}").as_bytes()).unwrap_err();
        assert!(fault.to_string().starts_with(said), "{fault}");
        assert_eq!(store.best(&device("1"), "a").unwrap().map(|choice| choice.at), Some(1));
    }
}
