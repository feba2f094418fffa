import assert from "node:assert/strict";

import { Box, EphemeralBox } from "@upstash/box";

import { makeBox, refused, session } from "../session.mjs";

session("a paused box says so, and goes on when it is resumed", async () => {
  const box = await makeBox();
  await box.exec.command("echo kept > file; nohup sleep 4741 > /dev/null 2>&1 &");
  await box.pause();
  assert.equal((await box.getStatus()).status, "paused");
  assert.equal((await Box.list()).find(({ id }) => id === box.id).status, "paused");
  await box.resume();
  assert.equal((await box.getStatus()).status, "idle");
  assert.equal((await box.exec.command("cat file")).result, "kept\n");
  assert.equal((await box.exec.command("pgrep -fc 'sleep 474[1]'")).result, "1\n");
});

session("the next command resumes a paused box", async () => {
  const box = await makeBox();
  await box.pause();
  await box.pause();
  assert.equal((await box.exec.command("echo awake")).result, "awake\n");
  assert.equal((await box.getStatus()).status, "idle");
});

session("a keep-alive box has an init command and is not paused", async () => {
  const box = await makeBox({ keepAlive: true, initCommand: "echo started > started" });
  assert.equal(box.keepAlive, true);
  await assert.rejects(box.pause());
  assert.equal(await box.getInitCommand(), "echo started > started");
  await box.setInitCommand("true");
  assert.equal(await box.getInitCommand(), "true");
  await box.deleteInitCommand();
  assert.equal(await box.getInitCommand(), "");
  const waited = await box.exec.command("until [ -e started ]; do sleep 0.05; done; cat started");
  assert.equal(waited.result, "started\n");
});

session("an ephemeral box is ready at once and knows when it ends", async () => {
  const before = Date.now() / 1000;
  const box = await EphemeralBox.create({ ttl: 60 });
  try {
    const left = box.expiresAt / (box.expiresAt > 1e11 ? 1000 : 1) - before;
    assert.ok(left > 50 && left < 80, `${left} s left`);
    assert.equal((await box.exec.command("echo hello")).result, "hello\n");
  } finally {
    await box.delete();
  }
  await refused(() => EphemeralBox.create({ ttl: 259201 }));
});
