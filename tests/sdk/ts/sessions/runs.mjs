import assert from "node:assert/strict";

import { Run } from "@upstash/box";

import { call, makeBox, session } from "../session.mjs";

const KEYS = [
  "box_id", "completed_at", "compute_cost_usd", "cost_usd", "cpu_ns", "created_at", "customer_id", "duration_ms", "id", "input_tokens",
  "output_tokens", "prompt", "status", "type",
];

session("a finished command is recorded with exactly the keys of the real service", async () => {
  const box = await makeBox();
  await box.exec.command("echo warmup");
  const [run, ...others] = await box.listRuns();
  assert.deepEqual(Object.keys(run).sort(), KEYS);
  assert.equal(run.prompt, "sh -c echo warmup");
  assert.deepEqual([run.type, run.status, run.input_tokens, run.output_tokens], ["shell", "completed", 0, 0]);
  assert.equal(run.box_id, box.id);
  for (const key of ["cpu_ns", "cost_usd", "compute_cost_usd", "duration_ms", "created_at", "completed_at"]) {
    assert.equal(typeof run[key], "number", key);
  }
  assert.ok(run.cpu_ns > 0, "a process that ran used some CPU");
  assert.deepEqual(others, []);
});

session("runs are listed newest first, failures as failed", async () => {
  const box = await makeBox();
  await box.exec.command("echo one");
  await box.exec.command("exit 3");
  await box.exec.command("echo three");
  const runs = await box.listRuns();
  assert.deepEqual(runs.map(({ prompt }) => prompt), ["sh -c echo three", "sh -c exit 3", "sh -c echo one"]);
  assert.deepEqual(runs.map(({ status }) => status), ["completed", "failed", "completed"]);
});

session("the run's id comes as a header and leads to its record", async () => {
  const box = await makeBox();
  const answer = await call("POST", `/v2/box/${box.id}/exec`, { command: ["true"] });
  const id = answer.headers.get("x-box-run-id");
  assert.ok(id, "no X-Box-Run-Id");
  const one = await call("GET", `/v2/box/${box.id}/runs/${id}`);
  assert.equal(one.status, 200);
  assert.deepEqual([one.body.id, one.body.status, one.body.prompt], [id, "completed", "true"]);
});

session("a running command is in the list, can be cancelled from elsewhere, and its whole tree ends", async () => {
  const box = await makeBox();
  const stream = await box.exec.stream("(setsid sleep 4713 &) ; sleep 4714 & echo started; wait");
  let cancelled = false;
  for await (const chunk of stream) {
    if (chunk.type !== "output" || cancelled || !chunk.data.includes("started")) continue;
    const running = (await box.listRuns()).filter(({ status }) => status === "running");
    assert.equal(running.length, 1);
    assert.ok(!("completed_at" in running[0]));
    await new Run(box, "command", running[0].id).cancel();
    cancelled = true;
  }
  assert.ok(cancelled);
  const [run] = await box.listRuns();
  assert.equal(run.status, "cancelled");
  assert.equal((await box.exec.command("pgrep -x sleep")).result, "", "a process of the cancelled run is left");
});

session("cancelling a run that only the client knows is a 404 that the SDK swallows", async () => {
  const box = await makeBox();
  const run = await box.exec.command("true");
  const answer = await call("POST", `/v2/box/${box.id}/runs/${run.id}/cancel`);
  assert.equal(answer.status, 404);
  await run.cancel();
});

session("a command started with async answers at once and is recorded", async () => {
  const box = await makeBox();
  await box.exec.command("mkfifo go");
  const answer = await call("POST", `/v2/box/${box.id}/exec`, { command: ["sh", "-c", "cat go"], async: true });
  assert.ok(answer.status >= 200 && answer.status < 300, `status ${answer.status}`);
  const path = `/v2/box/${box.id}/runs/${answer.body.run_id}`;
  assert.equal((await call("GET", path)).body.status, "running");
  assert.equal((await call("POST", `${path}/cancel`)).status, 200);
  assert.equal((await call("GET", path)).body.status, "cancelled");
});
