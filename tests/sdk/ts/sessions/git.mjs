// Git: what @upstash/box 0.5.5 does with it. Repositories are in the box itself, but for pull requests, which need a forge: the tests of this
// repository bring one and name it in BOXYARD_TEST_FORGE (its URL) and BOXYARD_TEST_FORGE_TOKEN.

import assert from "node:assert/strict";

import { Box } from "@upstash/box";

import { adopt, call, makeBox, refused, session } from "../session.mjs";

const FORGE = process.env.BOXYARD_TEST_FORGE;
const TOKEN = process.env.BOXYARD_TEST_FORGE_TOKEN;

/** Makes a bare repository in the box, with one commit on main. */
async function origin(box) {
  const run = await box.exec.command(
    "git init -q --bare -b main up.git && git clone -q up.git seed 2>&1 && cd seed && git checkout -q -b main && echo '# Hello' > README.md " +
      "&& git add -A && git commit -q -m first && git push -q origin main",
  );
  assert.equal(run.exitCode, 0, run.result);
  return "/workspace/home/up.git";
}

session("git: a repository is cloned, changed, committed and pushed", async () => {
  const box = await makeBox();
  await box.git.clone({ repo: await origin(box) });
  await box.cd("up");
  assert.equal(await box.git.status(), "");
  assert.equal(await box.git.diff(), "");
  await box.exec.command("echo changed >> README.md && echo new > NEWFILE.txt");
  assert.match(await box.git.status(), /NEWFILE\.txt/);
  assert.match(await box.git.diff(), /^\+changed$/m);
  await box.exec.command("git add -A");
  const commit = await box.git.commit({ message: "test: a change", authorName: "Ada", authorEmail: "ada@example.com" });
  assert.match(commit.sha, /^[0-9a-f]{40}$/);
  assert.match(commit.message, /test: a change/);
  await box.git.push({ branch: "main" });
  assert.equal((await box.exec.command("git -C ../up.git log -1 --format='%an %s' main")).result, "Ada test: a change\n");
});

session("git: an agent's changes are committed without being staged", async () => {
  const box = await makeBox();
  await box.git.clone({ repo: await origin(box) });
  await box.cd("up");
  await box.git.checkout({ branch: "feature/it" });
  await box.exec.command("echo new > NEWFILE.txt && rm README.md");
  await box.git.commit({ message: "All of it" });
  await box.git.push();
  const run = await box.exec.command("git -C ../up.git log -1 --format='%an <%ae> %s' --name-status feature/it");
  assert.equal(run.result, "Upstash Box <box@upstash.com> All of it\n\nA\tNEWFILE.txt\nD\tREADME.md\n");
});

session("git: in an empty folder the clone is that folder, in another one it has its own", async () => {
  const box = await makeBox();
  const repo = await origin(box);
  await box.exec.command("mkdir -p empty full && touch full/file");
  await box.cd("empty");
  await box.git.clone({ repo, branch: "main" });
  await box.cd("../full");
  await box.git.clone({ repo });
  assert.equal((await box.exec.command("ls ../empty/README.md up/README.md")).exitCode, 0);
});

session("git: raw commands have git's own output and exit code", async () => {
  const box = await makeBox();
  const outside = await box.git.exec({ args: ["status"] });
  assert.equal(outside.exit_code ?? outside.exitCode, 128);
  assert.match(outside.output, /fatal: not a git repository/);
  assert.match((await box.git.exec({ args: ["--version"] })).output, /^git version .*\n$/);
});

session("git: outside of a repository there is nothing to see, and the rest is refused", async () => {
  const box = await makeBox();
  assert.equal(await box.git.status(), "");
  assert.equal(await box.git.diff(), "");
  for (const attempt of [() => box.git.commit({ message: "x" }), () => box.git.push(), () => box.git.checkout({ branch: "x" })]) {
    const error = await refused(attempt);
    assert.equal(error.statusCode, 400);
    assert.match(error.message, /not a git repository/);
  }
});

session("git: updateConfig changes who commits, one field at a time", async () => {
  const box = await makeBox({ git: { userName: "Ada", userEmail: "ada@example.com" } });
  const both = await box.git.updateConfig({ userName: "Grace" });
  assert.deepEqual(both, { git_user_name: "Grace", git_user_email: "ada@example.com" });
  assert.equal((await box.exec.command("git config --global user.name && git config --global user.email")).result, "Grace\nada@example.com\n");
  const fresh = await makeBox();
  const changed = await fresh.git.updateConfig({ userEmail: "me@example.com" });
  assert.deepEqual(changed, { git_user_name: "Upstash Box", git_user_email: "me@example.com" });
});

session("git: a pull request needs a token, which the box was made with, and is made by the server", async () => {
  if (!FORGE) {
    // Without a forge it goes as far as it goes.
    const box = await makeBox({ git: { token: "ghp_of_no_account" } });
    await box.git.clone({ repo: await origin(box) });
    await box.cd("up");
    const error = await refused(() => box.git.createPR({ title: "x" }));
    assert.match(error.message, /origin is not on github\.com/);
    return;
  }
  const box = await makeBox({ git: { token: TOKEN } });
  await box.git.clone({ repo: `${FORGE}/git/private-ts.git` });
  await box.cd("private-ts");
  await box.git.checkout({ branch: "feature" });
  await box.exec.command("echo more > more");
  await box.git.commit({ message: "More" });
  await box.git.push();
  await box.exec.command(`git remote set-url origin ${FORGE}/owner/name.git`);
  const pull = await box.git.createPR({ title: "More", body: "Of it." });
  assert.deepEqual([pull.number, pull.title, pull.base], [7, "More", "trunk"]);
  assert.match(pull.url, /owner\/name\/pulls\/7$/);
  const shown = await call("GET", `/v2/box/${box.id}`);
  assert.ok(!JSON.stringify(shown.body).includes(TOKEN));
  // A copy is made without it.
  const snapshot = await box.snapshot({ name: "with a clone" });
  const copy = adopt(await Box.fromSnapshot(snapshot.id));
  await copy.cd("private-ts");
  assert.match((await refused(() => copy.git.createPR({ title: "x" }))).message, /no token/);
  await box.deleteSnapshot(snapshot.id);
});
