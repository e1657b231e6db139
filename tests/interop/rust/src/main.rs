//! The rust-libp2p peer of the interop tests and benchmarks; sub-commands and flags as in `tests/interop/peers.py`.
mod mesh;
mod proto;
use std::{collections::HashMap, sync::Arc, time::{Duration, Instant}};
use anyhow::{bail, Context as _, Result};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use rustls_pki_types::{pem::PemObject, CertificateDer, PrivateKeyDer};
use libp2p::core::{muxing::StreamMuxerBox, transport::Boxed, upgrade::{SelectUpgrade, Version}, Transport};
use libp2p::swarm::{behaviour::toggle::Toggle, dial_opts::DialOpts, ConnectionId, NetworkBehaviour, StreamProtocol, SwarmEvent};
use libp2p::{gossipsub, identify, identity::Keypair, multiaddr::Protocol, noise, ping, quic, tcp, tls, websocket, yamux, Multiaddr, PeerId, Swarm};
use serde_json::json;

const PERF: &str = "/perf/1.0.0";
const ECHO: &str = "/echo/1.0.0";
const PING: &str = "/ipfs/ping/1.0.0";
const BUF: usize = 64 * 1024;

#[derive(NetworkBehaviour)]
struct B { identify: identify::Behaviour, ping: Toggle<ping::Behaviour>, proto: proto::Behaviour, gossip: Toggle<mesh::Gossip> }

struct Args { addr: Option<Multiaddr>, connect: Vec<Multiaddr>, m: HashMap<String, String> }
impl Args {
    fn s(&self, k: &str, d: &str) -> String { self.m.get(k).cloned().unwrap_or_else(|| d.into()) }
    fn n(&self, k: &str, d: u64) -> Result<u64> { match self.m.get(k) { Some(v) => v.replace('_', "").parse().with_context(|| format!("--{k} {v}")), None => Ok(d) } }
    fn target(&self) -> Result<(PeerId, Multiaddr)> {
        let a = self.addr.clone().context("an address is needed")?;
        match a.iter().last() { Some(Protocol::P2p(p)) => Ok((p, a)), _ => bail!("the address must end in /p2p/PEERID") }
    }
}

/// `/wss`: a listener shows the certificate of --web-cert, a dialler trusts that one too: libp2p-websocket checks every one.
fn secure_websocket(pem: &str) -> Result<websocket::Config<tcp::tokio::Transport>> {
    let key = PrivateKeyDer::from_pem_file(pem).with_context(|| format!("--web-cert {pem}: its key"))?;
    let cert = CertificateDer::from_pem_file(pem).with_context(|| format!("--web-cert {pem}: its certificate"))?;
    let cert = websocket::tls::Certificate::new(cert.to_vec());
    let mut tls = websocket::tls::Config::builder();
    tls.server(websocket::tls::PrivateKey::new(key.secret_der().to_vec()), [cert.clone()])?.add_trust(&cert)?;
    let mut made = websocket::Config::new(tcp::tokio::Transport::new(tcp::Config::default().nodelay(true)));
    made.set_tls_config(tls.finish());
    Ok(made)
}

fn transport(kp: &Keypair, a: &Args, v: Version) -> Result<Boxed<(PeerId, StreamMuxerBox)>> {
    let (sec, mux) = (a.s("security", "noise"), a.s("muxer", "yamux"));
    let tcp = || tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    macro_rules! muxed { ($a:expr) => { match mux.as_str() {
        "yamux" => $a.multiplex(yamux::Config::default()).map(|(p, m), _| (p, StreamMuxerBox::new(m))).boxed(),
        "mplex" => $a.multiplex(libp2p_mplex::Config::new()).map(|(p, m), _| (p, StreamMuxerBox::new(m))).boxed(),
        "both" => $a.multiplex(SelectUpgrade::new(yamux::Config::default(), libp2p_mplex::Config::new())).map(|(p, m), _| (p, StreamMuxerBox::new(m))).boxed(),
        x => bail!("--muxer {x}: yamux|mplex|both") } } }
    macro_rules! secured { ($t:expr) => { match sec.as_str() {
        "noise" => muxed!($t.upgrade(v).authenticate(noise::Config::new(kp)?)),
        "tls" => muxed!($t.upgrade(v).authenticate(tls::Config::new(kp)?)),
        x => bail!("--security {x}: noise|tls") } } }
    Ok(match a.s("transport", "tcp").as_str() {
        "tcp" => secured!(tcp()),
        "ws" => secured!(websocket::Config::new(tcp())),
        "wss" => secured!(secure_websocket(&a.s("web-cert", ""))?),
        "quic" => quic::tokio::Transport::new(quic::Config::new(kp)).map(|(p, m), _| (p, StreamMuxerBox::new(m))).boxed(),
        x => bail!("--transport {x}: tcp|ws|wss|quic"),
    })
}

fn serve() -> proto::Serve {
    Arc::new(|p, s| { tokio::spawn(async move { let _ = match p.as_ref() { PERF => serve_perf(s).await, _ => serve_echo(s).await }; }); })
}
async fn serve_perf(mut s: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
    let mut b = vec![0u8; BUF];
    let mut h = [0u8; 8];
    s.read_exact(&mut h).await?;
    let mut left = u64::from_be_bytes(h);
    while s.read(&mut b).await? > 0 {}
    b.fill(0);
    while left > 0 { let k = left.min(BUF as u64) as usize; s.write_all(&b[..k]).await?; left -= k as u64; }
    s.close().await?;
    Ok(())
}
async fn serve_echo(mut s: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
    let mut b = vec![0u8; 4096];
    loop { let k = s.read(&mut b).await?; if k == 0 { break } s.write_all(&b[..k]).await?; s.flush().await?; }
    s.close().await?;
    Ok(())
}

fn swarm_with(a: &Args, gossip: bool, pinger: bool) -> Result<(Swarm<B>, proto::Opener)> {
    let kp = match a.s("key", "ed25519").as_str() { "secp256k1" => Keypair::generate_secp256k1(), _ => Keypair::generate_ed25519() };
    let v = if a.s("upgrade", "lazy") == "v1" { Version::V1 } else { Version::V1Lazy };
    let t = transport(&kp, a, v)?;
    let mut protocols = vec![StreamProtocol::new(PERF), StreamProtocol::new(ECHO)];
    if !pinger { protocols.push(StreamProtocol::new(PING)) } // rust-libp2p answers no pings to a peer that does not serve ping itself
    let (proto, opener) = proto::Behaviour::new(protocols, serve());
    let g = if gossip { Some(mesh::gossip(a, &kp)?) } else { None };
    let b = B { identify: identify::Behaviour::new(identify::Config::new("/interop/1.0.0".into(), kp.public()).with_agent_version(format!("rust-libp2p-peer/{}", env!("CARGO_PKG_VERSION")))),
        ping: Toggle::from(pinger.then(ping::Behaviour::default)), proto, gossip: Toggle::from(g) };
    let c = libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(600)).with_max_negotiating_inbound_streams(1024);
    Ok((Swarm::new(t, b, kp.public().to_peer_id(), c), opener))
}

fn swarm(a: &Args, gossip: bool) -> Result<(Swarm<B>, proto::Opener)> { swarm_with(a, gossip, true) }

async fn stop_signal() {
    let stdin = async { let mut b = [0u8; 4096]; let mut i = tokio::io::stdin(); loop { match tokio::io::AsyncReadExt::read(&mut i, &mut b).await { Ok(0) | Err(_) => break, _ => {} } } };
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
    tokio::select! { _ = stdin => {}, _ = term.recv() => {}, _ = tokio::time::sleep(Duration::from_secs(600)) => {} }
}

fn listen_addr(a: &Args) -> Result<Multiaddr> {
    let p = a.n("port", 0)?;
    Ok(match a.s("transport", "tcp").as_str() { "quic" => format!("/ip4/127.0.0.1/udp/{p}/quic-v1"), "ws" => format!("/ip4/127.0.0.1/tcp/{p}/ws"), "wss" => format!("/ip4/127.0.0.1/tcp/{p}/tls/ws"), _ => format!("/ip4/127.0.0.1/tcp/{p}") }.parse()?)
}

async fn listen(a: &Args, topic: Option<String>) -> Result<()> {
    let (mut s, _o) = swarm(a, topic.is_some())?;
    if let Some(t) = &topic { s.behaviour_mut().gossip.as_mut().unwrap().subscribe(&gossipsub::IdentTopic::new(t))?; }
    s.listen_on(listen_addr(a)?)?;
    let verbose = a.m.contains_key("verbose");
    let want = a.n("count", u64::MAX)?;
    let stop = stop_signal();
    tokio::pin!(stop);
    let (mut n, mut bytes, mut first, mut last) = (0u64, 0u64, Instant::now(), Instant::now());
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    loop {
        let done = tokio::select! {
            _ = &mut stop => { if n > 0 { report(n, bytes, first, last) } return Ok(()) }
            _ = tick.tick() => n > 0 && last.elapsed() > Duration::from_secs(3), // a burst is over after 3 s of silence
            e = s.select_next_some() => match e {
                SwarmEvent::NewListenAddr { address, .. } => { println!("LISTEN {address}/p2p/{}", s.local_peer_id()); false }
                SwarmEvent::Behaviour(BEvent::Gossip(gossipsub::Event::Message { message, .. })) => {
                    last = Instant::now(); if n == 0 { first = last } n += 1; bytes += message.data.len() as u64; n >= want
                }
                e => { if verbose { eprintln!("{e:?}") } false }
            }
        };
        if done { report(n, bytes, first, last); n = 0; bytes = 0; }
    }
}
fn report(n: u64, bytes: u64, first: Instant, last: Instant) {
    let secs = (last - first).as_secs_f64();
    println!("{}", json!({"n": n, "bytes": bytes, "secs": secs, "per_sec": if secs > 0. { n as f64 / secs } else { 0. }}));
}

/// Dials and runs the swarm until the connection is up and identified.
async fn connect(s: &mut Swarm<B>, addr: &Multiaddr) -> Result<(PeerId, identify::Info)> {
    s.dial(DialOpts::unknown_peer_id().address(addr.clone()).build())?;
    loop {
        match tokio::time::timeout(Duration::from_secs(15), s.select_next_some()).await? {
            SwarmEvent::Behaviour(BEvent::Identify(identify::Event::Received { peer_id, info, .. })) => return Ok((peer_id, info)),
            SwarmEvent::Behaviour(BEvent::Identify(identify::Event::Error { error, .. })) => bail!("identify: {error}"),
            SwarmEvent::OutgoingConnectionError { error, .. } => bail!("dial: {error}"),
            SwarmEvent::ConnectionClosed { cause, .. } => bail!("closed: {cause:?}"),
            _ => {}
        }
    }
}
fn drive(mut s: Swarm<B>) { tokio::spawn(async move { loop { s.select_next_some().await; } }); }

async fn perf(a: &Args) -> Result<()> {
    let (up, down, runs) = (a.n("upload", 0)?, a.n("download", 0)?, a.n("runs", 1)?);
    let (mut s, o) = swarm(a, false)?;
    let (peer, _) = connect(&mut s, &a.target()?.1).await?;
    drive(s);
    let mut b = vec![0u8; BUF];
    for _ in 0..runs {
        let t0 = Instant::now();
        let mut st = o.open(peer, PERF).await?;
        st.write_all(&down.to_be_bytes()).await?;
        let mut left = up;
        while left > 0 { let k = left.min(BUF as u64) as usize; st.write_all(&b[..k]).await?; left -= k as u64; }
        st.close().await?;
        let mut got = st.read(&mut b).await? as u64; // first byte of the answer (or its end): the upload has been read
        let t1 = Instant::now();
        if got > 0 { loop { let k = st.read(&mut b).await?; if k == 0 { break } got += k as u64; } }
        let t2 = Instant::now();
        if got != down { bail!("downloaded {got} of {down}") }
        let (u, d) = ((t1 - t0).as_secs_f64(), (t2 - t1).as_secs_f64());
        println!("{}", json!({"upload_bytes": up, "download_bytes": down, "secs": (t2 - t0).as_secs_f64(), "upload_secs": u, "download_secs": d,
            "up_MBps": up as f64 / 1e6 / u, "down_MBps": if down > 0 { down as f64 / 1e6 / d } else { 0. }}));
    }
    Ok(())
}

fn pct(v: &mut [f64], q: f64) -> f64 { v.sort_by(|a, b| a.total_cmp(b)); if v.is_empty() { 0. } else { v[((v.len() as f64 * q) as usize).min(v.len() - 1)] } }

async fn ping_cmd(a: &Args) -> Result<()> {
    let n = a.n("count", 100)?;
    let (mut s, o) = swarm_with(a, false, false)?;
    let (peer, _) = connect(&mut s, &a.target()?.1).await?;
    drive(s);
    let mut st = o.open(peer, if a.s("over", "ping") == "echo" { ECHO } else { PING }).await?;
    let mut v = Vec::new();
    for i in 0..n {
        let mut p = [0u8; 32]; p[..8].copy_from_slice(&i.to_be_bytes()); p[8..16].copy_from_slice(&(i.wrapping_mul(0x9E3779B97F4A7C15)).to_be_bytes());
        let t = Instant::now();
        st.write_all(&p).await?; st.flush().await?;
        let mut r = [0u8; 32]; st.read_exact(&mut r).await?;
        v.push(t.elapsed().as_secs_f64() * 1e6);
        if r != p { bail!("wrong pong") }
    }
    let m = pct(&mut v, 0.5); let p99 = pct(&mut v, 0.99);
    println!("{}", json!({"n": n, "median_us": m, "p99_us": p99}));
    Ok(())
}

async fn handshakes(a: &Args) -> Result<()> {
    let (n, c) = (a.n("count", 200)?, a.n("concurrency", 1)?);
    let only_conn = a.s("until", "identify") == "connected";
    let (_, addr) = a.target()?;
    let (mut s, _o) = swarm(a, false)?;
    let dial = |s: &mut Swarm<B>, live: &mut HashMap<ConnectionId, Instant>| -> Result<()> {
        let d = DialOpts::unknown_peer_id().address(addr.clone()).build();
        live.insert(d.connection_id(), Instant::now()); s.dial(d)?; Ok(()) };
    connect(&mut s, &addr).await?; // warms up both sides (the first TLS use of a process costs 50-200 ms)
    let mut live = HashMap::new();
    let (mut started, mut done) = (0, 0);
    let mut lat = Vec::new();
    let t0 = Instant::now();
    while started < c.min(n) { dial(&mut s, &mut live)?; started += 1; }
    while done < n {
        let id = match tokio::time::timeout(Duration::from_secs(15), s.select_next_some()).await? {
            SwarmEvent::ConnectionEstablished { connection_id, .. } if only_conn => connection_id,
            SwarmEvent::Behaviour(BEvent::Identify(identify::Event::Received { connection_id, .. })) => connection_id,
            SwarmEvent::Behaviour(BEvent::Identify(identify::Event::Error { error, connection_id, .. })) if live.contains_key(&connection_id) => bail!("identify: {error}"),
            SwarmEvent::OutgoingConnectionError { error, .. } => bail!("dial {done}: {error}"),
            _ => continue,
        };
        let Some(t) = live.remove(&id) else { continue };
        lat.push(t.elapsed().as_secs_f64() * 1e3);
        done += 1;
        s.close_connection(id);
        if started < n { dial(&mut s, &mut live)?; started += 1; }
    }
    let secs = t0.elapsed().as_secs_f64();
    let m = pct(&mut lat, 0.5);
    println!("{}", json!({"n": n, "secs": secs, "per_sec": n as f64 / secs, "median_ms": m, "concurrency": c}));
    Ok(())
}

async fn streams(a: &Args) -> Result<()> {
    let (n, c) = (a.n("count", 1000)?, a.n("concurrency", 1)?);
    let (mut s, o) = swarm(a, false)?;
    let (peer, _) = connect(&mut s, &a.target()?.1).await?;
    drive(s);
    let next = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let t0 = Instant::now();
    let mut js = tokio::task::JoinSet::new();
    for _ in 0..c {
        let (o, next) = (o.clone(), next.clone());
        js.spawn(async move {
            while next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < n {
                let mut st = o.open(peer, ECHO).await?;
                let p = [7u8; 32];
                st.write_all(&p).await?;
                st.close().await?;
                let mut r = Vec::with_capacity(32);
                st.read_to_end(&mut r).await?;
                if r != p { bail!("wrong echo") }
            }
            Ok(())
        });
    }
    while let Some(r) = js.join_next().await { r?? }
    let secs = t0.elapsed().as_secs_f64();
    println!("{}", json!({"n": n, "secs": secs, "per_sec": n as f64 / secs, "concurrency": c}));
    Ok(())
}

fn rss(pid: u64) -> f64 {
    let s = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    s.lines().find(|l| l.starts_with("VmRSS")).and_then(|l| l.split_whitespace().nth(1)).and_then(|v| v.parse().ok()).unwrap_or(0.)
}
/// idle ADDR --count N --server-pid P [--hold S]: N identified connections held; resident memory on both sides.
async fn idle(a: &Args) -> Result<()> {
    let (n, pid, hold) = (a.n("count", 200)?, a.n("server-pid", 0)?, a.n("hold", 5)?);
    let (_, addr) = a.target()?;
    let me = std::process::id() as u64;
    let (mut s, _o) = swarm(a, false)?;
    connect(&mut s, &addr).await?; // the first connection warms both sides up
    let (c0, s0) = (rss(me), rss(pid));
    for _ in 0..n { connect(&mut s, &addr).await?; }
    let until = tokio::time::sleep(Duration::from_secs(hold));
    tokio::pin!(until);
    loop { tokio::select! { _ = &mut until => break, e = s.select_next_some() => if let SwarmEvent::ConnectionClosed { cause, .. } = e { bail!("closed {cause:?}") } } }
    let (c1, s1) = (rss(me), rss(pid));
    println!("{}", json!({"n": n, "server_kib_per_conn": (s1 - s0) / n as f64, "client_kib_per_conn": (c1 - c0) / n as f64, "server_rss_kib": [s0, s1], "client_rss_kib": [c0, c1],
        "open": s.network_info().connection_counters().num_established()}));
    Ok(())
}

async fn pubsub(a: &Args) -> Result<()> {
    let (n, size) = (a.n("count", 1000)?, a.n("size", 200)? as usize);
    let topic = gossipsub::IdentTopic::new(a.s("topic", "test"));
    let (mut s, _o) = swarm(a, true)?;
    s.behaviour_mut().gossip.as_mut().unwrap().subscribe(&topic)?;
    let (_, addr) = a.target()?;
    s.dial(DialOpts::unknown_peer_id().address(addr).build())?;
    let t = Instant::now();
    loop { // until the peer is in our mesh
        if t.elapsed() > Duration::from_secs(15) { bail!("no mesh peer") }
        match tokio::time::timeout(Duration::from_millis(100), s.select_next_some()).await {
            Ok(SwarmEvent::OutgoingConnectionError { error, .. }) => bail!("dial: {error}"),
            _ => {}
        }
        if s.behaviour().gossip.as_ref().unwrap().mesh_peers(&topic.hash()).next().is_some() { break }
    }
    let (mut full, mut other) = (0u64, 0u64);
    let body = mesh::random(size, std::process::id() as u64); // incompressible, or snappy makes the benchmark about nothing
    let t0 = Instant::now();
    let mut i = 0u64;
    let mut tries = 0u64;
    while i < n {
        let mut d = body.clone();
        tries += 1;
        if size >= 16 { d[..8].copy_from_slice(&i.to_be_bytes()); d[8..16].copy_from_slice(&tries.to_be_bytes()); }
        match s.behaviour_mut().gossip.as_mut().unwrap().publish(topic.clone(), d) {
            Ok(_) => i += 1,
            Err(gossipsub::PublishError::AllQueuesFull(_)) => { full += 1; let until = tokio::time::sleep(Duration::from_millis(2)); tokio::pin!(until);
                loop { tokio::select! { _ = &mut until => break, _ = s.select_next_some() => {} } } }
            Err(e) => { other += 1; if other > 20 { bail!("publish: {e}") } tokio::time::sleep(Duration::from_millis(50)).await; }
        }
        while let std::task::Poll::Ready(e) = futures::poll!(s.select_next_some()) { if let SwarmEvent::ConnectionClosed { cause, .. } = e { bail!("closed: {cause:?}") } }
    }
    let secs = t0.elapsed().as_secs_f64();
    println!("{}", json!({"n": n, "secs": secs, "per_sec": n as f64 / secs, "queue_full": full}));
    let until = tokio::time::sleep(Duration::from_secs(a.n("linger", 4)?));
    tokio::pin!(until);
    loop { tokio::select! { _ = &mut until => break, _ = s.select_next_some() => {} } }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut it = std::env::args().skip(1);
    let cmd = it.next().context("a sub-command is needed")?;
    let mut a = Args { addr: None, connect: Vec::new(), m: HashMap::new() };
    let mut it = it.peekable();
    while let Some(x) = it.next() {
        match x.strip_prefix("--") {
            Some(k) => { let v = match it.peek() { Some(v) if !v.starts_with("--") => it.next().unwrap(), _ => "1".into() }; if k == "connect" { a.connect.push(v.parse()?) } else { a.m.insert(k.into(), v); } }
            None => a.addr = Some(x.parse()?),
        }
    }
    let run = async { match cmd.as_str() {
        "listen" => listen(&a, None).await,
        "pubsub-listen" => listen(&a, Some(a.s("topic", "test"))).await,
        "identify" => {
            let (mut s, _o) = swarm(&a, false)?;
            let t = Instant::now();
            let (p, i) = connect(&mut s, &a.target()?.1).await?;
            println!("{}", json!({"peer_id": p.to_string(), "agent": i.agent_version, "protocol_version": i.protocol_version, "protocols": i.protocols.iter().map(|p| p.to_string()).collect::<Vec<_>>(),
                "addrs": i.listen_addrs.iter().map(|x| x.to_string()).collect::<Vec<_>>(), "observed": i.observed_addr.to_string(), "secs": t.elapsed().as_secs_f64()}));
            Ok(())
        }
        "perf" => perf(&a).await,
        "ping" => ping_cmd(&a).await,
        "handshakes" => handshakes(&a).await,
        "streams" => streams(&a).await,
        "idle" => idle(&a).await,
        "pubsub" => pubsub(&a).await,
        "mesh" => mesh::mesh(&a).await,
        x => bail!("unknown sub-command {x}"),
    } };
    tokio::time::timeout(Duration::from_secs(660), run).await?
}
