// The few lines of test runner that the sessions need: names, order, TAP lines, a count at the end. No framework: what is tested is the
// published SDK, and every package more is one more that can differ.

import { Box } from "@upstash/box";

const sessions = [];
const made = new Set();

/** Registers a session. Sessions run one after the other in the order they were registered. */
export function session(name, body) {
  sessions.push({ name, body });
}

/** Creates a box that is deleted when the sessions are over, whatever became of them. */
export async function makeBox(config) {
  const box = await Box.create(config);
  made.add(box.id);
  return box;
}

/** Takes a box that came about otherwise, so that it is deleted when the sessions are over. */
export function adopt(box) {
  made.add(box.id);
  return box;
}

/** Runs `body`, which must throw a BoxError, and returns that error. */
export async function refused(body) {
  try {
    await body();
  } catch (error) {
    if (error?.name === "BoxError" || error?.constructor?.name === "BoxError") return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

/** Reads a stream to its end: all output as one text, and the exit chunk, if one came. */
export async function drain(run) {
  let output = "";
  let exit;
  for await (const chunk of run) {
    if (chunk.type === "output") output += chunk.data;
    else if (chunk.type === "exit") exit = chunk;
  }
  return { output, exit };
}

/** Calls the HTTP API directly: for what the SDK has no method for. */
export async function call(method, path, body) {
  const response = await fetch(process.env.UPSTASH_BOX_BASE_URL.replace(/\/$/, "") + path, {
    method,
    headers: { "X-Box-Api-Key": process.env.UPSTASH_BOX_API_KEY, "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const text = await response.text();
  return { status: response.status, headers: response.headers, body: text ? JSON.parse(text) : undefined };
}

/** Runs what was registered, and ends the process: 0 when every session passed. */
export async function main() {
  for (const name of ["UPSTASH_BOX_BASE_URL", "UPSTASH_BOX_API_KEY"]) {
    if (!process.env[name]) {
      console.error(`set ${name}: these sessions need a running Boxyard (cargo xtask up)`);
      process.exit(2);
    }
  }
  const only = process.argv[2];
  const chosen = sessions.filter(({ name }) => !only || name.includes(only));
  console.log(`1..${chosen.length}`);
  let passed = 0;
  let failed = 0;
  for (const { name, body } of chosen) {
    const number = passed + failed + 1;
    try {
      await body();
      passed += 1;
      console.log(`ok ${number} - ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`not ok ${number} - ${name}`);
      console.log(String(error?.stack ?? error).replace(/^/gm, "# "));
    }
  }
  if (made.size > 0) {
    await Box.delete({ boxIds: [...made] }).catch((error) => {
      failed += 1;
      console.log(`# deleting the boxes of the sessions failed: ${error.message}`);
    });
  }
  console.log(`${passed} passed, ${failed} failed`);
  // Nothing to run means a wrong filter, which must not look like a success.
  process.exit(failed > 0 || passed === 0 ? 1 : 0);
}
