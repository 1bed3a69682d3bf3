//! A network of our own: the whole run moves into a network namespace with nothing but a
//! loopback, and faults drop packets there by port. Nothing outside sees any of it, and it is
//! gone with the last of our processes.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Becomes this program again, inside a namespace; returns only if there is none to be had,
/// with the reason. Whoever is not root asks for a namespace of users around it.
pub(crate) fn enter(inside: &str) -> String {
    let us = match std::env::current_exe() {
        Ok(us) => us,
        Err(error) => return error.to_string(),
    };
    let ways: [&[&str]; 2] = [
        &["--net", "--mount"],
        &["--user", "--map-root-user", "--net", "--mount"],
    ];
    for way in ways {
        let may = Command::new("unshare")
            .args(way)
            .args(["sh", "-c", "ip link set lo up && nft list tables"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !may.is_ok_and(|status| status.success()) {
            continue;
        }
        let error = Command::new("unshare")
            .args(way)
            .args(["sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""])
            .arg(&us)
            .args(std::env::args_os().skip(1))
            .arg(inside)
            .exec();
        return error.to_string();
    }
    "no network namespace to be had: that takes root, `unshare`, `ip` and `nft` (Debian: \
     util-linux, iproute2, nftables)"
        .to_owned()
}

/// Packets that do not arrive, until it is dropped.
#[derive(Debug)]
pub(crate) struct Cut {
    table: String,
}

/// Which packets.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Packets {
    /// To whoever listens on that port.
    To(u16),
    /// From whoever listens on that port.
    From(u16),
    /// To it, if they would open a connection, which is refused.
    Refused(u16),
}

impl Cut {
    /// From now on these packets are lost as they arrive, so that their sender sees nothing.
    pub(crate) fn of(packets: &[Packets]) -> Cut {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let table = format!("faults{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let mut script = format!(
            "add table inet {table}\n\
             add chain inet {table} in {{ type filter hook input priority 0; }}\n"
        );
        for packets in packets {
            let rule = match packets {
                Packets::To(port) => format!("tcp dport {port} drop"),
                Packets::From(port) => format!("tcp sport {port} drop"),
                Packets::Refused(port) => {
                    format!("tcp dport {port} tcp flags syn reject with tcp reset")
                }
            };
            script.push_str(&format!("add rule inet {table} in {rule}\n"));
        }
        nft(&script);
        Cut { table }
    }

    /// Nothing at all arrives at, or comes from, that port.
    pub(crate) fn off(port: u16) -> Cut {
        Cut::of(&[Packets::To(port), Packets::From(port)])
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        nft(&format!("delete table inet {}\n", self.table));
    }
}

fn nft(script: &str) {
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("nft was there at the start");
    let mut stdin = nft.stdin.take().expect("it was asked for");
    stdin
        .write_all(script.as_bytes())
        .expect("nft reads its rules");
    drop(stdin);
    let status = nft.wait().expect("it is our child");
    assert!(status.success(), "nft refused:\n{script}");
}
