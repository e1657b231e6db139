// The js-libp2p peer of the interop tests and benchmarks; sub-commands and flags as in tests/interop/peers.py.
// usage: node peer.mjs <listen|identify|perf|ping|handshakes|streams|pubsub-listen|pubsub|mesh|idle> [ADDR] [--flags]
if (Promise.withResolvers == null) {       // libp2p 3.3 needs Node 22's Promise.withResolvers; this makes it run on Node 20
  Promise.withResolvers = function () {
    let resolve, reject
    const promise = new this((a, b) => { resolve = a; reject = b })
    return { promise, resolve, reject }
  }
}
if (globalThis.WebSocket == null) { try { globalThis.WebSocket = (await import('ws')).WebSocket } catch {} }   // @libp2p/websockets 10 wants a global WebSocket (Node 22)
import { parseArgs } from 'node:util'
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { gossipOptions, mesh, random } from './mesh.mjs'

const { values: F, positionals: P } = parseArgs({
  allowPositionals: true,
  options: {
    transport: { type: 'string', default: 'tcp' }, security: { type: 'string', default: 'noise' },
    muxer: { type: 'string', default: 'yamux' }, port: { type: 'string', default: '0' }, 'web-cert': { type: 'string', default: '' },
    upload: { type: 'string', default: '0' }, download: { type: 'string', default: '0' }, runs: { type: 'string', default: '1' },
    count: { type: 'string', default: '100' }, concurrency: { type: 'string', default: '1' },
    topic: { type: 'string', default: 'test' }, size: { type: 'string', default: '200' },
    'ping-mode': { type: 'string', default: 'stream' },       // stream: one long stream; service: node.services.ping (new stream each)
    'no-identify': { type: 'boolean', default: false }, seed: { type: 'string', default: '' },
    key: { type: 'string', default: 'ed25519' }, hold: { type: 'string', default: '10' },
    sign: { type: 'string', default: 'strict' },              // gossipsub: strict (StrictSign) | none | eth2 (StrictNoSign, altair id, snappy)
    'max-size': { type: 'string', default: '10485760' }, 'heartbeat-ms': { type: 'string', default: '0' },
    'no-push': { type: 'boolean', default: false }, connect: { type: 'string', multiple: true, default: [] },
    window: { type: 'string', default: '64' }, block: { type: 'string', default: '65536' },
    'same-id': { type: 'boolean', default: false },
    'defaults': { type: 'boolean', default: false }, life: { type: 'string', default: '600' },
    'no-fully': { type: 'boolean', default: false }
  }
})
const [cmd, ADDR] = P
const num = (k) => Number(F[k])
const choice = (value, ...all) => {
  if (value !== 'both' && !all.includes(value)) throw new Error(`${value}: ${all.join('|')}|both`)
  return value === 'both' ? all : [value]
}
const sleep = (ms) => new Promise((r) => setTimeout(r, ms))
const now = () => performance.now() / 1000
const out = (o) => process.stdout.write((typeof o === 'string' ? o : JSON.stringify(o)) + '\n')

const [{ createLibp2p }, { multiaddr }, keys] = await Promise.all([import('libp2p'), import('@multiformats/multiaddr'), import('@libp2p/crypto/keys')])

async function makeNode ({ listen = false, pubsub = false, autoIdentify = true, key } = {}) {
  const { identify } = await import('@libp2p/identify')
  const { ping } = await import('@libp2p/ping')
  const cfg = {
    addresses: { listen: [] }, transports: [], connectionEncrypters: [], streamMuxers: [],
    connectionMonitor: { enabled: false },
    services: {
      identify: identify({ runOnConnectionOpen: autoIdentify, runOnSelfUpdate: false, maxInboundStreams: 4096, maxOutboundStreams: 4096, runOnLimitedConnection: true }),
      ping: ping({ timeout: 600_000, maxInboundStreams: 256, maxOutboundStreams: 256 })
    }
  }
  if (!F.defaults) {
    cfg.connectionManager = { maxConnections: 100000, inboundConnectionThreshold: 1e9, maxIncomingPendingConnections: 100000, maxParallelDials: 1000, maxDialQueueLength: 1e6, reconnectRetries: 0 }
  }
  cfg.privateKey = key ?? await newKey()
  const port = F.port
  if (F.transport === 'tcp') {
    cfg.transports.push((await import('@libp2p/tcp')).tcp({ backlog: 1024 }))
    if (listen) cfg.addresses.listen.push(`/ip4/127.0.0.1/tcp/${port}`)
  } else if (F.transport === 'ws') {
    cfg.transports.push((await import('@libp2p/websockets')).webSockets())
    if (listen) cfg.addresses.listen.push(`/ip4/127.0.0.1/tcp/${port}/ws`)
  } else if (F.transport === 'wss') {
    process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0'          // judges no certificate: who the peer is, is proven inside
    const pem = await readFile(F['web-cert'])
    cfg.transports.push((await import('@libp2p/websockets')).webSockets({ https: { cert: pem, key: pem } }))
    if (listen) cfg.addresses.listen.push(`/ip4/127.0.0.1/tcp/${port}/tls/ws`)
  } else if (F.transport === 'quic') {
    cfg.transports.push((await import('@chainsafe/libp2p-quic')).quic())
    if (listen) cfg.addresses.listen.push(`/ip4/127.0.0.1/udp/${port}/quic-v1`)
  } else throw new Error('transport ' + F.transport)
  for (const s of choice(F.security, 'noise', 'tls')) {
    if (s === 'noise') cfg.connectionEncrypters.push((await import('@libp2p/noise')).noise())
    if (s === 'tls') cfg.connectionEncrypters.push((await import('@libp2p/tls')).tls())
  }
  for (const m of choice(F.muxer, 'yamux', 'mplex')) {
    if (m === 'yamux') cfg.streamMuxers.push((await import('@libp2p/yamux')).yamux(F.defaults ? {} : { maxInboundStreams: 100000, maxOutboundStreams: 100000 }))
    if (m === 'mplex') cfg.streamMuxers.push((await import('@libp2p/mplex')).mplex(F.defaults ? {} : { maxInboundStreams: 100000, maxOutboundStreams: 100000, disconnectThreshold: 1e9 }))
  }
  if (pubsub) {
    const gs = await import('@libp2p/gossipsub')
    cfg.services.pubsub = gs.gossipsub(gossipOptions({ sign: F.sign, maxSize: num('max-size'), heartbeat: num('heartbeat-ms'), noPush: F['no-push'] }))
  }
  return createLibp2p(cfg)
}

const KEYS = { ed25519: ['Ed25519'], secp256k1: ['secp256k1'], ecdsa: ['ECDSA', 'P-256'], rsa: ['RSA', 2048] }
async function newKey () {
  if (!KEYS[F.key]) throw new Error(`--key ${F.key}: ${Object.keys(KEYS).join('|')}`)
  return keys.generateKeyPair(...KEYS[F.key])
}

async function seedKey () {
  if (!F.seed) return undefined
  return keys.generateKeyPairFromSeed('Ed25519', createHash('sha256').update(F.seed).digest())
}

async function send (s, buf) { if (!s.send(buf)) await s.onDrain() }
/** write the chunks of an (async) iterable and close the writing side */
async function writeAndClose (s, it) { for await (const b of it) await send(s, b); await s.close() }
async function * blocks (n) {
  const B = num('block'); const z = new Uint8Array(B)
  for (let left = n; left > 0; left -= B) yield left >= B ? z : z.subarray(0, left)
}
const finish = async (s) => { try { await s.close() } catch {} }
const opened = (conn, proto) => conn.newStream(proto, { maxOutboundStreams: 1e6, negotiateFully: !F['no-fully'], signal: AbortSignal.timeout(30_000) })
const H = (fn) => (s) => { fn(s).catch((e) => { if (process.env.PEER_DEBUG) console.error('handler', e); try { s.abort(e) } catch {} }) }

async function installHandlers (node) {
  const opt = { maxInboundStreams: 1e6, maxOutboundStreams: 1e6, runOnLimitedConnection: true }
  await node.handle('/echo/1.0.0', H(async (s) => {
    for await (const b of s) await send(s, b)
    await s.close()
  }), opt)
  await node.handle('/perf/1.0.0', H(async (s) => {
    let head = new Uint8Array(0); let want = null; let got = 0
    for await (const b of s) {
      if (want == null) {
        const u = b.subarray(); const j = new Uint8Array(head.length + u.length); j.set(head); j.set(u, head.length); head = j
        if (head.length >= 8) { want = Number(new DataView(head.buffer).getBigUint64(0)); got = head.length - 8; head = null }
      } else got += b.byteLength
    }
    await writeAndClose(s, blocks(want ?? 0)); await finish(s)
  }), opt)
}

async function connect (node, addr = ADDR) {
  const c = await node.dial(multiaddr(addr), { signal: AbortSignal.timeout(20_000), force: true })
  return c
}

const pct = (a, p) => a[Math.min(a.length - 1, Math.floor(a.length * p))]

const cmds = {
  async listen () {
    const node = await makeNode({ listen: true, pubsub: process.argv.includes('--topic'), key: await seedKey() })
    await installHandlers(node)
    if (process.argv.includes('--topic')) { node.services.pubsub.subscribe(F.topic) }
    if (process.env.PEER_DEBUG) {
      for (const ev of ['connection:open', 'connection:close', 'peer:identify']) node.addEventListener(ev, (e) => console.error(new Date().toISOString(), ev, e.detail?.remoteAddr?.toString?.() ?? '', JSON.stringify({ enc: e.detail?.encryption, mux: e.detail?.multiplexer, agent: e.detail?.agentVersion, protocols: e.detail?.protocols })))
    }
    for (const a of node.getMultiaddrs()) out('LISTEN ' + a.toString())
    await untilStopped()
    await node.stop()
  },
  async identify () {
    const node = await makeNode({ autoIdentify: false })
    const t0 = now(); const c = await connect(node)
    const r = await node.services.identify.identify(c)
    out({ peer_id: c.remotePeer.toString(), agent: r.agentVersion, protocol_version: r.protocolVersion, protocols: r.protocols, addrs: r.listenAddrs.map(String), observed: r.observedAddr?.toString(), signed_record: !!r.signedPeerRecord, security: c.encryption, muxer: c.multiplexer, secs: now() - t0 })
    await node.stop()
  },
  async perf () {
    const node = await makeNode(); const c = await connect(node)
    const U = num('upload'); const D = num('download')
    for (let k = 0; k < num('runs'); k++) {
      const t0 = now()
      const s = await opened(c, '/perf/1.0.0')
      const h = new Uint8Array(8); new DataView(h.buffer).setBigUint64(0, BigInt(D))
      let got = 0; let tFirst = null
      const rd = (async () => { for await (const b of s) { tFirst ??= now(); got += b.byteLength } })()
      await writeAndClose(s, (async function * () { yield h; yield * blocks(U) })())
      const tw = now()
      await rd
      const t2 = now()
      if (got !== D) throw new Error(`short download ${got} of ${D}`)
      // upload ends when the server has read to EOF: the first download byte (or EOF) tells
      const tUp = tFirst ?? t2
      const us = tUp - t0; const ds = t2 - tUp
      out({ upload_bytes: U, download_bytes: D, secs: t2 - t0, upload_secs: us, download_secs: ds, write_secs: tw - t0, up_MBps: U / us / 1e6, down_MBps: D > 0 ? D / ds / 1e6 : 0 })
      await finish(s)
    }
    await node.stop()
  },
  async ping () {
    const node = await makeNode(); const c = await connect(node); const n = num('count'); const ts = []
    if (F['ping-mode'] === 'service') {
      for (let i = 0; i < n; i++) { const t = performance.now(); await node.services.ping.ping(c.remotePeer); ts.push((performance.now() - t) * 1000) }
    } else {
      const s = await opened(c, '/ipfs/ping/1.0.0'); const data = crypto.getRandomValues(new Uint8Array(32))
      let got = 0; let wake
      s.addEventListener('message', (e) => { got += e.data.byteLength; if (got >= 32) { got -= 32; wake() } })
      s.addEventListener('close', (e) => { if (ts.length < n && e.error) { console.error('ping stream closed', e.error?.message); process.exit(1) } })
      for (let i = 0; i < n; i++) { const p = new Promise((r) => { wake = r }); const t = performance.now(); s.send(data); await p; ts.push((performance.now() - t) * 1000) }
    }
    ts.sort((a, b) => a - b)
    out({ n, median_us: pct(ts, 0.5), p99_us: pct(ts, 0.99), mode: F['ping-mode'] })
    await node.stop()
  },
  async handshakes () {
    // one dialing node (own identity) per worker: js-libp2p's dial queue joins concurrent dials to the same peer, even with force: true
    const n = num('count'); let i = 0
    const nodes = await Promise.all(Array.from({ length: num('concurrency') }, () => makeNode({ autoIdentify: false })))
    const one = async (nd) => { const c = await connect(nd); if (!F['no-identify']) await nd.services.identify.identify(c); await c.close() }
    await Promise.all(nodes.map(one))
    const t0 = now()
    await Promise.all(nodes.map(async (nd) => { while (i < n) { i++; await one(nd) } }))
    const secs = now() - t0
    out({ n, secs, per_sec: n / secs, concurrency: num('concurrency'), identify: !F['no-identify'] })
    for (const nd of nodes) await nd.stop()
  },
  async streams () {
    const node = await makeNode(); const c = await connect(node); const n = num('count'); let i = 0
    const data = crypto.getRandomValues(new Uint8Array(32))
    const one = async () => {
      const s = await opened(c, '/echo/1.0.0'); let got = 0
      const rd = (async () => { for await (const b of s) got += b.byteLength })()
      await writeAndClose(s, [data]); await rd
      if (got !== 32) throw new Error('short echo ' + got)
      await finish(s)
    }
    for (let k = 0; k < 20; k++) await one()
    const t0 = now()
    await Promise.all(Array.from({ length: num('concurrency') }, async () => { while (i < n) { i++; await one() } }))
    const secs = now() - t0
    out({ n, secs, per_sec: n / secs, concurrency: num('concurrency') })
    await node.stop()
  },
  async 'pubsub-listen' () {
    const node = await makeNode({ listen: true, pubsub: true, key: await seedKey() }); await installHandlers(node)
    const want = process.argv.includes('--count') ? num('count') : Infinity
    let n = 0; let bytes = 0; let t0 = null; let last = null
    const report = () => { if (n) out({ n, bytes, secs: last - t0, per_sec: n / (last - t0), MBps: bytes / (last - t0) / 1e6 }); n = 0; bytes = 0; t0 = null }
    node.services.pubsub.addEventListener('gossipsub:message', (e) => {
      const m = e.detail.msg; if (m.topic !== F.topic) return
      last = now(); t0 ??= last; n++; bytes += m.data.length; if (n === want) report()
    })
    node.services.pubsub.subscribe(F.topic)
    for (const a of node.getMultiaddrs()) out('LISTEN ' + a.toString())
    const idle = setInterval(() => { if (n && now() - last > 3) report() }, 500)
    await untilStopped(); clearInterval(idle); report(); await node.stop()
  },
  async pubsub () {
    const node = await makeNode({ pubsub: true }); const n = num('count'); const size = num('size'); const W = num('window')
    node.services.pubsub.subscribe(F.topic)
    const c = await connect(node)
    const t00 = now()
    while (node.services.pubsub.getSubscribers(F.topic).length === 0) { if (now() - t00 > 20) throw new Error('peer never subscribed'); await sleep(20) }
    while ((node.services.pubsub.getMeshPeers?.(F.topic) ?? []).length === 0 && now() - t00 < 5) await sleep(20)
    const tSub = now() - t00
    const gs = c.streams.find((s) => /meshsub|floodsub/.test(s.protocol ?? ''))
    const body = random(size, process.pid)   // incompressible, or snappy makes the benchmark about nothing
    const t0 = now(); let errors = 0
    for (let i = 0; i < n; i++) {
      const d = body.slice(); new DataView(d.buffer).setUint32(0, i)
      try { const r = await node.services.pubsub.publish(F.topic, d); if (r.recipients.length === 0) errors++ } catch (e) { errors++; if (errors < 3) console.error(e.message) }
      if (i % W === W - 1) await new Promise(setImmediate)
    }
    const secs = now() - t0
    out({ n, size, errors, publish_secs: secs, publish_per_sec: n / secs, wait_subscribed_secs: tSub, stream: gs?.protocol })
    await sleep(num('hold') * 1000)
    await node.stop()
  },
  async mesh () {
    const node = await makeNode({ listen: true, pubsub: true, key: await seedKey() }); await installHandlers(node)
    await mesh(node, { topic: F.topic, connect: F.connect, noPush: F['no-push'], dial: connect, out })
    await node.stop()
  },
  // N idle connections from N different identities (or one with --same-id), held for --hold seconds
  async idle () {
    const n = num('count'); const nodes = []; const t0 = now()
    if (F['same-id']) { const nd = await makeNode(); nodes.push(nd); for (let i = 0; i < n; i++) await connect(nd) } else {
      for (let i = 0; i < n; i++) { const nd = await makeNode(); nodes.push(nd); await connect(nd) }
    }
    out({ connected: n, secs: now() - t0 })
    await sleep(num('hold') * 1000)
    process.exit(0)
  }
}

function untilStopped () {
  return new Promise((resolve) => {
    process.stdin.resume(); process.stdin.on('end', resolve); process.stdin.on('close', resolve)
    process.on('SIGTERM', resolve); process.on('SIGINT', resolve); setTimeout(resolve, num('life') * 1000)
    process.on('SIGUSR2', () => { global.gc?.(); const m = process.memoryUsage(); out('MEM ' + JSON.stringify(m)) })
  })
}
process.on('unhandledRejection', (e) => { if (process.env.PEER_DEBUG) console.error('unhandled', e) })
if (!cmds[cmd]) { console.error('commands: ' + Object.keys(cmds).join(' ')); process.exit(2) }
if (cmd !== 'listen' && cmd !== 'pubsub-listen') setTimeout(() => { console.error('timeout 590 s'); process.exit(3) }, 590_000).unref()
try { await cmds[cmd]() } catch (e) { console.error(cmd + ' failed: ' + (e.stack ?? e)); process.exit(1) }
process.exit(0)
