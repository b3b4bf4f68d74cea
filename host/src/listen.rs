//! The listening socket: which address, and what to say when it cannot be had.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::error::Error;

const BACKLOG: i32 = 1024;
/// How many ports above one in use are tried.
const NEARBY: u16 = 10;

/// Binds the first address that `listen` resolves to and that can be had; of a port in use, one of the
/// next ten where `find_free_port` says so (features.md H2).
pub fn bind(listen: &str, find_free_port: bool) -> Result<TcpListener, Error> {
    let refused = |cause: io::Error| {
        let next = match cause.kind() {
            io::ErrorKind::AddrInUse => "stop what listens there, or choose another port",
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need the right to bind them; choose a higher one"
            }
            _ => "wanted an address of this machine as host:port",
        };
        Error::Listen(format!("cannot listen on {listen}: {cause}; {next}"))
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in in_order(listen.to_socket_addrs().map_err(refused)?) {
        match bind_near(address, if find_free_port { NEARBY } else { 0 }) {
            Ok(listener) => return Ok(listener),
            Err(cause) => last = cause,
        }
    }
    Err(refused(last))
}

/// A name with several addresses means this machine's IPv4 loopback first, as in Spin (H1).
fn in_order(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut addresses: Vec<_> = addresses.collect();
    addresses.sort_by_key(|address| address.ip() != Ipv4Addr::LOCALHOST);
    addresses
}

fn bind_near(mut address: SocketAddr, more: u16) -> io::Result<TcpListener> {
    let first = address.port();
    for port in first..=first.saturating_add(more) {
        address.set_port(port);
        match bind_one(address) {
            Err(cause) if cause.kind() == io::ErrorKind::AddrInUse => {}
            result => return result,
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    // A restart must get its port back while old connections are still in TIME_WAIT.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_says_what_to_do() {
        let holder = bind("127.0.0.1:0", false).unwrap();
        let address = holder.local_addr().unwrap().to_string();
        let error = bind(&address, false).unwrap_err();
        assert_eq!(error.kind(), "listen");
        assert!(error.to_string().contains(&address), "{error}");
        assert!(error.to_string().contains("choose another port"), "{error}");
    }

    /// Of a port in use, the next that is free is taken, and no other without being asked (H2).
    #[test]
    fn the_next_free_port_is_taken_where_that_is_asked_for() {
        let holder = bind("127.0.0.1:0", false).unwrap();
        let taken = holder.local_addr().unwrap();
        let found = bind(&taken.to_string(), true).unwrap().local_addr().unwrap();
        assert!((1..=NEARBY).contains(&(found.port() - taken.port())), "{taken} {found}");
    }

    /// Of the addresses of a name, 127.0.0.1 is the first (H1).
    #[test]
    fn the_loopback_comes_first() {
        let addresses =
            ["[::1]:80", "10.0.0.1:80", "127.0.0.1:80"].map(|text| text.parse().unwrap());
        assert_eq!(in_order(addresses.into_iter())[0], addresses[2]);
    }

    #[test]
    fn an_address_that_is_none_is_a_listen_error() {
        for listen in ["", "nonsense", "127.0.0.1", "127.0.0.1:99999", "192.0.2.1:0"] {
            assert_eq!(bind(listen, true).unwrap_err().kind(), "listen", "{listen}");
        }
    }
}
