// What goes over an eth2 request stream: lengths, snappy frames, chunks; and the few fixed SSZ containers in them.
import { createHash } from 'node:crypto'
import snappy from 'snappyjs'

export const MAX_PAYLOAD_SIZE = 10485760
export const MAX_REQUEST_BLOCKS = 1024
const FRAME_DATA = 65536
const STREAM_IDENTIFIER = Buffer.from([0xff, 6, 0, 0, 0x73, 0x4e, 0x61, 0x50, 0x70, 0x59])
const maxCompressed = (n) => 32 + n + Math.floor(n / 6)

export const hex = (bytes) => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex')
export const sha256 = (...parts) => { const hash = createHash('sha256'); for (const part of parts) hash.update(part); return hash.digest() }
export const u64 = (value) => { const bytes = Buffer.alloc(8); bytes.writeBigUInt64LE(BigInt(value)); return bytes }

/** bytes of a command or flag: an even number of hex digits, so many bytes where a size is given */
export function unhex (text, size) {
  if (!/^([0-9a-fA-F]{2})*$/.test(text)) throw new Error(`${String(text).slice(0, 80)}: not hex`)
  if (size !== undefined && text.length !== 2 * size) throw new Error(`${text.slice(0, 80)}: ${size} bytes are needed`)
  return Buffer.from(text, 'hex')
}

/** SHA-256(be64(seed) || be64(k)) for k = 0, 1, ..., cut to n bytes: incompressible, or snappy would be measured */
export function random (n, seed) {
  const bytes = Buffer.alloc(Math.ceil(n / 32) * 32)
  const input = Buffer.alloc(16)
  input.writeBigUInt64BE(BigInt(seed))
  for (let k = 0; k * 32 < n; k++) {
    input.writeBigUInt64BE(BigInt(k), 8)
    sha256(input).copy(bytes, k * 32)
  }
  return bytes.subarray(0, n)
}

/** what the peer sent breaks the rules: the other errors (reset, deadline) are nobody's fault */
export class Violation extends Error {}

// ---- lengths and snappy frames

const CRC = Array.from({ length: 8 }, () => new Int32Array(256))
for (let i = 0; i < 256; i++) {
  let c = i
  for (let k = 0; k < 8; k++) c = c & 1 ? (c >>> 1) ^ 0x82f63b78 : c >>> 1
  CRC[0][i] = c
}
for (let k = 1; k < 8; k++) for (let i = 0; i < 256; i++) CRC[k][i] = (CRC[k - 1][i] >>> 8) ^ CRC[0][CRC[k - 1][i] & 255]

/** the masked CRC-32C of the framing format; eight bytes at a time, or it would be most of the work */
export function maskedCrc (data) {
  const [t0, t1, t2, t3, t4, t5, t6, t7] = CRC
  let c = -1
  let i = 0
  for (const whole = data.length - 7; i < whole; i += 8) {
    c ^= data[i] | data[i + 1] << 8 | data[i + 2] << 16 | data[i + 3] << 24
    c = t7[c & 255] ^ t6[c >>> 8 & 255] ^ t5[c >>> 16 & 255] ^ t4[c >>> 24] ^
      t3[data[i + 4]] ^ t2[data[i + 5]] ^ t1[data[i + 6]] ^ t0[data[i + 7]]
  }
  for (; i < data.length; i++) c = t0[(c ^ data[i]) & 255] ^ (c >>> 8)
  c = ~c
  return (((c >>> 15) | (c << 17)) + 0xa282ead8) >>> 0
}

export function varint (value) {
  const bytes = []
  let n = BigInt(value)
  for (; n > 127n; n >>= 7n) bytes.push(Number(n & 127n) | 128)
  bytes.push(Number(n))
  return Buffer.from(bytes)
}

/** the snappy frames of data; with badCrc the first checksum is wrong */
export function frames (data, { badCrc = false } = {}) {
  const parts = [STREAM_IDENTIFIER]
  for (let at = 0; at < data.length; at += FRAME_DATA) {
    const piece = data.subarray(at, at + FRAME_DATA)
    const small = snappy.compress(piece)
    const body = small.length < piece.length ? small : piece
    const head = Buffer.alloc(8)
    head[0] = body === small ? 0 : 1
    head.writeUIntLE(body.length + 4, 1, 3)
    head.writeUInt32LE((maskedCrc(piece) ^ (badCrc && at === 0 ? 1 : 0)) >>> 0, 4)
    parts.push(head, body)
  }
  return Buffer.concat(parts)
}

/** a request, or what follows result and context in a chunk; `length` is what it says of its size */
export function payload (ssz, { length = ssz.length, body, badCrc } = {}) {
  return Buffer.concat([varint(length), body ?? frames(ssz, { badCrc })])
}

/**
 * Bytes of a stream, asked for piece by piece; made before anything is awaited on a new stream. The library's own
 * iterator of a stream never ends when the other side ended before the iteration began.
 */
export class Reader {
  #parts = []; #held = 0; #ended = false; #error; #wake = () => {}
  constructor (stream) {
    const end = () => {
      if (stream.status === 'aborted' || stream.status === 'reset') this.fail(new Error(`the stream was ${stream.status}`))
      this.#ended = true
      this.#wake()
    }
    stream.addEventListener('message', ({ data }) => {
      const bytes = data.subarray()
      this.#parts.push(bytes)
      this.#held += bytes.length
      this.#wake()
    })
    stream.addEventListener('end', end)
    stream.addEventListener('close', end)
    if (stream.readableEnded) end()
  }

  /** what waits, and all that is asked later, fails; the first reason stays */
  fail (error) {
    this.#error ??= error
    this.#wake()
  }

  /** reads nothing, until something fails */
  async failure () {
    while (!this.#error) await new Promise((resolve) => { this.#wake = resolve })
    throw this.#error
  }

  /** waits for more than n bytes to be held, the end, or a failure */
  async #beyond (n) {
    while (this.#held <= n && !this.#ended && !this.#error) await new Promise((resolve) => { this.#wake = resolve })
    if (this.#held <= n && this.#error) throw this.#error
  }

  /** whether the stream ended, nothing being left; waits for a byte or the end */
  async atEnd () {
    await this.#beyond(0)
    return this.#held === 0
  }

  async take (n, what) {
    await this.#beyond(n - 1)
    if (this.#held < n) throw new Violation(`the stream ended within ${what}`)
    if (this.#parts.length > 1 && this.#parts[0].length < n) this.#parts = [Buffer.concat(this.#parts)]
    const [first] = this.#parts
    if (first === undefined) return Buffer.alloc(0)
    const taken = Buffer.from(first.buffer, first.byteOffset, n)
    if (first.length === n) this.#parts.shift()
    else this.#parts[0] = first.subarray(n)
    this.#held -= n
    return taken
  }

  /** all that is held */
  takeAll () { return this.take(this.#held, 'itself') }
}

async function readLength (reader) {
  let value = 0n
  for (let i = 0; i < 10; i++) {
    const [byte] = await reader.take(1, 'the length')
    value |= BigInt(byte & 127) << BigInt(7 * i)
    if (byte < 128) return value
  }
  throw new Violation('a length of more than 10 bytes')
}

/** one SSZ value of at least min and at most max bytes, both of which are checked before any of it is read */
export async function readPayload (reader, min, max) {
  const length = await readLength(reader)
  if (length < BigInt(min) || length > BigInt(max)) throw new Violation(`a length of ${length}: ${min} to ${max} bytes are allowed`)
  const size = Number(length)
  const out = Buffer.allocUnsafe(size)
  let got = 0
  let budget = maxCompressed(size)
  let identified = false
  while (got < size) {
    const head = await reader.take(4, 'a frame')
    const kind = head[0]
    const body = head.readUIntLE(1, 3)
    budget -= 4 + body
    if (budget < 0) throw new Violation(`frames of more than ${maxCompressed(size)} bytes for ${size}`)
    const bytes = await reader.take(body, 'a frame')
    if (!identified && kind !== 0xff) throw new Violation('frames without a stream identifier')
    if (kind === 0xff) {
      if (hex(bytes) !== hex(STREAM_IDENTIFIER.subarray(4))) throw new Violation('a wrong stream identifier')
      identified = true
    } else if (kind <= 1) got += uncompress(kind, bytes, out, got)
    else if (kind < 0x80) throw new Violation(`a frame of the reserved type ${kind}`)
  }
  return out
}

function uncompress (kind, bytes, out, at) {
  if (bytes.length < 4) throw new Violation('a frame without checksum')
  let data = bytes.subarray(4)
  if (kind === 0) {
    try { data = snappy.uncompress(data, FRAME_DATA) } catch (error) { throw new Violation(`not snappy: ${error.message}`) }
  }
  if (data.length > FRAME_DATA || data.length > out.length - at) throw new Violation('a frame with more data than was announced')
  if (maskedCrc(data) !== bytes.readUInt32LE(0)) throw new Violation('a wrong checksum')
  out.set(data, at)
  return data.length
}

// ---- containers: a list of [field, size], little endian; numbers of 8 bytes, the others hex

export const STATUS = {
  1: [['fork_digest', 4], ['finalized_root', 32], ['finalized_epoch', 8], ['head_root', 32], ['head_slot', 8]]
}
STATUS[2] = [...STATUS[1], ['earliest_available_slot', 8]]
export const METADATA = { 1: [['seq_number', 8], ['attnets', -8]] }
METADATA[2] = [...METADATA[1], ['syncnets', 1]]
METADATA[3] = [...METADATA[2], ['custody_group_count', 8]]
export const RANGE = [['start_slot', 8], ['count', 8], ['step', 8]]
export const PING = [['seq_number', 8]]
export const GOODBYE = [['reason', 8]]

// -8 stands for eight bytes that are no number
export const sizeOf = (fields) => fields.reduce((sum, [, size]) => sum + Math.abs(size), 0)

/** numbers above 2^53 are decimal strings in JSON */
export const number = (value) => value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value.toString()

export function encode (fields, value) {
  return Buffer.concat(fields.map(([name, size]) => {
    if (value[name] === undefined) throw new Error(`${name} is missing`)
    return size === 8 ? u64(value[name]) : unhex(value[name], Math.abs(size))
  }))
}

export function decode (fields, ssz) {
  const value = {}
  let at = 0
  for (const [name, size] of fields) {
    value[name] = size === 8 ? number(ssz.readBigUInt64LE(at)) : hex(ssz.subarray(at, at + Math.abs(size)))
    at += Math.abs(size)
  }
  return value
}

// ---- blocks: opaque bytes but for the slot, which follows the offset of the message and the signature

export const MIN_BLOCK = 4 + 96 + 8
export const slotOf = (ssz) => ssz.readBigUInt64LE(100)

/** what stands for a SignedBeaconBlock of a size: offset 100, signature and message from the seed, the slot in its place */
export function makeBlock (slot, size, seed) {
  if (!(size >= MIN_BLOCK && size <= MAX_PAYLOAD_SIZE)) throw new Error(`a block of ${size} bytes: ${MIN_BLOCK} to ${MAX_PAYLOAD_SIZE}`)
  const ssz = random(size, BigInt(seed) + BigInt(slot))
  ssz.writeUInt32LE(100, 0)
  ssz.writeBigUInt64LE(BigInt(slot), 100)
  return ssz
}
