import assert from "node:assert/strict";

import { drain, makeBox, session } from "../session.mjs";

let shared;
const box = async () => (shared ??= await makeBox());

session("output arrives while the command still runs", async () => {
  const here = await makeBox();
  await here.exec.command("mkfifo go");
  const run = await here.exec.stream("echo first; cat go; echo last");
  const seen = [];
  let released = false;
  for await (const chunk of run) {
    if (chunk.type !== "output") continue;
    seen.push(chunk.data);
    // The command can go on only because this chunk came before its end.
    if (!released && seen.join("").includes("first")) {
      released = true;
      await here.exec.command("echo middle > go");
    }
  }
  assert.equal(seen.join("").trimEnd(), "first\nmiddle\nlast");
  assert.equal(run.exitCode, 0);
  assert.equal(run.status, "completed");
});

session("one hundred short streams all end with their exit chunk", async () => {
  const here = await box();
  for (let round = 0; round < 10; round += 1) {
    const runs = await Promise.all(
      Array.from({ length: 10 }, async (_, n) => drain(await here.exec.stream(`echo ${round}.${n}; exit ${n}`))),
    );
    runs.forEach(({ output, exit }, n) => {
      assert.ok(exit, `stream ${round}.${n} had no exit chunk; its output was ${JSON.stringify(output)}`);
      assert.equal(exit.exitCode, n);
      assert.equal(output.trimEnd(), `${round}.${n}`);
      assert.ok(Number.isInteger(exit.cpuNs) && exit.cpuNs >= 0);
    });
  }
});

session("standard output and standard error are both in the stream", async () => {
  const { output, exit } = await drain(await (await box()).exec.stream("echo out; echo err >&2; exit 5"));
  assert.deepEqual(output.trimEnd().split("\n").sort(), ["err", "out"]);
  assert.equal(exit.exitCode, 5);
});

session("characters that lie across chunks stay whole", async () => {
  const { output } = await drain(await (await box()).exec.stream("for i in $(seq 2000); do printf 'größe☃'; done"));
  assert.equal(output.trimEnd(), "größe☃".repeat(2000));
});

session("a stream is never cut", async () => {
  const size = 96 * 1024 * 1024;
  let length = 0;
  let exit;
  for await (const chunk of await (await box()).exec.stream(`head -c ${size} /dev/zero | tr '\\0' x`)) {
    if (chunk.type === "output") length += chunk.data.length;
    else exit = chunk;
  }
  // The real service ends output that has no newline with one; both are right.
  assert.ok(length === size || length === size + 1, `${length} bytes of ${size}`);
  assert.equal(exit?.exitCode, 0);
});

session("code streams too, with its exit chunk", async () => {
  const here = await box();
  for (const [lang, code, text] of [["js", "console.log('js'); process.exit(4)", "js"], ["python", "print('py'); raise SystemExit(4)", "py"]]) {
    const { output, exit } = await drain(await here.exec.streamCode({ code, lang }));
    assert.equal(output.trimEnd(), text);
    assert.equal(exit?.exitCode, 4);
  }
});

session("a stream that nobody reads to its end goes on in the box", async () => {
  const here = await makeBox();
  await here.exec.command("mkfifo go done");
  for await (const chunk of await here.exec.stream("echo begun; cat go > /dev/null; echo finished > done")) {
    if (chunk.type === "output") break;
  }
  await here.exec.command("echo > go");
  assert.equal((await here.exec.command("timeout 30 cat done")).result, "finished\n");
});
