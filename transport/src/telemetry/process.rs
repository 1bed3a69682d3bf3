//! The process as the kernel sees it, under the names every Prometheus client library uses.
//!
//! Read when asked for. Where `/proc` is missing, or says something else than expected, the
//! metric is missing too.

use std::fmt::Write;

/// Linux tells times in this unit to every process, whatever its own tick (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Appends what is known, in Prometheus' text format.
pub(super) fn render(text: &mut String) {
    let metrics = [
        (
            "process_cpu_seconds_total",
            "counter",
            "CPU time used, user and system, in seconds",
            cpu_seconds(),
        ),
        (
            "process_resident_memory_bytes",
            "gauge",
            "Memory held in RAM",
            resident_bytes(),
        ),
        (
            "process_open_fds",
            "gauge",
            "Files and sockets open",
            open_fds(),
        ),
        (
            "process_max_fds",
            "gauge",
            "Files and sockets that may be open",
            max_fds(),
        ),
        (
            "process_start_time_seconds",
            "gauge",
            "When the process started, in seconds since 1970",
            start_seconds(),
        ),
    ];
    for (name, kind, help, value) in metrics {
        if let Some(value) = value {
            // Writing to a `String` does not fail.
            _ = write!(
                text,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n\n"
            );
        }
    }
}

/// Fields 14 and 15 of proc_pid_stat(5): utime, stime.
fn cpu_seconds() -> Option<f64> {
    Some((stat(14)? + stat(15)?) / TICKS_PER_SECOND)
}

/// Field 22 of proc_pid_stat(5) counts from when the machine started.
fn start_seconds() -> Option<f64> {
    let machine = std::fs::read_to_string("/proc/stat").ok()?;
    let booted: f64 = after(&machine, "btime ")?;
    Some(booted + stat(22)? / TICKS_PER_SECOND)
}

fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kibibytes: f64 = after(&status, "VmRSS:")?;
    Some(kibibytes * 1024.0)
}

fn open_fds() -> Option<f64> {
    let open = std::fs::read_dir("/proc/self/fd").ok()?.count();
    Some(open.saturating_sub(1) as f64) // less the one we are reading with
}

fn max_fds() -> Option<f64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    after(&limits, "Max open files")
}

/// Field `n` (from 1) of `/proc/self/stat`. The second is the name in parentheses, which may
/// hold anything, so we count from its end.
fn stat(n: usize) -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let (_, behind_name) = stat.rsplit_once(')')?;
    behind_name.split_whitespace().nth(n - 3)?.parse().ok()
}

/// The number behind `label` at the start of a line.
fn after(text: &str, label: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_process_is_as_large_and_as_old_as_can_be() {
        let mebibyte = 1024.0 * 1024.0;
        assert!((0.5 * mebibyte..16384.0 * mebibyte).contains(&resident_bytes().unwrap()));
        assert!(open_fds().unwrap() >= 3.0);
        assert!(max_fds().is_none_or(|most| most >= open_fds().unwrap()));
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        assert!((now - 86_400.0..=now + 1.0).contains(&start_seconds().unwrap()));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn cpu_time_grows_with_work() {
        let before = cpu_seconds().unwrap();
        while cpu_seconds().unwrap() < before + 0.02 {}
    }

    #[test]
    fn what_proc_does_not_say_is_none() {
        assert_eq!(after("VmRSS: many kB", "VmRSS:"), None);
        assert_eq!(after("", "VmRSS:"), None);
        assert_eq!(after("VmRSS:\t 12 kB", "VmRSS:"), Some(12.0));
    }
}
