// Two measurements over one connection; a failed request ends them, as a rate of failures says nothing.
import { request } from './exchange.mjs'
import { find } from './methods.mjs'

/** a status first, which nodes want to see before anything else, and which is not counted */
async function greet (connection, chain) {
  const { error } = await request(connection, find('status/1'), { chain })
  if (error) throw new Error(`status: ${JSON.stringify(error)}`)
}

async function good (connection, method, options) {
  const result = await request(connection, method, options)
  if (result.error) throw new Error(`${method.name}: ${JSON.stringify(result.error)}`)
  return result
}

/** `count` ping requests, a stream each, from `concurrency` callers */
export async function benchPing (connection, { chain, count, concurrency }) {
  await greet(connection, chain)
  const method = find('ping')
  const micros = []
  let next = 0
  const began = performance.now()
  await Promise.all(Array.from({ length: concurrency }, async () => {
    while (next < count) {
      next++
      const asked = performance.now()
      await good(connection, method, { chain })
      micros.push((performance.now() - asked) * 1e3)
    }
  }))
  const secs = (performance.now() - began) / 1e3
  micros.sort((a, b) => a - b)
  return { n: count, concurrency, secs, per_sec: count / secs, median_us: micros[count >> 1], p99_us: micros[Math.floor(count * 0.99)] }
}

/** one beacon_blocks_by_range of `count` blocks from slot 0 on, each of which has `size` bytes of SSZ */
export async function benchRange (connection, { chain, count, size }) {
  await greet(connection, chain)
  const began = performance.now()
  const { chunks, bytes } = await good(connection, find('beacon_blocks_by_range'), { chain, args: { start_slot: 0, count }, timeout: 60000, values: false })
  const secs = (performance.now() - began) / 1e3
  if (chunks !== count || bytes !== count * size) throw new Error(`${chunks} blocks of ${bytes} bytes, not ${count} of ${size} each`)
  return { blocks: chunks, bytes, secs, MBps: bytes / secs / 1e6 }
}
