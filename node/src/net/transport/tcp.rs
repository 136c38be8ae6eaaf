//! TCP on the executor's reactor, as a transport of libp2p.
//!
//! Listens on IPv4 and IPv6 addresses; one with an unspecified address follows the interfaces that come and go. Dials
//! `/ip4|ip6/…/tcp/…[/p2p/…]` and nothing else: an address with anything behind it, such as a relay's, is not ours.
//! A dial to a public address leaves from the listening port when it can, so that peers see the address at which we can
//! be reached. On a local network nothing is gained by it, and two nodes that dial each other at the same moment from
//! their listening ports would meet in one connection of which neither is the listener.
//!
//! A listener never ends because of one bad accept: when the process is out of descriptors or memory it pauses for
//! [`ACCEPT_PAUSE`] and goes on. How many connections may be under way is decided above, in `limits`.
//!
//! Deliberately absent: names (`/dns…`), relays, and limits.

use std::collections::VecDeque;
use std::future::{Ready, ready};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use async_io::{Async, Timer};
use bib_core::limits::{ACCEPT_PAUSE, TCP_UNACKNOWLEDGED};
use futures::FutureExt;
use futures::future::BoxFuture;
use if_watch::IfEvent;
use if_watch::smol::IfWatcher;
use libp2p::Multiaddr;
use libp2p::core::transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent};
use libp2p::multiaddr::Protocol;
use socket2::{Domain, Socket, Type};

use super::socket::TcpSocket;
use crate::net::traffic::Traffic;

/// Connections that may wait in the kernel to be accepted.
const BACKLOG: i32 = 256;
/// Accepts of one poll that end in nothing (the other side was gone already) before others get their turn.
const MAX_FRUITLESS_ACCEPTS: usize = 16;

type Upgrade = Ready<io::Result<TcpSocket>>;
type Event = TransportEvent<Upgrade, io::Error>;

/// The transport; see the module.
pub(crate) struct Tcp {
    traffic: Arc<Traffic>,
    listeners: Vec<Listener>,
    /// Follows the interfaces, once a listener has an unspecified address.
    interfaces: Option<IfWatcher>,
    events: VecDeque<Event>,
    waker: Option<Waker>,
}

struct Listener {
    id: ListenerId,
    socket: Async<std::net::TcpListener>,
    bound: SocketAddr,
    pause: Option<Timer>,
}

impl Listener {
    /// Whether connections that come in over an interface with this address reach the listener.
    fn covers(&self, ip: IpAddr) -> bool {
        self.bound.ip().is_unspecified() && self.bound.is_ipv4() == ip.is_ipv4() && !needs_zone(ip)
    }

    fn addr_at(&self, ip: IpAddr) -> Multiaddr {
        multiaddr_of(SocketAddr::new(ip, self.bound.port()))
    }
}

/// Whether an address is of this machine or a local network.
fn is_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// Link-local addresses of IPv6 mean nothing without the name of an interface, which an address on the wire lacks.
fn needs_zone(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

impl Tcp {
    /// A transport whose connections count their bytes in `traffic`.
    pub(crate) fn new(traffic: Arc<Traffic>) -> Self {
        Self { traffic, listeners: Vec::new(), interfaces: None, events: VecDeque::new(), waker: None }
    }

    fn push(&mut self, event: Event) {
        self.events.push_back(event);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn listen(&mut self, id: ListenerId, addr: SocketAddr) -> io::Result<()> {
        let socket = listening_socket(addr)?;
        let bound = socket.get_ref().local_addr()?;
        let listener = Listener { id, socket, bound, pause: None };
        if bound.ip().is_unspecified() {
            if self.interfaces.is_none() {
                self.interfaces = Some(IfWatcher::new()?);
            }
            // Those that were seen before this listener came; the others follow as events.
            let known: Vec<IpAddr> = self.interfaces.iter().flat_map(|all| all.iter()).map(|net| net.addr()).collect();
            for ip in known.into_iter().filter(|ip| listener.covers(*ip)) {
                let listen_addr = listener.addr_at(ip);
                self.push(TransportEvent::NewAddress { listener_id: id, listen_addr });
            }
        } else {
            self.push(TransportEvent::NewAddress { listener_id: id, listen_addr: multiaddr_of(bound) });
        }
        self.listeners.push(listener);
        Ok(())
    }

    /// The address a dial should leave from so that it shares the port of a listener.
    fn reusable(&self, to: SocketAddr) -> Option<SocketAddr> {
        let fits = |bound: &SocketAddr| bound.is_ipv4() == to.is_ipv4() && !bound.ip().is_loopback();
        if is_local(to.ip()) {
            return None;
        }
        self.listeners.iter().map(|listener| listener.bound).find(fits)
    }

    fn poll_interfaces(&mut self, cx: &mut Context<'_>) {
        let Some(interfaces) = &mut self.interfaces else { return };
        while let Poll::Ready(event) = interfaces.poll_if_event(cx) {
            match event {
                Ok(IfEvent::Up(net)) => {
                    for listener in self.listeners.iter().filter(|listener| listener.covers(net.addr())) {
                        let listen_addr = listener.addr_at(net.addr());
                        self.events.push_back(TransportEvent::NewAddress { listener_id: listener.id, listen_addr });
                    }
                }
                Ok(IfEvent::Down(net)) => {
                    for listener in self.listeners.iter().filter(|listener| listener.covers(net.addr())) {
                        let listen_addr = listener.addr_at(net.addr());
                        self.events.push_back(TransportEvent::AddressExpired { listener_id: listener.id, listen_addr });
                    }
                }
                Err(error) => {
                    // Listening goes on; only changes of interfaces stay unseen.
                    log::warn!(error:% = error; "interfaces cannot be followed any longer");
                    self.interfaces = None;
                    return;
                }
            }
        }
    }
}

impl Listener {
    fn poll_accept(&mut self, cx: &mut Context<'_>, traffic: &Arc<Traffic>) -> Poll<Event> {
        if let Some(pause) = &mut self.pause {
            std::task::ready!(pause.poll_unpin(cx));
            self.pause = None;
        }
        for _ in 0..MAX_FRUITLESS_ACCEPTS {
            match self.socket.get_ref().accept() {
                Ok((stream, from)) => match accepted(stream, traffic) {
                    Ok((socket, local)) => {
                        return Poll::Ready(TransportEvent::Incoming {
                            listener_id: self.id,
                            upgrade: ready(Ok(socket)),
                            local_addr: multiaddr_of(local),
                            send_back_addr: multiaddr_of(from),
                        });
                    }
                    Err(error) => log::debug!(error:% = error; "an accepted connection was gone at once"),
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Err(error) = std::task::ready!(self.socket.poll_readable(cx)) {
                        return self.paused(cx, error);
                    }
                }
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => return self.paused(cx, error),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn paused(&mut self, cx: &mut Context<'_>, error: io::Error) -> Poll<Event> {
        let mut pause = Timer::after(ACCEPT_PAUSE);
        // Registers the wake-up; it cannot be due yet, and if it were the next poll would find it.
        if pause.poll_unpin(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        self.pause = Some(pause);
        Poll::Ready(TransportEvent::ListenerError { listener_id: self.id, error })
    }
}

/// Errors of `accept` that belong to the connection that was to be accepted, not to the listener.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::Interrupted
            | Kind::TimedOut
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
            | Kind::PermissionDenied
    )
}

impl libp2p::Transport for Tcp {
    type Output = TcpSocket;
    type Error = io::Error;
    type ListenerUpgrade = Upgrade;
    type Dial = BoxFuture<'static, io::Result<TcpSocket>>;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<io::Error>> {
        let Some(socket_addr) = socket_addr_of(&addr) else {
            return Err(TransportError::MultiaddrNotSupported(addr));
        };
        self.listen(id, socket_addr).map_err(TransportError::Other)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        let before = self.listeners.len();
        self.listeners.retain(|listener| listener.id != id);
        let removed = self.listeners.len() < before;
        if removed {
            self.push(TransportEvent::ListenerClosed { listener_id: id, reason: Ok(()) });
        }
        removed
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        let to = match socket_addr_of(&addr) {
            Some(to) if to.port() != 0 && !to.ip().is_unspecified() => to,
            _ => return Err(TransportError::MultiaddrNotSupported(addr)),
        };
        let from = match opts.port_use {
            PortUse::Reuse => self.reusable(to),
            PortUse::New => None,
        };
        Ok(connect(to, from, self.traffic.clone()).boxed())
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Event> {
        let this = &mut *self;
        this.poll_interfaces(cx);
        if let Some(event) = this.events.pop_front() {
            return Poll::Ready(event);
        }
        for position in 0..this.listeners.len() {
            if let Poll::Ready(event) = this.listeners[position].poll_accept(cx, &this.traffic) {
                // A busy listener must not keep the others waiting.
                this.listeners.rotate_left(position + 1);
                return Poll::Ready(event);
            }
        }
        this.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

fn accepted(stream: std::net::TcpStream, traffic: &Arc<Traffic>) -> io::Result<(TcpSocket, SocketAddr)> {
    let local = stream.local_addr()?;
    Ok((prepared(Async::new(stream)?, traffic.clone())?, local))
}

fn listening_socket(addr: SocketAddr) -> io::Result<Async<std::net::TcpListener>> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(socket2::Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    // Allows dials to leave from this port. Only after `bind`, so that a second node on the same port fails to start
    // instead of taking half of the connections.
    socket.set_reuse_port(true)?;
    socket.listen(BACKLOG)?;
    Async::new(socket.into())
}

async fn connect(to: SocketAddr, from: Option<SocketAddr>, traffic: Arc<Traffic>) -> io::Result<TcpSocket> {
    if let Some(from) = from {
        match connect_from(to, Some(from)).await {
            // The pair of addresses is taken, by another connection or by one that ended a moment ago.
            Err(error) if matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse) => {}
            connected => return prepared(connected?, traffic),
        }
    }
    prepared(connect_from(to, None).await?, traffic)
}

async fn connect_from(to: SocketAddr, from: Option<SocketAddr>) -> io::Result<Async<std::net::TcpStream>> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(from) = from {
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&from.into())?;
    }
    match socket.connect(&to.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error),
    }
    let stream = Async::new_nonblocking(std::net::TcpStream::from(socket))?;
    stream.writable().await?;
    match stream.get_ref().take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}

fn prepared(stream: Async<std::net::TcpStream>, traffic: Arc<Traffic>) -> io::Result<TcpSocket> {
    stream.get_ref().set_nodelay(true)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket2::SockRef::from(stream.get_ref()).set_tcp_user_timeout(Some(TCP_UNACKNOWLEDGED))?;
    Ok(TcpSocket::new(stream, traffic))
}

fn multiaddr_of(addr: SocketAddr) -> Multiaddr {
    Multiaddr::empty().with(addr.ip().into()).with(Protocol::Tcp(addr.port()))
}

/// The socket address that a multiaddr stands for, when it is exactly `/ip4|ip6/…/tcp/…[/p2p/…]`.
fn socket_addr_of(addr: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = addr.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    let Protocol::Tcp(port) = parts.next()? else { return None };
    match (parts.next(), parts.next()) {
        (None | Some(Protocol::P2p(_)), None) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<SocketAddr> {
        socket_addr_of(&text.parse().unwrap())
    }

    #[test]
    fn plain_tcp_addresses_are_dialed_and_no_others() {
        let peer = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
        assert_eq!(parsed("/ip4/127.0.0.1/tcp/4001"), Some("127.0.0.1:4001".parse().unwrap()));
        assert_eq!(parsed("/ip6/::1/tcp/4001"), Some("[::1]:4001".parse().unwrap()));
        assert_eq!(parsed(&format!("/ip4/10.0.0.1/tcp/1/p2p/{peer}")), Some("10.0.0.1:1".parse().unwrap()));
        for other in [
            format!("/ip4/10.0.0.1/tcp/1/p2p/{peer}/p2p-circuit"),
            format!("/ip4/10.0.0.1/tcp/1/p2p/{peer}/p2p-circuit/p2p/{peer}"),
            "/ip4/10.0.0.1/tcp/1/ws".to_owned(),
            "/ip4/10.0.0.1/udp/4001/quic-v1".to_owned(),
            "/dns4/example.org/tcp/4001".to_owned(),
            "/ip4/10.0.0.1".to_owned(),
            format!("/p2p/{peer}"),
        ] {
            assert_eq!(parsed(&other), None, "{other}");
        }
    }

    #[test]
    fn a_port_has_one_listener_and_dials_may_leave_from_it() {
        let first = listening_socket("127.0.0.1:0".parse().unwrap()).unwrap();
        let bound = first.get_ref().local_addr().unwrap();
        let second = listening_socket(bound).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);

        let other = listening_socket("127.0.0.1:0".parse().unwrap()).unwrap();
        let to = other.get_ref().local_addr().unwrap();
        let dialed = async_io::block_on(connect_from(to, Some(bound))).unwrap();
        assert_eq!(dialed.get_ref().local_addr().unwrap(), bound);
        // The same pair of addresses once more: falls back to any port.
        let again = async_io::block_on(connect(to, Some(bound), Arc::default())).unwrap();
        assert_ne!(again.local_addr().unwrap(), bound);
    }
}
