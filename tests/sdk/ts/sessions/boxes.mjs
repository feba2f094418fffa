import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";

import { Box } from "@upstash/box";

import { call, makeBox, refused, session } from "../session.mjs";

const unique = (word) => `${word}-${randomBytes(4).toString("hex")}`;

session("a box is usable as soon as create returns", async () => {
  const box = await makeBox();
  assert.match(box.id, /^[a-z]+-[a-z]+-[0-9]{5}$/);
  assert.equal((await box.getStatus()).status, "idle");
  const run = await box.exec.command("echo hello");
  assert.equal(run.result, "hello\n");
  assert.equal(run.status, "completed");
});

session("create answers idle at once, so that no client polls", async () => {
  const answer = await call("POST", "/v2/box", {});
  assert.ok(answer.status >= 200 && answer.status < 300, `status ${answer.status}`);
  assert.equal(answer.body.status, "idle");
  assert.equal((await call("DELETE", `/v2/box/${answer.body.id}`)).status, 200);
});

session("a named box is found by its name, and its record is the same", async () => {
  const name = unique("worker");
  const box = await makeBox({ name, size: "medium" });
  const found = await Box.getByName(name);
  assert.equal(found.id, box.id);
  assert.equal((await found.exec.command("hostname")).result, `${box.id}\n`);
  const record = (await Box.list()).find(({ id }) => id === box.id);
  assert.equal(record.name, name);
  assert.equal(record.size, "medium");
  const now = Date.now() / 1000;
  for (const key of ["created_at", "updated_at", "last_activity_at"]) {
    assert.ok(Number.isInteger(record[key]), `${key} is ${record[key]}`);
    assert.ok(Math.abs(record[key] - now) < 3600, `${key} is not in Unix seconds: ${record[key]}`);
  }
});

session("size is small unless asked for", async () => {
  const box = await makeBox();
  assert.equal((await Box.list()).find(({ id }) => id === box.id).size, "small");
});

session("every variable given at create reaches shell and code, the empty one too", async () => {
  const box = await makeBox({ env: { GREETING: "good morning", EMPTY_VAR: "", ODD: "a=b 'c' \"d\" $e\nf" } });
  assert.equal((await box.exec.command('printf %s "$GREETING"')).result, "good morning");
  assert.equal((await box.exec.command('printf %s "${EMPTY_VAR-unset}/${EMPTY_VAR+set}"')).result, "/set");
  assert.equal((await box.exec.command('printf %s "$ODD"')).result, "a=b 'c' \"d\" $e\nf");
  const code = await box.exec.code({ code: "process.stdout.write(process.env.GREETING)", lang: "js" });
  assert.equal(code.result, "good morning");
});

session("a deleted box is gone from the list, resolves as deleted, and does nothing more", async () => {
  const box = await makeBox();
  await box.delete();
  assert.ok(!(await Box.list()).some(({ id }) => id === box.id));
  assert.equal((await call("GET", `/v2/box/${box.id}`)).body.status, "deleted");
  const again = await Box.get(box.id);
  const error = await refused(() => again.exec.command("true"));
  assert.equal(error.statusCode, 404);
  const deleted = await call("GET", "/v2/box?status=deleted");
  assert.ok(deleted.body.some(({ id }) => id === box.id));
});

session("several boxes are deleted by one call", async () => {
  const boxes = await Promise.all([makeBox(), makeBox(), makeBox()]);
  const ids = boxes.map(({ id }) => id);
  await Box.delete({ boxIds: ids });
  const left = (await Box.list()).map(({ id }) => id);
  assert.deepEqual(ids.filter((id) => left.includes(id)), []);
});

session("the name of a deleted box can be used again", async () => {
  const name = unique("again");
  const first = await makeBox({ name });
  await first.delete();
  const second = await makeBox({ name });
  assert.notEqual(second.id, first.id);
  assert.equal((await Box.getByName(name)).id, second.id);
});

session("ten boxes made at once are ten boxes", async () => {
  const boxes = await Promise.all(Array.from({ length: 10 }, () => makeBox()));
  const names = await Promise.all(boxes.map(async (box) => (await box.exec.command("hostname")).result.trim()));
  assert.deepEqual(names, boxes.map(({ id }) => id));
  assert.equal(new Set(names).size, 10);
});
