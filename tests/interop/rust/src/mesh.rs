//! mesh: a gossipsub node that tells everything that happens in one topic; see `tests/interop/peers.py` for its lines.
use crate::{listen_addr, swarm, Args, BEvent};
use anyhow::{bail, ensure, Context as _, Result};
use futures::StreamExt;
use libp2p::gossipsub::{self, DataTransform, IdentTopic, Message, MessageId, PeerScoreParams, PeerScoreThresholds, PublishError, RawMessage, TopicHash};
use libp2p::swarm::{dial_opts::DialOpts, SwarmEvent};
use libp2p::{identity::Keypair, multiaddr::Protocol, PeerId};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::{collections::VecDeque, fmt::Debug, io, sync::OnceLock, time::Duration};
use tokio::io::AsyncBufReadExt;
use tracing::{field::{Field, Visit}, level_filters::LevelFilter, span, Event, Level, Metadata, Subscriber};

/// What goes over the wire for a payload: a snappy block in eth2 mode, else itself.
pub struct Codec { snappy: bool, limit: usize }
impl DataTransform for Codec {
    fn inbound_transform(&self, m: RawMessage) -> io::Result<Message> {
        let data = if self.snappy {
            if snap::raw::decompress_len(&m.data).map_err(io::Error::other)? > self.limit { return Err(io::Error::other("too large")) }
            snap::raw::Decoder::new().decompress_vec(&m.data).map_err(io::Error::other)?
        } else { m.data };
        Ok(Message { source: m.source, data, sequence_number: m.sequence_number, topic: m.topic })
    }
    fn outbound_transform(&self, _topic: &TopicHash, data: Vec<u8>) -> io::Result<Vec<u8>> {
        if self.snappy { snap::raw::Encoder::new().compress_vec(&data).map_err(io::Error::other) } else { Ok(data) }
    }
}
pub type Gossip = gossipsub::Behaviour<Codec>;

/// The id is always said, not left to the default: implementations differ in theirs.
fn strict_id(m: &Message) -> MessageId {
    let mut id = m.source.map(|p| p.to_bytes()).unwrap_or_default();
    id.extend(m.sequence_number.unwrap_or_default().to_be_bytes());
    MessageId::from(id)
}
fn eth2_id(m: &Message) -> MessageId {
    let topic = m.topic.as_str().as_bytes();
    let h = Sha256::new().chain_update([1, 0, 0, 0]).chain_update((topic.len() as u64).to_le_bytes()).chain_update(topic).chain_update(&m.data).finalize();
    MessageId::from(&h[..20])
}

pub fn gossip(a: &Args, kp: &Keypair) -> Result<Gossip> {
    let limit = a.n("max-size", 10 << 20)? as usize;
    let beat = Duration::from_millis(a.n("heartbeat-ms", 1000)?);
    let mut c = gossipsub::ConfigBuilder::default();
    // Queues wait a minute instead of 1 s (forwards) and 5 s (own): on a busy machine nothing is to expire unseen.
    c.max_transmit_size(limit).heartbeat_interval(beat).heartbeat_initial_delay(beat.min(Duration::from_millis(500))).duplicate_cache_time(Duration::from_secs(120))
        .publish_queue_duration(Duration::from_secs(60)).forward_queue_duration(Duration::from_secs(60));
    let no_push = a.m.contains_key("no-push");
    if no_push { c.flood_publish(false).mesh_n(0).mesh_n_low(0).mesh_n_high(0).mesh_outbound_min(0); }
    let sign = a.s("sign", "strict");
    let author = match sign.as_str() {
        "strict" => { c.message_id_fn(strict_id); gossipsub::MessageAuthenticity::Signed(kp.clone()) }
        "eth2" | "none" => {
            c.validation_mode(gossipsub::ValidationMode::Anonymous);
            if sign == "eth2" { c.message_id_fn(eth2_id); } else { c.message_id_fn(|m| MessageId::from(&Sha256::digest(&m.data)[..20])); }
            gossipsub::MessageAuthenticity::Anonymous
        }
        x => bail!("--sign {x}: strict|none|eth2"),
    };
    let mut g = Gossip::new_with_transform(author, c.build()?, Codec { snappy: sign == "eth2", limit }).map_err(anyhow::Error::msg)?;
    if no_push {
        let p = PeerScoreParams { app_specific_weight: 1., ip_colocation_factor_weight: 0., ..Default::default() };
        let t = PeerScoreThresholds { gossip_threshold: -1e6, publish_threshold: -1e6, graylist_threshold: -1e6, ..Default::default() };
        g.with_peer_score(p, t).map_err(anyhow::Error::msg)?;
    }
    Ok(g)
}

/// SHA-256(be64(seed) || be64(k)) for k = 0, 1, ..., cut to n bytes: incompressible.
pub fn random(n: usize, seed: u64) -> Vec<u8> {
    let mut d = Vec::with_capacity(n + 32);
    for k in 0u64.. {
        if d.len() >= n { break }
        d.extend_from_slice(&Sha256::new().chain_update(seed.to_be_bytes()).chain_update(k.to_be_bytes()).finalize());
    }
    d.truncate(n);
    d
}
fn hex(d: &[u8]) -> String { d.iter().map(|b| format!("{b:02x}")).collect() }
fn sum(d: &[u8]) -> String { hex(&Sha256::digest(d)) }

/// What a line of standard input stands for: hex, size:N:SEED (a pattern) or random:N:SEED (incompressible).
fn payload(line: &str) -> Result<Vec<u8>> {
    let p: Vec<&str> = line.split(':').collect();
    if let [kind @ ("size" | "random"), n, seed] = p[..] {
        let (n, seed): (usize, u64) = (n.parse()?, seed.parse()?);
        ensure!(n <= 64 << 20, "bad size in {line}");
        if kind == "random" { return Ok(random(n, seed)) }
        let mut d: Vec<u8> = (0..n as u64).map(|i| ((i * 31 + seed % 251) % 251) as u8).collect();
        for (to, b) in d.iter_mut().zip(seed.to_be_bytes()) { *to = b }
        return Ok(d);
    }
    ensure!(line.len() % 2 == 0 && line.bytes().all(|b| b.is_ascii_hexdigit()), "neither hex nor size:N:SEED nor random:N:SEED: {:.80}", line);
    Ok((0..line.len()).step_by(2).map(|i| u8::from_str_radix(&line[i..i + 2], 16)).collect::<Result<_, _>>()?)
}

/// Sees the control messages of both directions. gossipsub has no event for them, but logs every RPC at debug level,
/// without payloads.
struct Watch;
static HIDDEN: OnceLock<String> = OnceLock::new(); // the peer id of the sink of --no-push, which is no part of the test
#[derive(Default)]
struct Logged { peer: String, dir: &'static str, rpc: String }
impl Visit for Logged {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "peer" | "peer_id" => self.peer = format!("{value:?}"),
            "rpc" => { self.dir = "out"; self.rpc = format!("{value:?}") }
            "message" => { let s = format!("{value:?}"); if s.starts_with("GossipsubRpc") { self.dir = "in"; self.rpc = s } }
            _ => {}
        }
    }
}
impl Logged {
    fn report(&self) {
        if self.peer.is_empty() || self.rpc.is_empty() || HIDDEN.get().is_some_and(|p| *p == self.peer) { return }
        for (event, start) in [("ihave", "IHave(IHave {"), ("iwant", "IWant(IWant {"), ("idontwant", "IDontWant(IDontWant {")] {
            let ids: usize = self.rpc.split(start).skip(1).map(|s| s.split(']').next().unwrap_or("").matches("MessageId(").count()).sum();
            if ids > 0 { println!("{}", json!({"event": event, "dir": self.dir, "peer": self.peer, "count": ids})) }
        }
        for (event, start) in [("graft", "Graft(Graft {"), ("prune", "Prune(Prune {")] {
            for s in self.rpc.split(start).skip(1) {
                let topic = s.split("hash: \"").nth(1).and_then(|t| t.split('"').next());
                println!("{}", json!({"event": event, "dir": self.dir, "peer": self.peer, "topic": topic}));
            }
        }
    }
}
impl Subscriber for Watch {
    fn enabled(&self, m: &Metadata<'_>) -> bool { m.is_event() && *m.level() == Level::DEBUG && m.target() == "libp2p_gossipsub::behaviour" }
    fn max_level_hint(&self) -> Option<LevelFilter> { Some(LevelFilter::DEBUG) }
    fn event(&self, e: &Event<'_>) { let mut l = Logged::default(); e.record(&mut l); l.report() }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id { span::Id::from_u64(1) }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

pub async fn mesh(a: &Args) -> Result<()> {
    let topic = IdentTopic::new(a.s("topic", "test"));
    let hash = topic.hash();
    let no_push = a.m.contains_key("no-push");
    let (mut s, _opener) = swarm(a, true)?;
    let me = *s.local_peer_id();
    s.behaviour_mut().gossip.as_mut().unwrap().subscribe(&topic)?;
    s.listen_on(listen_addr(a)?)?;
    let address = loop { if let SwarmEvent::NewListenAddr { address, .. } = s.select_next_some().await { break address.with(Protocol::P2p(me)) } };
    let mut sink: Option<PeerId> = None;
    if no_push {
        // gossipsub keeps (and announces) an own message only if it has sent it to somebody: that is a peer in this
        // process, explicit here and connected to nobody else.
        let (mut k, opener) = swarm(a, true)?;
        let id = *k.local_peer_id();
        k.behaviour_mut().gossip.as_mut().unwrap().subscribe(&topic)?;
        k.dial(DialOpts::unknown_peer_id().address(address.clone()).build())?;
        s.behaviour_mut().gossip.as_mut().unwrap().add_explicit_peer(&id);
        (sink, _) = (Some(id), HIDDEN.set(id.to_string()));
        tokio::spawn(async move { let _opener = opener; loop { k.select_next_some().await; } });
        let joined = async { loop {
            if let SwarmEvent::Behaviour(BEvent::Gossip(gossipsub::Event::Subscribed { peer_id, .. })) = s.select_next_some().await { if peer_id == id { break } }
        } };
        tokio::time::timeout(Duration::from_secs(15), joined).await.context("the sink did not join")?;
    }
    tracing::subscriber::set_global_default(Watch)?;
    println!("LISTEN {address}");
    let mut dials = Vec::new();
    for target in &a.connect {
        let d = DialOpts::unknown_peer_id().address(target.clone()).build();
        dials.push(d.connection_id());
        s.dial(d)?;
    }
    let mut lines = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    let mut own: VecDeque<Vec<u8>> = VecDeque::new();
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    let (mut last, mut open) = ((usize::MAX, 0), true);
    while open || !own.is_empty() {
        tokio::select! {
            _ = tick.tick() => {}
            line = lines.next_line(), if open => match line?.as_deref().map(str::trim) {
                None | Some("quit") => open = false,
                Some(l) => own.push_back(payload(l)?),
            },
            e = s.select_next_some() => match e {
                SwarmEvent::Behaviour(BEvent::Gossip(gossipsub::Event::Message { propagation_source, message: m, .. })) => println!("{}", json!({
                    "event": "message", "topic": m.topic.as_str(), "from": m.source.map(|p| p.to_string()), "received_from": propagation_source.to_string(),
                    "size": m.data.len(), "sha256": sum(&m.data)})),
                SwarmEvent::Behaviour(BEvent::Gossip(gossipsub::Event::SlowPeer { peer_id, failed_messages })) =>
                    println!("{}", json!({"event": "dropped", "peer": peer_id.to_string(), "reason": format!("{failed_messages:?}")})),
                SwarmEvent::ConnectionEstablished { peer_id, .. } if no_push && Some(peer_id) != sink => {
                    // below 0 nobody is grafted; above the threshold everybody is told by IHAVE and served on IWANT
                    s.behaviour_mut().gossip.as_mut().unwrap().set_application_score(&peer_id, -1.);
                }
                SwarmEvent::OutgoingConnectionError { connection_id, error, .. } if dials.contains(&connection_id) => bail!("dial: {error}"),
                _ => {}
            },
        }
        let g = s.behaviour_mut().gossip.as_mut().unwrap();
        while let Some(d) = own.front() {
            match g.publish(hash.clone(), d.clone()) {
                Ok(_) => println!("{}", json!({"event": "published", "size": d.len(), "sha256": sum(d)})),
                Err(PublishError::AllQueuesFull(_)) => break, // again at the next tick
                Err(e) => println!("{}", json!({"event": "failed", "sha256": sum(d), "error": e.to_string()})),
            }
            own.pop_front();
        }
        let count = g.all_peers().filter(|(p, topics)| Some(**p) != sink && topics.contains(&&hash)).count();
        let now = (count, g.mesh_peers(&hash).count());
        if now != last { last = now; println!("{}", json!({"event": "peers", "topic": hash.as_str(), "count": now.0, "mesh": now.1})) }
    }
    std::process::exit(0) // a blocking read of standard input would hold the runtime's shutdown
}
