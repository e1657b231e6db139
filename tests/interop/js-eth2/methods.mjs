// The request/response methods as data: what their requests and chunks look like, and how a peer answers them.
import {
  decode, encode, GOODBYE, hex, MAX_PAYLOAD_SIZE, MAX_REQUEST_BLOCKS, METADATA, MIN_BLOCK, number, PING, RANGE, sha256, sizeOf, slotOf, STATUS, unhex, Violation
} from './wire.mjs'

/** what one request to a method is: {name, version, protocol, request: bounds or null, chunk: bounds, context, most, ...} */
function method (name, version, rest) {
  const protocol = `/eth2/beacon_chain/req/${name}/${version}/ssz_snappy`
  return { name, version, protocol, context: false, most: () => 1, ...rest }
}

/** a method with one container each way */
function plain (name, version, request, chunk, { ours, reply }) {
  return method(name, version, {
    request: request && { min: sizeOf(request), max: sizeOf(request) },
    chunk: { min: sizeOf(chunk), max: sizeOf(chunk) },
    encode: (args, chain) => request && encode(request, { ...ours?.(chain), ...args }),
    decode: (ssz) => request ? decode(request, ssz) : {},
    reply: (_, chain) => [{ ssz: encode(chunk, reply(chain)) }],
    read: (ssz) => decode(chunk, ssz)
  })
}

const blocks = {
  many: true,
  context: true,
  chunk: { min: MIN_BLOCK, max: MAX_PAYLOAD_SIZE },
  read: (ssz, context, chain) => {
    const slot = slotOf(ssz)
    if (context !== undefined && chain.context(slot) !== context) throw new Violation(`the context ${context} of a block in slot ${slot}, which has ${chain.context(slot)}`)
    return { slot: number(slot), size: ssz.length, context, root: hex(sha256(ssz)) }
  }
}
const chunks = (list, chain) => list.map(({ ssz, slot }) => ({ ssz, context: unhex(chain.context(slot)) }))
const range = {
  ...blocks,
  request: { min: sizeOf(RANGE), max: sizeOf(RANGE) },
  encode: (args) => encode(RANGE, { start_slot: 0, count: 1, step: 1, ...args }),
  decode: (ssz) => {
    const value = decode(RANGE, ssz)
    if (value.count === 0) throw new Violation('a range of no blocks')
    return value
  },
  most: ({ count = 1 }) => Math.min(Number(count), MAX_REQUEST_BLOCKS),
  reply: (value, chain) => {
    const count = BigInt(Math.min(Number(value.count), MAX_REQUEST_BLOCKS))
    return chunks(chain.byRange(BigInt(value.start_slot), count), chain)
  }
}
/** as in phase 0, whose blocks need no context */
const bare = { context: false, reply: (value, chain) => range.reply(value, chain).map(({ ssz }) => ({ ssz })) }

const status = { ours: (chain) => chain.status, reply: (chain) => chain.status }
const metadata = { reply: (chain) => chain.metadata }
export const METHODS = [
  plain('status', 1, STATUS[1], STATUS[1], status),
  plain('status', 2, STATUS[2], STATUS[2], status),
  plain('goodbye', 1, GOODBYE, GOODBYE, { ours: () => ({ reason: 1 }), reply: () => ({ reason: 0 }) }),
  plain('ping', 1, PING, PING, { ours: (chain) => chain.metadata, reply: (chain) => chain.metadata }),
  plain('metadata', 1, null, METADATA[1], metadata),
  plain('metadata', 2, null, METADATA[2], metadata),
  plain('metadata', 3, null, METADATA[3], metadata),
  method('beacon_blocks_by_range', 1, { ...range, ...bare }),
  method('beacon_blocks_by_range', 2, range),
  method('beacon_blocks_by_root', 2, {
    ...blocks,
    request: { min: 0, max: 32 * MAX_REQUEST_BLOCKS },
    encode: ({ roots = [] }) => Buffer.concat(roots.map((root) => unhex(root, 32))),
    decode: (ssz) => {
      if (ssz.length % 32 !== 0) throw new Violation(`${ssz.length} bytes of roots`)
      return { roots: Array.from({ length: ssz.length / 32 }, (_, i) => hex(ssz.subarray(32 * i, 32 * i + 32))) }
    },
    most: ({ roots = [] }) => roots.length,
    reply: ({ roots }, chain) => chunks(chain.byRoot(roots), chain)
  })
]

/** by the name "status/2"; without a version the newest */
export function find (name) {
  const found = METHODS.findLast((each) => name === each.name || name === `${each.name}/${each.version}`)
  if (!found) throw new Error(`${name}: no such method`)
  return found
}
