import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";

import { Box } from "@upstash/box";

import { adopt, call, makeBox, refused, session } from "../session.mjs";

const unique = (word) => `${word}-${randomBytes(4).toString("hex")}`;

session("a snapshot outlives its box, and boxes made from it do not see each other", async () => {
  const box = await makeBox({ env: { KEPT: "source", CHANGED: "source" } });
  await box.exec.command("echo kept > note");
  const snapshot = await box.snapshot({ name: "first" });
  assert.equal(snapshot.status, "ready");
  assert.equal(snapshot.name, "first");
  assert.equal(snapshot.box_id, box.id);
  assert.ok(Number.isInteger(snapshot.size_bytes) && snapshot.size_bytes > 0, `size_bytes is ${snapshot.size_bytes}`);
  assert.ok(Math.abs(snapshot.created_at - Date.now() / 1000) < 3600, `created_at is ${snapshot.created_at}`);
  assert.deepEqual((await box.listSnapshots()).map(({ id }) => id), [snapshot.id]);
  await box.exec.command("echo later > note");
  await box.delete();

  const name = unique("copy");
  const first = adopt(await Box.fromSnapshot(snapshot.id, { name, env: { CHANGED: "given", NEW: "" } }));
  const second = adopt(await Box.fromSnapshot(snapshot.id));
  assert.equal((await Box.getByName(name)).id, first.id);
  assert.equal((await first.exec.command("cat note")).result, "kept\n");
  assert.equal((await first.exec.command('echo "$KEPT $CHANGED ${NEW-unset}"')).result, "source given \n");
  assert.equal((await second.exec.command('echo "$KEPT $CHANGED ${NEW-unset}"')).result, "source source unset\n");
  await first.exec.command("echo first > note");
  assert.equal((await second.exec.command("cat note")).result, "kept\n");
  assert.deepEqual(await Box.deleteSnapshots({ snapshotIds: snapshot.id }), { deleted: 1 });
  assert.equal((await second.exec.command("cat note")).result, "kept\n");
  assert.equal((await refused(() => Box.fromSnapshot(snapshot.id))).statusCode, 404);
});

session("snapshots asked for at once are all made, and deleted one, some and all", async () => {
  const box = await makeBox();
  const made = await Promise.all(["a", "b", "c", "d"].map((name) => box.snapshot({ name })));
  assert.ok(made.every(({ status }) => status === "ready"));
  assert.equal((await box.listSnapshots()).length, 4);
  await box.deleteSnapshot(made[0].id);
  assert.ok(!(await box.listSnapshots()).some(({ id }) => id === made[0].id));
  assert.deepEqual(await Box.deleteSnapshots({ snapshotIds: [made[1].id, made[2].id] }), { deleted: 2 });
  assert.deepEqual((await box.listSnapshots()).map(({ id }) => id), [made[3].id]);
  const { deleted } = await Box.deleteSnapshots();
  assert.ok(deleted >= 1, `deleted ${deleted}`);
  assert.deepEqual(await box.listSnapshots(), []);
});

session("a fork is a copy and leaves no snapshot", async () => {
  const box = await makeBox();
  await box.exec.command("echo kept > note");
  const answer = await call("POST", `/v2/box/${box.id}/fork`);
  assert.equal(answer.status, 200, JSON.stringify(answer.body));
  const fork = adopt(await Box.get(answer.body.id));
  assert.notEqual(fork.id, box.id);
  assert.equal((await fork.exec.command("cat note")).result, "kept\n");
  assert.deepEqual(await box.listSnapshots(), []);
});
