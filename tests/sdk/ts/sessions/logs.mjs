import assert from "node:assert/strict";

import { drain, makeBox, session } from "../session.mjs";

session("a log entry has exactly four keys, in Unix seconds", async () => {
  const box = await makeBox();
  await box.exec.command("echo logged");
  const logs = await box.logs();
  assert.ok(logs.length > 0);
  for (const entry of logs) {
    assert.deepEqual(Object.keys(entry).sort(), ["level", "message", "source", "timestamp"]);
    assert.ok(Number.isInteger(entry.timestamp) && Math.abs(entry.timestamp - Date.now() / 1000) < 3600);
    assert.ok(["info", "warn", "error"].includes(entry.level));
    assert.ok(["system", "agent", "user"].includes(entry.source));
    assert.equal(typeof entry.message, "string");
  }
  assert.ok(logs.some(({ source }) => source === "system"), "the box's own life is logged");
  assert.ok(logs.some(({ source }) => source === "user"), "what users run is logged");
});

session("logs are paged by offset and limit", async () => {
  const box = await makeBox();
  for (let n = 0; n < 5; n += 1) await box.exec.command(`echo ${n}`);
  const all = await box.logs();
  const page = await box.logs({ offset: 1, limit: 2 });
  assert.deepEqual(page, all.slice(1, 3));
});

session("a run finds its own log entries", async () => {
  const box = await makeBox();
  // A stream, because the SDK dates the run of a command from its end, which may be a second later than its entry.
  const run = await box.exec.stream("echo mine");
  await drain(run);
  assert.ok((await run.logs()).length > 0);
});
