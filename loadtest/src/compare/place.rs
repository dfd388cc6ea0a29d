//! Where subjects run: on loopback, or on a host of a [`ground`](crate::truth::ground).

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::lab::Namespace;
use crate::wire::Wire;

/// Who does not answer a question within this time is not there.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// A host and the address it serves.
#[derive(Clone, Debug)]
pub struct Place {
    /// `None` is this machine itself.
    pub namespace: Option<Namespace>,
    /// Listened on by subjects.
    pub address: IpAddr,
}

impl Place {
    /// This machine's loopback.
    pub fn loopback() -> Self {
        Self {
            namespace: None,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }

    /// Runs `work` there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        match &self.namespace {
            Some(namespace) => namespace.run(work),
            None => Ok(work()),
        }
    }

    /// A command that will run there, with its own process id.
    pub fn command(&self, program: &str) -> Command {
        match &self.namespace {
            Some(namespace) => namespace.command(program),
            None => Command::new(program),
        }
    }

    /// Different free ports of an address. Another process may take one before a subject does; then
    /// its start fails and says so.
    pub fn free_ports<const COUNT: usize>(
        &self,
        address: IpAddr,
    ) -> anyhow::Result<[SocketAddr; COUNT]> {
        let held = self.run(|| {
            (0..COUNT)
                .map(|_| TcpListener::bind((address, 0)))
                .collect::<io::Result<Vec<_>>>()
        })??;
        let mut ports = [SocketAddr::new(address, 0); COUNT];
        for (port, listener) in ports.iter_mut().zip(&held) {
            *port = listener.local_addr()?;
        }
        Ok(ports)
    }

    /// `GET path` from there, on a connection of its own; the body as text.
    pub fn get(&self, server: SocketAddr, path: &str) -> anyhow::Result<String> {
        let ask = || -> anyhow::Result<String> {
            let stream = TcpStream::connect_timeout(&server, ANSWER_MAX)?;
            stream.set_read_timeout(Some(ANSWER_MAX))?;
            let mut wire = Wire::new(stream);
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
            wire.write(request.as_bytes())?;
            let head = wire.read_response()?.context("closed without an answer")?;
            let mut text = Vec::new();
            wire.read_text(head.body_length("GET"), &mut text)?;
            ensure!(head.status == 200, "{path} answered {}", head.status);
            Ok(String::from_utf8(text)?)
        };
        self.run(ask)?
    }
}
