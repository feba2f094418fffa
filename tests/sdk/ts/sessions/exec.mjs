import assert from "node:assert/strict";

import { makeBox, refused, session } from "../session.mjs";

let shared;
const box = async () => (shared ??= await makeBox());

session("output is exact to the byte", async () => {
  const run = await (await box()).exec.command("printf abc");
  assert.equal(run.result, "abc");
  assert.equal(run.stdout, "abc");
  assert.equal(run.stderr, "");
  assert.equal(run.exitCode, 0);
});

session("exit codes come through, those of signals as 128 + n", async () => {
  const here = await box();
  for (const [command, code] of [["exit 7", 7], ["exit 255", 255], ["no-such-program", 127], ["kill -9 $$", 137]]) {
    const run = await here.exec.command(command);
    assert.equal(run.exitCode, code, command);
    assert.equal(run.status, "failed");
  }
});

session("standard error is kept apart and is the result of a failure", async () => {
  const here = await box();
  const both = await here.exec.command("echo out; echo err >&2");
  assert.deepEqual([both.stdout, both.stderr, both.result], ["out\n", "err\n", "out\n"]);
  const failing = await here.exec.command("echo out; echo err >&2; exit 3");
  assert.deepEqual([failing.exitCode, failing.result], [3, "err\n"]);
});

session("work happens as boxuser in /workspace/home, with sudo to root", async () => {
  const here = await box();
  assert.equal((await here.exec.command("pwd; id -un; id -u; echo ~")).result, "/workspace/home\nboxuser\n1000\n/home/boxuser\n");
  assert.equal((await here.exec.command("sudo -n id -u")).result, "0\n");
  assert.equal((await here.exec.command("ls /workspace")).exitCode, 2);
  assert.equal((await here.exec.command("touch here && stat -c %U here && rm here")).result, "boxuser\n");
});

session("cd changes the folder of what follows, inside the workspace and outside", async () => {
  const here = await makeBox();
  await here.exec.command("mkdir -p project/src && echo main > project/src/main.txt");
  await here.cd("project/src");
  assert.equal((await here.exec.command("pwd; cat main.txt")).result, "/workspace/home/project/src\nmain\n");
  await here.cd("..");
  assert.equal((await here.exec.command("pwd")).result, "/workspace/home/project\n");
  await here.cd("/usr/share");
  assert.equal((await here.exec.command("pwd")).result, "/usr/share\n");
  await here.cd("/home/boxuser");
  assert.equal((await here.exec.command("pwd")).result, "/home/boxuser\n");
  const error = await refused(() => here.cd("/no/such/folder"));
  assert.match(error.message, /No such file or directory/);
});

session("a server left in the background does not hold the call and goes on", async () => {
  const here = await makeBox();
  const quiet = await here.exec.command("nohup sleep 4711 > /dev/null 2>&1 & echo $!");
  const loud = await here.exec.command("sleep 4712 & echo $!");
  assert.deepEqual([quiet.exitCode, loud.exitCode], [0, 0]);
  assert.equal((await here.exec.command(`kill -0 ${quiet.result}`)).exitCode, 0, "the nohup child lives");
});

session("a working web server in the box answers later calls", async () => {
  const here = await makeBox();
  const script = "require('http').createServer((_, r) => r.end('served')).listen(3000, () => console.log('up'))";
  await here.exec.command(`cat > server.js <<'EOF'\n${script}\nEOF`);
  await here.exec.command("nohup node server.js > server.log 2>&1 &");
  const run = await here.exec.command("curl -s --retry 50 --retry-delay 1 --retry-connrefused http://127.0.0.1:3000/");
  assert.equal(run.result, "served");
});

session("large output arrives whole", async () => {
  const size = 8 * 1024 * 1024;
  const run = await (await box()).exec.command(`head -c ${size} /dev/zero | tr '\\0' x`);
  assert.equal(run.result.length, size);
});

session("bytes that are not UTF-8 read as replacement characters", async () => {
  const run = await (await box()).exec.command("printf 'a\\377b'");
  assert.equal(run.result, "a\ufffdb");
});

session("a long argument passes", async () => {
  const text = "y".repeat(90_000);
  assert.equal((await (await box()).exec.command(`printf %s ${text} | wc -c`)).result.trim(), "90000");
});

session("a box keeps its files between calls", async () => {
  const here = await box();
  await here.exec.command("echo kept > kept.txt");
  assert.equal((await here.exec.command("cat kept.txt")).result, "kept\n");
});

session("git commits without any set-up, on master, as Upstash Box", async () => {
  const here = await makeBox();
  const run = await here.exec.command(
    "git init -q repo && cd repo && echo x > x && git add -A && git commit -q -m first && git log --format='%an <%ae> %s' && git branch --show-current",
  );
  assert.equal(run.result, "Upstash Box <box@upstash.com> first\nmaster\n", run.stderr);
});

session("twenty commands at once keep their answers apart", async () => {
  const here = await box();
  const runs = await Promise.all(Array.from({ length: 20 }, (_, n) => here.exec.command(`echo ${n}; exit ${n}`)));
  assert.deepEqual(runs.map((run) => run.exitCode), runs.map((_, n) => n));
  assert.deepEqual(runs.map((run) => run.stdout), runs.map((_, n) => `${n}\n`));
});
