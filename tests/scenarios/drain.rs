//! How a process goes that is asked to: its supervisor knows, its clients do not all come back in
//! the same instant, and a second word is the last.

use crate::SOON;
use harness::binaries;
use harness::cluster::Cluster;
use harness::envelopes::Workload;
use harness::eventually;
use harness::process::{Process, Signal};
use harness::reader::Ended;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long a drain may take: 4 s by default, and what exiting takes.
const DRAINED: Duration = Duration::from_secs(6);

/// What a supervisor was told.
struct Supervisor {
    told: Arc<Mutex<Vec<String>>>,
    path: String,
    _directory: tempfile::TempDir,
}

impl Supervisor {
    fn listen() -> Supervisor {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = told.clone();
        // Ends with the test: nobody waits for it.
        std::thread::spawn(move || {
            let mut datagram = [0; 256];
            while let Ok(length) = socket.recv(&mut datagram) {
                let text = String::from_utf8_lossy(&datagram[..length]).into_owned();
                heard.lock().unwrap().push(text);
            }
        });
        Supervisor {
            told,
            path: path.to_str().unwrap().to_owned(),
            _directory: directory,
        }
    }

    fn told(&self, what: &str) -> usize {
        let told = self.told.lock().unwrap();
        told.iter().filter(|text| *text == what).count()
    }

    fn environment(&self) -> [(&'static str, String); 2] {
        [
            ("NOTIFY_SOCKET", self.path.clone()),
            ("WATCHDOG_USEC", "200000".to_owned()),
        ]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_is_told_ready_alive_and_stopping_by_both_programs() {
    let doppler = binaries::doppler();
    let traffic_controller = binaries::traffic_controller();
    for (name, program) in [
        ("doppler", doppler),
        ("traffic-controller", traffic_controller),
    ] {
        let supervisor = Supervisor::listen();
        let args = ["--port=0", "--admin-port=0"];
        let environment = supervisor.environment();
        let mut process = Process::start_with(name, &program, args, &environment);
        eventually(SOON, "it is ready and alive", async || {
            supervisor.told("READY=1") == 1 && supervisor.told("WATCHDOG=1") > 2
        })
        .await;
        // Held still it is not alive.
        process.signal(Signal::Stop);
        let (mut before, mut since) = (supervisor.told("WATCHDOG=1"), Instant::now());
        eventually(SOON, "it is silent for a second", || {
            let now = supervisor.told("WATCHDOG=1");
            if now != before {
                (before, since) = (now, Instant::now());
            }
            std::future::ready(since.elapsed() > Duration::from_secs(1))
        })
        .await;
        process.signal(Signal::Continue);
        eventually(SOON, "it is alive again", async || {
            supervisor.told("WATCHDOG=1") > before
        })
        .await;
        assert_eq!(supervisor.told("STOPPING=1"), 0);
        assert_eq!(process.terminate(DRAINED).await, 0);
        eventually(SOON, "it said that it stops", async || {
            supervisor.told("STOPPING=1") == 1
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_traffic_controller_that_drains_leave_one_after_the_other_and_lose_nothing() {
    const CLIENTS: u32 = 100;
    let cluster = Cluster::builder()
        .dopplers(2)
        .controllers(1)
        .controller_flag("--app-bytes", 4 << 20);
    let mut cluster = cluster.start().await;
    let mut readers = Vec::new();
    for n in 0..CLIENTS {
        let controller = &cluster.controllers[0];
        let opening = match n % 2 {
            0 => controller.firehose(&format!("n{n}")),
            _ => controller.tail(n % 4),
        };
        readers.push(opening.open().await);
    }
    cluster.tailed([1, 3], 1).await;
    for n in (0..CLIENTS).step_by(2) {
        cluster.subscribed(&format!("n{n}"), 1).await;
    }
    let mut producer = cluster.dopplers[0]
        .producer(0, Workload::logs(4, 100))
        .await;
    producer.send(2_000).await;
    for (n, reader) in readers.iter().enumerate() {
        let due = if n % 2 == 0 { 2_000 } else { 500 };
        reader.receives(due, SOON).await;
    }

    let mut controller = cluster.controllers.remove(0);
    controller.process.signal(Signal::Terminate);
    let began = Instant::now();
    let mut ends = vec![None; readers.len()];
    eventually(DRAINED, "all are closed", || {
        for (reader, end) in readers.iter().zip(&mut ends) {
            if end.is_none() && reader.is_over().is_some() {
                *end = Some(began.elapsed());
            }
        }
        std::future::ready(ends.iter().all(Option::is_some))
    })
    .await;
    assert_eq!(controller.process.exit_code(DRAINED).await, 0);
    let going_away = Ended::Closed(Some(1001), String::new());
    assert!(
        readers
            .iter()
            .all(|reader| reader.is_over() == Some(going_away.clone()))
    );
    let mut ends: Vec<Duration> = ends.into_iter().flatten().collect();
    ends.sort();
    // Over 1.6 s: the middle half takes about half of that.
    let half = ends[75] - ends[25];
    assert!(half > Duration::from_millis(400), "{ends:?}");
    for endpoint in ["firehose", "stream"] {
        let lines = controller.process.log();
        let line = lines
            .iter()
            .find(|line| line.contains("drained") && line.contains(endpoint));
        assert!(
            line.is_some_and(|line| line.contains("dropped=0")),
            "{lines:?}"
        );
    }
    cluster.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_traffic_controller_that_drains_exits_at_once_at_a_second_signal() {
    let mut cluster = Cluster::builder().dopplers(1).controllers(1).start().await;
    let mut readers = Vec::new();
    for n in 0..20 {
        readers.push(
            cluster.controllers[0]
                .firehose(&format!("n{n}"))
                .open()
                .await,
        );
    }
    let process = &mut cluster.controllers[0].process;
    process.signal(Signal::Interrupt);
    eventually(SOON, "it drains", async || process.logged("draining")).await;
    let began = Instant::now();
    process.signal(Signal::Interrupt);
    assert_eq!(process.exit_code(SOON).await, 128 + 2);
    assert!(
        began.elapsed() < Duration::from_millis(500),
        "{:?}",
        began.elapsed()
    );
}
