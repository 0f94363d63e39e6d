// Says which step of a client's run worked, in lines that the runner reads.
import { readFileSync } from 'node:fs'

export const RECORDS = 20000
export const PARTITIONS = 6

export function done (step) {
  console.log('ok', step)
}

export function version (name) {
  const url = new URL(`./node_modules/${name}/package.json`, import.meta.url)
  console.log('version', JSON.parse(readFileSync(url)).version)
}

// Runs a client's steps; whatever they throw ends the process as a failure.
export async function run (steps) {
  try {
    await steps(process.argv[2])
    process.exit(0)
  } catch (error) {
    console.log(`FAIL ${error.stack}`)
    process.exit(1)
  }
}

// Checks that each partition's records come in order, once, and all of them.
export class Reading {
  total = 0
  #next = new Map()

  take (topic, partition, offset) {
    const place = `${topic}-${partition}`
    const due = this.#next.get(place) ?? 0n
    if (BigInt(offset) !== due) throw new Error(`${place}: offset ${offset} where ${due} was due`)
    this.#next.set(place, due + 1n)
    this.total += 1
  }
}
