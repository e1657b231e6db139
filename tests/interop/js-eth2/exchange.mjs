// One request on one stream, as server and as client.
import { spoil } from './misbehave.mjs'
import { METHODS } from './methods.mjs'
import { hex, payload, Reader, readPayload, Violation } from './wire.mjs'

const REQUEST_MS = 5000           // a server waits so long for a whole request
const HALF_CLOSE_MS = 500         // and after its answer for the end of the other side, to tell of it
const MAX_ERROR_TEXT = 256
const MAX_STREAMS = 1000
const MAX_RAW = 1 << 20

async function send (stream, bytes) { if (!stream.send(bytes)) await stream.onDrain() }

/** ends what reads, and the stream, after so many milliseconds; gives a function that stops the clock */
function deadline (stream, reader, ms, what) {
  const timer = setTimeout(() => { reader.fail(new Error(what)); stream.abort(new Error(what)) }, ms)
  return () => clearTimeout(timer)
}

function chunkBytes ({ ssz, context }, changes) {
  return Buffer.concat([Buffer.of(0), context ?? Buffer.alloc(0), payload(ssz, changes)])
}

// ---- server

/** serves the methods (all, or those named) and tells of every request */
export async function serve (node, { chain, rules, only, out }) {
  const open = new Map()          // "peer protocol" -> how many requests are open
  let next = 0
  for (const method of METHODS) {
    if (only.length && !only.includes(`${method.name}/${method.version}`)) continue
    await node.handle(method.protocol, async (stream, connection) => {
      const peer = connection.remotePeer.toString()
      const key = `${peer} ${method.protocol}`
      const concurrent = (open.get(key) ?? 0) + 1
      const about = { request: ++next, method: method.name, version: method.version, peer, concurrent }
      open.set(key, concurrent)
      try {
        await answer(stream, method, { chain, rules, tell: (line) => out({ ...line, ...about }) })
      } catch (error) {
        out({ event: 'request_failed', ...about, error: error.message })
        stream.abort(error)
      } finally {
        const left = open.get(key) - 1
        if (left) open.set(key, left)
        else open.delete(key)
      }
    }, { maxInboundStreams: MAX_STREAMS, maxOutboundStreams: MAX_STREAMS })
  }
}

async function answer (stream, method, { chain, rules, tell }) {
  const writer = { stream, chunks: 0, write: (bytes) => { writer.chunks++; return send(stream, bytes) } }
  let value
  try {
    value = await readRequest(stream, method)
  } catch (error) {
    if (!(error instanceof Violation)) throw error
    tell({ event: 'invalid_request', error: error.message })
    await send(stream, Buffer.concat([Buffer.of(1), payload(Buffer.from(error.message).subarray(0, MAX_ERROR_TEXT))]))
    await stream.close()
    return
  }
  const rule = rules.of(method)
  tell({ event: 'request', value, ...(rule && { misbehaviour: rule.kind }) })
  const chunks = method.reply(value, chain)
  if (rule) await rules.answer(writer, chunks, { rule, chunk: chunkBytes, asked: method.most(value) })
  else for (const one of chunks) await writer.write(chunkBytes(one))
  if (stream.status === 'open') await stream.close()
  const closed = await halfClosed(stream)
  tell({ event: 'answered', chunks: writer.chunks, half_closed: closed })
}

async function readRequest (stream, method) {
  if (!method.request) return {}
  const reader = new Reader(stream)
  const stop = deadline(stream, reader, REQUEST_MS, 'no whole request in time')
  try {
    return method.decode(await readPayload(reader, method.request.min, method.request.max))
  } finally { stop() }
}

function halfClosed (stream) {
  if (stream.remoteWriteStatus === 'closed') return stream.status !== 'reset'
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve(false), HALF_CLOSE_MS)
    stream.addEventListener('remoteCloseWrite', () => { clearTimeout(timer); resolve(true) })
  })
}

// ---- client

/** one request on a connection: {chunks, bytes, values} and, when it went wrong, {error: {kind, text, code?}} */
export async function request (connection, method, { chain, args = {}, misbehave, timeout = 10000, ready = () => {}, values = true }) {
  const spoilt = spoil(misbehave, method.encode(args, chain))
  const asked = method.most(args)
  const result = { chunks: 0, bytes: 0, values: [] }
  let stream
  let stop = () => {}
  try {
    stream = await connection.newStream(method.protocol, { signal: AbortSignal.timeout(timeout), maxOutboundStreams: MAX_STREAMS })
    if (spoilt.deaf) stream.pause()
    const reader = new Reader(stream)
    stop = deadline(stream, reader, timeout, 'no whole answer in time')
    await ready(stream, spoilt)
    await put(stream, spoilt)
    if (spoilt.deaf) await reader.failure()
    await readChunks(reader, method, { chain, asked, result, values })
    if (stream.writeStatus === 'writable') await stream.close()
  } catch (error) {
    if (error instanceof Declined) result.error = { kind: 'declined', code: error.code, text: error.message }
    else result.error = { kind: error instanceof Violation ? 'violation' : 'failed', text: error.message }
    stream?.abort(error)
  } finally { stop() }
  return result
}

async function put (stream, { bytes, stays, resets }) {
  if (bytes.length) await send(stream, bytes)
  if (resets) throw new Error('reset by ourselves')
  if (!stays) await stream.close()
}

class Declined extends Error {
  constructor (code, text) { super(text); this.code = code }
}

async function readChunks (reader, method, { chain, asked, result, values }) {
  while (!await reader.atEnd()) {
    const [code] = await reader.take(1, 'a chunk')
    if (code === 0 && result.chunks === asked) throw new Violation(`more than the ${asked} chunks that were asked for`)
    if (code !== 0) throw new Declined(code, (await readPayload(reader, 0, MAX_ERROR_TEXT)).toString())
    const context = method.context ? hex(await reader.take(4, 'the context')) : undefined
    const ssz = await readPayload(reader, method.chunk.min, method.chunk.max)
    if (values) result.values.push(method.read(ssz, context, chain))
    result.chunks++
    result.bytes += ssz.length
  }
}

/**
 * n requests at once: their streams are all open and negotiated, or refused, before the last byte of any request is sent
 */
export async function together (connection, method, { count, ...options }) {
  let waiting = count
  let go
  const all = new Promise((resolve) => { go = resolve })
  const arrived = () => { if (--waiting === 0) go() }
  return Promise.all(Array.from({ length: count }, () => {
    let here = false
    const ready = async (stream, spoilt) => {
      const head = spoilt.bytes.subarray(0, -1)
      if (head.length) await send(stream, head)
      spoilt.bytes = spoilt.bytes.subarray(head.length)
      here = true
      arrived()
      await all
    }
    return request(connection, method, { ...options, ready }).finally(() => { if (!here) arrived() })
  }))
}

/** bytes on a protocol, and what comes back until its end (at most 1 MiB) or the deadline */
export async function raw (connection, { protocol, bytes, close = true, timeout }) {
  const stream = await connection.newStream(protocol, { signal: AbortSignal.timeout(timeout), maxOutboundStreams: MAX_STREAMS })
  const reader = new Reader(stream)
  const stop = deadline(stream, reader, timeout, 'no end in time')
  const parts = []
  let size = 0
  let end = 'end'
  try {
    await put(stream, { bytes, stays: !close })
    while (!await reader.atEnd()) {
      const part = await reader.takeAll()
      parts.push(part)
      size += part.length
      if (size > MAX_RAW) throw new Error('an answer of more than 1 MiB')
    }
    if (!close) await stream.close()
  } catch (error) {
    end = error.message
    stream.abort(error)
  } finally { stop() }
  return { hex: hex(Buffer.concat(parts)), end }
}
