// The beacon-node peer of the interop tests and benchmarks: eth2 request/response and gossip on js-libp2p.
// Sub-commands, flags, commands and events: README.md beside this file.
if (Promise.withResolvers == null) {       // libp2p 3.3 needs Node 22's Promise.withResolvers; this makes it run on Node 20
  Promise.withResolvers = function () {
    let resolve, reject
    const promise = new this((a, b) => { resolve = a; reject = b })
    return { promise, resolve, reject }
  }
}
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { generateKeyPair, privateKeyFromRaw } from '@libp2p/crypto/keys'
import { identify } from '@libp2p/identify'
import { mplex } from '@libp2p/mplex'
import { noise } from '@libp2p/noise'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { benchPing, benchRange } from './bench.mjs'
import { Chain } from './chain.mjs'
import { raw, request, serve, together } from './exchange.mjs'
import { eth2Gossip, publish, watchGossip } from './gossip.mjs'
import { find } from './methods.mjs'
import { Rules } from './misbehave.mjs'
import { sha256, unhex } from './wire.mjs'

const { values: F, positionals: [cmd, ADDR] } = parseArgs({
  allowPositionals: true,
  options: {
    port: { type: 'string', default: '0' }, transport: { type: 'string', default: 'tcp' }, muxer: { type: 'string', default: 'both' }, seed: { type: 'string', default: '' },
    digest: { type: 'string', default: '31681ad1' }, forks: { type: 'string', default: '' },
    'phase0-digest': { type: 'string', default: '' }, 'heartbeat-ms': { type: 'string', default: '0' }, meshsub: { type: 'string', default: '' },
    topic: { type: 'string', multiple: true, default: [] }, serve: { type: 'string', default: '' },
    blocks: { type: 'string', default: '0' }, size: { type: 'string' },
    block: { type: 'string', multiple: true, default: [] },
    misbehave: { type: 'string', multiple: true, default: [] },
    'timeout-ms': { type: 'string', default: '10000' }, quiet: { type: 'boolean', default: false },
    count: { type: 'string' }, concurrency: { type: 'string', default: '1' }, runs: { type: 'string', default: '1' }
  }
})
const num = (name) => Number(F[name])
const out = (line) => process.stdout.write((typeof line === 'string' ? line : JSON.stringify(line)) + '\n')
const tell = (line) => { if (!F.quiet) out(line) }           // a benchmark measures no pipe

const chain = new Chain(F.digest, F.forks)
const rules = new Rules()
// As it comes, js mplex ends a connection with more than five new streams in a second: a ping and a range are two.
const WIDE = { maxInboundStreams: 100000, maxOutboundStreams: 100000 }
const makeYamux = yamux(WIDE)
const makeMplex = mplex({ ...WIDE, disconnectThreshold: 1e9 })
const MUXERS = { yamux: [makeYamux], mplex: [makeMplex], both: [makeYamux, makeMplex] }

const TRANSPORTS = {
  tcp: async () => ({ transport: tcp(), address: `/ip4/127.0.0.1/tcp/${F.port}` }),
  quic: async () => ({ transport: (await import('@chainsafe/libp2p-quic')).quic(), address: `/ip4/127.0.0.1/udp/${F.port}/quic-v1` })
}

async function start ({ listen }) {
  if (!Object.hasOwn(TRANSPORTS, F.transport)) throw new Error(`--transport ${F.transport}: tcp|quic`)
  const { transport, address } = await TRANSPORTS[F.transport]()
  const muxers = MUXERS[F.muxer]
  if (!muxers) throw new Error(`--muxer ${F.muxer}: yamux|mplex|both`)
  const node = await createLibp2p({
    addresses: { listen: listen ? [address] : [] },
    transports: [transport], connectionEncrypters: [noise()], streamMuxers: muxers,
    connectionMonitor: { enabled: false },
    connectionManager: { maxConnections: 1000, inboundConnectionThreshold: 1e9, maxIncomingPendingConnections: 1000, reconnectRetries: 0 },
    services: { identify: identify(), ping: ping(), gossip: eth2Gossip({ phase0: F['phase0-digest'], heartbeat: num('heartbeat-ms'), newest: F.meshsub }) },
    privateKey: F.seed ? privateKeyFromRaw(sha256(F.seed)) : await generateKeyPair('secp256k1')     // as beacon nodes have
  })
  node.addEventListener('connection:open', ({ detail }) => {
    tell({ event: 'connected', peer: detail.remotePeer.toString(), dir: detail.direction === 'inbound' ? 'in' : 'out', muxer: detail.multiplexer })
    sayGoodbye(detail)
  })
  node.addEventListener('connection:close', ({ detail }) => tell({ event: 'disconnected', peer: detail.remotePeer.toString() }))
  node.addEventListener('peer:identify', ({ detail }) => tell({ event: 'identified', peer: detail.peerId.toString(), agent: detail.agentVersion, protocols: detail.protocols }))
  await serve(node, { chain, rules, only: F.serve.split(',').filter(Boolean), out: tell })
  watchGossip(node.services.gossip, tell)
  for (const topic of F.topic) node.services.gossip.subscribe(topic)
  return node
}

/** the misbehaviour goodbye_at_once */
async function sayGoodbye (connection) {
  const rule = rules.goodbye
  if (!rule) return
  const { error } = await request(connection, find('goodbye'), { chain, args: { reason: rule.reason ?? 129 }, timeout: 2000 })
  tell({ event: 'goodbye_sent', peer: connection.remotePeer.toString(), ...(error && { error }) })
  if (rule.close ?? true) await connection.close()
}

async function dial (node, address) {
  return node.dial(multiaddr(address), { signal: AbortSignal.timeout(15_000) })
}

/** the connection that a command means: with the peer it names, or the only one */
function connectionOf (node, { peer }) {
  const all = node.getConnections().filter((each) => peer === undefined || each.remotePeer.toString() === peer)
  if (all.length !== 1) throw new Error(`${all.length} connections${peer === undefined ? '' : ' with ' + peer}`)
  return all[0]
}

const summary = ({ values, ...result }, method) => {
  if (result.error) return { ...result, values }
  return method.many ? { ...result, values } : { ...result, value: values[0] ?? null }
}

// What a line of standard input may ask for; each gives what is added to the event that answers it.
const COMMANDS = {
  async dial (node, { address }) {
    const connection = await dial(node, address)
    return { peer: connection.remotePeer.toString(), muxer: connection.multiplexer }
  },
  async request (node, { method: name, count, ...command }) {
    const method = find(name)
    const options = { chain, args: command.args, misbehave: command.misbehave, timeout: command.timeout_ms ?? num('timeout-ms') }
    const connection = connectionOf(node, command)
    if (count !== undefined) {
      const results = await together(connection, method, { ...options, count })
      return { method: method.name, version: method.version, results: results.map((result) => summary(result, method)) }
    }
    return { method: method.name, version: method.version, ...summary(await request(connection, method, options), method) }
  },
  async raw (node, { protocol, hex, close, timeout_ms: timeout = num('timeout-ms'), ...command }) {
    return raw(connectionOf(node, command), { protocol, bytes: unhex(hex), close, timeout })
  },
  async misbehave (_, { rules: list }) { return { rules: rules.set(list) } },
  async set (_, { status, metadata }) {
    Object.assign(chain.status, status)
    Object.assign(chain.metadata, metadata)
    return { status: chain.status, metadata: chain.metadata }
  },
  async blocks (_, command) { return { blocks: chain.setBlocks(command) } },
  async subscribe (node, { topic }) { node.services.gossip.subscribe(topic) },
  async unsubscribe (node, { topic }) { node.services.gossip.unsubscribe(topic) },
  async publish (node, command) { return publish(node.services.gossip, command) },
  async mesh (node, { topic }) {
    const { gossip } = node.services
    return { subscribers: gossip.getSubscribers(topic).length, mesh: gossip.getMeshPeers(topic).length }
  },
  async peers (node) {
    return { peers: node.getConnections().map((each) => ({ peer: each.remotePeer.toString(), dir: each.direction === 'inbound' ? 'in' : 'out', muxer: each.multiplexer })) }
  },
  async hangup (node, command) { await connectionOf(node, command).close() },
  async bench_ping (node, command) { return benchPing(connectionOf(node, command), { chain, count: 1000, concurrency: 1, ...command }) },
  async bench_range (node, command) { return benchRange(connectionOf(node, command), { chain, count: 128, size: 102400, ...command }) }
}

/** answers a line: {"event": "done" or "error", "cmd", "id", ...} */
async function obey (node, line) {
  let command = {}
  try {
    command = JSON.parse(line)
    const run = Object.hasOwn(COMMANDS, command.cmd) ? COMMANDS[command.cmd] : undefined
    if (!run) throw new Error(`${command.cmd}: no such command`)
    const { cmd, id, ...rest } = command
    out({ event: 'done', cmd, id, ...await run(node, rest) })
  } catch (error) { out({ event: 'error', cmd: command.cmd, id: command.id, error: error.message }) }
}

const SUBCOMMANDS = {
  async listen () {
    const node = await start({ listen: true })
    for (const address of node.getMultiaddrs()) out('LISTEN ' + address)
    for await (const line of createInterface({ input: process.stdin })) if (line.trim()) obey(node, line)
    return node
  },
  async bench_ping () {
    const node = await start({ listen: false })
    out({ op: cmd, ...await benchPing(await dial(node, ADDR), { chain, count: Number(F.count ?? 1000), concurrency: num('concurrency') }) })
    return node
  },
  async bench_range () {
    const node = await start({ listen: false })
    const connection = await dial(node, ADDR)
    for (let run = 0; run < num('runs'); run++) {
      out({ op: cmd, ...await benchRange(connection, { chain, count: Number(F.count ?? 128), size: Number(F.size ?? 102400) }) })
    }
    return node
  }
}

if (!Object.hasOwn(SUBCOMMANDS, cmd ?? '') || (cmd !== 'listen' && !ADDR)) {
  console.error('peer.mjs listen [--flags] | bench_ping|bench_range ADDR [--flags]')
  process.exit(2)
}
try {
  rules.set(F.misbehave)
  chain.setBlocks({ count: num('blocks'), size: Number(F.size ?? 1000), files: F.block.map((path) => ({ path })) })
  const node = await SUBCOMMANDS[cmd]()
  await Promise.race([node.stop(), new Promise((resolve) => setTimeout(resolve, 2000))])
  process.exit(0)
} catch (error) {
  console.error(`${cmd} failed:`, error.stack)
  process.exit(1)
}
