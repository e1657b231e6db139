// How a server breaks the rules when told to, and how a client does. A rule: {"kind", "methods": ["status/2", ...], ...};
// the kinds, with what else they take, are in README.md.
import { payload, random, unhex, varint } from './wire.mjs'

const OTHER_DIGEST = '0badc0de'
const MAX_REPEATED = 2048

/** stays until the other side or our own deadline ends the stream */
const stalled = (stream) => new Promise((resolve) => {
  if (stream.status !== 'open') return resolve()
  stream.addEventListener('close', resolve)
})
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const error = (code, text) => Buffer.concat([Buffer.of(code), payload(text)])
const garbage = ({ bytes = 64, seed = 1 }) => random(bytes, seed)

/** writes what a kind makes of an honest answer; `chunk` makes the bytes of one chunk, `asked` is how many may come */
const SERVER = {
  wrong_context: async (out, answer, { rule, chunk }) => {
    for (const one of answer) await out.write(chunk({ ...one, context: one.context && unhex(rule.context ?? OTHER_DIGEST, 4) }))
  },
  too_many_chunks: async (out, answer, { rule, chunk, asked }) => {
    if (answer.length === 0) throw new Error('too_many_chunks: no chunk to repeat')
    const total = Math.min(asked + (rule.extra ?? 1), MAX_REPEATED)
    for (let i = 0; i < total; i++) await out.write(chunk(answer[Math.min(i, answer.length - 1)]))
  },
  wrong_order: async (out, answer, { chunk }) => {
    for (const one of [...answer].reverse()) await out.write(chunk(one))
  },
  garbage_chunk: async (out, answer, { rule, chunk }) => {
    for (const one of answer) await out.write(chunk(one, { body: garbage(rule) }))
  },
  bad_crc: async (out, answer, { chunk }) => {
    for (const one of answer) await out.write(chunk(one, { badCrc: true }))
  },
  oversize: async (out, answer, { rule, chunk }) => {
    for (const one of answer) await out.write(chunk(one, { length: BigInt(rule.length ?? 10485761) }))
  },
  error_chunk: async (out, answer, { rule, chunk }) => {
    for (const one of answer.slice(0, rule.chunks ?? 0)) await out.write(chunk(one))
    await out.write(error(rule.code ?? 2, rule.hex === undefined ? Buffer.from(rule.text ?? '') : unhex(rule.hex)))
  },
  stall: async (out, answer, context) => { await part(out, answer, context); await stalled(out.stream) },
  truncate: part,
  reset: async (out, answer, context) => { await part(out, answer, context); out.stream.abort(new Error('told to')) },
  drip: async (out, answer, { rule, chunk }) => {
    for (const one of answer) { await sleep(rule.ms ?? 1000); await out.write(chunk(one)) }
  },
  raw: async (out, _, { rule }) => out.write(unhex(rule.hex)),
  other_digest: async (out, answer, { rule, chunk }) => {
    for (const one of answer) {
      const ssz = Buffer.from(one.ssz)
      unhex(rule.digest ?? OTHER_DIGEST, 4).copy(ssz)
      await out.write(chunk({ ...one, ssz }))
    }
  }
}

/** so many whole chunks, then so many bytes of the next */
async function part (out, answer, { rule, chunk }) {
  const whole = rule.chunks ?? 0
  for (const one of answer.slice(0, whole)) await out.write(chunk(one))
  if (answer.length > whole) await out.write(chunk(answer[whole]).subarray(0, rule.bytes ?? 0))
}

/** what a client makes of the bytes of a request; `stays` leaves its side of the stream open */
const CLIENT = {
  oversize: ({ ssz, rule }) => ({ bytes: payload(ssz, { length: BigInt(rule.length ?? 0xffffffffffffffffn) }) }),
  garbage: ({ ssz, rule }) => ({ bytes: Buffer.concat([varint(ssz.length), garbage(rule)]) }),
  bad_crc: ({ ssz }) => ({ bytes: payload(ssz, { badCrc: true }) }),
  extra: ({ bytes, rule }) => ({ bytes: Buffer.concat([bytes, garbage(rule)]) }),
  stall: ({ bytes }) => ({ bytes: bytes.subarray(0, bytes.length >> 1), stays: true }),
  truncate: ({ bytes }) => ({ bytes: bytes.subarray(0, bytes.length >> 1) }),
  reset: ({ bytes }) => ({ bytes: bytes.subarray(0, bytes.length >> 1), resets: true }),
  no_close: ({ bytes }) => ({ bytes, stays: true }),
  no_read: ({ bytes }) => ({ bytes, deaf: true }),
  raw: ({ rule }) => ({ bytes: unhex(rule.hex) }),
  other_digest: ({ ssz, rule }) => {
    const other = Buffer.from(ssz)
    unhex(rule.digest ?? OTHER_DIGEST, 4).copy(other)
    return { bytes: payload(other) }
  }
}

/** a rule is an object or the name of a kind alone, as text or already read */
function parse (rule) {
  if (typeof rule === 'string') rule = rule.startsWith('{') ? JSON.parse(rule) : { kind: rule }
  return rule
}

/** of the rules of a server: at most one for goodbye_at_once, one each for methods */
export class Rules {
  #rules = []
  set (rules) {
    const read = rules.map(parse)
    for (const { kind } of read) if (kind !== 'goodbye_at_once' && !SERVER[kind]) throw new Error(`${kind}: no such misbehaviour of a server`)
    this.#rules = read
    return read
  }

  get goodbye () { return this.#rules.find(({ kind }) => kind === 'goodbye_at_once') }

  /** the rule for a method, which by default is every one that the kind is about */
  of ({ name, version, context }) {
    return this.#rules.find(({ kind, methods }) => {
      if (kind === 'goodbye_at_once') return false
      if (methods) return methods.includes(name) || methods.includes(`${name}/${version}`)
      if (kind === 'other_digest') return name === 'status'
      return kind !== 'wrong_context' || context
    })
  }

  answer (out, answer, context) { return SERVER[context.rule.kind](out, answer, context) }
}

/** the bytes that a client sends, and how: {bytes, stays, resets, deaf} */
export function spoil (rule, ssz) {
  const bytes = ssz ? payload(ssz) : Buffer.alloc(0)
  if (!rule) return { bytes }
  const read = parse(rule)
  if (!CLIENT[read.kind]) throw new Error(`${read.kind}: no such misbehaviour of a client`)
  return CLIENT[read.kind]({ bytes, ssz: ssz ?? Buffer.alloc(0), rule: read })
}
