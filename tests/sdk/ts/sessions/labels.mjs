import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";

import { Box } from "@upstash/box";

import { makeBox, refused, session } from "../session.mjs";

const unique = () => `t:${randomBytes(5).toString("hex")}`;

session("labels are added, listed and removed in the order they came", async () => {
  const [first, second, third] = [unique(), unique(), unique()];
  const box = await makeBox({ labels: [first] });
  assert.deepEqual(await box.labels.list(), [first]);
  assert.deepEqual(await box.labels.add(second), [first, second]);
  assert.deepEqual(await box.labels.add(third), [first, second, third]);
  assert.deepEqual(await box.labels.remove(second), [first, third]);
  assert.deepEqual(await box.labels.list(), [first, third]);
});

session("a label that is there already is refused with 409", async () => {
  const label = unique();
  const box = await makeBox({ labels: [label] });
  const error = await refused(() => box.labels.add(label));
  assert.equal(error.statusCode, 409);
  assert.equal(error.message, "Label already added");
});

session("boxes are listed by label", async () => {
  const label = unique();
  const [one, two, other] = await Promise.all([makeBox({ labels: [label] }), makeBox(), makeBox()]);
  await two.labels.add(label);
  const found = (await Box.list({ label })).map(({ id }) => id).sort();
  assert.deepEqual(found, [one.id, two.id].sort());
  assert.ok(!found.includes(other.id));
  await two.labels.remove(label);
  assert.deepEqual((await Box.list({ label })).map(({ id }) => id), [one.id]);
});

session("too long, too odd and too many labels are refused with 400", async () => {
  const box = await makeBox({ labels: ["a", "b", "c", "d"] });
  for (const label of ["x".repeat(21), "with space", "snow☃", ""]) {
    const error = await refused(() => box.labels.add(label));
    assert.equal(error.statusCode, 400, `label ${JSON.stringify(label)}: ${error.message}`);
  }
  await box.labels.add("e");
  const error = await refused(() => box.labels.add("f"));
  assert.equal(error.statusCode, 400, error.message);
  assert.deepEqual(await box.labels.list(), ["a", "b", "c", "d", "e"]);
});
