// The @chainsafe/discv5 peer of the interop tests and benchmarks; sub-commands, flags and lines as in docs/interop.md,
// the same as those of tests/interop/go-discv5. DEBUG=discv5* in the environment logs every packet to standard error.
// package.json overrides @chainsafe/enr: 11.0.4 asks for 5.0.1, which not every registry has, and uses nothing of it
// that 5.0.0 lacks; older versions of discv5 itself lose the leading zeros of request ids.
import { randomBytes } from 'node:crypto'
import { isIPv4, isIPv6 } from 'node:net'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { Discv5, EntryStatus } from '@chainsafe/discv5'
import { ENR, SignableENR } from '@chainsafe/enr'
import { multiaddr } from '@multiformats/multiaddr'

const CHECK_MS = 1000             // how often it pings each node of its table: its default is five minutes
const ANSWER_MS = 5000            // it forgets requests that it could not send: their promise never ends

const { values: F, positionals: [cmd, RECORD] } = parseArgs({
  allowPositionals: true,
  options: {
    ip: { type: 'string', default: '127.0.0.1' },           // of our end: 127.0.0.1 or ::1, the same on both sides
    port: { type: 'string', default: '0' }, key: { type: 'string', default: '' },
    bootnodes: { type: 'string', default: '' }, fill: { type: 'string', default: '0' },
    eth2: { type: 'string', default: '' }, attnets: { type: 'string', default: '' },
    count: { type: 'string', default: '1' }, concurrency: { type: 'string', default: '1' },
    distances: { type: 'string', default: '0' }, protocol: { type: 'string', default: 'echo' },
    size: { type: 'string', default: '32' }, target: { type: 'string', default: '' }
  }
})
if (F.ip !== '127.0.0.1' && F.ip !== '::1') throw new Error(`--ip ${F.ip}: loopback only`)
const num = (name) => Number(F[name])
const hex = (bytes) => Buffer.from(bytes).toString('hex')
const unhex = (text) => Uint8Array.from(Buffer.from(text, 'hex'))   // the library takes no Buffer for bytes
const out = (line) => process.stdout.write(JSON.stringify(line) + '\n')
const about = (enr) => ({ id: enr.nodeId, enr: enr.encodeTxt(), seq: Number(enr.seq) })

async function start ({ port = 0, key = randomBytes(32), fields = {}, config = {} } = {}) {
  const privateKey = { type: 'secp256k1', raw: Uint8Array.from(key) }
  const enr = SignableENR.createFromPrivateKey(privateKey)
  const family = isIPv4(F.ip) ? 'ip4' : 'ip6'
  const node = Discv5.create({
    enr, privateKey, config, bindAddrs: { [family]: multiaddr(`/${family}/${F.ip}/udp/${port}`) }
  })
  node.on('talkReqReceived', (from, _enr, message) => {
    const known = Buffer.from(message.protocol).toString() === 'echo'
    node.sendTalkResp(from, message.id, known ? message.request : new Uint8Array(0))
  })
  await node.start()
  const bound = node.sessionService.transport[family].socket.address().port    // it does not tell
  enr.setLocationMultiaddr(multiaddr(`/${family}/${F.ip}/udp/${bound}`))
  for (const [name, value] of Object.entries(fields)) if (value) enr.set(name, unhex(value))
  enr.encode()                    // signs it now and not within a measurement
  return node
}

function table (node) {
  const entries = [...node.kbuckets.rawValues()]
  return entries.map((entry) => ({ ...about(entry.value), live: entry.status === EntryStatus.Connected }))
}

async function answered (promise) {
  let timer
  const late = new Promise((resolve, reject) => { timer = setTimeout(() => reject(new Error('no answer')), ANSWER_MS) })
  try { return await Promise.race([promise, late]) } finally { clearTimeout(timer) }
}

/** sends dest what the words ask for, or looks up an id without one */
async function ask (node, op, dest, ...words) {
  if (op === 'lookup' && words.length === 1) return (await node.findNode(words[0])).map(about)
  if (op === 'ping' && dest) {
    const { enrSeq, addr } = await answered(node.sendPing(dest))
    return { seq: Number(enrSeq), ip: ipText(addr.ip.octets), port: addr.port }
  }
  if (op === 'enr' && dest) return about((await answered(node.sendFindNode(dest, [0])))[0])
  if (op === 'findnode' && words.length === 1) {
    return (await answered(node.sendFindNode(dest, words[0].split(',').map(Number)))).map(about)
  }
  if (op === 'talkreq' && words.length === 2) {
    return hex(await answered(node.sendTalkReq(dest, unhex(words[1]), words[0])))
  }
  throw new Error(`${op}: not like this`)
}

/** does what a line of a listener's standard input asks for */
async function obey (node, [op, ...words]) {
  if (op === 'nodes') return table(node)
  if (op === 'self') return { ...about(node.enr), ip: F.ip, port: isIPv4(F.ip) ? node.enr.udp : node.enr.udp6 }
  if (op === 'lookup' || words.length === 0) return ask(node, op, null, ...words)
  return ask(node, op, ENR.decodeTxt(words[0]), ...words.slice(1))
}

function ipText (octets) {
  if (octets.length === 4) return octets.join('.')
  const text = hex(octets).match(/..../g).join(':')
  return isIPv6(text) ? new URL(`http://[${text}]`).hostname.slice(1, -1) : text        // URL shortens it
}

async function listen () {
  const key = F.key ? unhex(F.key) : undefined
  const node = await start({
    port: num('port'), key, fields: { eth2: F.eth2, attnets: F.attnets }, config: { pingInterval: CHECK_MS }
  })
  for (let i = 0; i < num('fill'); i++) await ask(await start(), 'ping', node.enr.toENR())
  process.stdout.write(`LISTEN ${node.enr.encodeTxt()}\n`)
  for (const record of F.bootnodes.split(',').filter(Boolean)) {
    obey(node, ['ping', record]).catch((error) => console.error('bootnode:', error.message))
  }
  for await (const line of createInterface({ input: process.stdin })) {
    const words = line.trim().split(/\s+/)
    const op = words[0]
    if (!op) continue
    await obey(node, words).then((answer) => out({ op, answer }), (error) => out({ op, error: error.message }))
  }
}

/** calls request --count times from --concurrency callers and prints one line: how long it took, and the last answer */
async function rate (op, request) {
  const micros = []
  let next = 0; let fails = 0; let answer = null
  const began = performance.now()
  await Promise.all(Array.from({ length: num('concurrency') }, async (_, caller) => {
    while (next < num('count')) {
      const i = next++
      const asked = performance.now()
      try {
        answer = await request(caller, i)
        micros.push((performance.now() - asked) * 1e3)
      } catch (error) {
        if (++fails === 1) console.error('first failure:', error.message)
      }
    }
  }))
  const secs = (performance.now() - began) / 1e3
  micros.sort((a, b) => a - b)
  const n = micros.length
  const line = { op, n, fails, secs, concurrency: num('concurrency'), per_sec: n / secs, answer }
  if (n) Object.assign(line, { median_us: micros[n >> 1], p99_us: micros[Math.floor(n * 0.99)] })
  out(line)
}

/** requests in sessions that stand: the handshake comes before the clock starts, and fills the table for lookups */
async function requests () {
  const callers = await Promise.all(Array.from({ length: num('concurrency') }, () => start()))
  const dest = ENR.decodeTxt(RECORD)
  for (const caller of callers) await ask(caller, 'ping', dest)
  const request = hex(randomBytes(num('size')))
  const words = {
    findnode: [F.distances], talkreq: [F.protocol, request], lookup: [F.target || hex(randomBytes(32))]
  }[cmd] ?? []
  await rate(cmd, async (caller) => {
    const answer = await ask(callers[caller], cmd, dest, ...words)
    if (cmd === 'talkreq' && F.protocol === 'echo' && answer !== request) throw new Error('the echo differs')
    return answer
  })
}

/** handshakes: every ping comes from a node that nobody has seen, made before the clock starts */
async function sessions () {
  const nodes = []
  for (let i = 0; i < num('count'); i++) nodes.push(await start())
  const dest = ENR.decodeTxt(RECORD)
  await rate('sessions', (_caller, i) => ask(nodes[i], 'ping', dest))
}

const commands = {
  listen, sessions, ping: requests, enr: requests, findnode: requests, talkreq: requests, lookup: requests
}
if (!commands[cmd] || (cmd !== 'listen' && !RECORD)) {
  console.error('peer.mjs listen [--flags] | ping|enr|findnode|talkreq|lookup|sessions ENR [--flags]')
  process.exit(2)
}
try {
  await commands[cmd]()
  process.exit(0)
} catch (error) {
  console.error(error)
  process.exit(1)
}
