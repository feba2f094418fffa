// Create and first command through the SDK, as `cargo xtask bench` measures it. Prints one line of JSON; deleting is not measured.

import { Box } from "@upstash/box";

const [sequential, atOnce] = process.argv.slice(2).map(Number);

async function first() {
  const began = performance.now();
  const box = await Box.create();
  const run = await box.exec.command("echo hello");
  if (run.result !== "hello\n") throw new Error(`the first command said ${JSON.stringify(run)}`);
  return { box, took: performance.now() - began };
}

// The first of all pays for the compilation of this very program.
await (await first()).box.delete();

const each = [];
for (let n = 0; n < sequential; n += 1) {
  const { box, took } = await first();
  each.push(took);
  await box.delete();
}

const began = performance.now();
const together = await Promise.all(Array.from({ length: atOnce }, first));
const wall = performance.now() - began;
await Box.delete({ boxIds: together.map(({ box }) => box.id) });

console.log(JSON.stringify({ sequential: each, at_once: together.map(({ took }) => took), wall, node: process.version }));
