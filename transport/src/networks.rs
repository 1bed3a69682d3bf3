//! Networks that an operator names as CIDR: balancers, proxies, whoever may do what others may not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

pub use ipnet::IpNet;

/// Some networks. Cloned, they are the same.
#[derive(Debug, Clone, Default)]
pub struct Networks(Arc<[IpNet]>);

/// Why a text names no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a network: write its address and how many bits are fixed, such as 10.0.16.0/20 or \
     fd00::/8, or one address"
)]
pub struct NotANetwork;

impl Networks {
    /// All there are.
    pub fn all() -> Networks {
        let v4 = IpNet::new_assert(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        let v6 = IpNet::new_assert(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);
        [v4, v6].into_iter().collect()
    }

    /// Those of this machine alone.
    pub fn loopback() -> Networks {
        let v4 = IpNet::new_assert(IpAddr::V4(Ipv4Addr::LOCALHOST), 8);
        let v6 = IpNet::new_assert(IpAddr::V6(Ipv6Addr::LOCALHOST), 128);
        [v4, v6].into_iter().collect()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the address is in one of them. An IPv4 address is one however a socket for both
    /// families writes it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

impl FromIterator<IpNet> for Networks {
    fn from_iter<I: IntoIterator<Item = IpNet>>(networks: I) -> Networks {
        Networks(networks.into_iter().collect())
    }
}

/// Reads a network, or an address as the network that has only that.
///
/// # Errors
/// If it is neither.
pub fn network(text: &str) -> Result<IpNet, NotANetwork> {
    let one = || text.parse::<IpAddr>().map(IpNet::from);
    let network = text.parse().or_else(|_| one());
    match network.map_err(|_| NotANetwork)? {
        // No peer would ever be in it: those addresses are looked at as IPv4.
        IpNet::V6(v6) if v6.network().to_ipv4_mapped().is_some() => Err(NotANetwork),
        network => Ok(network),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(all: &[&str]) -> Networks {
        all.iter().map(|text| network(text).unwrap()).collect()
    }

    #[test]
    fn an_address_is_in_its_network_in_either_spelling() {
        let ours = networks(&["10.0.16.0/20", "192.0.2.7", "fd00::/8"]);
        for inside in ["10.0.31.255", "::ffff:10.0.16.1", "192.0.2.7", "fd12::1"] {
            assert!(ours.contains(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["10.0.32.0", "192.0.2.8", "::ffff:192.0.2.8", "fe80::1"] {
            assert!(!ours.contains(outside.parse().unwrap()), "{outside}");
        }
    }

    #[test]
    fn loopback_is_this_machine_and_all_is_everybody() {
        for here in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(
                Networks::loopback().contains(here.parse().unwrap()),
                "{here}"
            );
        }
        for there in ["192.0.2.1", "::", "fe80::1"] {
            let there = there.parse().unwrap();
            assert!(!Networks::loopback().contains(there), "{there}");
            assert!(Networks::all().contains(there), "{there}");
            assert!(!Networks::default().contains(there), "{there}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for wrong in [
            "",
            "10.0.0.0/33",
            "10.0.0/8",
            "balancer",
            "::ffff:10.0.0.0/104",
            "1 ",
        ] {
            assert_eq!(network(wrong), Err(NotANetwork), "{wrong}");
        }
    }
}
