// What the peer has to tell: its status, metadata, and blocks with the fork digest that each slot has.
import { readFileSync } from 'node:fs'
import { hex, makeBlock, MAX_PAYLOAD_SIZE, MIN_BLOCK, number, sha256, slotOf, unhex } from './wire.mjs'

const ZERO = '00'.repeat(32)
const MAX_BLOCKS = 8192

export class Chain {
  #blocks = new Map()             // slot -> {slot, ssz, root}, slots as bigint
  #roots = new Map()

  /** @param forks "SLOT:DIGEST,...": from which slot on blocks have which context */
  constructor (digest, forks) {
    this.forks = (forks || `0:${digest}`).split(',').map((text) => {
      const [slot, context] = text.split(':')
      return { from: BigInt(slot), context: hex(unhex(context, 4)) }
    }).sort((a, b) => a.from < b.from ? -1 : 1)
    this.status = {
      fork_digest: hex(unhex(digest, 4)), finalized_root: ZERO, finalized_epoch: 0, head_root: ZERO, head_slot: 0, earliest_available_slot: 0
    }
    this.metadata = { seq_number: 1, attnets: '00'.repeat(8), syncnets: '00', custody_group_count: 4 }
  }

  /** the fork digest of a slot, undefined before the first fork */
  context (slot) { return this.forks.findLast(({ from }) => from <= slot)?.context }

  /** replaces all blocks: `count` made ones of `size` bytes from `first_slot` on, and those of files */
  setBlocks ({ count = 0, size = 1000, seed = 1, first_slot: first = 0, files = [] }) {
    if (count + files.length > MAX_BLOCKS) throw new Error(`more than ${MAX_BLOCKS} blocks`)
    const made = Array.from({ length: count }, (_, i) => ({ ssz: makeBlock(first + i, size, seed) }))
    const read = files.map(({ path, root }) => ({ ssz: readFileSync(path), root: root && hex(unhex(root, 32)) }))
    for (const { ssz } of read) if (ssz.length < MIN_BLOCK || ssz.length > MAX_PAYLOAD_SIZE) throw new Error(`a block of ${ssz.length} bytes`)
    this.#blocks.clear()
    this.#roots.clear()
    return [...made, ...read].map(({ ssz, root }) => {
      const block = { slot: slotOf(ssz), ssz, root: root ?? hex(sha256(ssz)) }
      this.#blocks.set(block.slot, block)
      this.#roots.set(block.root, block)
      return { slot: number(block.slot), size: ssz.length, root: block.root }
    })
  }

  byRange (start, count) {
    return [...this.#blocks.values()].filter(({ slot }) => slot >= start && slot < start + count).sort((a, b) => a.slot < b.slot ? -1 : 1)
  }

  byRoot (roots) { return roots.map((root) => this.#roots.get(root)).filter(Boolean) }
}
