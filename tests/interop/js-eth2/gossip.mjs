// gossipsub as beacon nodes use it: nothing signed, data in snappy blocks, ids of the phase 0 and altair specs.
import snappy from 'snappyjs'
import { gossipsub } from '@libp2p/gossipsub'
import { hex, MAX_PAYLOAD_SIZE, sha256, u64, unhex } from './wire.mjs'

const VALID = Buffer.of(1, 0, 0, 0)
const INVALID = Buffer.of(0, 0, 0, 0)
const raw = new WeakSet()         // data that a command wants sent as it is, snappy or not

/**
 * @param phase0 the fork digest whose topics use the older id, without the topic in it
 * @param newest the newest version of meshsub that is spoken, such as 1.1.0
 */
export function eth2Gossip ({ phase0, heartbeat, newest }) {
  const messageId = ({ topic, data }) => {
    const name = Buffer.from(topic)
    const parts = topic.split('/')[2] === phase0 ? [data] : [u64(name.length), name, data]
    return sha256(raw.has(data) ? INVALID : VALID, ...parts).subarray(0, 20)
  }
  const options = {
    globalSignaturePolicy: 'StrictNoSign', msgIdFn: messageId, msgIdToStrFn: hex, emitSelf: false, allowPublishToZeroTopicPeers: true,
    scoreParams: { IPColocationFactorWhitelist: new Set(['127.0.0.1']) },     // all of our peers live there: 20 would be shunned
    maxInboundStreams: 64, maxOutboundStreams: 64, maxInboundDataLength: 12234442, maxOutboundBufferSize: 1 << 28,
    dataTransform: {
      inboundTransform: (_, data) => snappy.uncompress(data.subarray(), MAX_PAYLOAD_SIZE),
      outboundTransform: (_, data) => raw.has(data) ? data : snappy.compress(data)
    }
  }
  if (heartbeat > 0) options.heartbeatInterval = heartbeat
  const make = gossipsub(options)
  return (components) => {
    const gossip = make(components)
    const at = newest ? gossip.protocols.indexOf('/meshsub/' + newest) : 0
    if (at < 0) throw new Error(`--meshsub ${newest}: there are ${gossip.protocols}`)
    gossip.protocols = gossip.protocols.slice(at)
    return gossip
  }
}

export function watchGossip (gossip, out) {
  gossip.addEventListener('gossipsub:message', ({ detail: { propagationSource, msgId, msg } }) => {
    out({ event: 'message', topic: msg.topic, received_from: propagationSource.toString(), size: msg.data.length, sha256: hex(sha256(msg.data)), id: msgId })
  })
  gossip.addEventListener('subscription-change', ({ detail: { peerId, subscriptions } }) => {
    out({ event: 'subscriptions', peer: peerId.toString(), topics: subscriptions.map(({ subscribe, topic }) => (subscribe ? '+' : '-') + topic) })
  })
  for (const event of ['graft', 'prune']) {
    gossip.addEventListener('gossipsub:' + event, ({ detail }) => out({ event, dir: detail.direction === 'inbound' ? 'in' : 'out', peer: detail.peerId, topic: detail.topic }))
  }
}

export async function publish (gossip, { topic, data, raw: asItIs = false }) {
  const bytes = Uint8Array.from(unhex(data))
  if (asItIs) raw.add(bytes)
  const { recipients } = await gossip.publish(topic, bytes)
  return { topic, size: bytes.length, sha256: hex(sha256(bytes)), recipients: recipients.length }
}
