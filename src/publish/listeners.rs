//! The host's side of published ports: made by the launcher before anything is started, with the rights of
//! who calls it, and handed to `appfw publish`.

use std::os::fd::OwnedFd;

use anyhow::{Result, anyhow};
use rustix::io::Errno;
use rustix::net::sockopt::{set_ipv6_v6only, set_socket_reuseaddr};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};

use super::Published;
use crate::listening::BACKLOG;

/// Makes them all.
///
/// # Errors
/// Names the port that is not to be had, and why.
pub fn open(wanted: &[Published]) -> Result<Vec<OwnedFd>> {
    wanted.iter().map(|one| made(one).map_err(|error| refused(one, error))).collect()
}

fn made(wanted: &Published) -> rustix::io::Result<OwnedFd> {
    let family = if wanted.outer.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // What a former launch's connections leave behind for a minute (TIME_WAIT) holds no port.
    set_socket_reuseaddr(&socket, true)?;
    if wanted.outer.is_ipv6() {
        // [::] would be every v4 address as well, which nobody asked for.
        set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &wanted.outer)?;
    listen(&socket, BACKLOG.into())?;
    Ok(socket)
}

fn refused(wanted: &Published, error: Errno) -> anyhow::Error {
    let Published { outer, inner } = wanted;
    let (ip, port) = (outer.ip(), outer.port());
    let why = match error {
        Errno::ADDRINUSE => format!("port {port} of {ip} is in use on this host; choose another before ={inner}"),
        Errno::ACCESS => format!(
            "port {port} is a privileged one (net.ipv4.ip_unprivileged_port_start), which only root may take; choose one from 1024 on before ={inner}"
        ),
        Errno::ADDRNOTAVAIL => format!("{ip} is no address of this host"),
        error => format!("cannot listen there ({error})"),
    };
    anyhow!("--publish {wanted}: {why}; nothing was run")
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use super::*;

    #[test]
    fn a_port_in_use_and_an_address_of_others_are_told() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let holder = TcpListener::bind(taken).unwrap();
        for (outer, told) in [
            (taken, format!("port {} of 127.0.0.1 is in use on this host; choose another before =80", taken.port())),
            (SocketAddr::from(([192, 0, 2, 1], 8080)), "192.0.2.1 is no address of this host".to_owned()),
        ] {
            let message = open(&[Published { outer, inner: 80 }]).unwrap_err().to_string();
            assert_eq!(message, format!("--publish {outer}=80: {told}; nothing was run"));
        }
        drop(holder);
        assert_eq!(open(&[Published { outer: taken, inner: 80 }]).unwrap().len(), 1);
    }

    #[test]
    fn every_v6_address_is_no_v4_address() {
        let v6 = open(&["[::]:0".parse::<SocketAddr>().map(|outer| Published { outer, inner: 80 }).unwrap()]).unwrap();
        let address = TcpListener::from(v6.into_iter().next().unwrap()).local_addr().unwrap();
        assert!(std::net::TcpStream::connect(("127.0.0.1", address.port())).is_err());
    }
}
