import assert from "node:assert/strict";

import { Box } from "@upstash/box";

import { call, makeBox, refused, session } from "../session.mjs";

session("a wrong key is refused with 401 and a text that says so", async () => {
  const error = await refused(() => Box.list({ apiKey: "box_not_a_key" }));
  assert.equal(error.statusCode, 401);
  assert.match(error.message, /api key|unauthorized/i);
});

session("a key in Authorization: Bearer works too", async () => {
  const response = await fetch(`${process.env.UPSTASH_BOX_BASE_URL.replace(/\/$/, "")}/v2/box`, {
    headers: { Authorization: `Bearer ${process.env.UPSTASH_BOX_API_KEY}` },
  });
  assert.equal(response.status, 200);
  assert.ok(Array.isArray(await response.json()));
});

session("an unknown box is a 404", async () => {
  const error = await refused(() => Box.get("never-wombat-00000"));
  assert.equal(error.statusCode, 404);
});

session("what cannot be created is refused with 400 and a reason", async () => {
  for (const config of [
    { size: "enormous" },
    { runtime: "cobol" },
    { labels: ["a", "b", "c", "d", "e", "f"] },
    { labels: ["x".repeat(21)] },
    { name: "x".repeat(1000) },
  ]) {
    const error = await refused(() => makeBox(config));
    assert.equal(error.statusCode, 400, `${JSON.stringify(config).slice(0, 80)}: ${error.message}`);
    assert.ok(!/^Request failed/.test(error.message), "the answer has an error text");
  }
});

session("a command with a NUL byte is refused with 400", async () => {
  const box = await makeBox();
  assert.equal((await refused(() => box.exec.command("echo a\0b"))).statusCode, 400);
});

session("an empty command and an empty list of boxes to delete are refused with 400", async () => {
  const box = await makeBox();
  assert.equal((await call("POST", `/v2/box/${box.id}/exec`, { command: [] })).status, 400);
  assert.equal((await call("DELETE", "/v2/box", { ids: [] })).status, 400);
});

session("unknown fields and nulls are ignored", async () => {
  const answer = await call("POST", "/v2/box", { name: null, labels: null, size: null, from_the_future: { a: 1 } });
  assert.ok(answer.status >= 200 && answer.status < 300, JSON.stringify(answer.body));
  assert.equal((await call("DELETE", `/v2/box/${answer.body.id}`)).status, 200);
});
