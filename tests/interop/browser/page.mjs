// A js-libp2p node in a page, which does what the test tells it to: see tests/interop/browser_support.py.
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { mplex } from '@libp2p/mplex'
import { noise } from '@libp2p/noise'
import { ping } from '@libp2p/ping'
import { webSockets } from '@libp2p/websockets'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const ECHO = '/echo/1.0.0'
const BLOCK = 1 << 16 // bytes given to a stream at once; also the most that getRandomValues makes
const NEVER = new Promise(() => {})

let node, connection
const came = [] // messages of gossip, in their order

function join (parts) {
  const all = new Uint8Array(parts.reduce((n, part) => n + part.byteLength, 0))
  let at = 0
  for (const part of parts) { all.set(part, at); at += part.byteLength }
  return all
}

function random (size) { // incompressible
  const all = new Uint8Array(size)
  for (let at = 0; at < size; at += BLOCK) crypto.getRandomValues(all.subarray(at, at + BLOCK))
  return all
}

async function facts (data) {
  const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', data))
  return { size: data.length, sha256: Array.from(hash, (byte) => byte.toString(16).padStart(2, '0')).join('') }
}

async function send (stream, data) {
  for (let at = 0; at < data.length; at += BLOCK) {
    if (!stream.send(data.subarray(at, at + BLOCK))) await stream.onDrain()
  }
}

async function receive (stream) {
  const parts = []
  for await (const part of stream) parts.push(part.subarray())
  return join(parts)
}

async function echo (stream) {
  for await (const part of stream) await send(stream, part.subarray())
  await stream.close()
}

/** Ids are said, not left to the default: implementations differ in theirs. */
function messageId (message) {
  const number = new Uint8Array(8)
  new DataView(number.buffer).setBigUint64(0, message.sequenceNumber)
  return join([message.from.toMultihash().bytes, number])
}

function show (said) {
  const shown = {
    'peer id': said.peerId,
    agent: said.agentVersion,
    'protocol version': said.protocolVersion,
    protocols: said.protocols.join(' '),
    addresses: said.listenAddrs.join(' '),
    observed: said.observedAddr
  }
  const list = document.getElementById('peer')
  for (const [what, value] of Object.entries(shown)) {
    list.append(Object.assign(document.createElement('dt'), { textContent: what }))
    list.append(Object.assign(document.createElement('dd'), { textContent: value }))
  }
}

const next = (target, event) => new Promise((resolve) => target.addEventListener(event, resolve, { once: true }))

const operations = {
  /** Make a node and dial; the node's own peer id. */
  async dial ({ address, muxer, topic }) {
    node = await createLibp2p({
      transports: [webSockets()],
      connectionEncrypters: [noise()],
      streamMuxers: [{ yamux, mplex }[muxer]()],
      connectionGater: { denyDialMultiaddr: () => false }, // a page dials neither private nor insecure addresses by itself
      services: {
        identify: identify(),
        ping: ping({ maxOutboundStreams: 10 }), // of the default, one, each ping holds a little longer than it takes
        pubsub: gossipsub({ msgIdFn: messageId })
      }
    })
    await node.handle(ECHO, echo)
    node.services.pubsub.addEventListener('gossipsub:message', ({ detail: { msg } }) => came.push(msg))
    node.services.pubsub.subscribe(topic)
    const identified = next(node, 'peer:identify')
    connection = await node.dial(multiaddr(address))
    show((await identified).detail)
    return node.peerId.toString()
  },

  /** What a person sees in the page. */
  async shown () {
    const text = (tag) => Array.from(document.querySelectorAll(`#peer ${tag}`), (element) => element.textContent)
    const values = text('dd')
    return Object.fromEntries(text('dt').map((what, at) => [what, values[at]]))
  },

  /** Milliseconds of so many pings, one after the other. */
  async ping ({ count }) {
    const times = []
    while (times.length < count) {
      const begin = performance.now() // ping() itself returns whole milliseconds
      await node.services.ping.ping(connection.remotePeer)
      times.push(performance.now() - begin)
    }
    return times
  },

  /** Send and receive at once, each to the end; with `stop`, send so much and no more, and never end. */
  async exchange ({ protocol, size, stop }) {
    const stream = await connection.newStream(protocol)
    const data = random(size)
    const received = receive(stream)
    await send(stream, data.subarray(0, stop))
    if (stop != null) return NEVER
    await stream.close()
    return { sent: await facts(data), received: await facts(await received) }
  },

  /** Publish messages of these sizes as soon as somebody listens. */
  async publish ({ topic, sizes }) {
    const gossip = node.services.pubsub
    while (gossip.getSubscribers(topic).length === 0) await next(gossip, 'subscription-change')
    const all = sizes.map(random)
    for (const data of all) await gossip.publish(topic, data)
    return Promise.all(all.map(facts))
  },

  /** All messages that came, as soon as there are so many. */
  async messages ({ count }) {
    while (came.length < count) await next(node.services.pubsub, 'gossipsub:message')
    return Promise.all(came.map(async (message) => ({ ...await facts(message.data), from: message.from.toString() })))
  },

  /** Go to another page, as a person does who is done with this one. */
  async leave () {
    location.replace('about:blank')
    return NEVER
  }
}

async function run ({ number, operation, ...given }) {
  let outcome
  try {
    outcome = { result: await operations[operation](given) }
  } catch (error) {
    outcome = { error: error.stack ?? String(error) }
  }
  await fetch('/done', { method: 'POST', body: JSON.stringify({ number, ...outcome }) })
}

for (;;) run(await (await fetch('/next')).json())
