//! What the wire costs: bytes over one stream between two processes beside the same bytes over bare TCP, and the memory
//! of connected peers. Run a release build: `cargo run --release -p bib-node --example wire`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a developer's program: this is its output")]

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use async_executor::Executor;
use async_io::Async;
use bib_core::key::SecretKey;
use bib_node::net::{Multiaddr, Net, NetConfig, NetEvent, Protocol, Security};
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, StreamExt};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const GIB: u64 = 1 << 30;
/// Bytes of payload in one frame: a usual chunk.
const FRAME: usize = 256 << 10;

/// Measures CPU time for each GiB on the wire, and memory for each peer.
#[derive(argh::FromArgs)]
struct Args {
    #[argh(subcommand)]
    what: What,
}

#[derive(argh::FromArgs)]
#[argh(subcommand)]
enum What {
    Bulk(Bulk),
    Peers(Peers),
    Take(Take),
    Crowd(Crowd),
}

/// send bytes over bare TCP and over a stream, and compare
#[derive(argh::FromArgs)]
#[argh(subcommand, name = "bulk")]
struct Bulk {
    /// how many GiB each way of sending moves
    #[argh(option, default = "4")]
    gib: u64,
    /// how often to measure; the best is shown last
    #[argh(option, default = "3")]
    rounds: u32,
}

/// connect peers and show what they cost
#[derive(argh::FromArgs)]
#[argh(subcommand, name = "peers")]
struct Peers {
    /// how many
    #[argh(option, default = "50")]
    peers: u32,
    /// mebibytes that each peer sends before it is idle
    #[argh(option, default = "0")]
    mib: u64,
}

/// the receiving process of `bulk`
#[derive(argh::FromArgs)]
#[argh(subcommand, name = "take")]
struct Take {
    /// bare TCP instead of a stream
    #[argh(switch)]
    bare: bool,
}

/// the peers of `peers`
#[derive(argh::FromArgs)]
#[argh(subcommand, name = "crowd")]
struct Crowd {
    /// how many
    #[argh(option)]
    peers: u32,
    /// mebibytes that each peer sends
    #[argh(option)]
    mib: u64,
    /// the address to connect to
    #[argh(positional)]
    address: String,
}

fn main() -> Result<()> {
    let args: Args = argh::from_env();
    match args.what {
        What::Bulk(bulk) => measure_bulk(&bulk),
        What::Peers(peers) => measure_peers(&peers),
        What::Take(take) if take.bare => take_bare(),
        What::Take(_) => take_stream(),
        What::Crowd(crowd) => be_crowd(&crowd),
    }
}

/// Seconds of CPU time that this process has used.
fn cpu() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks = |n: usize| -> Result<f64> { Ok(fields.split(' ').nth(n - 3).ok_or("no such field")?.parse()?) };
    Ok((ticks(14)? + ticks(15)?) / 100.0)
}

/// A figure of this process, in KiB.
fn kib(figure: &str) -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with(figure)).ok_or("no such figure")?;
    Ok(line.split_whitespace().nth(1).ok_or("no value")?.parse()?)
}

fn config(seed: [u8; 32], listen: &str) -> Result<NetConfig> {
    let listen = if listen.is_empty() { Vec::new() } else { vec![listen.parse()?] };
    let identity = SecretKey::from_seed(seed);
    Ok(NetConfig { identity, listen, security: security()?, agent: "wire".to_owned(), max_connections: 1_000 })
}

/// Chosen by the environment, so that both processes agree.
fn security() -> Result<Security> {
    Ok(match std::env::var("BIB_WIRE").as_deref() {
        Ok("noise") => Security::Noise,
        Ok("tls") => Security::Tls,
        Ok(other) => return Err(format!("BIB_WIRE is noise or tls, not {other}").into()),
        Err(_) => Security::Auto,
    })
}

/// Another process of this program, and what it prints.
fn other(args: &[&str]) -> Result<(Child, std::io::Lines<BufReader<std::process::ChildStdout>>)> {
    let mut child = Command::new(std::env::current_exe()?).args(args).stdout(Stdio::piped()).spawn()?;
    let lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
    Ok((child, lines))
}

/// The cost of one way of sending.
#[derive(Clone, Copy)]
struct Cost {
    mib_per_second: f64,
    send: f64,
    receive: f64,
}

impl Cost {
    fn cpu(self) -> f64 {
        self.send + self.receive
    }
}

fn measure_bulk(bulk: &Bulk) -> Result<()> {
    let (mut bare, mut stream): (Option<Cost>, Option<Cost>) = (None, None);
    let better = |best: Option<Cost>, new: Cost| Some(best.filter(|best| best.cpu() < new.cpu()).unwrap_or(new));
    println!("{:<8} {:>8} {:>12} {:>12} {:>12}", "", "MiB/s", "send s/GiB", "recv s/GiB", "sum s/GiB");
    for _ in 0..bulk.rounds {
        bare = better(bare, show("tcp", send_bare(bulk.gib)?));
        stream = better(stream, show("stream", send_stream(bulk.gib)?));
    }
    if let (Some(bare), Some(stream)) = (bare, stream) {
        println!("best: stream costs {:.2} x the CPU time of TCP", stream.cpu() / bare.cpu());
        println!("      and moves    {:.2} x its rate", stream.mib_per_second / bare.mib_per_second);
    }
    Ok(())
}

fn show(name: &str, cost: Cost) -> Cost {
    let Cost { mib_per_second, send, receive } = cost;
    println!("{name:<8} {mib_per_second:>8.0} {send:>12.3} {receive:>12.3} {:>12.3}", cost.cpu());
    cost
}

/// Sends with `send` to a receiver started with `args`, and takes the figures of both.
fn send_with(args: &[&str], gib: u64, send: impl FnOnce(&str, u64) -> Result<f64>) -> Result<Cost> {
    let (mut child, mut lines) = other(args)?;
    let address = lines.next().ok_or("the receiver ended")??;
    let started = Instant::now();
    let sent = send(&address, gib * GIB)?;
    let received: f64 = lines.next().ok_or("the receiver ended")??.parse()?;
    let seconds = started.elapsed().as_secs_f64();
    child.wait()?;
    let gib = gib as f64;
    Ok(Cost { mib_per_second: gib * 1024.0 / seconds, send: sent / gib, receive: received / gib })
}

fn send_bare(gib: u64) -> Result<Cost> {
    send_with(&["take", "--bare"], gib, |address, bytes| {
        let before = cpu()?;
        let payload = vec![7; FRAME];
        async_io::block_on(async {
            let to: SocketAddr = address.parse()?;
            let mut stream = Async::<TcpStream>::connect(to).await?;
            for _ in 0..bytes / FRAME as u64 {
                stream.write_all(&payload).await?;
            }
            stream.close().await?;
            Ok::<_, Box<dyn Error>>(())
        })?;
        Ok(cpu()? - before)
    })
}

fn take_bare() -> Result<()> {
    let listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 0))?;
    println!("{}", listener.get_ref().local_addr()?);
    async_io::block_on(async {
        let (mut stream, _) = listener.accept().await?;
        let before = cpu()?;
        let mut buf = vec![0; FRAME];
        while stream.read(&mut buf).await? > 0 {}
        println!("{}", cpu()? - before);
        Ok(())
    })
}

fn send_stream(gib: u64) -> Result<Cost> {
    send_with(&["take"], gib, |address, bytes| {
        let executor = Arc::new(Executor::new());
        async_io::block_on(executor.clone().run(async {
            let mut net = Net::start(config([2; 32], "")?, executor.clone())?;
            net.dial(address.parse()?);
            let (mut reader, mut writer) = loop {
                match net.next().await {
                    NetEvent::Connected { node, .. } => drop(net.open(&node, Protocol::Data)),
                    NetEvent::Opened { stream, .. } => break stream.split(),
                    NetEvent::DialFailed { error, .. } => return Err(error.into()),
                    NetEvent::OpenFailed { error, .. } => return Err(error.into()),
                    _ => {}
                }
            };
            let before = cpu()?;
            let payload = vec![7; FRAME];
            let send = async {
                for _ in 0..bytes / FRAME as u64 {
                    writer.write(&payload).await?;
                }
                writer.close().await?;
                // The receiver ends its side when it has everything.
                reader.read().await?;
                Ok::<_, Box<dyn Error>>(())
            };
            let rest = async {
                loop {
                    net.next().await;
                }
            };
            futures::select! {
                sent = std::pin::pin!(send.fuse()) => sent?,
                () = std::pin::pin!(rest.fuse()) => {}
            }
            Ok(cpu()? - before)
        }))
    })
}

fn take_stream() -> Result<()> {
    let executor = Arc::new(Executor::new());
    async_io::block_on(executor.clone().run(async {
        let mut net = Net::start(config([1; 32], "/ip4/127.0.0.1/tcp/0")?, executor.clone())?;
        let mut received = None;
        loop {
            match net.next().await {
                NetEvent::Listening { address } => println!("{address}"),
                NetEvent::Inbound { stream, .. } => {
                    let task = executor.spawn(async move {
                        let before = cpu().map_err(|error| error.to_string())?;
                        let (mut reader, mut writer) = stream.split();
                        while reader.read().await.map_err(|error| error.to_string())?.is_some() {}
                        writer.close().await.map_err(|error| error.to_string())?;
                        Ok::<_, String>(cpu().map_err(|error| error.to_string())? - before)
                    });
                    received = Some(task);
                }
                NetEvent::Disconnected { .. } => break,
                _ => {}
            }
        }
        let received = received.ok_or("no stream came")?;
        println!("{}", received.await?);
        Ok(())
    }))
}

fn measure_peers(peers: &Peers) -> Result<()> {
    let executor = Arc::new(Executor::new());
    async_io::block_on(executor.clone().run(async {
        let mut net = Net::start(config([1; 32], "/ip4/127.0.0.1/tcp/0")?, executor.clone())?;
        net.subscribe("/bib/global")?;
        let address = loop {
            if let NetEvent::Listening { address } = net.next().await {
                break address;
            }
        };
        let (rss, anonymous) = (kib("VmRSS:")?, kib("RssAnon:")?);
        println!("without peers: RSS {rss} KiB, anonymous {anonymous} KiB");
        let (n, mib) = (peers.peers.to_string(), peers.mib.to_string());
        let (mut child, _) = other(&["crowd", "--peers", &n, "--mib", &mib, &address.to_string()])?;
        let (mut measured, mut done) = (0, 0);
        let (tell, mut told) = futures::channel::mpsc::unbounded();
        while measured < peers.peers || done < peers.peers {
            futures::select! {
                event = net.next().fuse() => match event {
                    // The first round trip comes after everything else that a new connection does.
                    NetEvent::Rtt { .. } => measured += 1,
                    NetEvent::Inbound { stream, .. } => {
                        let tell = tell.clone();
                        executor.spawn(async move {
                            let (mut reader, mut writer) = stream.split();
                            while let Ok(Some(_)) = reader.read().await {}
                            // Whoever waits for it has ended if this fails.
                            let _ = writer.close().await;
                            let _ = tell.unbounded_send(());
                        }).detach();
                    }
                    _ => {}
                },
                _ = told.next() => done += 1,
            }
        }
        let (rss_then, anonymous_then) = (kib("VmRSS:")?, kib("RssAnon:")?);
        println!("{n} idle peers: RSS {rss_then} KiB, anonymous {anonymous_then} KiB");
        let each = |now: u64, before: u64| (now.saturating_sub(before)) as f64 / f64::from(peers.peers);
        println!(
            "each peer:    RSS {:.1} KiB, anonymous {:.1} KiB",
            each(rss_then, rss),
            each(anonymous_then, anonymous)
        );
        child.kill()?;
        child.wait()?;
        Ok(())
    }))
}

fn be_crowd(crowd: &Crowd) -> Result<()> {
    let executor = Arc::new(Executor::new());
    async_io::block_on(executor.clone().run(async {
        let address: Multiaddr = crowd.address.parse()?;
        let mut peers = Vec::new();
        for peer in 0..crowd.peers {
            let mut seed = [9; 32];
            seed[..4].copy_from_slice(&peer.to_be_bytes());
            let mut net = Net::start(config(seed, "")?, executor.clone())?;
            net.subscribe("/bib/global")?;
            net.dial(address.clone());
            // One after the other, so that none is refused for too many at a time.
            let (mut reader, mut writer) = loop {
                match net.next().await {
                    NetEvent::Connected { node, .. } => drop(net.open(&node, Protocol::Data)),
                    NetEvent::Opened { stream, .. } => break stream.split(),
                    NetEvent::DialFailed { error, .. } => return Err(error.into()),
                    NetEvent::OpenFailed { error, .. } => return Err(error.into()),
                    _ => {}
                }
            };
            let payload = vec![7; FRAME];
            for _ in 0..crowd.mib * 4 {
                writer.write(&payload).await?;
            }
            writer.close().await?;
            reader.read().await?;
            peers.push(net);
        }
        // Until the other process has seen enough.
        let all = peers.iter_mut().map(|net| async move {
            loop {
                net.next().await;
            }
        });
        futures::future::join_all(all.map(|peer: _| peer.boxed_local())).await;
        Ok(())
    }))
}
