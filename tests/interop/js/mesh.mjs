// gossipsub: its options, the payloads, and `mesh`, a node that tells everything that happens in one topic
// (see tests/interop/peers.py for its lines).
import { createHash } from 'node:crypto'
import { createInterface } from 'node:readline'
import snappy from 'snappyjs'

const sha256 = (...parts) => { const h = createHash('sha256'); for (const p of parts) h.update(p); return h.digest() }
const hex = (b) => Buffer.from(b.buffer, b.byteOffset, b.byteLength).toString('hex')
const be64 = (n) => { const b = Buffer.alloc(8); b.writeBigUInt64BE(BigInt(n)); return b }
const le64 = (n) => { const b = Buffer.alloc(8); b.writeBigUInt64LE(BigInt(n)); return b }

// The id is always said, not left to the default: implementations differ in theirs.
const IDS = {
  strict: (m) => Buffer.concat([m.from.toMultihash().bytes, be64(m.sequenceNumber)]),
  eth2: (m) => { const t = Buffer.from(m.topic); return sha256(Buffer.of(1, 0, 0, 0), le64(t.length), t, m.data).subarray(0, 20) },
  none: (m) => sha256(m.data).subarray(0, 20)
}

export function gossipOptions ({ sign, maxSize, heartbeat, noPush }) {
  if (!IDS[sign]) throw new Error(`--sign ${sign}: ${Object.keys(IDS).join('|')}`)
  const options = {
    globalSignaturePolicy: sign === 'strict' ? 'StrictSign' : 'StrictNoSign', msgIdFn: IDS[sign], emitSelf: false,
    allowPublishToZeroTopicPeers: true, maxInboundStreams: 64, maxOutboundStreams: 64,
    maxInboundDataLength: maxSize, maxOutboundBufferSize: 1 << 30
  }
  if (heartbeat > 0) options.heartbeatInterval = heartbeat
  if (sign === 'eth2') {
    options.dataTransform = {
      inboundTransform: (_, data) => snappy.uncompress(data.subarray(), maxSize),
      outboundTransform: (_, data) => snappy.compress(data)
    }
  }
  if (noPush) { // below 0 nobody is grafted; above the threshold everybody is told by IHAVE and served on IWANT
    options.floodPublish = false
    options.scoreParams = { appSpecificScore: () => -1, appSpecificWeight: 1, IPColocationFactorWeight: 0 }
    options.scoreThresholds = { gossipThreshold: -1e6, publishThreshold: -1e6, graylistThreshold: -1e6 }
  }
  return options
}

/** SHA-256(be64(seed) || be64(k)) for k = 0, 1, ..., cut to n bytes: incompressible */
export function random (n, seed) {
  const d = Buffer.alloc(Math.ceil(n / 32) * 32); const s = be64(seed)
  for (let k = 0; k * 32 < n; k++) sha256(s, be64(k)).copy(d, k * 32)
  return new Uint8Array(d.buffer, d.byteOffset, n)
}

/** what a line of standard input stands for: hex, size:N:SEED (a pattern) or random:N:SEED (incompressible) */
function payload (line) {
  const p = line.split(':')
  if (p.length === 3 && (p[0] === 'size' || p[0] === 'random')) {
    const n = Number(p[1]); const seed = BigInt(p[2])
    if (!Number.isInteger(n) || n < 0 || n > 64 << 20) throw new Error('bad size in ' + line)
    if (p[0] === 'random') return random(n, seed)
    const d = new Uint8Array(n); const r = Number(seed % 251n)
    for (let i = 0; i < n; i++) d[i] = (i * 31 + r) % 251
    d.set(be64(seed).subarray(0, Math.min(8, n)))
    return d
  }
  if (!/^([0-9a-fA-F]{2})*$/.test(line)) throw new Error('neither hex nor size:N:SEED nor random:N:SEED: ' + line.slice(0, 80))
  return new Uint8Array(Buffer.from(line, 'hex'))
}

/** sees the control messages of both directions: gossipsub has events for GRAFT and PRUNE, none for the others */
function watch (gossip, out) {
  const tell = (dir, peer, control) => {
    for (const event of ['ihave', 'iwant', 'idontwant']) {
      const count = (control?.[event] ?? []).reduce((n, list) => n + list.messageIDs.length, 0)
      if (count > 0) out({ event, dir, peer, count })
    }
  }
  const { handleControlMessage, sendRpc, sendRpcInBatch } = gossip
  gossip.handleControlMessage = function (peer, control) { tell('in', peer, control); return handleControlMessage.call(this, peer, control) }
  gossip.sendRpc = function (peer, rpc) { // gossip and control that waited for an RPC are in it only afterwards
    const sent = sendRpc.call(this, peer, rpc)
    if (sent) tell('out', peer, rpc.control)
    return sent
  }
  gossip.sendRpcInBatch = function (peers, rpc) {
    sendRpcInBatch.call(this, peers, rpc)
    for (const peer of peers) tell('out', peer, rpc.control)
  }
  for (const event of ['graft', 'prune']) {
    gossip.addEventListener('gossipsub:' + event, ({ detail }) => out({ event, dir: detail.direction === 'inbound' ? 'in' : 'out', peer: detail.peerId, topic: detail.topic }))
  }
}

export async function mesh (node, { topic, connect, noPush, dial, out }) {
  const gossip = node.services.pubsub
  watch(gossip, out)
  if (noPush) { // with an empty mesh it would send to random peers of the topic instead
    gossip.selectPeersToPublish = () => ({ tosend: new Set(), tosendCount: { direct: 0, floodsub: 0, mesh: 0, fanout: 0 } })
    gossip.selectPeersToForward = () => new Set()
  }
  gossip.addEventListener('gossipsub:message', ({ detail: { propagationSource, msg } }) => {
    if (msg.topic === topic) out({ event: 'message', topic, from: msg.from?.toString() ?? null, received_from: propagationSource.toString(), size: msg.data.length, sha256: hex(sha256(msg.data)) })
  })
  gossip.subscribe(topic)
  out('LISTEN ' + node.getMultiaddrs()[0].toString())
  let last = ''
  const poll = setInterval(() => {
    const o = { event: 'peers', topic, count: gossip.getSubscribers(topic).length, mesh: gossip.getMeshPeers(topic).length }
    const now = JSON.stringify(o)
    if (now !== last) { last = now; out(now) }
  }, 50)
  for (const address of connect) await dial(node, address)
  for await (const text of createInterface({ input: process.stdin })) {
    const line = text.trim()
    if (line === 'quit') break
    const data = payload(line); const sum = hex(sha256(data))
    try {
      await gossip.publish(topic, data, { allowPublishToZeroTopicPeers: noPush })
      out({ event: 'published', size: data.length, sha256: sum })
    } catch (e) { out({ event: 'failed', sha256: sum, error: String(e.message ?? e) }) }
  }
  clearInterval(poll)
}
